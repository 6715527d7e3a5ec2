"""utils/native/losses.cc against losses.py by Paddle's autograd in float64: values and gradients.

tests/test_sampled_losses.py holds losses.py to slow formulas.
"""

import numpy as np
import paddle
import pytest

from utils.losses import Loss, cross_entropy
from utils.native import kernels as kernels_module

ROWS, ITEMS, UNITS = 10, 23, 6
CHUNKS = 1, 3, ROWS, 128
LOSSES = {
    "ce": Loss("ce"),
    "ce smoothed": Loss("ce", smoothing=0.2),
    "bpr": Loss("bpr"),
    "bpr-max": Loss("bpr-max"),
    "bpr-max with elu": Loss("bpr-max", elu=0.5, regularisation=1.5),
    "bpr-max without regularisation": Loss("bpr-max", elu=1.0, regularisation=0.0),
    "top1": Loss("top1"),
    "top1-max": Loss("top1-max"),
}
# Of the scores, which are then up to about 3, 30 and 300, and biases to add.
SCALES = [(1, 0), (3, 0), (3, -30), (3, 30)]
FAR = [(10, 0), (1, -200), (1, 150)]


def draw(*shape, scale=1.0, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


def draw_scored(scale, bias):
    """Hidden states, item rows and targets."""
    hidden, item_rows = draw(ROWS, UNITS, scale=scale), draw(ITEMS, UNITS + 1, scale=scale)
    item_rows[:, -1] += bias
    return hidden, item_rows, np.random.default_rng(1).integers(0, ITEMS, ROWS)


def by_autograd(losses_of, hidden, item_rows):
    """What a kernel returns, float64, for a function from float64 tensors to the losses [rows]."""
    tensors = [paddle.to_tensor(values.astype(np.float64), stop_gradient=False) for values in (hidden, item_rows)]
    losses = losses_of(*tensors)
    return [values.numpy() for values in (losses, *paddle.grad(losses.mean(), tensors))]


def scores_of(hidden, item_rows):
    return paddle.matmul(hidden, item_rows[:, :-1], transpose_y=True) + item_rows[:, -1]


def assert_same(found, expected, context):
    """Relative to the largest number of each, and 1e-6 where all are small: gradients are differences."""
    for ours, theirs, what in zip(found, expected, ("losses", "gradient by hidden states", "gradient by item rows")):
        assert ours.shape == theirs.shape and ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=max(2e-5 * np.abs(theirs).max(), 1e-6),
                                   err_msg=f"{what} {context}")


def float64(values):
    return paddle.to_tensor(values.astype(np.float64))


@pytest.mark.parametrize("scale, bias", SCALES + FAR)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize("has_own", [False, True])
def test_softmax_cross_entropy_is_that_of_losses_py(kernels, scale, bias, smoothing, is_shifted, has_own):
    hidden, item_rows, targets = draw_scored(scale, bias)
    shift, own_shift = draw(ITEMS, seed=2) if is_shifted else None, draw(ROWS, seed=3) if has_own else None

    def expected_losses(hidden, item_rows):
        unshifted = scores_of(hidden, item_rows)
        scores = unshifted + float64(shift) if is_shifted else unshifted
        if not has_own:
            return cross_entropy(scores, paddle.to_tensor(targets), smoothing * (ITEMS - 1) / ITEMS)
        # The target with its own shift is one more candidate; the smoothing is spread over the items alone.
        own = paddle.gather_nd(unshifted, paddle.to_tensor(np.stack([np.arange(ROWS), targets], axis=1)))
        every = paddle.concat([(own + float64(own_shift)).unsqueeze(1), scores], axis=1)
        of_column = lambda column: cross_entropy(every, paddle.full([ROWS], column, "int64"))
        return (1 - smoothing) * of_column(0) + smoothing * sum(of_column(1 + item) for item in range(ITEMS)) / ITEMS

    expected = by_autograd(expected_losses, hidden, item_rows)
    for chunk in CHUNKS:
        found = kernels.softmax_cross_entropy(hidden, item_rows, targets, smoothing, shift, chunk, own_shift)
        assert_same(found, expected, chunk)


def expanded(weights, targets, targets_are_candidates):
    """Which item each column of the scores is of, int [rows, columns], and each row's target among them, int [rows].

    An item of weight 2 has two columns. A target that is no candidate has a column more, the first.
    """
    drawn = np.repeat(np.arange(ITEMS), weights.astype(int))
    if targets_are_candidates:
        return np.tile(drawn, (ROWS, 1)), np.array([np.flatnonzero(drawn == target)[0] for target in targets])
    return np.hstack([targets[:, None], np.tile(drawn, (ROWS, 1))]), np.zeros(ROWS, int)


def draw_weights(targets, targets_are_candidates):
    """0 of some items, and from 1 to 4 of the others; some targets are several candidates, some are just one."""
    weights = np.random.default_rng(4).choice([0, 0, 1, 2, 4], ITEMS).astype(np.float32)
    if targets_are_candidates:
        weights[targets] = np.maximum(weights[targets], 1)
    assert {0, 1, 2, 4} <= set(weights) and len(set(weights[targets])) > 1
    return weights


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale, bias", SCALES + FAR)
@pytest.mark.parametrize("targets_are_candidates", [True, False])
@pytest.mark.parametrize("is_shifted", [False, True])
def test_shared_loss_is_that_of_losses_py(kernels, name, scale, bias, targets_are_candidates, is_shifted):
    loss, (hidden, item_rows, targets) = LOSSES[name], draw_scored(scale, bias)
    weights = draw_weights(targets, targets_are_candidates)
    shift, own_shift = (draw(ITEMS, seed=2), draw(ROWS, seed=3)) if is_shifted else (None, None)
    items, places = expanded(weights, targets, targets_are_candidates)
    shifts = np.zeros(items.shape)
    if is_shifted:
        shifts = shift[items].astype(np.float64)
        if not targets_are_candidates:
            shifts[:, 0] = own_shift

    def expected_losses(hidden, item_rows):
        index = np.stack([np.broadcast_to(np.arange(ROWS)[:, None], items.shape), items], axis=-1)
        scores = paddle.gather_nd(scores_of(hidden, item_rows), paddle.to_tensor(index)) + float64(shifts)
        return loss(scores, paddle.to_tensor(places))

    expected = by_autograd(expected_losses, hidden, item_rows)
    for chunk in CHUNKS:
        found = kernels.shared_loss(loss, hidden, item_rows, weights, targets, targets_are_candidates, shift, own_shift,
                                    chunk)
        assert_same(found, expected, chunk)


@pytest.mark.parametrize("name", LOSSES)
def test_shared_loss_of_many_rows_and_one_negative(kernels, name):
    """Both ends: more rows and items than a chunk or a vector of the processor holds, and as few as there can be."""
    for rows, items in ((200, 130), (1, 2)):
        hidden, item_rows = draw(rows, UNITS), draw(items, UNITS + 1)
        targets, weights = np.random.default_rng(1).integers(0, items, rows), np.ones(items, np.float32)
        losses_of = lambda *tensors: LOSSES[name](scores_of(*tensors), paddle.to_tensor(targets))
        expected = by_autograd(losses_of, hidden, item_rows)
        found = kernels.shared_loss(LOSSES[name], hidden, item_rows, weights, targets, True, None, None, 96)
        assert_same(found, expected, (rows, items))


@pytest.mark.parametrize("name", LOSSES)
def test_rows_that_are_no_candidates_have_no_part_in_a_loss(kernels, name):
    """Whatever their scores are: such rows are there for the inputs of a shared matrix."""
    hidden, item_rows, targets = draw_scored(1, 0)
    weights = draw_weights(targets, True)
    item_rows[weights == 0, -1] = 500
    far = kernels.shared_loss(LOSSES[name], hidden, item_rows, weights, targets, True, None, None, 4)
    item_rows[weights == 0, -1] = 0
    near = kernels.shared_loss(LOSSES[name], hidden, item_rows, weights, targets, True, None, None, 4)
    for ours, theirs in zip(far, near):
        np.testing.assert_array_equal(ours, theirs)
    assert (near[2][weights == 0] == 0).all()


def tiled_losses(loss, candidates, mask):
    """The losses over candidates of each row's own, whose biases don't count, as a function for `by_autograd`."""
    def losses_of(hidden, item_rows):
        vectors = paddle.gather(item_rows, paddle.to_tensor(candidates.ravel()))[:, :-1]
        vectors = vectors.reshape([*candidates.shape, UNITS]) * float64(mask)
        scores = (vectors * hidden.unsqueeze(1)).sum(axis=2)
        return loss(scores, paddle.zeros([ROWS], "int64"))
    return losses_of


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("negatives", [1, 5, 40])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_tiled_loss_is_that_of_losses_py(kernels, name, scale, negatives, share):
    hidden, item_rows, _ = draw_scored(scale, 7)  # the biases don't count
    candidates = np.random.default_rng(5).integers(0, ITEMS, (ROWS, 1 + negatives))
    mask = np.ones((*candidates.shape, UNITS), np.float32)
    if share:
        kernels.dropout(mask, share, 99)
    expected = by_autograd(tiled_losses(LOSSES[name], candidates, mask), hidden, item_rows)
    found = kernels.tiled_loss(LOSSES[name], hidden, item_rows, candidates, share, 99)
    assert_same(found, expected, negatives)
    assert (found[2][:, -1] == 0).all()


def test_a_kind_of_loss_that_cpp_lacks_gives_no_number(kernels, monkeypatch):
    monkeypatch.setattr(kernels_module, "LOSSES", [*kernels_module.LOSSES, "hinge"])
    hidden, item_rows, targets = draw_scored(1, 0)
    weights, candidates = np.ones(ITEMS, np.float32), np.tile([0, 3, 4, 7], (ROWS, 1))
    found = kernels.shared_loss(Loss("hinge"), hidden, item_rows, weights, targets, True, None, None, 4)
    assert np.isnan(found[0]).all() and np.isnan(found[2]).any()
    assert np.isnan(kernels.tiled_loss(Loss("hinge"), hidden, item_rows, candidates)[0]).all()


@pytest.mark.parametrize("place", ["hidden", "item row", "bias"])
def test_nan_is_not_hidden(kernels, place):
    hidden, item_rows, targets = draw_scored(1, 0)
    if place == "hidden":
        hidden[:, 2] = np.nan
    else:
        item_rows[3, -1 if place == "bias" else 2] = np.nan
    targets[:] = [0, 3] * (ROWS // 2)  # it is the target's, or one of the others'
    weights, candidates = np.ones(ITEMS, np.float32), np.tile([0, 3, 4, 7], (ROWS, 1))
    for own_shift in (None, draw(ROWS)):
        assert np.isnan(kernels.softmax_cross_entropy(hidden, item_rows, targets, 0.0, None, 4, own_shift)[0]).all()
    for loss in LOSSES.values():
        for are_candidates in (True, False):
            found = kernels.shared_loss(loss, hidden, item_rows, weights, targets, are_candidates, None, None, 4)
            assert np.isnan(found[0]).all()
        if place != "bias":
            for row in (candidates, candidates[:, [1, 0, 2, 3]]):
                assert np.isnan(kernels.tiled_loss(loss, hidden, item_rows, np.ascontiguousarray(row))[0]).all()
