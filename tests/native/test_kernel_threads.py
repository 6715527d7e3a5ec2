"""Several threads compute what one computes."""

import os

import numpy as np
import pytest
from layer_kernels import LayerKernels

from utils.losses import Loss

UNITS, ITEMS = 100, 2100
PACKED = [[128, 100, 60, 47, 33, 32, 31, 17, 16, 15, 3, 1], [32], [140, 20]]
NUMBERS = 2, 3, 7


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


@pytest.fixture
def same_with_any_number(kernels):
    """A function that calls another with several numbers of threads, and compares the arrays that it returns.

    They may differ by rounding: how MKL rounds depends, on some processors, on how many rows a thread has.
    """
    def check(compute):
        kernels.set_threads(1)
        expected = compute()
        for number in NUMBERS:
            kernels.set_threads(number)
            for ours, theirs, again in zip(compute(), expected, compute()):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())
                assert ours.tobytes() == again.tobytes(), "the same number of threads gives the same result"
        return expected

    before = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count()))
    yield check
    kernels.set_threads(before)


@pytest.mark.parametrize("rows", PACKED, ids=str)
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("through_time", [True, False])
def test_gru(kernels, same_with_any_number, rows, reset_after, through_time):
    weight, bias, before = draw(UNITS, 3 * UNITS) / 10, draw(3 * UNITS), draw(rows[0], UNITS)
    inputs, upstream = draw(sum(rows), 3 * UNITS), draw(sum(rows), UNITS)
    states, saved = same_with_any_number(
        lambda: LayerKernels(kernels).gru_forward(inputs, weight, bias, before, rows, reset_after, 0.3, 5))
    same_with_any_number(lambda: LayerKernels(kernels).gru_backward(upstream, states, saved, weight, before, rows,
                                                                    reset_after,
                                                      through_time))


@pytest.mark.parametrize("rows", [1, 31, 355])
def test_linear_dropout_rows_and_counts(kernels, same_with_any_number, rows):
    inputs, weight, bias, upstream = draw(rows, UNITS), draw(UNITS, 300), draw(300), draw(rows, 300)
    numbers = np.random.default_rng(1).integers(ITEMS, size=rows)
    matrix, items_by_unit = draw(ITEMS, UNITS + 1), draw(UNITS, ITEMS)
    same_with_any_number(lambda: [LayerKernels(kernels).linear_forward(inputs, weight, bias)])
    same_with_any_number(lambda: LayerKernels(kernels).linear_backward(upstream, inputs, weight))
    same_with_any_number(lambda: [kernels.gather(matrix, numbers, UNITS)])
    same_with_any_number(lambda: kernels.count_above(inputs, items_by_unit, numbers, 96, 20))

    def in_place(change):
        changed = matrix.copy()
        change(changed)
        return [changed]
    same_with_any_number(lambda: in_place(lambda changed: kernels.dropout(changed, 0.4, 9)))
    same_with_any_number(lambda: in_place(lambda changed: kernels.add_rows(changed, inputs, numbers)))
    gradient = draw(ITEMS, UNITS + 1, seed=3)
    same_with_any_number(lambda: in_place(lambda changed: kernels.update_weights(
        "adagrad", [(changed, [np.ones_like(changed)], gradient, None, None, 0.1)], [0.0, 0.0, 1e-6, True])))


@pytest.mark.parametrize("rows", [32, 140, 355])
@pytest.mark.parametrize("smoothing", [0.0, 0.05])
def test_softmax(kernels, same_with_any_number, rows, smoothing):
    hidden, matrix = draw(rows, UNITS), draw(ITEMS, UNITS + 1) / 10
    targets, shift = np.random.default_rng(2).integers(ITEMS, size=rows), draw(ITEMS)
    for own_shift in (None, draw(rows)):
        same_with_any_number(lambda: kernels.softmax_cross_entropy(hidden, matrix, targets, smoothing, shift, 96,
                                                                   own_shift))


@pytest.mark.parametrize("rows", [32, 140])
@pytest.mark.parametrize("name", ["ce", "bpr", "bpr-max", "top1", "top1-max"])
def test_other_losses(kernels, same_with_any_number, rows, name):
    loss, random = Loss(name, elu=0.5, regularisation=1.0), np.random.default_rng(3)
    hidden, matrix = draw(rows, UNITS), draw(ITEMS, UNITS + 1) / 10
    targets, weights = random.integers(ITEMS, size=rows), random.integers(1, 3, ITEMS).astype(np.float32)
    candidates = random.integers(ITEMS, size=(rows, 11))
    for are_candidates in (True, False):
        same_with_any_number(lambda: kernels.shared_loss(loss, hidden, matrix, weights, targets, are_candidates, None,
                                                         None, 96))
    same_with_any_number(lambda: kernels.tiled_loss(loss, hidden, matrix, candidates, 0.2, 4))


@pytest.mark.parametrize("chunk, k", [(1, 1), (7, 20), (96, 0), (96, 64), (7, 333), (1, 500)])
def test_counts_and_best_items_are_those_of_numpy(kernels, chunk, k):
    random = np.random.default_rng(4)  # whole numbers: many ties, and nothing is rounded
    hidden, items = (random.integers(-2, 3, shape).astype(np.float32) for shape in ((50, 9), (9, 333)))
    targets = random.integers(333, size=50)
    scores = hidden @ items
    thresholds = scores[np.arange(50), targets][:, None]
    above, at_least, best = kernels.count_above(hidden, items, targets, chunk, k)
    assert above.tolist() == (scores > thresholds).sum(axis=1).tolist()
    assert at_least.tolist() == (scores >= thresholds).sum(axis=1).tolist()
    assert best.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()
    with pytest.raises(IndexError):
        kernels.count_above(hidden, items, targets + 300, chunk)
