"""The number of threads that a run takes: which is measured, which is chosen, and that a resumed run takes the same."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, assert_worked, run_script
from safetensors.numpy import load_file

from utils.training import threads
from utils.training.threads import ROUNDS, STEPS, ThreadTrial, numbers_to_try


class Clock:
    """Stands in the place of `time` and of the kernels: a step takes as long as `seconds` says for the number."""

    def __init__(self, seconds):
        self.seconds, self.now, self.count, self.numbers = seconds, 0.0, None, []

    def set_threads(self, count):
        self.count = count

    def perf_counter(self):
        return self.now

    def step(self, batch):
        self.numbers.append(self.count)
        self.now += self.seconds(self.count, len(self.numbers)) * len(batch.targets)
        return float(len(self.numbers))


class OneBatch:
    targets = np.zeros(50)


def trial_of(monkeypatch, most, seconds):
    clock, records = Clock(seconds), []
    monkeypatch.setattr(threads, "time", clock)
    trial = ThreadTrial(clock, most, records.append)
    steps = len(numbers_to_try(most)) * ROUNDS * STEPS + 5
    losses = [trial.step(clock.step, OneBatch) for _ in range(steps)]
    assert losses == [float(number) for number in range(1, steps + 1)], "every measured step counts as training"
    assert set(clock.numbers[-5:]) == {records[0]["threads"]} and len(records) == 1
    return records[0]["threads"]


@pytest.mark.parametrize("most, expected", [(2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_numbers_to_try(most, expected):
    assert numbers_to_try(most) == expected


def test_the_fastest_is_chosen(monkeypatch, capsys):
    assert trial_of(monkeypatch, 4, lambda count, step: 1e-5 / count) == 4
    line = r"^threads:4 \(predictions/s by threads: 1: 100000, 2: 200000, 4: 400000; "
    assert re.search(line, capsys.readouterr().out, re.MULTILINE)


def test_what_brings_next_to_nothing_is_not_taken(monkeypatch):
    assert trial_of(monkeypatch, 64, lambda count, step: 1e-5 / min(count, 8) * (1 - 1e-4 * count)) == 8


def test_threads_that_slow_each_other_down_are_not_taken(monkeypatch):
    assert trial_of(monkeypatch, 2, lambda count, step: 1e-5 * count) == 1


def test_a_slow_moment_decides_nothing(monkeypatch):
    assert trial_of(monkeypatch, 2, lambda count, step: 1e-5 / count * (100 if step % STEPS in (1, 2) else 1)) == 2


def events(model_dir):
    return [json.loads(line) for line in Path(model_dir, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_run_measures_once_and_goes_on_with_that(tiny_data, tmp_path):
    flags = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt", "--model_dir",
             tmp_path / "model", "--batch_size", 20, "--pass_num", 10, "--resume", 1]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    outputs = []
    for _ in range(2):
        outputs.append(run_script("train.py", *flags, env=environment))
        assert_worked(outputs[-1])
        shutil.rmtree(tmp_path / "model/epoch_10")
    if "native:yes" not in outputs[0].stdout or " threads:1 " in outputs[0].stdout.splitlines()[0]:
        pytest.skip("nothing to choose from here")
    assert ["by threads" in process.stdout for process in outputs] == [True, False]
    assert "epoch_10 start" in outputs[1].stdout
    assert len([record for record in events(tmp_path / "model") if record["event"] == "threads"]) == 1


@pytest.mark.parametrize("script, flags", [
    ("train.py", []), ("train_sample_neg.py", ["--neg_size", 300]),
    ("train_sample_neg.py", ["--loss", "bpr", "--negatives", "tiled", "--neg_size", 5, "--batching", "sessions"]),
])
def test_any_number_of_threads_trains_the_same_weights(tmp_path, script, flags):
    """To the last bit with MKL's AVX-512; elsewhere they may differ by rounding."""
    found = {}
    for count in (1, 2, 3):
        model_dir = tmp_path / str(count)
        process = run_script(script, "--pass_num", 1, "--model_dir", model_dir, "--threads", count, "--train_dir",
                             ROOT / "train_data", "--vocab_path", ROOT / "vocab.txt", *flags)
        assert_worked(process)
        if "native:yes" not in process.stdout:
            pytest.skip("no C++ here")
        found[count] = load_file(model_dir / "epoch_1/model.safetensors")
    is_same = os.environ.get("MKL_DEBUG_CPU_TYPE") == "7"
    for count in (2, 3):
        for name, values in found[1].items():
            if is_same:
                assert values.tobytes() == found[count][name].tobytes(), (count, name)
            else:
                np.testing.assert_allclose(found[count][name], values, atol=1e-2)
