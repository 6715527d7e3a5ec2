"""Stopping and resuming: a run that was interrupted anywhere ends as if it never had been, and another run is refused.

What is killed rather than stopped, and full disks, are in test_resume_kills.py.
"""

import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below
from stopped_runs import TRAINED, flags, long_run, result, stop_in_second_epoch, stopping_after

from utils.files import InputError
from utils.model import checkpoint, upkeep
from utils.model.checked_json import write_json
from utils.model.directory import read_settings
from utils.model.layout import weight_shapes
from utils.model.upkeep import hold_directory
from utils.process import STOPPED
from utils.training.held_signals import HeldSignals

SAMPLED = ["train_sample_neg.py", "--neg_size", 16]
TILED = ["train_sample_neg.py", "--config", ROOT / "settings/reference_bpr.json", "--neg_size", 3]
RUNS = {
    "full softmax": ["train.py"],
    "shuffled, in groups": ["train.py", "--shuffle", 1, "--group_batches", 3],
    "without the native library": ["train.py", "--tune_cpu", 0, "--emb_dropout", 0.2],
    "side by side": ["train.py", "--batching", "parallel"],
    "side by side without the native library": ["train.py", "--batching", "parallel", "--tune_cpu", 0,
                                                "--hid_size", "6,8"],
    "few steps an epoch": ["train.py", "--enable_ce", "--step_num", 7],
    "sampled": SAMPLED,
    "sampled side by side": [*SAMPLED, "--batching", "parallel", "--hid_size", "6,8"],
    "sampled, Nadam": [*SAMPLED, "--optimizer", "nadam", "--embedding", "separate", "--lr_schedule", "one-cycle"],
    "AdamW": ["train.py", "--optimizer", "adamw", "--lr_schedule", "cosine", "--warmup", 0.2, "--grad_cap", 1],
    "sampled, SGD": [*SAMPLED, "--optimizer", "sgd", "--weight_decay", 0.001],
    "tiled negatives": TILED,
    "tiled negatives without the native library": [*TILED, "--tune_cpu", 0],
    "windows that overlap, by recency": [*SAMPLED, "--max_length", 3, "--window_overlap", 2, "--recency_half_life", 60,
                                         "--newest_sessions", 150],
    "targets alone": [*SAMPLED[:1], "--neg_size", 0, "--loss", "bpr-max"],
}


@pytest.mark.parametrize("name", RUNS)
def test_stopped_and_resumed_equals_uninterrupted(tiny_data, tmp_path, run_here, name):
    script, *more = RUNS[name]
    assert_worked(run_here(script, *flags(tiny_data, tmp_path / "whole", *more)))
    stops = 0
    for steps in (1, 4, 2, 5, 3, 1000):
        with stopping_after(steps):
            process = run_here(script, *flags(tiny_data, tmp_path / "stopped", "--resume", 1, *more))
        if process.returncode == 0:
            break
        stops += 1
        assert process.returncode == 143 and process.stderr == f"{script}: terminated\n", process
    assert stops >= 3 and result(tmp_path / "stopped") == result(tmp_path / "whole")
    assert not (tmp_path / "stopped/last").exists() and not list((tmp_path / "stopped").glob(".*"))


@pytest.mark.parametrize("before, after", [(0, 1), (1, 0)])
def test_states_outlive_a_change_to_the_native_library_and_back(tiny_data, tmp_path, run_here, before, after):
    """Those of sessions side by side."""
    more = ["--batching", "parallel", "--hid_dropout", 0, "--pass_num", 1]
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole", *more)))
    with stopping_after(9):
        process = run_here("train.py", *flags(tiny_data, tmp_path / "stopped", *more, "--tune_cpu", before))
    assert process.returncode == 143
    process = run_here("train.py", *flags(tiny_data, tmp_path / "stopped", *more, "--tune_cpu", after, "--resume", 1))
    assert process.returncode == 0 and f"tune_cpu {after} (the run: {before})" in process.stderr
    [[found], *_], [[expected], *_] = result(tmp_path / "stopped"), result(tmp_path / "whole")
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert found["valid_loss"] == pytest.approx(expected["valid_loss"], abs=1e-4)


def test_stopped_within_the_validation(tiny_data, tmp_path, run_here, monkeypatch):
    """The epoch's steps are done then: what is resumed is the validation."""
    from utils.training import loop
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validation_figures", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
        process = run_here("train.py", *flags(tiny_data, tmp_path / "stopped"))
    assert process.returncode == 143 and not checkpoint.finished_epochs(tmp_path / "stopped")
    process = assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "stopped", "--resume", 1)))
    assert "step:" not in process.stdout[:process.stdout.index("epoch_2 start")]
    assert result(tmp_path / "stopped") == result(tmp_path / "whole")


def test_a_second_signal_comes_through_at_once():
    before = {number: signal.getsignal(number) for number in STOPPED}
    with HeldSignals() as held:
        os.kill(os.getpid(), signal.SIGINT)
        assert held.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert before == {number: signal.getsignal(number) for number in STOPPED}
    with HeldSignals() as held:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            held.raise_stop()


@pytest.mark.parametrize("signal_number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_as_a_user_stops_and_resumes_it(tiny_data, tmp_path, signal_number, status, run_here):
    model_dir = tmp_path / "model"
    with long_run(tiny_data, model_dir) as process:
        next(line for line in process.stdout if "step:5 " in line)
        process.send_signal(signal_number)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == status and errors.count("\n") == 1, errors
    assert f"saved in {model_dir}/last: --resume 1" in output
    again = run_here("train.py", *flags(tiny_data, model_dir, "--pass_num", 1000))
    assert_one_line_error(again, "--resume 1", "--overwrite 1")
    with long_run(tiny_data, model_dir, "--resume", 1) as resumed:
        line = next(line for line in resumed.stdout if line.startswith("resumed"))
    assert re.match(rf"resumed from {model_dir}/last, saved after step \d+ of epoch 1\n", line)


def test_last_is_invisible_to_infer(tiny_data, tmp_path, run_here):
    with stopping_after(3):
        assert run_here("train.py", *flags(tiny_data, tmp_path / "model")).returncode == 143
    assert (tmp_path / "model/last/state.json").exists()
    for more in ([], ["--start_index", 1]):
        process = run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", tmp_path / "model", *more)
        assert_one_line_error(process, "none of the epochs", "there: none")


# Refused

def test_a_second_run_in_the_same_directory_is_refused(tiny_data, tmp_path, run_here):
    with long_run(tiny_data, tmp_path / "model") as first:
        next(line for line in first.stdout if "step:" in line)
        for more in ([], ["--resume", 1], ["--overwrite", 1]):
            second = run_here("train.py", *flags(tiny_data, tmp_path / "model", *more))
            assert_one_line_error(second, "another run at work")
        first.kill()
        first.wait()  # which frees the directory
        with hold_directory(tmp_path / "model"), pytest.raises(InputError, match="another run"):
            with hold_directory(tmp_path / "model"):
                pass


def test_a_file_in_the_place_of_the_directory_is_refused(tiny_data, tmp_path, run_here):
    (tmp_path / "model").write_text("precious", encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(tiny_data, tmp_path / "model")), "--model_dir", "found the file")


@pytest.fixture
def stopped(tiny_data, tmp_path, run_here):
    """A model directory with a finished epoch and a part of the second."""
    return stop_in_second_epoch(tiny_data, tmp_path / "stopped", run_here)


@pytest.mark.parametrize("more, fragments", [
    (["--batch_size", 5, "--seed", 2], ["--seed 2 (the run: 1), --batch_size 5 (the run: 10)"]),
    (["--hid_size", "8,8"], ["--hid_size 8,8 (the run: 8)"]),
    (["--pass_num", 3], ["--pass_num 3 (the run: 2)"]),
    (["--optimizer", "sgd", "--lr_schedule", "cosine"],
     ["--optimizer sgd (the run: adagrad)", "--base_lr 5.0 (the run: 0.1)", "--lr_schedule cosine (the run: linear)"]),
    (["--valid_fraction", 0.2], ["--valid_fraction 0.2 (the run: 0.1)"]),
    (["--watch", "mrr@20"], ["--watch mrr@20 (the run: recall@20)"]),
])
def test_other_settings_are_refused_by_name(tiny_data, stopped, run_here, more, fragments):
    before = files_below(stopped)
    process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1, *more))
    assert_one_line_error(process, "--resume 1", *fragments)
    assert files_below(stopped) == before


def test_a_run_that_an_older_version_stopped_goes_on(tiny_data, stopped, run_here):
    config, state = (json.loads((stopped / name).read_text(encoding="utf-8")) for name in ("config.json",
                                                                                           "last/state.json"))
    for name in ("exchange_steps", "amp", "split_items", "optimizer", "momentum", "weight_decay", "grad_cap",
                 "lr_schedule", "warmup"):
        del config["options"][name]
    del config["processes"], state["progress"]["processes"], config["sha256"], state["sha256"]
    (stopped / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (stopped / "last/state.json").write_text(json.dumps(state), encoding="utf-8")
    process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1))
    assert process.returncode == 0 and "finish training" in process.stdout, process.stderr


def test_other_data_are_refused_by_name(tiny_data, stopped, run_here, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    path = data / "train_data/train.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(data, stopped, "--resume", 1)), "sessions_sha256")
    other = shutil.copytree(tiny_data, tmp_path / "other")
    (other / "vocab.txt").write_text("".join(f"other_{number}\n" for number in range(36)), encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(other, stopped, "--resume", 1)), "vocab_sha256")
    process = run_here("train_sample_neg.py", *flags(tiny_data, stopped, "--resume", 1))
    assert_one_line_error(process, "train_sample_neg.py (the run: train.py)")


def test_moved_data_and_what_is_only_shown_or_kept_may_differ(tiny_data, stopped, run_here, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "elsewhere")
    more = ["--print_batch", 5, "--keep", 1, "--save_seconds", 3, "--patience", 9]
    assert_worked(run_here("train.py", *flags(data, stopped, "--resume", 1, *more)))


def test_another_number_of_threads_is_warned_of(tiny_data, stopped, run_here):
    process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1, "--threads", 2))
    assert process.returncode == 0 and process.stderr.count("\n") == 1 and "threads 2 (the run: 1)" in process.stderr


def test_resume_and_overwrite_together_are_refused(tiny_data, stopped, run_here):
    process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1, "--overwrite", 1))
    assert_one_line_error(process, "--resume", "--overwrite")


def test_what_was_stopped_within_an_epoch_needs_overwrite(tiny_data, tmp_path, run_here):
    with stopping_after(3):
        assert run_here("train.py", *flags(tiny_data, tmp_path / "model")).returncode == 143
    before = files_below(tmp_path / "model")
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model"))
    assert_one_line_error(process, "--resume 1", "--overwrite 1")
    assert files_below(tmp_path / "model") == before
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--overwrite", 1)))
    assert not (tmp_path / "model/last").exists()


@pytest.mark.parametrize("name", TRAINED)
def test_a_damaged_last_is_refused_and_named(tiny_data, stopped, run_here, name):
    path = stopped / "last" / name
    path.write_bytes(path.read_bytes()[:-1])
    process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1))
    assert_one_line_error(process, f"last/{name}", "truncated or changed")


@pytest.mark.parametrize("text", ["{}", '{"progress": 1}', '{"progress": {"no": 1}}', "[]", ""])
def test_a_foreign_state_is_refused(tiny_data, stopped, run_here, text):
    (stopped / "last/state.json").write_text(text, encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(tiny_data, stopped, "--resume", 1)), "state.json")


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(), lambda path: (path.unlink(), path.symlink_to("nowhere")),
    lambda path: (path.unlink(), os.mkfifo(path)), lambda path: (path.unlink(), path.mkdir()),
    lambda path: path.write_text("{"), lambda path: path.write_text("{}"), lambda path: os.truncate(path, 0)])
def test_epochs_of_which_none_can_be_read_are_refused_and_stay(tiny_data, tmp_path, run_here, damage):
    """The run would begin anew and delete them."""
    model_dir = tmp_path / "model"
    assert_worked(run_here("train.py", *flags(tiny_data, model_dir)))
    for epoch in 1, 2:
        damage(model_dir / f"epoch_{epoch}/state.json")
    before = files_below(model_dir)
    process = run_here("train.py", *flags(tiny_data, model_dir, "--resume", 1))
    assert_one_line_error(process, "epoch_", "state.json", "expected")
    assert files_below(model_dir) == before and files_below(model_dir / "epoch_1")


def test_a_last_that_can_not_be_read_is_refused_and_stays(tiny_data, tmp_path, run_here):
    with stopping_after(3):
        assert run_here("train.py", *flags(tiny_data, tmp_path / "model")).returncode == 143
    (tmp_path / "model/last/state.json").unlink()
    before = files_below(tmp_path / "model")
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--resume", 1))
    assert_one_line_error(process, "--resume 1: found last", "expected")
    assert files_below(tmp_path / "model") == before


@pytest.mark.parametrize("progress", [
    {"epoch": 0}, {"epoch": -1}, {"num_steps": -1}, {"predictions": -1}, {"seconds": -1.0}, {"seconds": float("nan")},
    {"loss_sum": float("inf")}, {"recent": ["1"]}, {"recent": [None]}, {"recent": [float("nan")]},
    {"another": 1}], ids=str)
def test_a_progress_that_no_run_has_is_refused(tiny_data, stopped, run_here, progress):
    state = checkpoint.read_state(stopped / "last")
    write_json(stopped / "last/state.json", state | {"progress": state["progress"] | progress})
    assert_one_line_error(run_here("train.py", *flags(tiny_data, stopped, "--resume", 1)), "last/state.json")


@pytest.mark.parametrize("epochs_done", [1, 2])
def test_a_last_that_a_finished_epoch_made_obsolete_goes(tiny_data, tmp_path, run_here, monkeypatch, epochs_done):
    """The run was killed between saving an epoch and removing last/."""
    model_dir, more = tmp_path / "model", ["--save_seconds", 1e-9]
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole", *more)))

    class Killed(BaseException):
        pass

    def killed(model_dir):
        if len(checkpoint.finished_epochs(model_dir)) == epochs_done:
            raise Killed
        real(model_dir)

    real = upkeep.remove_last
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(upkeep, "remove_last", killed)
        run_here("train.py", *flags(tiny_data, model_dir, *more))
    assert (model_dir / "last").exists() and len(checkpoint.finished_epochs(model_dir)) == epochs_done
    assert_worked(run_here("train.py", *flags(tiny_data, model_dir, "--resume", 1, "--save_seconds", 0)))
    assert not (model_dir / "last").exists()
    assert result(model_dir) == result(tmp_path / "whole")


def test_an_optimisers_state_of_other_shapes_is_refused(tiny_data, stopped, run_here):
    """As a hostile sender would make it: with checksums that are right."""
    shape = [36, 9]
    for wrong in np.zeros([1, 9], np.float32), np.zeros(shape, np.float64):
        weights, arrays, state = checkpoint.load_checkpoint(stopped / "last", weight_shapes_of(stopped))
        assert list(arrays["item_matrix.sum"].shape) == shape
        checkpoint.save_last(stopped, weights, arrays | {"item_matrix.sum": wrong}, {"progress": state["progress"]})
        process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1))
        assert_one_line_error(process, "last/optimizer.safetensors: found", "item_matrix.sum, expected float32 [36, 9]")
        checkpoint.save_last(stopped, weights, arrays, {"progress": state["progress"]})


def weight_shapes_of(model_dir):
    return weight_shapes(read_settings(model_dir, checkpoint.read_config(model_dir)), 36)
