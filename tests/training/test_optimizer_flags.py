"""utils/training/optimizer_flags.py and the Schedule: what the flags of optimiser and learning rate stand for."""

import math

import paddle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.files import InputError
from utils.training import full_flags, sampled_flags
from utils.training.flags import asked_by
from utils.training.optimizer_flags import OPTIMIZERS, make_optimizer
from utils.training.optimizers import SGD, Adagrad, Adam, Nadam, RMSProp
from utils.training.settings import Schedule

SHARES = st.floats(0, 1)


def parse(*flags):
    return sampled_flags.parse_arguments(list(map(str, flags)))


def schedule(*flags):
    return asked_by(parse(*flags)).schedule


@pytest.mark.parametrize("flags, blamed", [
    (["--optimizer", "adam", "--momentum", 0.1], "--momentum: found 0.1 with --optimizer adam, expected 0"),
    (["--optimizer", "nadam", "--momentum", 0.1], "--momentum: found 0.1 with --optimizer nadam"),
    (["--lr_schedule", "constant", "--lr_end", 0.1], "--lr_end: found 0.1 with --lr_schedule constant"),
    (["--lr_schedule", "constant", "--lr_end", 0], "--lr_end: found 0 with --lr_schedule constant"),
    (["--lr_schedule", "cosine", "--lr_end", 1], "--lr_end: found 1 with --lr_schedule cosine"),
    (["--lr_schedule", "one-cycle", "--warmup", 0], "--warmup: found 0 with --lr_schedule one-cycle"),
    (["--lr_schedule", "step"], "--lr_schedule"), (["--warmup", 1], "--warmup"), (["--warmup", -0.1], "--warmup"),
    (["--warmup", "nan"], "--warmup"), (["--weight_decay", 1.1], "--weight_decay"), (["--grad_cap", -1], "--grad_cap")])
def test_what_would_do_nothing_or_is_no_share_is_refused(flags, blamed):
    with pytest.raises(InputError, match=blamed):
        parse(*flags)


def test_a_cap_of_what_no_process_has_whole_is_refused():
    flags = ["--grad_cap", "1", "--split_items", "1"]
    with pytest.raises(InputError, match="--grad_cap: found 1 with --split_items 1"):
        full_flags.parse_arguments(flags)
    assert sampled_flags.parse_arguments(flags).grad_cap == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_whatever_is_filled_in_may_be_given(name):
    """As a resumed run or a settings file gives it."""
    for kind in ("linear", "constant", "cosine", "one-cycle"):
        options = parse("--optimizer", name, "--lr_schedule", kind, "--fit", "0")
        filled = [f"--{flag}={getattr(options, flag)}" for flag in ("base_lr", "lr_end", "warmup", "weight_decay")]
        assert parse("--optimizer", name, "--lr_schedule", kind, "--fit", "0", *filled) == options


def test_the_optimizer_is_that_of_the_flags():
    kinds = {"official": Adagrad, "adagrad": Adagrad, "rmsprop": RMSProp, "adam": Adam, "adamw": Adam, "nadam": Nadam,
             "sgd": SGD}
    for name, kind in kinds.items():
        options = parse("--optimizer", name)
        optimizer = make_optimizer(options)
        assert type(optimizer) is kind and optimizer.rate == options.base_lr
        assert optimizer.weight_decay == (0.01 if name == "adamw" else 0)
        assert getattr(optimizer, "decoupled", False) == (name == "adamw")
        assert getattr(optimizer, "epsilon_inside", None) == {"official": True, "adagrad": False}.get(name)
        assert make_optimizer(parse("--optimizer", name, "--weight_decay", 0.5)).weight_decay == 0.5
        if name not in ("adam", "adamw", "nadam"):
            assert make_optimizer(parse("--optimizer", name, "--momentum", 0.5)).momentum == 0.5
    assert not make_optimizer(full_flags.parse_arguments([])).epsilon_inside


def test_a_name_without_an_optimizer_is_refused():
    options = parse()
    options.optimizer = "lion"
    with pytest.raises(InputError, match="--optimizer: found lion, expected one that make_optimizer"):
        make_optimizer(options)


def test_both_trainers_keep_their_rates():
    options = parse(), full_flags.parse_arguments([])
    assert [(given.base_lr, given.lr_end, given.optimizer) for given in options] == [(0.15, 0.1, "official"),
                                                                                     (0.1, 0.1, "adagrad")]


@given(kind=st.sampled_from(["linear", "constant", "cosine", "one-cycle"]), warmup=st.floats(0.01, 0.9), share=SHARES,
       end=st.floats(0, 1))
def test_a_rate_rises_once_and_then_falls_to_its_end(kind, warmup, share, end):
    rates = Schedule(2, 0.5, 1.0 if kind == "constant" else end, kind=kind, warmup=warmup)
    rate, later = rates.rate_after(share), rates.rate_after(min(1, share + 1e-3))
    assert 0 <= rate <= 0.5 + 1e-12 and abs(later - rate) < 0.5 * 1e-3 * math.pi / 2 / min(warmup, 1 - warmup) + 1e-9
    assert later >= rate - 1e-12 if share + 1e-3 <= warmup else share < warmup or later <= rate + 1e-12
    assert rates.rate_after(0) == (0.02 if kind == "one-cycle" else 0)
    assert rates.rate_after(warmup) == 0.5 and rates.rate_after(1) == pytest.approx(0.5 * rates.rate_end)


@pytest.mark.parametrize("share, linear, cosine", [(0, 1, 1), (0.25, 0.775, 0.868198), (1, 0.1, 0.1)])
def test_rates_by_hand(share, linear, cosine):
    assert schedule("--base_lr", 1).rate_after(share) == pytest.approx(linear)
    assert schedule("--base_lr", 1, "--lr_schedule", "cosine").rate_after(share) == pytest.approx(cosine, abs=1e-6)
    assert schedule("--base_lr", 0.3, "--lr_schedule", "constant").rate_after(share) == 0.3


def test_one_cycle_is_paddles():
    steps = 1001
    paddles = paddle.optimizer.lr.OneCycleLR(0.5, steps, divide_factor=25, end_learning_rate=0.05, phase_pct=0.3)
    ours = schedule("--base_lr", 0.5, "--lr_schedule", "one-cycle")
    for step in range(steps):
        assert ours.rate_after(step / (steps - 1)) == pytest.approx(paddles.get_lr(), abs=2e-3)
        paddles.step()
