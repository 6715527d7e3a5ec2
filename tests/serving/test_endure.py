"""benchmarks/endure.py: the stack endures it, and what goes wrong would be told."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, assert_worked, run_script, write_random_model

sys.path.insert(0, str(ROOT / "benchmarks"))

import endure_report  # noqa: E402
from endure import Load  # noqa: E402
from endure_clients import Models, Visitor, whole_request  # noqa: E402
from stack import program  # noqa: E402


@pytest.mark.skipif(None in (program("nginx"), program("redis-server")), reason="no nginx or no redis-server")
def test_the_stack_endures_twenty_seconds(tmp_path):
    process = run_script("benchmarks/endure.py", "--seconds", 20, "--rate", 100, "--seed", 3, "--output",
                         tmp_path / "picture.png")
    assert_worked(process)
    lines = process.stdout.splitlines()
    assert "found nothing wrong" in lines and (tmp_path / "picture.png").stat().st_size > 20_000
    counts = re.findall(r"([A-Za-z ]+): (\d+)(?:,|$)", process.stdout, re.MULTILINE)
    counted = {name.strip(): int(count) for name, count in counts}
    assert counted["Redis stopped"] == counted["Redis killed"] == 1 and counted["worker killed"] >= 3
    assert counted["new model"] >= 3
    assert counted["whole sessions right"] > 500


# What would be told

@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    dirs = [write_random_model(directory / name, seed=seed, items=100, hid_size=(8,))
            for seed, name in enumerate(("one", "two"))]
    return Models(dirs, seed=0)


@pytest.fixture
def load(models):
    """A Load that is at its tenth second, without a stack."""
    load = Load.__new__(Load)
    load.models, load.findings, load.now = models, endure_report.Findings(), lambda: 10.0
    return load


def reply_to(models, clicks, count=None, place=0):
    """What a server would answer to the last of these clicks of a live session."""
    checksum = list(models.by_checksum)[place]
    items, scores = models.best(checksum, tuple(clicks), True)
    return {"model": {"sha256": checksum}, "items": items, "scores": scores.tolist(), "clicks": count or len(clicks)}


CLICKS = "item_1", "item_2", "item_3"


@pytest.mark.parametrize("held, unsure, what", [
    (CLICKS, [], None), (("item_1", "item_2", "item_9", "item_3"), ["item_9"], None), (CLICKS, ["item_9"], None),
    (("item_3",), [], "older"), (("item_1", "item_3"), [], "older"),
    (("item_1", "item_2", "item_3", "item_3"), [], "counted twice"),
    (("item_2", "item_3"), [], "no history"), (("item_1", "item_7", "item_3"), [], "no history")])
def test_a_live_session_is_followed(load, models, held, unsure, what):
    visitor = Visitor("v", CLICKS)
    visitor.known, visitor.unsure = CLICKS[:2], list(unsure)
    load.follow(visitor, CLICKS[2], reply_to(models, held), 9.0)
    assert [what in line for line in load.findings.wrong] == ([True] if what else [])
    assert visitor.known == (held if what != "no history" else CLICKS[:2])


@pytest.mark.parametrize("held, disturbance, allowed", [
    (("item_3",), "Redis killed", True), (("item_3",), "worker killed", False), (("item_3",), "Redis stopped", False),
    (("item_1", "item_2", "item_3", "item_3"), "worker killed", True),
    (("item_1", "item_2", "item_3", "item_3"), "new model", False)])
def test_what_explains_another_history(load, models, held, disturbance, allowed):
    load.findings.disturbances.append((disturbance, 9.5, 10.5))
    visitor = Visitor("v", CLICKS)
    visitor.known = CLICKS[:2]
    load.follow(visitor, CLICKS[2], reply_to(models, held), 9.0)
    assert bool(load.findings.wrong) is not allowed


def test_answers_of_another_model_or_with_other_scores_are_wrong(load, models):
    for change in ({"scores": [1.0] * 10}, {"items": ["item_1"] * 10}, {"model": {"sha256": "?"}},
                   {"model": reply_to(models, CLICKS, place=1)["model"]}):
        visitor = Visitor("v", CLICKS)
        visitor.known = CLICKS[:2]
        before = len(load.findings.wrong)
        load.follow(visitor, CLICKS[2], reply_to(models, CLICKS) | change, 9.0)
        assert len(load.findings.wrong) == before + 1


@pytest.mark.parametrize("status, body, disturbance, told", [
    (200, b"{}", None, 0), (503, b'{"error":{"status":503}}', "Redis stopped", 0),
    (503, b'{"error":{"status":503}}', None, 1), (503, b"<html>", "Redis stopped", 1),
    (500, b'{"error":{"status":500}}', "Redis stopped", 1), (0, b"", "Redis stopped", 1)])
def test_errors_must_be_documented_and_explained(load, status, body, disturbance, told):
    import asyncio

    async def ask(request):
        return status, body
    load.connections = SimpleNamespace(ask=ask)
    if disturbance:
        load.findings.disturbances.append((disturbance, 9.9, 10.1))
    asyncio.run(load.ask(9.95, whole_request([["1"]]), ("Redis stopped",)))
    assert len(load.findings.wrong) == told and load.findings.requests[0][2] == status


def test_the_slope_of_memory_has_its_uncertainty():
    times = np.arange(0, 600, 1.0)
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        noise = np.convolve(random.normal(size=660), np.ones(20) / 4, "same")[:600]  # neighbours are alike
        growth, doubt = endure_report.slope(list(zip(times, 100 + 0.5 * times / 60 + noise)))
        covered += abs(growth - 0.5) < doubt
    assert covered > 85
    assert np.isnan(endure_report.slope([(0, 1), (1, 1)])[0])


@pytest.mark.parametrize("growth, told", [(0.0, 0), (1.0, 0), (3.0, 1)])
def test_growth_of_memory_is_told(growth, told):
    findings = endure_report.Findings()
    findings.memory["worker"] = [(second, 50 + growth * second / 60 + 0.1 * (second % 7)) for second in range(600)]
    line, = endure_report.look_at_memory(findings, 600)
    assert line.startswith("worker") and len(findings.wrong) == told
