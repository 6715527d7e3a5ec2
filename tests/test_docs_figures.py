"""What README.md and the pages of docs/ say of the same run is the same."""

import re

import pytest
from conftest import ROOT

PAIR = re.compile(r"(\.\d{4})(?:\*\*)? (?:/|\|) (\.\d{4})")


def pairs(page, beginning):
    """The pairs of recall@20 and MRR@20 in the only line of a page that begins so."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    line, = [line for line in lines if line.startswith(beginning)]
    return PAIR.findall(line)


DEFAULTS, FOUND = "| **`train_sample_neg.py`**", "| `train_sample_neg.py`, settings found"


def test_figures_of_the_test_in_experiments_md():
    for column, name in enumerate(("RSC15 1/64", "30Music")):
        in_readme = [pairs("README.md", row)[column] for row in (DEFAULTS, FOUND)]
        assert pairs("docs/experiments.md", f"| {name}, test |") == in_readme


@pytest.mark.parametrize("row", ["| POP |", "| item transitions |"])
def test_baselines(row):
    assert pairs("docs/runs.md", row)[0] == pairs("README.md", row)[0]


def test_one_seed_lies_in_the_range_of_three():
    line, = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
             if line.startswith(DEFAULTS)]
    lowest, highest = re.search(r"\((\.\d{4}) to (\.\d{4})\)", line).groups()
    assert lowest <= pairs("docs/runs.md", "| the model |")[0][0] <= highest


def test_full_softmax_by_one_process():
    expected = " | ".join(pairs("README.md", "| `train.py`, softmax over all items")[0])
    assert f"| one process | {expected} |" in (ROOT / "docs/devices.md").read_text(encoding="utf-8")


def test_the_network_without_a_memory_on_the_validation():
    recall, mrr = pairs("docs/experiments.md", "| RSC15 1/64 | .7047")[2]  # official, V-SKNN, the network alone
    speed = " ".join((ROOT / "docs/speed.md").read_text(encoding="utf-8").split())
    assert f"Both find recall@20 {recall} and MRR@20 {mrr}." in speed
