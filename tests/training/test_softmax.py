"""utils/training/softmax.py gives what the C++ gives, which tests/native/test_loss_kernels.py holds to the formulas."""

import numpy as np
import paddle
import pytest

from utils.losses import cross_entropy
from utils.training.softmax import PaddleSoftmax

ROWS, ITEMS, UNITS = 10, 23, 6


def draw(*shape, scale=1.0, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


@pytest.mark.parametrize("scale, bias", [(1, 0), (12, 0), (1, -200), (1, 150)])
@pytest.mark.parametrize("chunk", [1, 3, 128])
@pytest.mark.parametrize("smoothing, has_shift, has_own", [
    (0.0, False, False), (0.2, False, False), (0.0, True, False), (0.0, True, True)])
def test_it_is_the_kernel(kernels, scale, bias, chunk, smoothing, has_shift, has_own):
    hidden, matrix = draw(ROWS, UNITS, scale=scale), draw(ITEMS, UNITS + 1, scale=scale)
    matrix[:, -1] += bias
    targets = np.random.default_rng(1).integers(0, ITEMS, ROWS)
    shift = draw(ITEMS, seed=2) if has_shift else None
    own_shift = draw(ROWS, seed=3) if has_own else None
    expected = kernels.softmax_cross_entropy(hidden, matrix, targets, smoothing, shift, chunk, own_shift)
    found = PaddleSoftmax().softmax_cross_entropy(hidden, matrix, targets, smoothing, shift, chunk, own_shift)
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=2e-5 * scale)


def test_it_is_autograd():
    values = draw(ROWS, UNITS), draw(ITEMS, UNITS + 1)
    hidden, matrix = (paddle.to_tensor(part, stop_gradient=False) for part in values)
    targets = np.random.default_rng(1).integers(0, ITEMS, ROWS)
    scores = paddle.matmul(hidden, matrix[:, :-1], transpose_y=True) + matrix[:, -1]
    losses = cross_entropy(scores, paddle.to_tensor(targets))
    found = PaddleSoftmax().softmax_cross_entropy(hidden.detach(), matrix.detach(), targets, 0.0, None, 4)
    np.testing.assert_allclose(found[0].numpy(), losses.numpy(), rtol=1e-5)
    for ours, theirs in zip(found[1:], paddle.grad(losses.mean(), [hidden, matrix])):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
