"""utils/native.cc against NumPy and Paddle, function by function and as a whole training step."""

import os
import subprocess
import sys
from argparse import Namespace

import numpy as np
import paddle
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from net import Network, NetworkSettings
from utils import native
from utils.losses import FullSoftmaxCrossEntropy
from utils.native_step import NativeStep
from utils.optimizers import Adagrad, Adam
from utils.sampled_training import SampledTrainer, distinct
from utils.sessions import Sessions
from utils.training import FullSoftmaxTrainer

ROWS, ITEMS, UNITS = 10, 23, 6


@pytest.fixture(autouse=True)
def library(native_library_as):
    native_library_as(True)


def draw(*shape, scale=1.0, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


@pytest.mark.parametrize("scale, bias", [(1, 0), (12, 0), (1, -200), (1, 150)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("chunk", [1, 3, ROWS, 128])
@pytest.mark.parametrize("is_shifted", [False, True])
def test_softmax_cross_entropy_is_the_plain_one(scale, bias, smoothing, chunk, is_shifted):
    hidden, matrix = draw(ROWS, UNITS, scale=scale), draw(ITEMS, UNITS + 1, scale=scale)
    matrix[:, -1] += bias
    targets = np.random.default_rng(1).integers(0, ITEMS, ROWS)
    shift = draw(ITEMS, seed=2) if is_shifted else None
    losses, *gradients = native.softmax_cross_entropy(hidden, matrix, targets, smoothing, shift, chunk)
    tensors = [paddle.to_tensor(values, stop_gradient=False) for values in (hidden, matrix)]
    shift = () if shift is None else (paddle.to_tensor(shift),)
    expected = FullSoftmaxCrossEntropy.apply(*tensors, paddle.to_tensor(targets), smoothing, *shift)
    np.testing.assert_allclose(losses.mean(), float(expected), rtol=2e-5)
    for ours, theirs in zip(gradients, paddle.grad(expected, tensors)):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-6 * scale)


def test_nan_is_not_hidden():
    matrix = draw(ITEMS, UNITS + 1)
    matrix[3, 2] = np.nan
    losses, *_ = native.softmax_cross_entropy(draw(ROWS, UNITS), matrix, np.zeros(ROWS, np.int64), 0.0, None, 4)
    assert np.isnan(losses).all()


def test_linear_and_its_gradients():
    inputs, weight, bias, upstream = draw(ROWS, 4), draw(4, 7), draw(7), draw(ROWS, 7)
    np.testing.assert_allclose(native.linear_forward(inputs, weight, bias), inputs @ weight + bias, rtol=1e-5, atol=1e-6)
    expected = upstream @ weight.T, inputs.T @ upstream, upstream.sum(axis=0)
    for ours, theirs in zip(native.linear_backward(upstream, inputs, weight), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_rows_are_gathered_and_added():
    matrix, numbers = draw(ITEMS, UNITS + 1), np.array([4, 0, 4, 22, 1, 2, 3])
    assert (native.gather(matrix, numbers, UNITS) == matrix[numbers, :UNITS]).all()
    expected, source = matrix.copy(), draw(len(numbers), UNITS)
    np.add.at(expected[:, :UNITS], numbers, source)
    native.add_rows(matrix, source, numbers)
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    assert (matrix[:, UNITS] == expected[:, UNITS]).all()


def test_arguments_that_are_no_whole_blocks_of_memory_are_copied():
    wide = draw(ROWS, 8)
    expected = wide[:, ::2] @ draw(4, 7) + draw(7)
    np.testing.assert_allclose(native.linear_forward(wide[:, ::2], draw(4, 7), draw(7)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.75])
def test_dropout_keeps_its_share_and_follows_its_key(share):
    def masked(key):
        values = np.ones((200, 100), np.float32)
        native.dropout(values, share, key)
        return values

    masks = {key: masked(key) for key in (0, 1, 2**63, 2**64 - 1)}
    for mask in masks.values():
        assert set(np.unique(mask)) == {0, np.float32(1 / (1 - np.float32(share)))}
        assert (mask > 0).mean() == pytest.approx(1 - share, abs=0.015)
    assert (masked(1) == masks[1]).all()
    # Masks of neighbouring keys must not be one another's, moved by some places.
    first, second = masks[0].ravel() > 0, masks[1].ravel() > 0
    same_by_chance = share**2 + (1 - share) ** 2
    for offset in range(-3, 4):
        assert np.mean(first[10:-10] == np.roll(second, offset)[10:-10]) == pytest.approx(same_by_chance, abs=0.02)


@given(items=st.lists(st.integers(0, 9), min_size=1, max_size=30))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_distinct_items_come_once_in_their_order(items):
    found, places = distinct(np.array(items), np.empty(10, np.int64))
    assert found.tolist() == list(dict.fromkeys(items)) and found[places].tolist() == items


@given(support=st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(any), seed=st.integers(0, 99))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_search_is_searchsorted(support, seed):
    cumulative = np.cumsum(support) / np.sum(support)
    start = np.searchsorted(cumulative, np.arange(len(support)) / len(support), side="right")
    numbers = np.concatenate([np.random.default_rng(seed).random(50), [0.0, np.nextafter(1, 0)], cumulative[cumulative < 1]])
    assert native.search(cumulative, start, numbers).tolist() == np.searchsorted(cumulative, numbers, side="right").tolist()


NETWORKS = [
    NetworkSettings([7], 7),
    NetworkSettings([7, 7], 7, through_time=False),
    NetworkSettings([5, 7], 7, reset_after=False),
    NetworkSettings([7, 6], 4, "separate"),
    NetworkSettings([6, 5], 0, "none", reset_after=False, gru_lr_x=2.0),
]


def draw_sessions():
    random = np.random.default_rng(5)
    lengths = random.integers(1, 9, 60)
    return Sessions(random.integers(0, ITEMS, lengths.sum()).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]))


def sampled_trainer(network, batching, in_batch=1):
    options = Namespace(batching=batching, batch_size=8, shuffle=0, group_batches=1, loss="ce", negatives="shared", neg_size=12, sample_alpha=0.5, in_batch=in_batch,
                        logq=1.0, label_smoothing=0.0, grad_cap=0.0)
    return SampledTrainer(network, draw_sessions(), Adagrad(0.1, 0.3), options)


def full_softmax_trainer(network, batching):
    options = Namespace(batching=batching, base_lr=0.1, batch_size=8, shuffle=0, group_batches=1)
    return FullSoftmaxTrainer(network, draw_sessions(), options)


def trained(settings, make_trainer, native_library_as, in_use):
    """Losses and weights of an epoch."""
    native_library_as(in_use)
    network = Network(ITEMS, settings, seed=3)
    network.train()
    trainer = make_trainer(network)
    assert (trainer.native_step is not None) == in_use
    losses = [trainer.step(batch) for batch in trainer.batches(np.random.default_rng(4))]
    return losses, {name: weight.numpy() for name, weight in network.named_parameters()}, trainer.optimizer_state()


@pytest.mark.parametrize("settings", NETWORKS, ids=["shared", "stopped gradients", "two layers", "separate", "none"])
@pytest.mark.parametrize("make_trainer", [
    lambda network: sampled_trainer(network, "sessions"),
    lambda network: sampled_trainer(network, "sessions", in_batch=0),
    lambda network: sampled_trainer(network, "parallel"),
    lambda network: full_softmax_trainer(network, "sessions"),
    lambda network: full_softmax_trainer(network, "parallel"),
], ids=["sampled", "drawn negatives alone", "sampled parallel", "full softmax", "full softmax parallel"])
def test_a_step_is_that_of_paddles_operations(settings, make_trainer, native_library_as):
    losses, weights, state = trained(settings, make_trainer, native_library_as, True)
    expected_losses, expected_weights, expected_state = trained(settings, make_trainer, native_library_as, False)
    np.testing.assert_allclose(losses, expected_losses, atol=1e-4)
    assert weights.keys() == expected_weights.keys() and state.keys() == expected_state.keys()
    for name, values in weights.items():
        np.testing.assert_allclose(values, expected_weights[name], atol=2e-4, err_msg=name)
    for name, values in state.items():
        np.testing.assert_allclose(values, expected_state[name], rtol=1e-2, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("place", ["emb_dropout", "hid_dropout"])
def test_a_steps_gradient_is_the_slope_of_its_loss_under_dropout(place):
    network = Network(ITEMS, NetworkSettings([UNITS, UNITS], UNITS, **{place: 0.4}), seed=1)
    step = NativeStep(network, Adagrad(0.1))
    inputs, rows_per_step = np.array([1, 2, 3, 4, 5, 6]), [3, 2, 1]
    weights = draw(6, UNITS)

    def loss():
        return float((step.forward(inputs, rows_per_step) * weights).astype(np.float64).sum())

    step.start_epoch(np.random.default_rng(77))
    loss()
    gradients, _ = step.backward(weights.copy())
    for name in ("fc.0.weight", "gru.0.weight", "gru.1.bias"):
        start, change = step.weights[name].copy(), np.zeros_like(step.weights[name])
        changed = np.random.default_rng(0).choice(change.size, change.size // 2, replace=False)
        change.reshape(-1)[changed] = 1e-3
        paddle.assign(paddle.to_tensor(start + change), step.parameters[name])
        above = loss()
        paddle.assign(paddle.to_tensor(start - change), step.parameters[name])
        below = loss()
        paddle.assign(paddle.to_tensor(start), step.parameters[name])
        assert (above - below) / 2e-3 == pytest.approx(gradients[name].reshape(-1)[changed].sum(), rel=0.02, abs=2e-3)


def test_an_optimiser_that_the_library_lacks_goes_by_paddle():
    network = Network(ITEMS, NetworkSettings([UNITS], UNITS))
    assert NativeStep.can_run(network, Adagrad(0.1)) and not NativeStep.can_run(network, Adam(0.1))


def loaded(**environment):
    """What `native.load` says in a fresh process."""
    process = subprocess.run([sys.executable, "-c", "from utils import device\nprint(device.prepare(threads=1).split()[-1])"],
                             env={**os.environ, **environment}, capture_output=True, text=True, check=True, cwd=ROOT)
    return process.stdout.strip()


def test_it_is_compiled_once_and_not_without_compiler_or_place(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert loaded(**cache) == "native:yes"
    [library] = (tmp_path / "cache" / "gru4rec-paddle").iterdir()
    written = library.stat().st_mtime_ns
    assert loaded(**cache) == "native:yes" and library.stat().st_mtime_ns == written
    empty = tmp_path / "empty"
    empty.mkdir()
    assert loaded(XDG_CACHE_HOME=str(empty), PATH=str(empty)) == "native:no(no_C++_compiler)"
    (tmp_path / "file").touch()
    assert loaded(XDG_CACHE_HOME=str(tmp_path / "file")) == "native:no(NotADirectoryError)"
    assert loaded(XDG_CACHE_HOME=str(empty), CXX="false").startswith("native:no(CalledProcessError)")
