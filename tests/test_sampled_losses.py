"""The losses over candidates against slow, plainly written float64 versions, value and gradient."""

import math

import numpy as np
import paddle
import pytest

from utils import losses

ROWS, CANDIDATES = 4, 7


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def softmax_of_negatives(row, target):
    exponentials = [0.0 if j == target else math.exp(score) for j, score in enumerate(row)]
    return [value / sum(exponentials) for value in exponentials]


def slow_bpr(row, target):
    negatives = [score for j, score in enumerate(row) if j != target]
    return sum(-math.log(sigmoid(row[target] - score)) for score in negatives) / len(negatives)


def slow_top1(row, target):
    negatives = [score for j, score in enumerate(row) if j != target]
    return sum(sigmoid(score - row[target]) + sigmoid(score**2) for score in negatives) / len(negatives)


def slow_top1_max(row, target):
    weights = softmax_of_negatives(row, target)
    return sum(w * (sigmoid(score - row[target]) + sigmoid(score**2)) for w, score in zip(weights, row))


def slow_bpr_max(row, target, elu, regularisation):
    row = [score if score > 0 or not elu else elu * (math.exp(score) - 1) for score in row]
    weights = softmax_of_negatives(row, target)
    better = sum(w * sigmoid(row[target] - score) for w, score in zip(weights, row))
    return -math.log(better + 1e-24) + regularisation * sum(w * score**2 for w, score in zip(weights, row))


def slow_cross_entropy(row, target, smoothing):
    total = sum(math.exp(score) for score in row)
    nats = [-math.log(math.exp(score) / total) for score in row]
    count = len(row)
    return (1 - smoothing * count / (count - 1)) * nats[target] + smoothing / (count - 1) * sum(nats)


CASES = {
    "bpr": (losses.bpr, slow_bpr, {}),
    "top1": (losses.top1, slow_top1, {}),
    "top1-max": (losses.top1_max, slow_top1_max, {}),
    "bpr-max": (losses.bpr_max, slow_bpr_max, {"elu": 0.0, "regularisation": 1.0}),
    "bpr-max elu": (losses.bpr_max, slow_bpr_max, {"elu": 0.5, "regularisation": 1.5}),
    "cross-entropy": (losses.cross_entropy, slow_cross_entropy, {"smoothing": 0.0}),
    "cross-entropy smoothed": (losses.cross_entropy, slow_cross_entropy, {"smoothing": 0.2}),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_value_and_gradient(name, scale):
    function, slow, settings = CASES[name]
    random = np.random.default_rng(2)
    values, targets = random.normal(0, scale, (ROWS, CANDIDATES)), random.integers(CANDIDATES, size=ROWS)
    scores = paddle.to_tensor(values.astype(np.float32), stop_gradient=False)
    found = function(scores, paddle.to_tensor(targets), **settings)
    values = values.astype(np.float32).astype(np.float64)
    expected = [slow(list(row), target, **settings) for row, target in zip(values, targets)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5)

    gradient = paddle.grad(found.sum(), scores)[0].numpy()
    for row, column in np.ndindex(values.shape):
        step, ends = 1e-5, []
        for sign in (1, -1):
            moved = list(values[row])
            moved[column] += sign * step
            ends.append(slow(moved, targets[row], **settings))
        assert gradient[row, column] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3, abs=2e-5)


def test_the_shift_of_the_full_softmax_is_added_to_the_scores():
    random = np.random.default_rng(1)
    hidden, matrix = (paddle.to_tensor(random.normal(size=shape).astype(np.float32), stop_gradient=False) for shape in [(5, 3), (9, 4)])
    targets, shift = paddle.to_tensor(random.integers(9, size=5)), paddle.to_tensor(random.normal(size=9).astype(np.float32))
    scores = paddle.matmul(losses.with_ones(hidden), matrix, transpose_y=True) + shift
    expected = losses.cross_entropy(scores, targets).mean()
    found = losses.FullSoftmaxCrossEntropy.apply(hidden, matrix, targets, 0.0, shift)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(paddle.grad(found, [hidden, matrix]), paddle.grad(expected, [hidden, matrix])):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
