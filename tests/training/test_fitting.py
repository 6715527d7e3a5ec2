"""utils/training/fitting.py and --fit: epochs and the end of the rate that short trainings find."""

import json
import os
import signal

import numpy as np
import pytest
from conftest import assert_one_line_error
from stopped_runs import TRAINED, flags, result, stopping_after

from utils.files import InputError
from utils.model import checkpoint
from utils.training import fitting
from utils.training.fitting import Tried, chosen_of, training_and_judging
from utils.training.sampled_flags import make_trainer, parse_arguments
from utils.training.trainer import Trainer

FITTED = "--fit", 1, "--valid_fraction", 0, "--neg_size", 16, "--score_scale", 0


@pytest.fixture
def few_are_enough(monkeypatch):
    """Trials on the tiny data, which are too few for them otherwise; whatever is ahead is better."""
    monkeypatch.setattr(fitting, "FEWEST", 10)
    monkeypatch.setattr(fitting, "ERRORS", -9.0)


def fit_flags(data, model_dir, *more):
    """A run of `flags` that finds its epochs."""
    given = flags(data, model_dir, *FITTED, *more)
    at = given.index("--pass_num")
    return given[:at] + given[at + 2:]


def config_of(model_dir):
    return json.loads((model_dir / "config.json").read_text(encoding="utf-8"))


def tried(lr_end, *means):
    """Epochs with these mean gains; all predictions gain the same."""
    return [Tried(lr_end, epoch, np.full(50, mean)) for epoch, mean in enumerate(means, start=1)]


def test_what_is_usual_stays_where_nothing_is_better():
    usual = {"pass_num": 3, "lr_end": 0.1}
    found = chosen_of(tried(0.1, 0.25, 0.5, 0.75), tried(1.0, 0.5, 0.75), usual)
    assert (found["pass_num"], found["lr_end"]) == (3, 0.1)
    assert [(one["lr_end"], one["epoch"], one["recall_and_mrr"]) for one in found["tried"]] == [
        (0.1, 1, 0.25), (0.1, 2, 0.5), (0.1, 3, 0.75), (1.0, 1, 0.5), (1.0, 2, 0.75)]


@pytest.mark.parametrize("constant, pass_num, lr_end", [((0.1, 0.2), 2, 0.4), ((0.3, 0.7), 2, 1.0)])
def test_the_rate_ends_where_it_was_after_the_best_epoch(constant, pass_num, lr_end):
    found = chosen_of(tried(0.1, 0.2, 0.6, 0.5), tried(1.0, *constant), {"pass_num": 3, "lr_end": 0.1})
    assert (found["pass_num"], found["lr_end"]) == (pass_num, lr_end)


def test_what_chance_explains_is_not_better():
    random = np.random.default_rng(1)
    usual, other = (Tried(0.1, 3, random.integers(0, 2, 200) * 1.0) for _ in range(2))
    better = Tried(1.0, 3, np.maximum(usual.gains, random.random(200) < 0.1))
    assert not other.is_ahead(usual) and not usual.is_ahead(other) and not usual.is_ahead(usual)
    assert better.is_ahead(usual) and not usual.is_ahead(better)


def test_a_usual_training_that_diverged_is_left_to_the_run_to_tell():
    usual = {"pass_num": 3, "lr_end": 0.1}
    assert chosen_of(tried(0.1, 0.2, 0.4), tried(1.0, 0.9), usual) == chosen_of([], [], usual) == usual


def test_newer_sessions_judge_what_the_newest_before_them_train(tiny_data, monkeypatch):
    lines = (tiny_data / "train_data" / "train.txt").read_text(encoding="utf-8").splitlines()
    options = parse_arguments(["--train_dir", str(tiny_data / "train_data"), "--vocab_path",
                               str(tiny_data / "vocab.txt")])
    training, judging = training_and_judging(options)
    assert len(training.lengths) == 180 and training.predictions == sum(len(line.split()) - 1 for line in lines[:180])
    monkeypatch.setattr(fitting, "MOST", 40)
    few, _ = training_and_judging(options)
    last = len(few.lengths)
    assert np.array_equal(few.lengths, training.lengths[-last:])
    assert few.predictions <= 40 < few.predictions + training.lengths[-last - 1] - 1
    assert set(few.items) == set(range(few.items.max() + 1))  # numbered without gaps
    clicked = [list(map(int, line.split())) for line in lines[180 - last:180]]
    items = sorted({item for session in clicked for item in session})
    assert [items[number] for number in few.items] == [item for session in clicked for item in session]
    assert judging.items.max() < len({item for line in lines[:180] for item in line.split()})


@pytest.mark.parametrize("half_life", [0, 20])
def test_the_rate_falls_evenly_to_its_end(half_life, tiny_data, monkeypatch):
    options = parse_arguments(["--train_dir", str(tiny_data / "train_data"), "--vocab_path",
                               str(tiny_data / "vocab.txt"), "--neg_size", "16", "--batch_size", "4", "--hid_size", "8",
                               "--recency_half_life", str(half_life)])
    rates = []
    monkeypatch.setattr(Trainer, "set_rate", lambda _, rate: rates.append(rate))
    fitting._short_training(options, 0.1, make_trainer, None, *training_and_judging(options))
    falls, even = -np.diff(rates), (rates[0] - rates[-1]) / (len(rates) - 1)
    assert rates[0] == options.base_lr and falls.min() > 0
    assert falls.max() < 3 * even and 0.1 * options.base_lr < rates[-1] < 0.1 * options.base_lr + 3 * even


def test_a_fitted_run_is_the_one_of_the_flags_that_it_found(tiny_data, run_here, tmp_path, few_are_enough):
    process = run_here("train_sample_neg.py", *fit_flags(tiny_data, tmp_path / "fitted"))
    assert process.returncode == 0, process.stderr
    config = config_of(tmp_path / "fitted")
    found = config["fit"]
    assert {name: config["options"][name] for name in ("pass_num", "lr_end")} == {
        name: found[name] for name in ("pass_num", "lr_end")}
    assert f"fit: epochs:{found['pass_num']} lr_end:{found['lr_end']:g}" in process.stdout
    best = max(found["tried"], key=lambda one: one["recall_and_mrr"])
    assert best["epoch"] == found["pass_num"] and [one["epoch"] for one in found["tried"][:8]] == list(range(1, 9))
    given = "--pass_num", found["pass_num"], "--lr_end", found["lr_end"], *FITTED[2:]
    assert run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "given", *given)).returncode == 0
    assert result(tmp_path / "fitted") == result(tmp_path / "given")
    assert "fit" not in config_of(tmp_path / "given")


def test_a_stopped_run_goes_on_with_what_it_found(tiny_data, run_here, tmp_path, few_are_enough, monkeypatch):
    assert run_here("train_sample_neg.py", *fit_flags(tiny_data, tmp_path / "whole")).returncode == 0
    with stopping_after(25):
        process = run_here("train_sample_neg.py", *fit_flags(tiny_data, tmp_path / "stopped"))
    assert process.returncode == 143
    monkeypatch.setattr(fitting, "training_and_judging", None)  # no short training comes a second time
    process = run_here("train_sample_neg.py", *fit_flags(tiny_data, tmp_path / "stopped", "--resume", 1))
    assert process.returncode == 0, process.stderr
    assert result(tmp_path / "stopped") == result(tmp_path / "whole")
    assert config_of(tmp_path / "stopped")["fit"] == config_of(tmp_path / "whole")["fit"]


def test_a_run_that_ends_while_it_looks_leaves_nothing(tiny_data, run_here, tmp_path, few_are_enough, monkeypatch):
    monkeypatch.setattr(fitting, "network_ranks", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    assert run_here("train_sample_neg.py", *fit_flags(tiny_data, tmp_path / "model")).returncode == 143
    assert not (tmp_path / "model").exists()


def test_a_run_that_is_there_is_refused_before_anything_is_trained(tiny_data, tiny_model, run_here, monkeypatch):
    monkeypatch.setattr(fitting, "training_and_judging", None)
    assert_one_line_error(run_here("train_sample_neg.py", *fit_flags(tiny_data, tiny_model)), "found another run")
    assert checkpoint.finished_epochs(tiny_model) == [1, 2]


def test_too_few_sessions_are_trained_on_as_usual(tiny_data, run_here, tmp_path):
    process = run_here("train_sample_neg.py", *fit_flags(tiny_data, tmp_path / "model"))
    assert process.returncode == 0 and "fit: as usual, epochs:8 lr_end:0.1; too few sessions" in process.stdout
    assert all((tmp_path / "model" / "epoch_8" / name).exists() for name in TRAINED)


def test_a_rate_that_is_too_high_is_said_by_the_run(tiny_data, run_here, tmp_path, few_are_enough):
    process = run_here("train_sample_neg.py", *fit_flags(tiny_data, tmp_path / "model", "--base_lr", "1e30"))
    assert_one_line_error(process, "--base_lr 1e+30")


@pytest.mark.parametrize("given", [["--pass_num", "3"], ["--lr_end", "1"], ["--init_from", "MODEL"],
                                   ["--config", "CONFIG"]])
def test_what_the_user_says_is_not_looked_for(given, tiny_model, tmp_path):
    (tmp_path / "config.json").write_text('{"pass_num": 3}', encoding="utf-8")
    given = [word.replace("MODEL", str(tiny_model)).replace("CONFIG", str(tmp_path / "config.json")) for word in given]
    assert parse_arguments([]).fit == 1 and parse_arguments(given).fit == 0
    with pytest.raises(InputError, match="--fit: found 1 with --"):
        parse_arguments(["--fit", "1", *given])
