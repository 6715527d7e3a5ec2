"""The cross-entropy over all items against Paddle's own and against float64, value and gradients."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from net import Network
from utils.losses import cross_entropy, cross_entropy_of_scores
from utils.model.layout import NetworkSettings

ROWS, ITEMS = 10, 23


def draw(scale=1.0, shift=0.0):
    random = np.random.default_rng(0)
    scores = paddle.to_tensor((random.normal(0, scale, (ROWS, ITEMS)) + shift).astype(np.float32), stop_gradient=False)
    return scores, paddle.to_tensor(random.integers(0, ITEMS, ROWS))


def of_net(smoothing):
    """The loss in net.py: its smoothing is Szegedy's, and so Paddle's."""
    return Network(ITEMS, NetworkSettings([3], 3, label_smoothing=smoothing)).loss


def with_gradient(function, scores, targets):
    found = function(scores, targets)
    return found.numpy(), paddle.grad(found.sum(), scores)[0].numpy()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_and_gradient_are_paddles(smoothing):
    def paddles_own(scores, targets):
        labels = F.label_smooth(F.one_hot(targets, ITEMS), epsilon=smoothing)
        return F.cross_entropy(scores, labels, soft_label=True, reduction="none").reshape([ROWS])

    for ours, theirs in zip(with_gradient(of_net(smoothing), *draw()), with_gradient(paddles_own, *draw())):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def in_float64(scores, targets, smoothing):
    """Value and gradient by the formula; Paddle's own lose the value where a probability underflows."""
    scores, targets = scores.numpy().astype(np.float64), targets.numpy()
    scores -= scores.max(axis=1, keepdims=True)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    wanted = np.full((ROWS, ITEMS), smoothing / ITEMS)
    wanted[np.arange(ROWS), targets] += 1 - smoothing
    return -(wanted * log_probabilities).sum(axis=1), np.exp(log_probabilities) - wanted


FAR = [(1, 0), (100, 0), (1, -200), (1, 150)]  # of all but the first, exp alone overflows or underflows


@pytest.mark.parametrize("scale, shift", FAR)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_scores_beyond_the_range_of_exp(scale, shift, smoothing):
    scores, targets = draw(scale, shift)
    assert (scores.abs().max() > 88) == ((scale, shift) != (1, 0))
    expected = in_float64(scores, targets, smoothing)
    for ours, theirs in zip(with_gradient(of_net(smoothing), scores, targets), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale, shift", FAR)
def test_without_gradient_it_is_the_same(scale, shift):
    scores, targets = draw(scale, shift)
    expected, _ = in_float64(scores, targets, 0.0)
    np.testing.assert_allclose(cross_entropy_of_scores(scores, targets).numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [cross_entropy, cross_entropy_of_scores, of_net(0.1)])
def test_nan_is_not_hidden(function):
    scores, targets = draw()
    scores = scores.detach().clone()
    scores[:, 2] = float("nan")
    assert np.isnan(function(scores, targets).numpy()).all()
