"""Searches, with a trainer that takes no time: what is tried, stopped, kept and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked
from searches import epochs, flags, place_quick_trainer, reports, trials

import train_sample_neg
from utils.model.upkeep import hold_directory


@pytest.fixture
def trainers(tmp_path):
    return place_quick_trainer(tmp_path / "trainers")


@pytest.fixture
def tune(run_here, trainers, monkeypatch, tiny_data):
    """Run tune.py in this process with the quick trainer and without pictures; its flags as keyword arguments."""
    from utils.tuning import report, search, trainer_flags
    monkeypatch.setattr(search, "ROOT", trainers)
    monkeypatch.setattr(search, "LOOK", 0.01)
    monkeypatch.setattr(trainer_flags, "COMBINATIONS", 5)
    monkeypatch.setattr(report, "write_pictures", lambda *_: [])
    return lambda study_dir, space=None, **more: run_here("tune.py", *flags(tiny_data, study_dir, space, **more))


@pytest.fixture
def start(trainers, tiny_data):
    """Start tune.py as a process with the quick trainer."""
    started = []

    def begin(study_dir, **more):
        command = [sys.executable, str(Path(__file__).with_name("searches.py")), str(trainers)]
        environment = {**os.environ, "PYTHONPATH": str(Path(train_sample_neg.__file__).parent)}
        started.append(subprocess.Popen(command + flags(tiny_data, study_dir, **more), env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]
    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_for(study_dir, number, epoch):
    """Wait until a trial has recorded an epoch."""
    path = study_dir / f"trials/{number:04}/model_1/metrics.jsonl"
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text().count("\n") >= epoch):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_killed_again_and_again_it_makes_the_same_trials_once_and_another_seed_others(tune, start, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for number, epoch in ((1, 2), (5, 1)):
        process = start(killed)
        wait_for(killed, number, epoch)
        assert len(os.listdir(f"/proc/{process.pid}/task")) == 1  # each thread's end would signal the training
        process.kill()
        process.communicate()
    assert "best: trial" in assert_worked(tune(killed)).stdout
    assert_worked(tune(whole))
    assert trials(killed) == trials(whole) and len(trials(whole)) == 7
    assert {state for state, _, _ in trials(whole)} == {"COMPLETE", "PRUNED"}
    assert reports(killed) == reports(whole)
    assert all(found == list(range(1, len(found) + 1)) for found in epochs(killed))  # none was trained again
    assert (killed / "best.json").read_text() == (whole / "best.json").read_text()
    assert_worked(tune(tmp_path / "other", seed=2, trials=2))
    assert [found == expected for found, expected in zip(trials(tmp_path / "other"), trials(whole))] == [True, False]


def test_what_is_known_comes_first_as_it_is(tune, tmp_path):
    (tmp_path / "base.json").write_text("{}")
    process = assert_worked(tune(tmp_path / "study", trials=2, first=[ROOT / "settings/official_xe.json"]))
    assert f"first come: --base {tmp_path / 'base.json'}, official_xe.json; with --trials 2, nothing is drawn (" in (
        process.stdout)
    (_, defaults, _), (_, official, _) = trials(tmp_path / "study")
    assert defaults == {"base_lr": 0.15, "loss": "ce"}  # 100 units aren't in the space
    assert official == {"base_lr": 0.2, "loss": "ce"}
    best = json.loads((tmp_path / "study/best.json").read_text())
    assert best["hid_size"] == "100" and best["momentum"] == 0
    assert train_sample_neg.parse_arguments(["--config", str(tmp_path / "study/best.json")]).hid_size == [100]


@pytest.mark.parametrize("pruner, count", [("median", 8), ("hyperband", 6)])
def test_bad_trials_are_stopped_early(tune, tmp_path, pruner, count):
    output = assert_worked(tune(tmp_path / "study", pruner=pruner, trials=count)).stdout
    found = trials(tmp_path / "study")
    stopped = re.findall(r"trial (\d+): stopped after epoch (\d), recall@20:([\d.]+) base_lr", output)
    assert [int(number) for number, _, _ in stopped] == [
        number for number, (state, _, _) in enumerate(found) if state == "PRUNED"]
    best = max(value for state, _, value in found if state == "COMPLETE")
    assert stopped and all(int(epoch) < 4 and float(figure) < best for _, epoch, figure in stopped)


def with_weights(study_dir):
    """The numbers of the trials whose weights are there."""
    return {int(path.relative_to(study_dir).parts[1]) for path in study_dir.rglob("model.safetensors")}


def test_a_training_that_fails_is_recorded_and_the_others_go_on(tune, tmp_path):
    space = {"base_lr": {"_type": "choice", "_value": [0.1, 0.2, 9]}}
    output = assert_worked(tune(tmp_path / "study", space, trials=6, pruner="none")).stdout
    failed = [params for state, params, _ in trials(tmp_path / "study") if state == "FAIL"]
    assert failed and all(params == {"base_lr": "9"} for params in failed)
    reason = "failed: train_sample_neg.py: --base_lr: found a loss of nan\n"
    assert output.count(reason) == len(failed) and len(trials(tmp_path / "study")) == 6
    best = int(output.rpartition("best: trial ")[2].partition(",")[0])
    assert with_weights(tmp_path / "study") == {best}  # of no other one


def test_where_the_first_all_fail_the_search_ends(tune, tmp_path):
    (tmp_path / "base.json").write_text('{"base_lr": 9}')
    space = {"hid_size": {"_type": "choice", "_value": [8, 16]}}
    process = tune(tmp_path / "study", space)
    assert_one_line_error(process, "the first 3 trainings failed", "log.txt", "found a loss of nan")
    assert [state for state, _, _ in trials(tmp_path / "study")] == ["FAIL"] * 3


def test_ctrl_c_ends_all_workers_in_order(start, tune, tmp_path):
    study_dir, both = tmp_path / "study", {"workers": 2, "threads": 5, "trials": 2}
    (tmp_path / "base.json").write_text('{"pass_num": 40}')
    process = start(study_dir, **both)
    wait_for(study_dir, 0, 2)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == "tune.py: interrupted\n"
    assert "workers:2 threads:2 " in output
    assert "stopped: 0 of 2 trials are done, 2 are saved where they are; the same command goes on" in output
    assert [state for state, _, _ in trials(study_dir)] == ["RUNNING"] * 2
    before = epochs(study_dir)
    time.sleep(0.1)
    assert epochs(study_dir) == before  # nothing works on
    assert_worked(tune(study_dir, **both))
    assert [state for state, _, _ in trials(study_dir)] == ["COMPLETE"] * 2
    assert epochs(study_dir) == [list(range(1, 41))] * 2


def test_another_search_in_the_same_directory_is_refused(tune, tmp_path):
    assert_worked(tune(tmp_path / "study", trials=1))
    for more, named in [({"seed": 2}, "--seed"), ({"watch": "mrr@20"}, "--watch"), ({"folds": 2}, "--folds"),
                        ({"space": {"lr_end": {"_type": "uniform", "_value": [0, 1]}}}, "--space")]:
        assert_one_line_error(tune(tmp_path / "study", **more), "another search", named)
    with hold_directory(tmp_path / "study"):
        assert_one_line_error(tune(tmp_path / "study"), "--study_dir: found another run at work")
    assert_worked(tune(tmp_path / "study", trials=2, workers=2, threads=2, keep_models=1))
    assert len(trials(tmp_path / "study")) == 2 and with_weights(tmp_path / "study") == {0, 1}


def test_folds_train_a_model_each_and_their_mean_counts(tune, tmp_path):
    assert_worked(tune(tmp_path / "study", trials=1, folds=3))
    assert len(list((tmp_path / "study/trials/0000").glob("model_*"))) == 3
    assert trials(tmp_path / "study")[0][2] == pytest.approx(0.9 - 0.1 / 4 + 0.01)
