"""The losses over candidates against slow, plainly written float64 versions, value and gradient."""

import math

import numpy as np
import paddle
import pytest

from utils import losses
from utils.losses import Loss

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


@pytest.mark.parametrize("loss, name", [
    (Loss(), "cross-entropy"), (Loss("ce", smoothing=0.2), "cross-entropy smoothed"),
    (Loss("bpr"), "bpr"), (Loss("bpr-max"), "bpr-max"),
    (Loss("bpr-max", elu=0.5, regularisation=1.5), "bpr-max elu"), (Loss("top1"), "top1"),
    (Loss("top1-max"), "top1-max"),
])
def test_a_loss_is_called_by_its_name_with_the_parameters_that_it_has(loss, name):
    function, _, settings = CASES[name]
    random = np.random.default_rng(2)
    scores = paddle.to_tensor(random.normal(0, 1, (ROWS, CANDIDATES)).astype(np.float32))
    targets = paddle.to_tensor(random.integers(CANDIDATES, size=ROWS))
    assert (loss(scores, targets).numpy() == function(scores, targets, **settings).numpy()).all()


def test_nan_is_not_hidden():
    for column in (0, 1):
        scores = np.ones((ROWS, CANDIDATES), np.float32)
        scores[:, column] = np.nan
        for name, (function, _, settings) in CASES.items():
            found = function(paddle.to_tensor(scores), paddle.zeros([ROWS], "int64"), **settings)
            assert np.isnan(found.numpy()).all(), (name, column)


@pytest.mark.parametrize("name", ["top1-max", "bpr-max"])
def test_negatives_far_below_zero_are_numbers_all_the_same(name):
    function, _, settings = CASES[name]
    scores = paddle.to_tensor([[3.0, -120.0, -121.0, -150.0]], stop_gradient=False)
    found = function(scores, paddle.to_tensor([0]), **settings).sum()
    assert np.isfinite(float(found)) and np.isfinite(paddle.grad(found, scores)[0].numpy()).all()
