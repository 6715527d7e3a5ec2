"""benchmarks/speed.py, ablation.py and its networks, with numbers too small to measure anything."""

import os
import subprocess
import sys
import time
from argparse import Namespace
from types import ModuleType

import numpy as np
import paddle
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script, with_flags, write_random_model

from utils.data.batches import pack
from utils.data.sessions import Sessions
from utils.files import InputError
from utils.model.layout import NetworkSettings, weight_shapes
from utils.model.load import load_model
from utils.runlog import append_record
from utils.training import proof

THREAD_VARIABLES = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "GOTO_NUM_THREADS"


def data_flags(data):
    return ["--train_dir", data / "train_data", "--test_dir", data / "test_data", "--vocab_path", data / "vocab.txt"]


def without_thread_variables():
    return {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}


def test_speed_measures_every_part_on_one_thread_unless_told_otherwise(tiny_data):
    process = assert_worked(run_script("benchmarks/speed.py", *data_flags(tiny_data), "--seconds", 0.1, "--item_counts",
                                       2000, "--hid_sizes", 8, "--session_counts", 500, "--click_count", 20_000,
                                       env=without_thread_variables()))
    device_line, header, titles, *lines = process.stdout.splitlines()
    assert " threads:1 " in device_line
    assert "threads:1 NumPy's threads:1, 36 items" in header
    assert titles.split()[-2:] == ["computed", "by"]
    trained = ["train.py", "train.py, 37483 items", "train_sample_neg.py", "  whole sessions (--batching sessions)",
               "  --loss top1-max", "  the official settings", "  the official BPR-max settings",
               "  Paddle's old example, reference_bpr.json", "  no negatives but the batch's, 512 sessions"]
    for name in ["products of the softmax alone", "infer.py", *trained]:
        [row] = [line for line in lines if line[:46].rstrip() == name]
        rate, operations, *_ = map(float, row[46:81].split())
        assert rate > 0 and operations > 0
        assert (name in trained) == ("engine:" in row and "loss:" in row and "optimizer:" in row)
    assert sum(line.startswith("a step of ") for line in lines) == 4
    for wanted in ("train.py, 2000 items", "train_sample_neg.py, 8 units", "train.py, 500 sessions", "peak memory",
                   "reading, first time", "reading, again"):
        assert sum(line.startswith(wanted) for line in lines) == 1, wanted


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_speed_gives_numpy_the_threads_of_a_flag_with_an_equals_sign(tiny_data):
    command = [sys.executable, ROOT / "benchmarks/speed.py", *data_flags(tiny_data), "--threads=2", "--seconds=0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=without_thread_variables()) as process:
        device_line, header = process.stdout.readline(), process.stdout.readline()
        process.kill()
    assert " threads:2 " in device_line and "threads:2 NumPy's threads:2," in header


def test_speed_measures_the_settings_that_the_scripts_have(tiny_data, monkeypatch, kernels):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from speed_parts import TrainingPart
    from speed_rows import SAMPLED

    from utils.data.sessions import read_sessions
    from utils.training import sampled_flags
    sessions = read_sessions(tiny_data / "train_data", 36, "--train_dir")
    parts = {name: TrainingPart(sampled_flags, flags, 36, sessions, kernels) for name, flags in SAMPLED.items()}
    official, bpr_max = parts["  the official settings"].trainer, parts["  the official BPR-max settings"].trainer
    assert official.optimizer.momentum == 0.2 and official.batching.size == 32 and official.objective.name == "ce"
    assert official.network.settings.carry_dropped and official.network.settings.hid_dropout == 0.4
    assert bpr_max.optimizer.momentum == 0.1 and bpr_max.objective.alpha == 0 and bpr_max.objective.name == "bpr-max"
    assert all(part.trainer.engine.name == "native" and part.trainer.objective.kernels for part in parts.values())
    assert parts["  Paddle's old example, reference_bpr.json"].operations == 6 * 11 * 100 + 36 * 100**2


@pytest.mark.parametrize("arguments, fragments", [
    (["--threads", "1,two"], ["--threads", "two"]),
    (["--threads", "1,1", "--train_dir", "nowhere"], ["--train_dir", "nowhere"]),
])
def test_speed_refuses_in_one_line(arguments, fragments, tiny_data):
    process = run_script("benchmarks/speed.py", *with_flags(data_flags(tiny_data), arguments))
    assert_one_line_error(process, *fragments)


@pytest.fixture
def run_ablation(tiny_data, tmp_path, run_here):
    """A function of further flags that runs ablation.py on tiny data: its CompletedProcess."""
    def run(*flags):
        usual = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt", "--pass_num", 1,
                 "--seeds", 1, "--sets", 0, "--workers", 2, "--out_dir", tmp_path / "output"]
        return run_here("benchmarks/ablation.py", *with_flags(usual, flags))
    return run


def test_ablation_prints_a_table_and_trains_nothing_twice(run_ablation, tmp_path):
    process = assert_worked(run_ablation("--losses", "ce", "--extra", "half the rate: --base_lr 0.075"))
    about, *runs = process.stdout.partition("\n\n")[0].splitlines()
    titles, ruler, *lines = process.stdout.partition("\n\n")[2].splitlines()
    assert about.startswith("train:") and "runs:6" in about and len(runs) == 6 and runs[-1].endswith("(6 of 6)")
    assert (titles, ruler) == ("| | recall@20 | MRR@20 | both with a memory | CPU time |", "|-|-|-|-|-|")
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    assert [name.split(",")[0] for name, *_ in rows] == [
        "whole sessions", "negatives drawn alone", "batches in the order of the sessions",
        "sessions side by side", "item vectors of one length: train_sample_neg.py's defaults",
        "the defaults with `--loss ce`", "half the rate"]
    assert rows[4][1:] == rows[5][1:]  # ce is the default: one run for both
    assert all(0 < float(figure) < 1 for row in rows for figure in row[1:3])
    assert rows[4][4] == rows[5][4] == "1.0" and all(0.1 < float(row[4]) < 10 for row in rows)

    before = files_below(tmp_path)
    again = assert_worked(run_ablation())
    assert again.stdout.partition("\n\n")[2].splitlines() == [titles, ruler, *lines[:5]]
    assert again.stdout.partition("\n\n")[0].count("\n") == 0 and files_below(tmp_path) == before
    assert_one_line_error(run_ablation("--pass_num", 2), "--out_dir: found other data or settings",
                          "--pass_num 2 (the run: 1)")


@pytest.mark.parametrize("flags, fragments", [
    (["--losses", "bpr,hinge"], ["--losses", "'hinge'"]), (["--extra", "no colon"], ["--extra", "'no colon'"]),
    (["--extra", "a: --seed '1"], ["--extra", "No closing quotation"]),
    (["--extra", "a: --optimiser adam"], ["--extra, a:", "--optimiser", "train_sample_neg.py -h"]),
    (["--extra", "a b:", "--extra", "a  b:"], ["--extra", "extra_a_b_seed_1"]),
    (["--every", 10**6], ["--every: found 1000000", "nothing to predict"]),
    (["--edited_networks", "bilinear,../net"], ["--edited_networks", "'../net'", "attention"]),
])
def test_ablation_refuses_before_it_trains(run_ablation, tmp_path, flags, fragments):
    assert_one_line_error(run_ablation(*flags), *fragments)
    assert not (tmp_path / "output").exists()


@pytest.fixture
def ablation(monkeypatch):
    """benchmarks/ablation.py as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import ablation
    return ablation


def test_another_network_is_trained_in_a_copy(run_ablation, ablation, monkeypatch, tmp_path):
    process = assert_worked(run_ablation("--edited_networks", "bilinear"))
    rows = process.stdout.partition("\n\n")[2].splitlines()[2:]
    assert [row.split(":")[0] for row in rows] == ["| item vectors of one length", "| `bilinear`"]
    again = assert_worked(run_ablation("--edited_networks", "bilinear"))  # which trains nothing
    assert again.stdout.partition("\n\n")[2].splitlines()[2:] == rows and "(1 of" not in again.stdout
    output = tmp_path / "output"
    assert "engine:paddle (not what utils/native computes: net.py: class Network, Network.__init__, " in (
        output / "network_bilinear_seed_1.log").read_text()
    assert (output / "networks/bilinear/net.py").read_bytes() == ablation.net_with("bilinear")
    model_dir = output / "defaults_seed_1"
    flags = ablation.plan(Namespace(out_dir=output, seeds=1, sets=0, vocab_path="vocab.txt", pass_num=1),
                          [ablation.DEFAULTS])[model_dir][1]
    with pytest.raises(InputError, match=r"--out_dir: found other data .*net\.py; expected the same"):
        ablation.require_same(model_dir, flags, {}, ablation.net_with("bilinear"))


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "benchmarks/networks").glob("*.py")])
def test_networks_carry_what_they_keep_and_see_no_later_click(ablation, monkeypatch, name):
    module = ModuleType("net")
    monkeypatch.setitem(sys.modules, "net", module)  # as in the copy, where the file is part of net.py
    exec(compile(ablation.net_with(name), name, "exec"), module.__dict__)
    network = module.Network(40, NetworkSettings([9], 9, hid_dropout=0.3), seed=1)
    random = np.random.default_rng(2)
    batch = pack(Sessions(random.integers(0, 40, 60), np.array([0, 25, 30, 60])), np.arange(3))
    with proof.trial_weights(network, random):
        proof.require_same_rows(network, batch)
        proof.require_no_future(network, batch)
        assert proof.carrying_differences(network, batch, random) == []
    network.train()
    network.hidden_states(paddle.to_tensor(batch.inputs), batch.rows_per_step).square().sum().backward()
    own = set(dict(network.named_parameters())) - set(weight_shapes(network.settings, 40))
    assert all(bool((weight.grad != 0).any()) for at, weight in network.named_parameters() if at in own), own


def test_a_set_of_models_is_joined_and_evaluated_once(ablation, tmp_path):
    for seed in range(5, 9):
        append_record(write_random_model(tmp_path / f"defaults_seed_{seed}", seed), {"event": "epoch", "epoch": 1})
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid/valid.txt").write_text("1 2 3\n49 0\n")
    options = Namespace(out_dir=tmp_path, pass_num=1)
    record = ablation.joined_record(options, 2)
    assert record["predictions"] == 3 and 0 <= record["mrr@20"] <= record["recall@20"] <= 1
    assert load_model(tmp_path / "joined_2")[0].hid_size == [32]
    before = files_below(tmp_path)
    assert ablation.joined_record(options, 2) == record and files_below(tmp_path) == before


def test_a_failed_run_stops_the_others_and_is_told_in_one_line(ablation, tmp_path):
    sleeps = "import time; print('asleep', flush=True); time.sleep(60)"
    waiting = [(tmp_path / "a", [sys.executable, "-c", sleeps]),
               (tmp_path / "b", [sys.executable, "-c", "import sys; print('first'); sys.exit('--base_lr: found 9')"]),
               (tmp_path / "c", [sys.executable, "-c", sleeps])]
    began = time.monotonic()
    with pytest.raises(InputError, match=r"b\.log: found that the run failed: --base_lr: found 9$"):
        ablation.run_processes(waiting, 2, 3)
    assert time.monotonic() - began < 30 and not (tmp_path / "c.log").exists()


@pytest.mark.parametrize("values, text", [([0.71916], ".7192"), ([0.7188, 0.7195, 0.7193], ".7192 (.7188 to .7195)"),
                                          ([0.0], ".0000"), ([1.0], "1.0000")])
def test_figures_are_a_mean_and_a_range(ablation, values, text):
    assert ablation.with_range(values) == text


def test_parallel_compares_processes_and_kills_them(tiny_data):
    """All but the links, which test_machines.py cuts."""
    process = assert_worked(run_script(
        "benchmarks/parallel.py", "--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt",
        "--tasks", "speed,exchange,model,kills", "--scripts", "train.py", "--rounds", 1, "--kills", 1,
        "--train_flags", "--hid_size 8 --batch_size 4"))
    lines = process.stdout.splitlines()
    assert sum(line.startswith("train.py: one process ") and "; ratio " in line for line in lines) == 1
    assert sum(line.startswith("train.py, a model, not a measurement") for line in lines) == 1
    assert sum(line.endswith(" ms") for line in lines) == 4 and lines[-1].startswith("killed 1 times at random")


def test_made_up_clicks_are_the_same_every_time_and_can_be_prepared(tmp_path, run_here):
    for name in ("one", "two"):
        assert_worked(run_here("benchmarks/make_clicks.py", "--click_count", 5000, "--item_count", 300,
                               "--output", tmp_path / name))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    process = assert_worked(run_here("preprocess.py", "--out_dir", tmp_path, "--input", tmp_path / "one"))
    assert "5,000 clicks" in process.stdout
