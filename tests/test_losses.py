"""The chunked softmax cross-entropy against Paddle's own, value and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from utils import losses
from utils.losses import FullSoftmaxCrossEntropy, chunk_rows

ROWS, ITEMS, UNITS = 10, 23, 6


def draw(scale=1.0, seed=0):
    random = np.random.default_rng(seed)
    hidden = paddle.to_tensor(random.normal(0, scale, (ROWS, UNITS)).astype("float32"), stop_gradient=False)
    matrix = paddle.to_tensor(random.normal(0, scale, (ITEMS, UNITS + 1)).astype("float32"), stop_gradient=False)
    return hidden, matrix, paddle.to_tensor(random.integers(0, ITEMS, ROWS))


def paddles_own(hidden, matrix, targets, smoothing):
    scores = paddle.matmul(hidden, matrix[:, :-1], transpose_y=True) + matrix[:, -1]
    labels = F.label_smooth(F.one_hot(targets, ITEMS), epsilon=smoothing)
    return F.cross_entropy(scores, labels, soft_label=True)


def value_and_gradients(function, hidden, matrix, *rest, factor=1.0):
    loss = function(hidden, matrix, *rest)
    gradients = paddle.grad(loss * factor, [hidden, matrix])
    return [float(loss)] + [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("chunk", [1, 3, ROWS, 128])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_and_gradients_are_paddles_whatever_the_chunk(chunk, smoothing, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK_ROWS", chunk)
    found = value_and_gradients(FullSoftmaxCrossEntropy.apply, *draw(), smoothing)
    expected = value_and_gradients(paddles_own, *draw(), smoothing)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def in_float64(hidden, matrix, targets, smoothing):
    """Value and gradients by the docstring's formulas; Paddle's own lose the value where a probability underflows."""
    hidden, matrix, targets = (tensor.numpy().astype(np.float64) for tensor in (hidden, matrix, targets.astype("float64")))
    scores = hidden @ matrix[:, :-1].T + matrix[:, -1]
    scores -= scores.max(axis=1, keepdims=True)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    wanted = np.full((ROWS, ITEMS), smoothing / ITEMS)
    wanted[np.arange(ROWS), targets.astype(int)] += 1 - smoothing
    by_score = (np.exp(log_probabilities) - wanted) / ROWS
    by_matrix = np.hstack([by_score.T @ hidden, by_score.sum(axis=0)[:, None]])
    return -(wanted * log_probabilities).sum() / ROWS, by_score @ matrix[:, :-1], by_matrix


@pytest.mark.parametrize("scale, shift", [(1, 0), (12, 0), (1, -200), (1, 150)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_scores_beyond_the_range_of_exp(scale, shift, smoothing):
    hidden, matrix, targets = draw(scale)
    matrix = matrix.detach().clone()
    matrix[:, -1] += float(shift)
    matrix.stop_gradient = False
    largest = (paddle.matmul(hidden, matrix[:, :-1], transpose_y=True) + matrix[:, -1]).abs().max()
    assert (largest > 88) == ((scale, shift) != (1, 0)), "the cases are such that exp alone can't do all but the first"
    expected = in_float64(hidden, matrix, targets, smoothing)
    for ours, theirs in zip(value_and_gradients(FullSoftmaxCrossEntropy.apply, hidden, matrix, targets, smoothing), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_are_multiplied_by_what_comes_from_above():
    once = value_and_gradients(FullSoftmaxCrossEntropy.apply, *draw())
    thrice = value_and_gradients(FullSoftmaxCrossEntropy.apply, *draw(), factor=3.0)
    np.testing.assert_allclose(thrice[1], 3 * once[1], rtol=1e-6)
    np.testing.assert_allclose(thrice[2], 3 * once[2], rtol=1e-6)


def test_nan_is_not_hidden():
    hidden, matrix, targets = draw()
    matrix = matrix.detach().clone()
    matrix[3, 2] = float("nan")
    assert np.isnan(float(FullSoftmaxCrossEntropy.apply(hidden, matrix, targets)))


def test_no_chunk_holds_more_logits_than_allowed():
    for items in (10, 17_376, 1_000_000, 50_000_000):
        rows = chunk_rows(items)
        assert rows >= 1 and (rows == 1 or rows * items <= losses.CHUNK_LOGITS)


def test_logits_of_a_batch_are_never_whole(monkeypatch):
    """Of the matrix products, none is larger than a chunk by all items."""
    shapes, product = [], paddle.matmul

    def recorded(*arguments, **options):
        result = product(*arguments, **options)
        shapes.append(tuple(result.shape))
        return result

    monkeypatch.setattr(losses, "CHUNK_ROWS", 4)
    monkeypatch.setattr(losses.paddle, "matmul", recorded)
    FullSoftmaxCrossEntropy.apply(*draw())
    assert (4, ITEMS) in shapes
    assert not [shape for shape in shapes if ITEMS in shape and max(shape) == ITEMS and min(shape) > max(4, UNITS + 1)]
