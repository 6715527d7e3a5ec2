"""What the tests of resuming share: a quick run, stopping it, and what of it must not depend on interruptions."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import ROOT, with_flags

from utils.model import checkpoint

TRAINED = checkpoint.MODEL, checkpoint.OPTIMIZER
SAME_FIGURES = ("epoch", "num_steps", "loss", "predictions", "recall@20", "mrr@20", "valid_loss", "train_loss",
                "loss_ratio")


def flags(data, model_dir, *more):
    """A quick run of two epochs with validation on `data`; later flags win."""
    usual = ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir,
             "--threads", 1, "--hid_size", 8, "--pass_num", 2, "--batch_size", 10, "--valid_fraction", 0.1,
             "--print_batch", 3]
    return with_flags(usual, more)


def result(model_dir):
    """What must not depend on interruptions: weights and optimiser of all epochs, their figures, the best epoch."""
    lines = (model_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    figures = [{name: record[name] for name in SAME_FIGURES if name in record} for record in map(json.loads, lines)
               if record["event"] == "epoch"]
    trained = {epoch: [(checkpoint.epoch_directory(model_dir, epoch) / name).read_bytes() for name in TRAINED]
               for epoch in checkpoint.finished_epochs(model_dir)}
    return figures, trained, checkpoint.best_epoch(model_dir)


@contextmanager
def stopping_after(steps):
    """Within the block, the training in this process gets a SIGTERM after so many steps."""
    from utils.training import loop
    real_step, left = loop.Run._train_step, [steps]

    def step(run, *arguments):
        real_step(run, *arguments)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "_train_step", step)
        yield


def stop_in_second_epoch(data, model_dir, run_here):
    """Make a model directory with a finished epoch and a part of the second; return it."""
    with stopping_after(25):
        process = run_here("train.py", *flags(data, model_dir))
    assert process.returncode == 143 and checkpoint.finished_epochs(model_dir) == [1]
    return model_dir


@contextmanager
def long_run(data, model_dir, *more):
    """The process of a long run; it is killed at the end of the block."""
    more = flags(data, model_dir, "--pass_num", 1000, "--print_batch", 1, *more)
    command = list(map(str, [sys.executable, ROOT / "train.py", *more]))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
