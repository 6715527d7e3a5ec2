"""Scripts with --parallel 1: several processes train and evaluate together, and end together whatever happens."""

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
from conftest import ROOT, assert_one_line_error, assert_worked, run_script, with_flags
from safetensors.numpy import load_file

from utils.model import checkpoint

sys.path.insert(0, str(ROOT / "tests/training"))
from stopped_runs import flags, result  # noqa: E402

TWO = ["--parallel", 1, "--num_devices", 2]
needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="this system has no /proc")
FIGURES = re.compile(r"(?:model|intervals):\S+ (.*) (?:time_cost|level)")


def two_of(data, model_dir, *more):
    """Flags of a quick run by two processes."""
    return flags(data, model_dir, *with_flags(TWO, more))


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    """The model directory of a run of two processes that nothing interrupted."""
    model_dir = tmp_path_factory.mktemp("whole") / "model"
    process = assert_worked(run_script("train.py", *two_of(tiny_data, model_dir)))
    assert "processes:2" in process.stdout and process.stdout.count("finish training") == 1
    assert process.stdout.count("of gradients over 2 processes") == 1
    return model_dir


LISTS = ["--metrics", "recall,mrr,coverage", "--intervals", 1, "--start_index", 2, "--last_index", 2]


@pytest.mark.parametrize("script, more", [("infer.py", LISTS), ("infer_sample_neg.py", ["--sampled", 7])])
def test_evaluation_by_two_processes_gives_the_very_same_figures(tiny_data, whole, tmp_path, script, more):
    usual = ["--test_dir", tiny_data / "test_data", "--model_dir", whole, "--start_index", 1, "--topk", "1,5,20",
             "--batch_size", 7]
    files = [tmp_path / f"{count}.parquet" for count in (1, 2)]
    writing = [["--per_prediction", file] if more is LISTS else [] for file in files]
    alone, together = (run_script(script, *with_flags(usual, more), *devices, *file_flags)
                       for devices, file_flags in zip(([], TWO), writing))
    assert together.returncode == 0 and together.stderr.count("\n") == alone.stderr.count("\n")
    found = FIGURES.findall(together.stdout)
    assert found == FIGURES.findall(alone.stdout) and len(found) == 2
    assert more is not LISTS or files[0].read_bytes() == files[1].read_bytes()


def test_sampled_training_and_the_baselines_by_two_processes(tiny_data, tmp_path):
    assert_worked(run_script("train_sample_neg.py", *two_of(tiny_data, tmp_path / "model", "--neg_size", 16)))
    process = assert_worked(run_script(
        "infer.py", "--test_dir", tiny_data / "test_data", "--train_dir", tiny_data / "train_data", "--model_dir",
        tmp_path / "model", *TWO))
    assert "transitions" in process.stdout


@pytest.mark.parametrize("environment, more, fragments", [
    ({"CPU_NUM": "4"}, TWO, ["CPU_NUM, --num_devices", "'4'", "2"]),
    ({"CPU_NUM": "many"}, TWO, ["CPU_NUM, --num_devices", "'many'"]),
    ({"CPU_NUM": "2"}, ["--parallel", 1], ["CPU_NUM, --num_devices", "'2'"]),
    ({"CUDA_VISIBLE_DEVICES": "0,1,2"}, [*TWO, "--use_cuda", 1], ["CUDA_VISIBLE_DEVICES, --num_devices", "'0,1,2'"]),
    ({}, ["--num_devices", 2], ["--num_devices", "expected --parallel 1"]),
    ({"PADDLE_TRAINERS_NUM": "4", "PADDLE_TRAINER_ID": "0", "PADDLE_LOCAL_SIZE": "2"}, ["--num_devices", 3],
     ["--num_devices", "found 3 among 4 processes", "expected 2"]),
])
@pytest.mark.parametrize("script", ["train.py", "infer_sample_neg.py"])
def test_numbers_of_devices_that_do_not_agree_end_in_one_line(tmp_path, run_here, monkeypatch, script, environment,
                                                              more, fragments):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert_one_line_error(run_here(script, "--model_dir", tmp_path / "model", *more), *fragments)


def test_numbers_of_devices_that_agree_are_taken(tiny_data, tmp_path):
    more = ["--pass_num", 1, "--use_cuda", 0]
    process = run_script("train.py", *two_of(tiny_data, tmp_path / "model", *more), env=os.environ | {"CPU_NUM": "2"})
    assert "processes:2" in assert_worked(process).stdout


def test_what_is_wrong_with_a_file_is_said_once(tiny_data, tmp_path):
    assert_one_line_error(run_script("train.py", *two_of(tiny_data, tmp_path / "model", "--vocab_path", "nowhere")),
                          "train.py: --vocab_path", "nowhere")
    assert not (tmp_path / "model").exists()


def test_a_loss_that_is_no_number_is_said_once(tiny_data, tmp_path):
    process = run_script("train.py", *two_of(tiny_data, tmp_path / "model", "--base_lr", 1e38))
    assert_one_line_error(process, "--base_lr")


class Run:
    """A long run of two processes, killed at the end of the block."""

    def __init__(self, data, model_dir, *more, script="train.py"):
        arguments = two_of(data, model_dir, *with_flags(["--pass_num", 1000], more))
        self.process = subprocess.Popen(list(map(str, [sys.executable, ROOT / script, *arguments])), text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def wait_for(self, text):
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(self.process.stderr.read())

    @property
    def children(self):
        """The process ids of the two, process 0 first."""
        found = [int(name) for name in os.listdir("/proc") if name.isdecimal() and parent_of(name) == self.process.pid]
        return sorted(found)

    def end(self):
        """Its exit status, what it wrote on stderr, and the seconds until all its processes were gone."""
        children, began = self.children, time.monotonic()
        _, errors = self.process.communicate(timeout=60)
        assert not any(os.path.exists(f"/proc/{child}") for child in children)
        return self.process.returncode, errors, time.monotonic() - began


def parent_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return None


# Split item matrices

@pytest.mark.parametrize("script, more", [("train.py", []), ("train_sample_neg.py", ["--neg_size", 16])])
def test_split_item_matrices_train_the_same_and_are_saved_whole(tiny_data, tmp_path, script, more):
    more = ["--valid_fraction", 0, "--hid_dropout", 0.0, *more]
    for name, splits in [("whole", 0), ("split", 1)]:
        assert_worked(run_script(script, *two_of(tiny_data, tmp_path / name, *more, "--split_items", splits)))
    for name in checkpoint.MODEL, checkpoint.OPTIMIZER:
        whole, split = (load_file(tmp_path / run / "epoch_2" / name) for run in ("whole", "split"))
        assert whole.keys() == split.keys()
        for key, values in whole.items():
            np.testing.assert_allclose(split[key], values, rtol=1e-3, atol=1e-4, err_msg=f"{name} {key}")


@needs_proc
def test_a_split_run_goes_on_where_it_was_stopped(tiny_data, tmp_path):
    more = ["--valid_fraction", 0, "--split_items", 1, "--pass_num", 40]
    with Run(tiny_data, tmp_path / "model", *more) as run:
        run.wait_for("epoch_5 start")
        run.process.send_signal(signal.SIGINT)
        assert run.end()[0] == 130
    assert_worked(run_script("train.py", *two_of(tiny_data, tmp_path / "model", *more, "--resume", 1)))
    assert_worked(run_script("train.py", *two_of(tiny_data, tmp_path / "whole", *more)))
    assert result(tmp_path / "model") == result(tmp_path / "whole")


@pytest.mark.parametrize("more, fragments", [
    ([], ["--split_items: found 1 with one process"]),
    (["--exchange_steps", 3, "--split_items", 0], ["--exchange_steps: found 3 with one process"]),
    ([*TWO, "--valid_fraction", 0.1], ["--split_items: found 1 with validation"]),
    ([*TWO, "--exchange_steps", 3], ["--exchange_steps: found 3 with --split_items 1"])])
def test_what_can_not_be_split_ends_in_one_line(tiny_data, tmp_path, more, fragments):
    given = with_flags(["--valid_fraction", 0, "--split_items", 1], more)
    assert_one_line_error(run_script("train.py", *flags(tiny_data, tmp_path / "model", *given)), *fragments)


# Processes that end

@needs_proc
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line(tiny_data, tmp_path, rank):
    with Run(tiny_data, tmp_path / "model", "--save_seconds", 0.2) as run:
        run.wait_for("epoch_5 start")
        os.kill(run.children[rank], signal.SIGKILL)
        status, errors, seconds = run.end()
    assert status == 137 and seconds < 30
    assert errors.count("\n") == 1 and f"process {rank} of 2 was ended by SIGKILL" in errors
    assert_worked(run_script("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", tmp_path / "model",
                             "--start_index", 4, "--last_index", 4))


@needs_proc
@pytest.mark.parametrize("number, status, word, to", [(signal.SIGINT, 130, "interrupted", "one process"),
                                                      (signal.SIGTERM, 143, "terminated", "all")])
def test_a_signal_ends_all_saved(tiny_data, tmp_path, number, status, word, to):
    with Run(tiny_data, tmp_path / "model", "--valid_fraction", 0) as run:
        run.wait_for("epoch_5 start")
        os.kill(run.process.pid if to == "all" else run.children[1], number)
        found, errors, _ = run.end()
    assert found == status and errors == f"train.py: {word}\n"
    assert (tmp_path / "model/last/state.json").exists() or (tmp_path / "model/epoch_5").exists()


@needs_proc
@pytest.mark.parametrize("script, more", [("train.py", []), ("train_sample_neg.py", []),
                                          ("train_sample_neg.py", ["--exchange_steps", 3])])
def test_killed_at_random_moments_loses_nothing(tiny_data, tmp_path, script, more):
    """Whole sessions, sessions side by side with the states that they carry, and processes that train by themselves."""
    draw, model_dir, more = random.Random(3), tmp_path / "model", ["--hid_dropout", 0.3, *more]
    assert_worked(run_script(script, *two_of(tiny_data, tmp_path / "whole", *more)))
    for kill in range(2):  # of each process
        with Run(tiny_data, model_dir, "--pass_num", 2, "--resume", 1, "--save_seconds", 1e-9, *more,
                 script=script) as run:
            run.wait_for("engine:")
            time.sleep(draw.uniform(0.03, 0.15))
            if children := run.children:
                os.kill(children[kill % 2], signal.SIGKILL)
            assert run.end()[0] in (0, 137)
    assert_worked(run_script(script, *two_of(tiny_data, model_dir, *more, "--resume", 1)))
    assert result(model_dir) == result(tmp_path / "whole")


@pytest.mark.parametrize("batching", ["sessions", "parallel"])
def test_resumed_by_another_number_of_processes(tiny_data, tmp_path, batching, run_here):
    from stopped_runs import stopping_after
    model_dir, more = tmp_path / "model", ["--batching", batching]
    with stopping_after(5):
        assert run_here("train.py", *flags(tiny_data, model_dir, *more)).returncode == 143
    process = run_script("train.py", *two_of(tiny_data, model_dir, *more, "--resume", 1))
    assert process.returncode == 0 and process.stderr.count("\n") == 2, process.stderr
    assert "processes 2 (the run: 1)" in process.stderr and "found 1 processes in the run so far and 2 now" in \
        process.stderr
    figures = result(model_dir)[0]
    assert [record["epoch"] for record in figures] == [1, 2]
    assert figures[0]["predictions"] == figures[1]["predictions"]


def test_by_paddles_launcher(tiny_data, tmp_path, whole):
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", 2, "--log_dir", tmp_path / "log"]
    command = [sys.executable, *launch, ROOT / "train.py", *flags(tiny_data, tmp_path / "model")]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    log = (tmp_path / "log/workerlog.0").read_text()
    assert process.returncode == 0, (process.stderr, log)
    assert "processes:2" in log and "finish training" in log
    assert result(tmp_path / "model") == result(whole)
    shutil.rmtree(tmp_path / "log")
