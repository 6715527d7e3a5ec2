"""docs/faithful.md: the tests that it names exist, each line has one or says "not present", official figures are so."""

import json
import re

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/faithful.md").read_text(encoding="utf-8")
NAMED = re.compile(r"\[(\w+\.py)::(test_\w+)\]\(\.\./(tests/[\w/.]+)\)")
HEADINGS_AND_TEXTS = re.split(r"^## (.*)\n", PAGE, flags=re.MULTILINE)[1:]
SECTIONS = dict(zip(HEADINGS_AND_TEXTS[::2], HEADINGS_AND_TEXTS[1::2]))
OFFICIAL = json.loads((ROOT / "tests/golden/official.json").read_text(encoding="utf-8"))


def rows(section):
    """The cells of a section's tables, without their heads."""
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in SECTIONS[section].splitlines()
             if line.startswith("| ")]
    return [cells for cells in lines if cells[-1] not in ("proof", "proof that it isn't made here")]


@pytest.mark.parametrize("file, function, path", sorted(set(NAMED.findall(PAGE))), ids=lambda part: part)
def test_a_test_that_is_named_exists(file, function, path):
    assert path.endswith(f"/{file}")
    assert re.search(rf"^def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_line_has_a_proof_or_says_that_there_is_none():
    named = 0
    for section in SECTIONS:
        for cells in rows(section):
            heading = cells[0].startswith("**") and not cells[1]
            assert heading or NAMED.fullmatch(cells[-1]) or re.search("not present|not tried", cells[1]), cells
            named += bool(NAMED.fullmatch(cells[-1]))
    assert named == len(NAMED.findall(PAGE)) > 80


def test_the_figures_of_the_twelve_configurations_are_the_official_ones():
    found = {}
    for _, losses, recall, mrr, proof in rows("Twelve configurations of the official GRU4Rec"):
        found[NAMED.fullmatch(proof)[2].removeprefix("test_golden_")] = [*losses.split(", "), "0" + recall, "0" + mrr]
    assert found == {name: [f"{value:.4f}" for value in (*official["epoch_loss"], official["recall"]["standard"]["20"],
                                                          official["mrr"]["standard"]["20"])]
                     for name, official in OFFICIAL.items()}
