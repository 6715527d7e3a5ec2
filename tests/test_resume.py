"""Stopping and resuming: a run that was interrupted anywhere ends as if it never had been, and nothing saved is lost."""

import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script
from utils import checkpoint, resume
from utils.files import InputError
from utils.options import STOPPED
from utils.resume import HeldSignals, hold_directory

SAME_FIGURES = "epoch", "num_steps", "loss", "predictions", "recall@20", "mrr@20", "valid_loss", "train_loss", "loss_ratio"
TRAINED = checkpoint.MODEL, checkpoint.OPTIMIZER


def flags(data, model_dir, *more):
    """A quick run of two epochs with validation on `data`; later flags win."""
    return ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir, "--threads", 1,
            "--hid_size", 8, "--pass_num", 2, "--batch_size", 10, "--valid_fraction", 0.1, "--print_batch", 3, *more]


def result(model_dir):
    """What must not depend on interruptions: weights and optimiser of all epochs, their figures, the best epoch."""
    lines = (model_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    figures = [{name: record[name] for name in SAME_FIGURES if name in record} for record in map(json.loads, lines)
               if record["event"] == "epoch"]
    epochs = checkpoint.finished_epochs(model_dir)
    trained = {epoch: [(checkpoint.epoch_directory(model_dir, epoch) / name).read_bytes() for name in TRAINED] for epoch in epochs}
    return figures, trained, checkpoint.best_epoch(model_dir)


@pytest.fixture
def stop_after_steps(monkeypatch):
    """A function that has the training in this process get a SIGTERM after so many more steps."""
    from utils import training
    real_step = training._Run._train_step

    def arrange(steps):
        left = [steps]

        def step(run, *arguments):
            real_step(run, *arguments)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGTERM)
        monkeypatch.setattr(training._Run, "_train_step", step)
    return arrange


SAMPLED = ["train_sample_neg.py", "--neg_size", 16]
RUNS = {
    "full softmax": ["train.py"],
    "shuffled, in groups": ["train.py", "--shuffle", 1, "--group_batches", 3],
    "without the native library": ["train.py", "--tune_cpu", 0, "--emb_dropout", 0.2],
    "side by side": ["train.py", "--batching", "parallel"],
    "side by side without the native library": ["train.py", "--batching", "parallel", "--tune_cpu", 0, "--hid_size", "6,8"],
    "few steps an epoch": ["train.py", "--enable_ce", "--step_num", 7],
    "sampled": SAMPLED,
    "sampled side by side": [*SAMPLED, "--batching", "parallel", "--hid_size", "6,8"],
    "sampled, Adam": [*SAMPLED, "--optimizer", "adam", "--base_lr", 0.01, "--embedding", "separate"],
    "tiled negatives": [*SAMPLED[:1], "--negatives", "tiled", "--neg_size", 3, "--loss", "bpr", "--logq", 0],
    "targets alone": [*SAMPLED[:1], "--neg_size", 0, "--loss", "bpr-max"],
}


@pytest.mark.parametrize("name", RUNS)
def test_stopped_and_resumed_equals_uninterrupted(tiny_data, tmp_path, run_here, stop_after_steps, native_library_as, name):
    native_library_as("--tune_cpu" not in RUNS[name])
    script, *more = RUNS[name]
    assert_worked(run_here(script, *flags(tiny_data, tmp_path / "whole", *more)))
    stops = 0
    for steps in (1, 4, 2, 5, 3, 1000):
        stop_after_steps(steps)
        process = run_here(script, *flags(tiny_data, tmp_path / "stopped", "--resume", 1, *more))
        if process.returncode == 0:
            break
        stops += 1
        assert process.returncode == 143 and process.stderr == f"{script}: terminated\n", process
    assert stops >= 3 and result(tmp_path / "stopped") == result(tmp_path / "whole")
    assert not (tmp_path / "stopped/last").exists() and not list((tmp_path / "stopped").glob(".*"))


def test_stopped_within_the_validation(tiny_data, tmp_path, run_here, monkeypatch):
    """The epoch's steps are done then: what is resumed is the validation."""
    from utils import training
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole")))
    with monkeypatch.context() as patch:
        patch.setattr(training, "validation_figures", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
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


# Killed

KILLED_CALLS = "replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "chmod"


def killed_at_call(number, main):
    """Run `main` in a child process that is killed as it would make the call `number` of those that write, from 1.

    Returns the child's status: -9, or what it ended with where it made fewer calls.
    """
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 70
    try:
        left = [number]
        for name in KILLED_CALLS:
            def call(*arguments, _real=getattr(os, name), **kw):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _real(*arguments, **kw)
            setattr(os, name, call)
        status = main()
    finally:
        os._exit(status)


def test_killed_at_every_call_that_writes(tiny_data, tmp_path, run_here, monkeypatch):
    """Of starting, of saving within an epoch, of saving an epoch, and of removing an old one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and of use only where the power fails
    more = ["--enable_ce", "--step_num", 2, "--keep", 1, "--resume", 1]
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole", *more)))
    expected, model_dir, kills = result(tmp_path / "whole"), tmp_path / "model", 0
    for number in range(1, 1000):
        shutil.rmtree(model_dir, ignore_errors=True)
        main = lambda: run_here("train.py", *flags(tiny_data, model_dir, *more, "--save_seconds", 1e-9)).returncode
        status = killed_at_call(number, main)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
        assert_worked(run_here("train.py", *flags(tiny_data, model_dir, *more)))
        assert result(model_dir) == expected, number
        assert not list(model_dir.glob(".*"))
    assert kills > 100


def test_twenty_kills_at_random_moments(tiny_data, tmp_path, run_here):
    """A run that is killed and resumed twenty times, in half of them while it saves after every step."""
    draw, model_dir, more = random.Random(5), tmp_path / "model", ["--pass_num", 6, "--batch_size", 4]
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole", *more)))
    reported = []
    for kill in range(20):
        child = os.fork()
        if not child:
            try:
                run_here("train.py", *flags(tiny_data, model_dir, *more, "--resume", 1, "--save_seconds", 1e-9 if kill % 2 else 0.02))
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0.05, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert set(reported) <= set(checkpoint.finished_epochs(model_dir))
        reported = checkpoint.finished_epochs(model_dir)
    assert_worked(run_here("train.py", *flags(tiny_data, model_dir, *more, "--resume", 1)))
    assert result(model_dir) == result(tmp_path / "whole")


@pytest.fixture
def start():
    """A function that starts a long run and returns its process; what runs at the end of the test is killed."""
    started = []

    def run(data, model_dir, *more):
        command = [sys.executable, ROOT / "train.py", *flags(data, model_dir, "--pass_num", 1000, "--print_batch", 1, *more)]
        started.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]
    yield run
    for process in started:
        with process:
            process.kill()


@pytest.mark.parametrize("signal_number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_as_a_user_stops_and_resumes_it(tiny_data, tmp_path, start, signal_number, status):
    model_dir = tmp_path / "model"
    process = start(tiny_data, model_dir)
    next(line for line in process.stdout if "step:5 " in line)
    process.send_signal(signal_number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status and errors.count("\n") == 1, errors
    assert f"saved in {model_dir}/last: --resume 1" in output
    assert_one_line_error(run_script("train.py", *flags(tiny_data, model_dir, "--pass_num", 1000)), "--resume 1", "--overwrite 1")
    resumed = start(tiny_data, model_dir, "--resume", 1)
    line = next(line for line in resumed.stdout if line.startswith("resumed"))
    assert re.match(rf"resumed from {model_dir}/last: epoch 1, \d+ steps of it done", line)


def test_last_is_invisible_to_infer(tiny_data, tmp_path, run_here, stop_after_steps):
    stop_after_steps(3)
    assert run_here("train.py", *flags(tiny_data, tmp_path / "model")).returncode == 143
    assert (tmp_path / "model/last/state.json").exists()
    for more in ([], ["--start_index", 1]):
        process = run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", tmp_path / "model", *more)
        assert_one_line_error(process, "none of the epochs", "there: none")


# Refused

def test_a_second_run_in_the_same_directory_is_refused(tiny_data, tmp_path, start):
    first = start(tiny_data, tmp_path / "model")
    next(line for line in first.stdout if "step:" in line)
    for more in ([], ["--resume", 1], ["--overwrite", 1]):
        assert_one_line_error(run_script("train.py", *flags(tiny_data, tmp_path / "model", *more)), "another run at work")
    first.kill()
    first.wait()  # which frees the directory
    with hold_directory(tmp_path / "model"), pytest.raises(InputError, match="another run"):
        with hold_directory(tmp_path / "model"):
            pass


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(resume.fcntl, "flock", no_locks)
    with hold_directory(tmp_path / "model"):
        assert (tmp_path / "model").is_dir()
    assert "can't be locked (No locks available)" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_directory_is_refused(tiny_data, tmp_path, run_here):
    (tmp_path / "model").write_text("precious", encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(tiny_data, tmp_path / "model")), "--model_dir", "found the file")


@pytest.fixture
def stopped(tiny_data, tmp_path, run_here, stop_after_steps):
    """A model directory with a finished epoch and a part of the second."""
    stop_after_steps(25)
    process = run_here("train.py", *flags(tiny_data, tmp_path / "stopped"))
    stop_after_steps(10**9)
    assert process.returncode == 143 and checkpoint.finished_epochs(tmp_path / "stopped") == [1]
    return tmp_path / "stopped"


@pytest.mark.parametrize("more, fragments", [
    (["--batch_size", 5, "--seed", 2], ["--batch_size 5 (the run: 10), --seed 2 (the run: 1)"]),
    (["--hid_size", "8,8"], ["--hid_size 8,8 (the run: 8)"]),
    (["--pass_num", 3], ["--pass_num 3 (the run: 2)"]),
    (["--valid_fraction", 0.2], ["--valid_fraction 0.2 (the run: 0.1)"]),
    (["--watch", "mrr@20"], ["--watch mrr@20 (the run: recall@20)"]),
])
def test_other_settings_are_refused_by_name(tiny_data, stopped, run_here, more, fragments):
    before = files_below(stopped)
    process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1, *more))
    assert_one_line_error(process, "--resume 1", *fragments)
    assert files_below(stopped) == before


def test_other_data_are_refused_by_name(tiny_data, stopped, run_here, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    path = data / "train_data/train.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(data, stopped, "--resume", 1)), "sessions_sha256")
    (tiny := shutil.copytree(tiny_data, tmp_path / "other"))
    (tiny / "vocab.txt").write_text("".join(f"other_{number}\n" for number in range(36)), encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(tiny, stopped, "--resume", 1)), "vocab_sha256")
    assert_one_line_error(run_here("train_sample_neg.py", *flags(tiny_data, stopped, "--resume", 1)), "train_sample_neg.py (the run: train.py)")


def test_moved_data_and_what_is_only_shown_or_kept_may_differ(tiny_data, stopped, run_here, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "elsewhere")
    more = ["--print_batch", 5, "--keep", 1, "--save_seconds", 3, "--patience", 9]
    assert_worked(run_here("train.py", *flags(data, stopped, "--resume", 1, *more)))


def test_another_number_of_threads_is_warned_of(tiny_data, stopped, run_here):
    process = run_here("train.py", *flags(tiny_data, stopped, "--resume", 1, "--threads", 2))
    assert process.returncode == 0 and process.stderr.count("\n") == 1 and "threads 2 (the run: 1)" in process.stderr


def test_resume_and_overwrite_together_are_refused(tiny_data, stopped, run_here):
    assert_one_line_error(run_here("train.py", *flags(tiny_data, stopped, "--resume", 1, "--overwrite", 1)), "--resume", "--overwrite")


def test_what_was_stopped_within_an_epoch_needs_overwrite(tiny_data, tmp_path, run_here, stop_after_steps):
    stop_after_steps(3)
    assert run_here("train.py", *flags(tiny_data, tmp_path / "model")).returncode == 143
    stop_after_steps(10**9)
    before = files_below(tmp_path / "model")
    assert_one_line_error(run_here("train.py", *flags(tiny_data, tmp_path / "model")), "--resume 1", "--overwrite 1")
    assert files_below(tmp_path / "model") == before
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--overwrite", 1)))
    assert not (tmp_path / "model/last").exists()


@pytest.mark.parametrize("name", TRAINED)
def test_a_damaged_last_is_refused_and_named(tiny_data, stopped, run_here, name):
    path = stopped / "last" / name
    path.write_bytes(path.read_bytes()[:-1])
    assert_one_line_error(run_here("train.py", *flags(tiny_data, stopped, "--resume", 1)), f"last/{name}", "truncated or changed")


@pytest.mark.parametrize("text", ["{}", '{"progress": 1}', '{"progress": {"no": 1}}', "[]", ""])
def test_a_foreign_state_is_refused(tiny_data, stopped, run_here, text):
    (stopped / "last/state.json").write_text(text, encoding="utf-8")
    assert_one_line_error(run_here("train.py", *flags(tiny_data, stopped, "--resume", 1)), "state.json")


# Faults

def limited_to(size):
    """For subprocess's preexec_fn: writing beyond `size` bytes fails, as on a full disk."""
    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return limit


@pytest.mark.parametrize("size", [300, 1000, 2500])
def test_a_full_disk_loses_nothing(tiny_data, stopped, tmp_path, run_here, size):
    """It fails as metrics.jsonl grows, or within a file of last/; freed, the run ends as if nothing had been."""
    before = files_below(stopped / "last")
    process = run_script("train.py", *flags(tiny_data, stopped, "--resume", 1, "--save_seconds", 1e-9), preexec_fn=limited_to(size))
    assert_one_line_error(process, "File too large", stopped)
    assert files_below(stopped / "last") == before
    assert_worked(run_here("train.py", *flags(tiny_data, stopped, "--resume", 1)))
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole")))
    assert result(stopped) == result(tmp_path / "whole")


FILL = """
mount -t tmpfs -o size=20k tmpfs "$1"; mkdir "$1/model"
for size in 20k 36k 44k 52k 68k 10m; do
  mount -o remount,size=$size "$1"
  "${@:3}" >/dev/null; echo "status $?"
done
cp -r "$1/model" "$2"
"""


@pytest.mark.skipif(subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode if shutil.which("unshare") else True,
                    reason="this system lets no user mount a file system")
def test_a_disk_that_fills_again_and_again_loses_nothing(tiny_data, tmp_path):
    (tmp_path / "disk").mkdir()
    more = ["--resume", 1, "--save_seconds", 1e-9]
    command = [sys.executable, ROOT / "train.py", *flags(tiny_data, tmp_path / "disk/model", *more)]
    process = subprocess.run(["unshare", "-rm", "bash", "-c", FILL, "bash", *map(str, [tmp_path / "disk", tmp_path / "model", *command])],
                             capture_output=True, text=True, timeout=120)
    *full, last = process.stdout.split("\n")[:-1]
    assert full.count("status 2") >= 3 and last == "status 0", process
    assert process.stderr.count("\n") == process.stderr.count("No space left on device") == full.count("status 2"), process.stderr
    # by a process of its own too: MKL rounds otherwise in this one, which loaded it without what train.py tells it of AMD's processors
    assert_worked(run_script("train.py", *flags(tiny_data, tmp_path / "whole")))
    assert result(tmp_path / "model") == result(tmp_path / "whole")


def test_a_record_that_the_disk_had_no_room_for_comes_back(tiny_data, tmp_path, run_here):
    model_dir = tmp_path / "model"
    assert_worked(run_here("train.py", *flags(tiny_data, model_dir)))
    expected, path = result(model_dir), model_dir / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert_worked(run_here("train.py", *flags(tiny_data, model_dir, "--resume", 1)))
    assert result_of_whole_lines(model_dir) == expected


def result_of_whole_lines(model_dir):
    path = model_dir / "metrics.jsonl"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return result(model_dir)


@pytest.mark.parametrize("bad_step, checkpoint_name", [(3, "none yet"), (22, "epoch_1")])
def test_a_loss_that_is_no_number_ends_with_the_step_and_the_last_good_checkpoint(tiny_data, tmp_path, run_here, monkeypatch, bad_step,
                                                                                 checkpoint_name):
    from utils.training import FullSoftmaxTrainer
    step, done = FullSoftmaxTrainer.step, []

    def broken(trainer, batch):
        done.append(step(trainer, batch))
        return float("nan") if len(done) == bad_step else done[-1]

    monkeypatch.setattr(FullSoftmaxTrainer, "step", broken)
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model"))
    assert_one_line_error(process, "a loss of nan", f"last good checkpoint: {'' if bad_step < 13 else tmp_path / 'model'}",
                          checkpoint_name, f"step {bad_step if bad_step < 13 else bad_step - steps_of(tiny_data)} of epoch")


def steps_of(data):
    """Steps of an epoch with `flags`."""
    sessions = (data / "train_data/train.txt").read_text(encoding="utf-8").splitlines()[:180]
    return -(-sum(len(session.split()) > 1 for session in sessions) // 10)


def test_weights_that_overflowed_are_never_saved_as_last(tiny_data, tmp_path, run_here):
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--base_lr", 1e38, "--save_seconds", 1e-9))
    assert_one_line_error(process, "--base_lr", "last good checkpoint")
    saved = load_file(tmp_path / "model/last" / checkpoint.MODEL)  # of the first step, which was still good
    assert all(np.isfinite(values).all() for values in saved.values())


def test_a_clock_that_jumps_changes_nothing(tiny_data, tmp_path, run_here, monkeypatch):
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole")))
    draw = random.Random(1)
    monkeypatch.setattr(time, "time", lambda: draw.uniform(-1e9, 3e9))
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--save_seconds", 0.01)))
    assert result(tmp_path / "model") == result(tmp_path / "whole")
    records = map(json.loads, (tmp_path / "model/metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert all(0 < record["time_cost"] < 60 for record in records)


def without_privileges():
    """For subprocess's preexec_fn: root too then may write only where the permissions say so."""
    import ctypes
    drop_from_bounding_set, may_write_anywhere = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE of Linux
    ctypes.CDLL(None).prctl(drop_from_bounding_set, may_write_anywhere, 0, 0, 0)


@pytest.mark.parametrize("more", [[], ["--resume", 1], ["--overwrite", 1]])
def test_a_read_only_model_directory_ends_in_one_line(tiny_data, stopped, more):
    before = files_below(stopped)
    for directory in (stopped, stopped / "last", stopped / "epoch_1"):
        directory.chmod(0o555)
    for path in stopped.rglob("*.*"):
        path.chmod(0o444)
    if not more:
        shutil.rmtree(stopped / "last"), shutil.rmtree(stopped / "epoch_1")
        before = files_below(stopped)
        stopped.chmod(0o555)
    process = run_script("train.py", *flags(tiny_data, stopped, *more), preexec_fn=without_privileges)
    stopped.chmod(0o755)
    assert_one_line_error(process, "Permission denied", stopped)
    assert files_below(stopped) == before
