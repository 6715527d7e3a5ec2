"""Runs that are killed, full disks, losses that are no numbers: nothing saved is lost, and the run can be resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script
from safetensors.numpy import load_file
from stopped_runs import flags, result, stop_in_second_epoch
from tqdm import tqdm

from utils.model import checkpoint

KILLED_CALLS = "replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "chmod"


@pytest.fixture
def forks(monkeypatch):
    """Forked processes may be killed at any moment: tqdm's lock is one for all of them, which a killed one would keep.
    """
    monkeypatch.setattr(tqdm, "_lock", threading.RLock(), raising=False)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # no thread that may hold it as a process is forked
    if tqdm.monitor:
        tqdm.monitor.exit()


def counted(call, left):
    """The function `call`, which kills the process where left[0] comes to 0 by it."""
    def counted_call(*arguments, **kw):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **kw)
    return counted_call


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
            setattr(os, name, counted(getattr(os, name), left))
        status = main()
    finally:
        os._exit(status)


def test_killed_at_every_call_that_writes(tiny_data, tmp_path, run_here, monkeypatch, forks):
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
        assert not list(model_dir.glob(".*")) and not (model_dir / "last").exists(), number
    assert kills > 100


def test_ten_kills_at_random_moments(tiny_data, tmp_path, run_here, forks):
    """A run that is killed and resumed ten times, in half of them while it saves after every step."""
    draw, model_dir, more = random.Random(5), tmp_path / "model", ["--pass_num", 6, "--batch_size", 4]
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole", *more)))
    reported = []
    for kill in range(10):
        child = os.fork()
        if not child:
            often = ["--save_seconds", 1e-9 if kill % 2 else 0.02]
            try:
                run_here("train.py", *flags(tiny_data, model_dir, *more, "--resume", 1, *often))
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0.05, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert set(reported) <= set(checkpoint.finished_epochs(model_dir))
        reported = checkpoint.finished_epochs(model_dir)
    assert_worked(run_here("train.py", *flags(tiny_data, model_dir, *more, "--resume", 1)))
    assert result(model_dir) == result(tmp_path / "whole")


# Full disks

@pytest.fixture
def stopped(tiny_data, tmp_path, run_here):
    """A model directory with a finished epoch and a part of the second."""
    return stop_in_second_epoch(tiny_data, tmp_path / "stopped", run_here)


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
    more = ["--resume", 1, "--save_seconds", 1e-9]
    process = run_script("train.py", *flags(tiny_data, stopped, *more), preexec_fn=limited_to(size))
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


def may_mount():
    """Whether this system lets users mount a file system."""
    return shutil.which("unshare") and not subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode


@pytest.mark.skipif(not may_mount(), reason="this system lets no user mount a file system")
def test_a_disk_that_fills_again_and_again_loses_nothing(tiny_data, tmp_path):
    (tmp_path / "disk").mkdir()
    more = ["--resume", 1, "--save_seconds", 1e-9]
    command = [sys.executable, ROOT / "train.py", *flags(tiny_data, tmp_path / "disk/model", *more)]
    command = ["unshare", "-rm", "bash", "-c", FILL, "bash", tmp_path / "disk", tmp_path / "model", *command]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    *full, last = process.stdout.split("\n")[:-1]
    assert full.count("status 2") >= 3 and last == "status 0", process
    full_disks = process.stderr.count("No space left on device")
    assert process.stderr.count("\n") == full_disks == full.count("status 2"), process.stderr
    # By a process of its own too: MKL rounds otherwise in this one, which loaded it without what train.py tells it of
    # AMD's processors.
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


# Other faults

@pytest.mark.parametrize("bad_step, checkpoint_name", [(3, "none yet"), (22, "epoch_1")])
def test_a_loss_that_is_no_number_ends_with_the_step_and_the_last_good_checkpoint(
        tiny_data, tmp_path, run_here, monkeypatch, bad_step, checkpoint_name):
    from utils.training.trainer import Trainer
    step, done = Trainer.step, []

    def broken(trainer, batch):
        done.append(step(trainer, batch))
        return float("nan") if len(done) == bad_step else done[-1]

    monkeypatch.setattr(Trainer, "step", broken)
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model"))
    is_first_epoch = bad_step < 13
    assert_one_line_error(process, "a loss of nan", checkpoint_name,
                          f"last good checkpoint: {'' if is_first_epoch else tmp_path / 'model'}",
                          f"step {bad_step if is_first_epoch else bad_step - steps_of(tiny_data)} of epoch")


def steps_of(data):
    """Steps of an epoch with `flags`."""
    sessions = (data / "train_data/train.txt").read_text(encoding="utf-8").splitlines()[:180]
    return -(-sum(len(session.split()) > 1 for session in sessions) // 10)


def test_a_loss_that_is_no_number_before_any_update_blames_no_learning_rate(tiny_data, tmp_path, run_here, monkeypatch):
    from utils.training.trainer import Trainer
    monkeypatch.setattr(Trainer, "step", lambda trainer, batch: float("nan"))
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model"))
    assert_one_line_error(process, "utils/losses.py: found a loss of nan in step 1, before any weight was changed")
    assert "--base_lr" not in process.stderr


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
