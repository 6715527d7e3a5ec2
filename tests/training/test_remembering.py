"""utils/training/remembering.py and --neighbours: what a run's memory holds, and how much it counts."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from conftest import assert_worked
from hypothesis import given
from hypothesis import strategies as st
from stopped_runs import flags, result

from utils.data.sessions import read_sessions
from utils.files import InputError
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.neighbours_file import read_remembered
from utils.training import remembering
from utils.training.remembering import divide, numbers_held_out
from utils.training.sampled_flags import parse_arguments

WITH = "--neighbours", 1, "--neg_size", 16


@pytest.fixture
def few_choose(monkeypatch):
    """A weight is chosen on the tiny data, which have too few sessions for it otherwise."""
    monkeypatch.setattr(remembering, "FEWEST", 5)


@pytest.fixture
def sessions(tiny_data):
    return read_sessions(tiny_data / "train_data", 36, "--train_dir")


def memory_flags(data, model_dir, *more):
    return flags(data, model_dir, *WITH, *(more if "--valid_fraction" in more else ("--valid_fraction", 0, *more)))


def config_of(model_dir):
    return json.loads((model_dir / "config.json").read_text(encoding="utf-8"))


def remembered(model_dir, item_count=36):
    """The sessions in a memory, a list of tuples."""
    return as_tuples(read_remembered(model_dir, config_of(model_dir), item_count).sessions)


def as_tuples(sessions):
    return [tuple(items.tolist()) for items in np.split(sessions.items, sessions.offsets[1:-1])]


@given(st.integers(1, 3_000_000))
def test_few_of_the_newest_sessions_are_held_out(count):
    numbers = numbers_held_out(count)
    newest = -(-count // 10)
    assert len(numbers) <= newest // 2 and len(np.unique(numbers)) == len(numbers) <= 2000
    assert len(numbers) >= min(200, newest // 2)
    if len(numbers):
        assert count - newest == numbers[0] and numbers[-1] < count
        assert np.diff(numbers).min(initial=2) >= 2 and np.ptp(np.diff(numbers)) <= 1 if len(numbers) > 1 else True


def test_what_is_held_out_is_neither_trained_on_nor_remembered_while_it_chooses(sessions, few_choose):
    training, memory = divide(sessions, None, 36)
    whole, numbers = as_tuples(sessions), set(numbers_held_out(200).tolist())
    assert as_tuples(memory.whole) == whole and memory.held_out == len(numbers) == 10
    assert as_tuples(training) == as_tuples(memory.without) == [
        session for number, session in enumerate(whole) if number not in numbers]
    assert as_tuples(memory.choosing) == [whole[number] for number in sorted(numbers)]


def test_nothing_is_held_out_where_a_validation_chooses_or_too_few_would(sessions):
    for validation in (sessions, None):
        training, memory = divide(sessions, validation, 36)
        assert as_tuples(training) == as_tuples(memory.whole) == as_tuples(memory.without) == as_tuples(sessions)
        assert memory.held_out == 0
    assert divide(sessions, sessions, 36)[1].choosing.predictions == sessions.predictions


def test_a_run_gets_a_memory_of_all_its_sessions(tiny_data, sessions, run_here, tmp_path, few_choose):
    process = run_here("train_sample_neg.py", *memory_flags(tiny_data, tmp_path / "model"))
    assert process.returncode == 0, process.stderr
    weight = config_of(tmp_path / "model")["neighbours"]["weight"]
    records = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text("utf-8").splitlines()]
    record = next(record for record in records if record["event"] == "neighbours")
    sums = np.add(record["recall@20"], record["mrr@20"])
    assert record["weight"] == weight == record["weights"][int(np.argmax(sums))] and len(sums) == 8
    assert "sessions not trained on, which choose the weight of the memory of neighbours: 10" in process.stdout
    returns = config_of(tmp_path / "model")["neighbours"]["returns"]
    assert "neighbours: weight:{:g} returns(last:{:.2f} clicked:{:.2f} step:{:.2f} habit:{:.2f}) recall@20:".format(
        weight, *returns) in process.stdout
    assert record["returns"] == returns and any(returns)
    assert sum(record["with_returns"].values()) > sums.max()
    assert remembered(tmp_path / "model") == as_tuples(sessions)
    # The network is the one that the other sessions alone train.
    lines = (tiny_data / "train_data" / "train.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "others.txt").write_text("".join(np.delete(lines, numbers_held_out(200))), encoding="utf-8")
    others = flags(tiny_data, tmp_path / "others", "--neighbours", 0, "--neg_size", 16, "--valid_fraction", 0,
                   "--train_dir", tmp_path / "others.txt")
    assert run_here("train_sample_neg.py", *others).returncode == 0
    assert result(tmp_path / "model") == result(tmp_path / "others")


def test_a_run_that_is_killed_before_its_memory_is_there_gets_it_later(tiny_data, run_here, tmp_path, few_choose):
    given = memory_flags(tiny_data, tmp_path / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remembering, "write_neighbours", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run_here("train_sample_neg.py", *given).returncode == 143
    assert "neighbours" not in config_of(tmp_path / "model")
    assert run_here("train_sample_neg.py", *given, "--resume", 1).returncode == 0
    assert run_here("train_sample_neg.py", *memory_flags(tiny_data, tmp_path / "whole")).returncode == 0
    assert config_of(tmp_path / "model")["neighbours"] == config_of(tmp_path / "whole")["neighbours"]
    before = (tmp_path / "model" / "metrics.jsonl").read_text("utf-8").count("weights")
    assert run_here("train_sample_neg.py", *given, "--resume", 1).returncode == 0  # nothing is left to do
    assert (tmp_path / "model" / "metrics.jsonl").read_text("utf-8").count("weights") == before


def test_too_few_sessions_get_the_usual_weight(tiny_data, run_here, tmp_path):
    process = run_here("train_sample_neg.py", *memory_flags(tiny_data, tmp_path / "model"))
    assert process.returncode == 0 and "predictions are too few to choose by" in process.stdout
    assert config_of(tmp_path / "model")["neighbours"]["weight"] == remembering.USUAL_WEIGHT


def test_no_memory_is_written_that_does_no_good(tiny_data, run_here, tmp_path, few_choose, monkeypatch):
    monkeypatch.setattr(remembering, "WEIGHTS", (0.0,))
    monkeypatch.setattr(remembering, "fit_returns", lambda *_: [-9.0] * 4)  # worse than none
    process = run_here("train_sample_neg.py", *memory_flags(tiny_data, tmp_path / "model"))
    assert process.returncode == 0 and "neighbours: weight:0 " in process.stdout
    assert "neighbours" not in config_of(tmp_path / "model")


def test_a_validation_chooses_and_stays_out_of_the_memory(tiny_data, sessions, run_here, tmp_path, few_choose,
                                                          monkeypatch):
    monkeypatch.setattr(remembering, "WEIGHTS", (0.3,))  # so that there is a memory in any case
    process = run_here("train_sample_neg.py", *memory_flags(tiny_data, tmp_path / "model", "--valid_fraction", 0.1))
    assert process.returncode == 0, process.stderr
    assert "held out" not in process.stdout and "neighbours: weight:0.3 " in process.stdout
    assert remembered(tmp_path / "model") == as_tuples(sessions)[:180]


def test_a_run_that_goes_on_remembers_what_came_before(tiny_data, sessions, run_here, tmp_path):
    assert run_here("train_sample_neg.py", *memory_flags(tiny_data, tmp_path / "first")).returncode == 0
    ids = (tiny_data / "vocab.txt").read_text(encoding="utf-8").splitlines()
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "data" / "vocab.txt").write_text("\n".join(["new", *ids[:35]]) + "\n", encoding="utf-8")
    (tmp_path / "data" / "train_data" / "train.txt").write_text("0 1 2\n3 4\n" * 10, encoding="utf-8")
    given = memory_flags(tmp_path / "data", tmp_path / "second", "--init_from", tmp_path / "first")
    process = run_here("train_sample_neg.py", *given)
    assert process.returncode == 0, process.stderr
    old = [tuple(item + 1 for item in session if item < 35) for session in as_tuples(sessions)]
    assert remembered(tmp_path / "second") == [session for session in old if session] + [(0, 1, 2), (3, 4)] * 10


def test_a_run_that_goes_on_chooses_by_a_validation_alone(tiny_data, sessions, run_here, tmp_path, few_choose):
    first, second = (memory_flags(tiny_data, tmp_path / name) for name in ("first", "second"))
    assert_worked(run_here("train_sample_neg.py", *first))
    path = tmp_path / "first" / "config.json"
    config = checkpoint.read_config(tmp_path / "first")
    kept = {"weight": 0.25, "returns": [0.1, 0.2, 0.3, 0.4]}  # no weight that is tried
    write_json(path, config | {"neighbours": config["neighbours"] | kept})
    going_on = assert_worked(run_here("train_sample_neg.py", *second, "--init_from", tmp_path / "first"))
    assert "neighbours: weight:0.25 as in the model of --init_from" in going_on.stdout
    assert "held out" not in going_on.stdout and f"predictions:{sessions.predictions}\n" in going_on.stdout
    assert kept.items() <= config_of(tmp_path / "second")["neighbours"].items()
    assert_worked(run_here("train_sample_neg.py", *second, "--init_from", tmp_path / "first", "--overwrite", 1,
                           "--valid_dir", tiny_data / "train_data"))
    assert config_of(tmp_path / "second")["neighbours"]["weight"] != 0.25


def test_the_memory_of_a_model_is_kept_by_default_and_none_is_added(tiny_model, tmp_path):
    assert parse_arguments([]).neighbours == 1
    assert parse_arguments(["--init_from", str(tiny_model)]).neighbours == 0
    assert parse_arguments(["--split_items", "1", "--parallel", "1"]).neighbours == 0
    with pytest.raises(InputError, match="--neighbours: found 1 with --split_items 1"):
        parse_arguments(["--split_items", "1", "--neighbours", "1"])
