"""recommend.py as a user runs it: what it answers, what it leaves out, what it refuses, and how fast it starts."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script, with_flags
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from utils.data.vocabulary import checksum
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.load import load_model
from utils.model.popular import read_popular
from utils.model.scorer import Scorer
from utils.model.top_k import top_k

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n"), max_size=12)


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of `tiny_model`, to change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def recommend(run_here, model):
    """recommend.py of `model`, within this process."""
    return lambda *arguments: run_here("recommend.py", *with_flags(["--model_dir", model], arguments))


@pytest.fixture
def sessions_file(tmp_path):
    """Write a file of sessions, text or bytes; its path."""
    def write(content):
        path = tmp_path / "sessions.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path
    return write


def test_columns_have_names_on_a_terminal_alone(model):
    ours, of_script = os.openpty()
    command = [sys.executable, ROOT / "recommend.py", "--model_dir", model, "--topk", "1", "item_1"]
    process = subprocess.run(command, stdout=of_script, stderr=subprocess.PIPE, text=True, check=True)
    os.close(of_script)
    lines = os.read(ours, 1000).decode().splitlines()
    os.close(ours)
    assert lines[0] == "session\trank\titem\tscore" and lines[1].startswith("1\t1\titem_") and process.stderr == ""


def expected_answer(model, items, topk=20, excluded=(), epoch=None):
    """(item id, score) of the best items after a session of indices, by NumPy and click by click."""
    scorer = Scorer(*load_model(model, epoch)[:2])
    states = scorer.before_first_click()
    for item in items:
        states = scorer.click(item, states)
    return [(f"item_{item}", score) for item, score in zip(*top_k(scorer.scores(states[-1]), topk, excluded))]


def answers(process):
    """What was printed as lines, by session: lists of (item id, score)."""
    found = {}
    for line in process.stdout.splitlines():
        session, rank, item_id, score = line.split("\t")
        found.setdefault(int(session), []).append((item_id, float(score)))
        assert int(rank) == len(found[int(session)])
    return found


def assert_same_answer(found, expected):
    assert [item_id for item_id, _ in found] == [item_id for item_id, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], rtol=0, atol=2e-6)


def tiny_sessions(tiny_data):
    """The test sessions as item ids, one a line, and as lists of indices."""
    text = (tiny_data / "test_data" / "test.txt").read_text()
    return re.sub(r"\d+", r"item_\g<0>", text), [[int(item) for item in line.split()] for line in text.splitlines()]


# What a user sees

def test_as_a_user_runs_it(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model_output")
    before = files_below(tmp_path)
    flags = ["--model_dir", "model_output", "--topk", 3]
    process = assert_worked(run_script("recommend.py", *flags, "item_4", "item_0", cwd=tmp_path))
    assert len(process.stdout.splitlines()) == 3
    assert all(re.fullmatch(r"1\t\d\titem_\d+\t-?\d+\.\d{6}", line) for line in process.stdout.splitlines())
    assert_same_answer(answers(process)[1], expected_answer(tiny_model, [4, 0], 3))
    assert files_below(tmp_path) == before


def test_a_file_a_pipe_and_the_arguments_get_the_same_answers(tiny_data, model, recommend, sessions_file):
    text, sessions = tiny_sessions(tiny_data)
    path = sessions_file(text)
    process = assert_worked(recommend("--sessions", path))
    found = answers(process)
    assert list(found) == list(range(1, len(sessions) + 1))
    for number, items in enumerate(sessions, start=1):
        assert_same_answer(found[number], expected_answer(model, items))
    piped = assert_worked(run_script("recommend.py", "--model_dir", model, "--sessions", "-", input=text))
    assert piped.stdout == process.stdout
    for number in 1, 7:
        assert_same_answer(answers(assert_worked(recommend(*text.splitlines()[number - 1].split())))[1], found[number])


def test_json_holds_what_the_lines_hold(tiny_data, recommend, sessions_file):
    path = sessions_file(tiny_sessions(tiny_data)[0])
    process = assert_worked(recommend("--sessions", path, "--format", "json"))
    records = [json.loads(line) for line in process.stdout.splitlines()]
    assert all(list(record) == ["session", "items", "scores"] for record in records)
    found = {record["session"]: list(zip(record["items"], record["scores"])) for record in records}
    assert found == answers(recommend("--sessions", path))


def test_flags_change_the_answer(model, recommend):
    everything = answers(recommend("--topk", 1000, "item_3", "item_3", "item_5"))[1]
    assert len(everything) == 36 and everything == sorted(everything, key=lambda answer: -answer[1])
    assert len(answers(recommend("item_3"))[1]) == 20
    unseen = answers(recommend("--topk", 1000, "--exclude", "seen", "item_3", "item_3", "item_5"))[1]
    assert unseen == [(item_id, score) for item_id, score in everything if item_id not in ("item_3", "item_5")]
    assert_same_answer(answers(recommend("--epoch", 1, "item_3"))[1], expected_answer(model, [3], epoch=1))
    of_epoch = lambda epoch: recommend("--epoch", epoch, "item_3").stdout
    assert recommend("item_3").stdout == of_epoch(2) != of_epoch(1)


def test_nothing_is_left_when_every_item_was_seen(recommend):
    everything = [f"item_{number}" for number in range(36)]
    assert assert_worked(recommend("--exclude", "seen", *everything)).stdout == ""
    process = assert_worked(recommend("--exclude", "seen", "--format", "json", *everything))
    assert json.loads(process.stdout) == {"session": 1, "items": [], "scores": []}


def test_help_explains_itself(run_here):
    process = assert_worked(run_here("recommend.py", "-h"))
    assert "--exclude" in process.stdout and "default: 20" in process.stdout and "None" not in process.stdout


# How files are read

@pytest.mark.parametrize("content, numbers", [
    ("item_1 item_2\nitem_3", [1, 2]), ("\n \t\nitem_1 item_2\n\n\nitem_3\n\n", [3, 6]),
    ("item_1\titem_2 \r\n item_3\r\n", [1, 2]), ("\ufeffitem_1 item_2\nitem_3\n", [1, 2]), ("", []), ("\n", []),
    (" \r\n", [])], ids=repr)
def test_lines_in_every_form(model, recommend, sessions_file, content, numbers):
    (model / "popular.json").unlink()
    found = answers(assert_worked(recommend("--topk", 2, "--sessions", sessions_file(content))))
    assert list(found) == numbers
    for number, session in zip(numbers, ["item_1 item_2", "item_3"]):
        assert_same_answer(found[number], answers(recommend("--topk", 2, *session.split()))[1])


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.lists(TEXTS | st.integers(0, 40).map("item_{}".format), max_size=4).map(" ".join), max_size=5))
def test_whatever_text_is_given(recommend, sessions_file, lines):
    process = recommend("--topk", 1, "--format", "json", "--sessions", sessions_file("\n".join(lines)))
    assert process.returncode == 0 and process.stderr.count("\n") <= 1, process
    lines = "\n".join(lines).removeprefix("\ufeff").split("\n")
    known = {f"item_{number}" for number in range(36)}
    lines = lines[:-1] if lines[-1] == "" else lines
    expected = [(number, 1, not known.intersection(line.split())) for number, line in enumerate(lines, start=1)]
    records = [json.loads(line) for line in process.stdout.splitlines()]
    assert [(record["session"], len(record["items"]), "fallback" in record) for record in records] == expected


def test_a_file_of_many_chunks_and_a_line_longer_than_one(tiny_data, model, recommend, sessions_file):
    text, sessions = tiny_sessions(tiny_data)
    long = [number % 36 for number in range(20_000)]
    text = text * 120 + " ".join(f"item_{item}" for item in long) + "\n" + text
    assert len(text) > 4 * 2**16
    found = answers(assert_worked(recommend("--topk", 3, "--sessions", sessions_file(text))))
    assert list(found) == list(range(1, 121 * len(sessions) + 2))
    assert_same_answer(found[120 * len(sessions) + 1], expected_answer(model, long, 3))
    for number in range(len(sessions)):
        assert_same_answer(found[number + 1], found[number + 120 * len(sessions) + 2])
        assert_same_answer(found[number + 1], found[number + 61 * len(sessions) + 1])


def test_a_pipe_is_answered_line_by_line(model):
    command = [sys.executable, str(ROOT / "recommend.py"), "--model_dir", str(model), "--topk", "1", "--sessions", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        for number in 1, 2:
            process.stdin.write(f"item_{number}\n")
            assert process.stdout.readline().startswith(f"{number}\t1\titem_")
        process.stdin.close()
        assert process.stdout.read() == "" and process.wait() == 0


# What is left out

def test_unknown_items_are_left_out_and_counted(model, recommend, sessions_file):
    (model / "popular.json").unlink()  # as in models of older versions
    path = sessions_file("item_1\nitem_1 new_1 item_2 new_1\nnew_2 new_3\nitem_1 item_2\nnew_4\n")
    process = recommend("--sessions", path)
    assert process.returncode == 0
    found = answers(process)
    assert list(found) == [1, 2, 4]
    assert_same_answer(found[2], found[4])
    assert process.stderr == (
        f"recommend.py: left out clicks on items that the model doesn't know: 5 (first: 'new_1' in {path}:2); "
        f"nothing to recommend for sessions without any known click: 2 (first: {path}:3)\n")
    records = [json.loads(line) for line in recommend("--sessions", path, "--format", "json").stdout.splitlines()]
    counts = [(record["session"], len(record["items"]), record.get("fallback")) for record in records]
    assert counts == [(1, 20, None), (2, 20, None), (3, 0, "none"), (4, 20, None), (5, 0, "none")]


def test_sessions_without_a_known_click_get_popular_items(model, recommend, sessions_file):
    path = sessions_file("item_1\nnew_1 new_2\n\nnew_3\n")
    process = recommend("--sessions", path, "--topk", 3)
    assert process.returncode == 0 and process.stderr == (
        f"recommend.py: left out clicks on items that the model doesn't know: 3 (first: 'new_1' in {path}:2); "
        f"popular items for sessions without any known click: 3 (first: {path}:2)\n")
    found, popular = answers(process), read_popular(model, 36)
    assert list(found) == [1, 2, 3, 4] and found[2] == found[4]
    for number, clicks in ((2, popular.clicks), (3, popular.first_clicks)):
        assert found[number] == [(f"item_{item}", clicks[item]) for item in np.argsort(-clicks, kind="stable")[:3]]
    records = [json.loads(line) for line in recommend("--sessions", path, "--topk", 3, "--format", "json"
                                                      ).stdout.splitlines()]
    assert [record.get("fallback") for record in records] == [None] + ["popular"] * 3
    assert {record["session"]: list(zip(record["items"], record["scores"])) for record in records} == found
    (model / "popular.json").write_text("{}")
    assert_one_line_error(recommend("item_1"), model / "popular.json")


def test_filters_and_what_was_clicked(recommend, tmp_path):
    everything = answers(recommend("--topk", 100, "item_3", "item_5"))[1]
    items = tmp_path / "items.csv"
    items.write_text("".join(f"{item_id},{number % 2}\n" for number, item_id in
                             enumerate(["id", *(f"item_{number}" for number in range(30)), "new"])))
    process = recommend("--topk", 100, "--items", items, "--filter", "0:1", "item_3", "item_5")
    assert answers(process)[1] == [(item_id, score) for item_id, score in everything
                                   if int(item_id[5:]) % 2 == 0 and int(item_id[5:]) < 30]
    assert process.stderr == (f"recommend.py: {items}: items that pass: 15 of 36; without a row: 6; rows of items that "
                              "the model doesn't know: 1\n")
    popular = answers(recommend("--topk", 100, "--items", items, "--filter", "0:1", "new"))[1]
    assert len(popular) == 15 and {item_id for item_id, _ in popular} == {f"item_{2 * half}" for half in range(15)}
    for which, left_out in (("last", ["item_5"]), ("seen", ["item_3", "item_5"]), ("none", [])):
        found = answers(recommend("--topk", 100, "--exclude", which, "item_3", "item_5"))[1]
        assert found == [answer for answer in everything if answer[0] not in left_out]


def test_unknown_items_in_the_arguments(recommend):
    process = recommend("new_1", "item_1")
    assert process.returncode == 0 and answers(process) == answers(recommend("item_1"))
    assert process.stderr == ("recommend.py: left out clicks on items that the model doesn't know: 1 "
                              "(first: 'new_1' in the arguments)\n")
    process = recommend("new_1")
    assert process.returncode == 0 and process.stdout and process.stderr.count("\n") == 1


def test_a_model_without_item_ids_answers_with_indices(model, recommend):
    expected = recommend("item_4", "item_0").stdout
    (model / "vocab.txt").write_text("36\n")
    config = checkpoint.read_config(model)
    config["data"]["vocab_sha256"] = checksum(model / "vocab.txt")
    write_json(model / "config.json", config)
    process = recommend("4", "0")
    assert process.returncode == 0 and process.stdout == expected.replace("item_", "")
    assert process.stderr.count("\n") == 1 and "indices" in process.stderr
    assert "'36'" in recommend("4", "36").stderr


# What is refused

@pytest.mark.parametrize("arguments, fragments", [
    ([], ["ITEM, --sessions", "neither"]), (["a", "--sessions", "x"], ["ITEM, --sessions"]),
    ([" "], ["ITEM", "blanks"]),
    (["--sessions", "nowhere"], ["--sessions", "nowhere"]), (["--sessions", ROOT], ["--sessions", "directory"]),
    (["a", "--topk", "0"], ["--topk", "'0'", ">= 1"]), (["a", "--topk", "x"], ["--topk"]),
    (["a", "--epoch", "-1"], ["--epoch"]),
    (["a", "--epoch", "3"], ["--epoch", "3", "1, 2"]),
    (["a", "--exclude", "all"], ["--exclude", "all"]),
    (["a", "--filter", "b:c"], ["--items, --filter"]), (["a", "--items", "b"], ["--items, --filter"]),
    (["a", "--items", "nowhere", "--filter", "b:c"], ["--items", "nowhere"]),
    (["a", "--items", ROOT / "requirements.in", "--filter", "b"], ["--filter", "COLUMN:VALUE"]),
    (["a", "--items", ROOT / "vocab.txt", "--filter", "b:c"], ["--filter", "'b'"]),
    (["a", "--format", "xml"], ["--format", "xml"]), (["a", "--model_dir", "nowhere"], ["--model_dir", "nowhere"]),
    (["a", "--model_dir", ROOT / "tests"], ["--model_dir", "config.json"]), (["a", "--what"], ["--what"])], ids=str)
def test_wrong_flags(recommend, arguments, fragments):
    process = recommend(*arguments)
    assert_one_line_error(process, *fragments)
    assert process.stdout == ""


@pytest.mark.parametrize("content, line, found", [
    (b"item_1\nitem_\xff\n", 2, "UTF-8"), (b"item_1\n\n\nitem_1 \0\n", 4, "zero byte"),
    ("item_1\n".encode("utf-16"), 1, "zero byte"),
    (b"item_1\n" * 20_000 + b"\xc3", 20_001, "UTF-8")], ids=["not UTF-8", "zero byte", "UTF-16", "many chunks later"])
def test_files_that_hold_no_text(recommend, sessions_file, content, line, found):
    path = sessions_file(content)
    assert_one_line_error(recommend("--sessions", path), f"{path}:{line}", found, "expected item ids")


def test_standard_input_is_named_in_errors(model):
    arguments = ["--model_dir", model, "--sessions", "-"]
    process = run_script("recommend.py", *arguments, input=b"item_1\n\xff\n", text=False)
    assert process.returncode == 2 and b"standard input:2: found a byte" in process.stderr
    process = subprocess.run(["sh", "-c", '"$@" <&-', "sh", sys.executable, str(ROOT / "recommend.py"),
                              *map(str, arguments)],
                             capture_output=True, text=True)
    assert_one_line_error(process, "standard input closed")


def test_models_that_were_truncated_or_changed(model, recommend):
    path = model / "epoch_2" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert_one_line_error(recommend("item_1"), path, "truncated or changed")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert_one_line_error(recommend("item_1"), path, "truncated or changed")
    assert_worked(recommend("--epoch", 1, "item_1"))
    (model / "vocab.txt").write_text("another\n")
    assert_one_line_error(recommend("item_1"), model / "vocab.txt", "another vocabulary")
    (model / "config.json").write_text("[]")
    assert_one_line_error(recommend("item_1"), model / "config.json", "another format")


# How it starts

def test_no_large_library_is_loaded(model):
    command = [sys.executable, "-X", "importtime", str(ROOT / "recommend.py"), "--model_dir", str(model), "item_1"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 20
    loaded = {line.split("|")[-1].strip() for line in process.stderr.splitlines()}
    assert {"numpy", "safetensors"} <= loaded
    assert not {"paddle", "pandas", "tqdm", "torch", "net"} & loaded


def test_it_starts_in_less_than_three_tenths_of_a_second(model):
    """In processor seconds, of which a busy machine takes no more. The least of several: the first reads the disk."""
    def seconds():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    taken = []
    for _ in range(4):
        began = seconds()
        assert_worked(run_script("recommend.py", "--model_dir", model, "item_1"))
        taken.append(seconds() - began)
    assert min(taken) < 0.3, taken
