"""Stopping and resuming: a run that was interrupted anywhere ends as if it never had been, and nothing saved is lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script
from utils import checkpoint
from utils.files import InputError
from utils.resume import hold_directory

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
