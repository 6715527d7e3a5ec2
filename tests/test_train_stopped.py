"""train.py that is killed or interrupted: what it saved stays."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, assert_worked, run_script
from safetensors.numpy import load_file

from utils.model import checkpoint


@pytest.fixture(scope="module")
def large_vocabulary(tmp_path_factory):
    """Few sessions over 30,000 items: an epoch is one step, and most of the time is spent in writing 25 MB."""
    directory = tmp_path_factory.mktemp("large")
    (directory / "vocab.txt").write_text("".join(f"i{number}\n" for number in range(30000)), encoding="utf-8")
    for name, text in [("train", "1 2 3\n4 5\n"), ("test", "1 2 3\n")]:
        (directory / f"{name}_data").mkdir()
        (directory / f"{name}_data/{name}.txt").write_text(text, encoding="utf-8")
    return directory


def start(data, model_dir, *more):
    """The process of a long training; `more` flags."""
    flags = ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir,
             "--threads", 1, "--hid_size", 100, "--pass_num", 1000, "--batch_size", 10, *more]
    command = [sys.executable, ROOT / "train.py", *flags]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process, words):
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(process.stderr.read())


def test_kill_at_any_moment_leaves_every_saved_epoch_usable(large_vocabulary, tmp_path):
    draw, model_dir = random.Random(4), tmp_path / "model"
    shapes = None
    for _ in range(3):
        process = start(large_vocabulary, model_dir, "--overwrite", 1)
        wait_for(process, "model saved in")
        time.sleep(draw.uniform(0, 0.6))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        reported = process.communicate()[0].count("model saved in") + 1
        finished = checkpoint.finished_epochs(model_dir)
        assert finished == list(range(1, len(finished) + 1)) and len(finished) >= reported
        first = load_file(model_dir / "epoch_1/model.safetensors")
        shapes = shapes or {name: list(values.shape) for name, values in first.items()}
        for epoch in finished:
            loaded = checkpoint.load_weights(model_dir, epoch, shapes)
            assert all(np.isfinite(values).all() for values in loaded.values())
    process = run_script("infer.py", "--test_dir", large_vocabulary / "test_data", "--model_dir", model_dir,
                         "--last_index", 1)
    assert "epoch_1 recall@20:" in assert_worked(process).stdout


@pytest.mark.parametrize("signal_number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupting_keeps_the_saved_epochs(tiny_data, tmp_path, signal_number, status):
    process = start(tiny_data, tmp_path / "model")
    wait_for(process, "model saved in")
    process.send_signal(signal_number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == status and errors.count("\n") == 1, errors
    assert checkpoint.finished_epochs(tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.tmp"))
