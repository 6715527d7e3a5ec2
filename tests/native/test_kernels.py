"""utils/native/training.cc, function by function, against NumPy and net.py; the losses are in test_loss_kernels.py."""

import numpy as np
import paddle
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from layer_kernels import LayerKernels

from net import DynamicGRU, of_length
from utils.losses import Loss
from utils.model.layout import NetworkSettings
from utils.training.softmax import PaddleSoftmax

ROWS, ITEMS, UNITS = 10, 23, 6
with_fixtures = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def test_linear_and_its_gradients(kernels):
    inputs, weight, bias, upstream = draw(ROWS, 4), draw(4, 7), draw(7), draw(ROWS, 7)
    found = LayerKernels(kernels).linear_forward(inputs, weight, bias)
    np.testing.assert_allclose(found, inputs @ weight + bias, rtol=1e-5, atol=1e-6)
    expected = upstream @ weight.T, inputs.T @ upstream, upstream.sum(axis=0)
    for ours, theirs in zip(LayerKernels(kernels).linear_backward(upstream, inputs, weight), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def gru_of(weight, bias, **settings):
    """net.py's, with these weights."""
    gru = DynamicGRU(weight, NetworkSettings([UNITS], UNITS, **settings), "layer 0")
    gru.bias.set_value(paddle.to_tensor(bias))
    return gru


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("through_time", [True, False])
@with_fixtures
@given(rows=st.lists(st.integers(1, 6), min_size=1, max_size=7), seed=st.integers(0, 1000), is_first=st.booleans())
def test_gru_states_and_gradients_are_those_of_net_py(kernels, reset_after, through_time, rows, seed, is_first):
    rows_per_step = sorted(rows, reverse=True)
    weight, bias = draw(UNITS, 3 * UNITS, seed=seed), draw(3 * UNITS, seed=seed)
    before = draw(rows_per_step[0], UNITS, seed=seed) * (not is_first)
    inputs, upstream = draw(sum(rows), 3 * UNITS, seed=seed), draw(sum(rows), UNITS, seed=seed)
    states, saved = LayerKernels(kernels).gru_forward(inputs, weight, bias, before, rows_per_step, reset_after)
    found = LayerKernels(kernels).gru_backward(upstream, states, saved, weight, before, rows_per_step, reset_after,
                                               through_time)

    gru = gru_of(weight, bias, reset_after=reset_after, through_time=through_time)
    inputs = paddle.to_tensor(inputs, stop_gradient=False)
    expected_states, _ = gru(inputs, rows_per_step, paddle.to_tensor(before))
    expected = paddle.grad([expected_states], [inputs, gru.weight, gru.bias], [paddle.to_tensor(upstream)])
    np.testing.assert_allclose(states, expected_states.numpy(), atol=3e-6)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_gru_with_more_rows_than_one_thread_takes(kernels):
    """From 16384 numbers a step the rows are shared out among threads."""
    rows_per_step, units = [300, 290, 280], 64
    weight, bias, inputs = draw(units, 3 * units) / 8, draw(3 * units), draw(sum(rows_per_step), 3 * units)
    states, _ = LayerKernels(kernels).gru_forward(inputs, weight, bias, np.zeros((300, units), np.float32),
                                                  rows_per_step, True)
    gru = DynamicGRU(weight, NetworkSettings([units], units), "layer 0")
    gru.bias.set_value(paddle.to_tensor(bias))
    expected, _ = gru(paddle.to_tensor(inputs), rows_per_step, paddle.zeros([300, units]))
    np.testing.assert_allclose(states, expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_carries_dropped_states_on(kernels, reset_after):
    """The mask is that of `dropout` over all states, and each step sees the one before it with its mask."""
    rows_per_step, share, key = [5, 5, 3], 0.4, 77
    weight, bias, before, inputs = draw(UNITS, 3 * UNITS), draw(3 * UNITS), draw(5, UNITS), draw(13, 3 * UNITS)
    states, _ = LayerKernels(kernels).gru_forward(inputs, weight, bias, before, rows_per_step, reset_after, share, key)
    mask, start = np.ones((13, UNITS), np.float32), 0
    kernels.dropout(mask, share, key)
    for rows in rows_per_step:
        step = slice(start, start + rows)
        without, _ = LayerKernels(kernels).gru_forward(inputs[step], weight, bias, before[:rows], [rows], reset_after)
        before, start = without * mask[step], start + rows
        np.testing.assert_allclose(states[step], before, atol=1e-6)
    assert (states == 0).sum() == (mask == 0).sum() > 0


def test_rows_are_gathered_and_added(kernels):
    matrix, numbers = draw(ITEMS, UNITS + 1), np.array([4, 0, 4, 22, 1, 2, 3])
    assert (kernels.gather(matrix, numbers, UNITS) == matrix[numbers, :UNITS]).all()
    expected, source = matrix.copy(), draw(len(numbers), UNITS)
    np.add.at(expected[:, :UNITS], numbers, source)
    kernels.add_rows(matrix, source, numbers)
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    assert (matrix[:, UNITS] == expected[:, UNITS]).all()


@pytest.mark.parametrize("width", [UNITS, UNITS + 1])
@pytest.mark.parametrize("way", ["native", "paddle"])
def test_lengths_and_their_gradient_are_those_of_net_py(kernels, way, width):
    vectors, upstream = draw(ROWS, width), draw(ROWS, width, seed=1)
    vectors[2, :UNITS] = 0
    fast = kernels if way == "native" else PaddleSoftmax()
    found, factors = fast.set_lengths(vectors, UNITS, 16.0)
    plain = paddle.to_tensor(vectors, stop_gradient=False)
    expected = paddle.concat([of_length(16.0, plain[:, :UNITS]), plain[:, UNITS:] * 1], axis=1)
    np.testing.assert_allclose(np.array(found), expected.numpy(), rtol=1e-5)
    expected, = paddle.grad([expected], [plain], [paddle.to_tensor(upstream)])
    given = upstream.copy() if way == "native" else paddle.to_tensor(upstream)
    np.testing.assert_allclose(np.array(fast.lengths_gradient(given, found, factors, UNITS, 16.0)), expected.numpy(),
                               rtol=1e-4, atol=1e-4)


def test_arguments_that_are_no_whole_blocks_of_memory_are_copied(kernels):
    wide = draw(ROWS, 8)
    expected = wide[:, ::2] @ draw(4, 7) + draw(7)
    found = LayerKernels(kernels).linear_forward(wide[:, ::2], draw(4, 7), draw(7))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    wide, *others = map(paddle.to_tensor, (wide, draw(4, 7), draw(7)))
    np.testing.assert_allclose(LayerKernels(kernels).linear_forward(wide[:, ::2], *others).numpy(), expected,
                               rtol=1e-5, atol=1e-6)


def test_tensors_come_back_for_tensors_and_arrays_for_arrays(kernels):
    inputs, weight, bias = draw(ROWS, 4), draw(4, 7), draw(7)
    array = LayerKernels(kernels).linear_forward(inputs, weight, bias)
    tensor = LayerKernels(kernels).linear_forward(*map(paddle.to_tensor, (inputs, weight, bias)))
    assert isinstance(array, np.ndarray) and isinstance(tensor, paddle.Tensor) and (tensor.numpy() == array).all()
    values = paddle.ones([50])
    kernels.dropout(values, 0.5, 3)
    assert set(values.numpy()) == {0, 2}, "in place"


@pytest.mark.parametrize("share", [0.1, 0.4, 0.75])
def test_dropout_keeps_its_share_and_follows_its_key(kernels, share):
    def masked(key):
        values = np.ones((200, 100), np.float32)
        kernels.dropout(values, share, key)
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


@given(support=st.lists(st.integers(0, 5), min_size=1, max_size=12).filter(any), seed=st.integers(0, 99))
@with_fixtures
def test_search_is_searchsorted(kernels, support, seed):
    cumulative = np.cumsum(support) / np.sum(support)
    start = np.searchsorted(cumulative, np.arange(len(support)) / len(support), side="right")
    drawn, ends = np.random.default_rng(seed).random(50), [0.0, np.nextafter(1, 0)]
    numbers = np.concatenate([drawn, ends, cumulative[cumulative < 1]])
    expected = np.searchsorted(cumulative, numbers, side="right")
    assert kernels.search(cumulative, start, numbers).tolist() == expected.tolist()


@pytest.mark.parametrize("wrong", [-1, ITEMS, -2**63, 2**62])
def test_no_index_beyond_a_matrix_reaches_cpp(kernels, wrong):
    """Where it would read and write any place in memory."""
    matrix, numbers = draw(ITEMS, UNITS + 1), np.array([0, wrong, 3])
    source, hidden, loss = draw(3, UNITS), draw(3, UNITS), Loss("bpr-max", elu=0.5, regularisation=1.0)
    update = matrix, [matrix.copy()], draw(3, UNITS + 1), numbers, None, 0.1
    for call in (
        lambda: kernels.gather(matrix, numbers, UNITS),
        lambda: kernels.add_rows(matrix, source, numbers),
        lambda: kernels.update_weights("adagrad", [update], [0.0, 0.0, 1e-6, True]),
        lambda: kernels.distinct(numbers, np.empty(ITEMS, np.int64)),
        lambda: kernels.softmax_cross_entropy(hidden, matrix, numbers, 0.0, None, 4),
        lambda: kernels.shared_loss(loss, hidden, matrix, np.ones(ITEMS, np.float32), numbers, True, None, None, 4),
        lambda: kernels.tiled_loss(loss, hidden, matrix, np.array([[0, 1], [2, wrong], [3, 4]])),
    ):
        with pytest.raises(IndexError, match=f"expected 0 to {ITEMS - 1}"):
            call()
    assert (matrix == draw(ITEMS, UNITS + 1)).all()


@pytest.mark.parametrize("before, rows_per_step",
                         [((2, UNITS), [3, 2]), ((3, UNITS - 1), [3, 2]), ((3, UNITS), [3, 1])])
def test_no_states_of_another_shape_reach_cpp(kernels, before, rows_per_step):
    with pytest.raises(IndexError):
        LayerKernels(kernels).gru_forward(draw(5, 3 * UNITS), draw(UNITS, 3 * UNITS), draw(3 * UNITS), draw(*before),
                                          rows_per_step,
                            True)
