"""benchmarks/serve_attack.py: the server withstands it, and what goes wrong would be told."""

import json
import random
from types import SimpleNamespace

import pytest
from conftest import ROOT, assert_worked, run_script


@pytest.fixture
def attack(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import serve_attack
    return serve_attack


def test_the_server_withstands_ten_seconds_of_it():
    process = assert_worked(run_script("benchmarks/serve_attack.py", "--seconds", 10, "--seed", 12))
    titles, *attacks, checks, first, second, found = process.stdout.splitlines()
    assert titles.startswith("attack") and len(attacks) == 8 and found == "found nothing wrong"
    assert int(checks.split()[0]) > 100 and first.startswith("worker") and second.startswith("worker")


def test_a_seed_gives_the_same_changed_requests(attack):
    changed = lambda seed: [attack.mutate(chance, seed_request) for chance in [random.Random(seed)]
                            for seed_request in attack.SEEDS]
    assert changed("1 2") == changed("1 2") != changed("1 3")


def test_replies_that_are_none_or_not_documented_are_told(attack):
    tally = attack.Tally()
    tally.received("fine", b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 431 Too Large\r\n\r\n")
    tally.received("fine", b"")
    assert tally.wrong == [] and tally.statuses["fine"] == {200: 1, 431: 1}
    tally.received("a", b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    tally.received("b", b"<html>")
    assert [line[:2] for line in tally.wrong] == ["a:", "b:"]


@pytest.mark.parametrize("more_log, more_memory, status, told", [
    ("", 0, None, []), ("", 100 << 20, None, ["at most 114"]), ("", 0, 1, ["workers [1, 2]"]),
    ('{"message":"model loaded","process":3}\n', 0, None, ["workers [1, 2, 3]"]),
    ("Traceback (most recent call last):\n", 0, None, ["Traceback"]),
    ('{"level":"error","message":"request","process":1}\n', 0, None, ["request"])])
def test_what_goes_wrong_in_the_server_is_told(attack, tmp_path, more_log, more_memory, status, told):
    log = "".join(json.dumps({"message": "model loaded", "process": worker}) + "\n" for worker in (1, 2))
    (tmp_path / "log").write_text(log + more_log)
    memory, tally = attack.Memory([1, 2]), attack.Tally()
    memory.first, memory.most = {1: 50 << 20, 2: 50 << 20}, {1: 50 << 20, 2: (60 << 20) + more_memory}
    attack.look_at(tmp_path / "log", memory, SimpleNamespace(poll=lambda: status), tally)
    assert len(tally.wrong) == len(told)
    for line, part in zip(tally.wrong, told):
        assert part in line
