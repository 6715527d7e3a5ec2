"""The softmax cross-entropy by Paddle's operations with its gradients written out, in chunks of rows.

For GPUs, and for processors without the C++: no scores outlive their chunk, and it is several times as fast as
autograd. Like the C++, it is compared with net.py and losses.py before a run's first step.
"""

import paddle

from utils.losses import SAFE_SUM
from utils.model.layout import LEAST_SQUARE
from utils.tensors import add_rows, as_float32, as_tensor, is_on_host


class PaddleSoftmax:
    """In the place of kernels.Kernels, for objectives that need nothing but this function of it."""

    def softmax_cross_entropy(self, hidden, item_rows, targets, smoothing, shift, chunk, own_shift=None):
        """As kernels.Kernels.softmax_cross_entropy, for tensors or arrays; returns tensors.

        With p the softmax of the scores and q = (1 - smoothing) onehot(target) + smoothing / items (Szegedy et al.,
        CVPR 2016, section 7), the loss of a row is -sum_j q_j log p_j, and its gradient by the scores is p - q.
        """
        hidden, item_rows, targets = map(as_tensor, (hidden, item_rows, targets))
        shift, own_shift = (None if values is None else as_tensor(values) for values in (shift, own_shift))
        rows, items = hidden.shape[0], item_rows.shape[0]
        hidden = paddle.concat([hidden, paddle.ones([rows, 1], hidden.dtype)], axis=1)  # 1 meets the bias
        matrix = item_rows if shift is None else _with_biases(item_rows, shift)
        target_rows = paddle.gather(matrix, targets)
        if own_shift is not None:
            target_rows = _with_biases(paddle.gather(item_rows, targets), own_shift)
        target_scores = (hidden * target_rows).sum(axis=1, keepdim=True)
        log_sums, expected_rows, matrix_gradient = [], [], paddle.zeros_like(item_rows)
        for start in range(0, rows, chunk):
            part = slice(start, min(start + chunk, rows))
            exponentials, own, sums, log_sum = _exponentials(hidden[part], matrix, target_scores[part],
                                                             own_shift is not None)
            log_sums.append(log_sum)
            expected = product(exponentials, matrix)
            matrix_gradient += product(exponentials, hidden[part] / (rows * sums), transpose_x=True)
            del exponentials  # so that the next chunk takes the same memory, still in the cache
            if own is not None:
                expected = expected + own * target_rows[part]
                of_targets = hidden[part] * own / (rows * sums)
                matrix_gradient = add_rows(matrix_gradient, of_targets, targets[part])
            expected_rows.append(expected / sums)

        losses = paddle.concat(log_sums) - target_scores.squeeze(1)
        hidden_gradient = paddle.concat(expected_rows) - (1 - smoothing) * target_rows
        matrix_gradient = add_rows(matrix_gradient, hidden * ((smoothing - 1) / rows), targets)
        if smoothing:
            mean_row = _mean_row(matrix)
            losses += smoothing * (hidden * (target_rows - mean_row)).sum(axis=1)
            hidden_gradient -= smoothing * mean_row
            matrix_gradient -= smoothing / items * hidden.mean(axis=0)
        return losses, hidden_gradient[:, :-1] / rows, matrix_gradient

    def set_lengths(self, vectors, units, length):
        """As kernels.Kernels.set_lengths."""
        return set_lengths(as_tensor(vectors), units, length)

    def lengths_gradient(self, gradient, result, factors, units, length):
        """As kernels.Kernels.lengths_gradient, but not in place."""
        return lengths_gradient(gradient, result, factors, units, length)


def set_lengths(vectors, units, length):
    """`net.of_length` of the first `units` columns of a float32 tensor, and each row's factor, float32 tensor [rows].
    """
    squares = (vectors[:, :units] * vectors[:, :units]).sum(axis=1)
    factors = length * paddle.rsqrt(squares + LEAST_SQUARE)
    return _beside(vectors[:, :units] * factors.unsqueeze(1), vectors), factors


def lengths_gradient(gradient, result, factors, units, length):
    """From the gradient by the vectors that `set_lengths` returned, float32 tensor, to that by those before."""
    along = (gradient[:, :units] * result[:, :units]).sum(axis=1, keepdim=True) / length**2
    return _beside((gradient[:, :units] - along * result[:, :units]) * factors.unsqueeze(1), gradient)


def _beside(first, values):
    """`values`, a float32 tensor, with `first` in the place of its first columns."""
    units = first.shape[1]
    return first if units == values.shape[1] else paddle.concat([first, values[:, units:]], axis=1)


def product(left, right, **transposed):
    """The product of two matrices, float32; by tensors.products it may have been computed in bfloat16."""
    return as_float32(paddle.matmul(left, right, **transposed))


def _with_biases(item_rows, more):
    """Rows of the item matrix with `more`, float32 tensor [rows], added to their biases."""
    return paddle.concat([item_rows[:, :-1], item_rows[:, -1:] + more.unsqueeze(1)], axis=1)


def _exponentials(hidden, matrix, target_scores, has_own):
    """exp(scores) up to a factor a row, that of the own target or None, their sums, and log(sum(exp(scores))).

    Exponentials of the scores as they are need one pass over them, where softmax needs three. If that would overflow or
    underflow, the largest score is subtracted; on a GPU always, where to look would mean to wait.
    """
    if is_on_host(hidden):
        exponentials = product(hidden, matrix, transpose_y=True).exp_()
        own = paddle.exp(target_scores) if has_own else None
        sums = _row_sums(exponentials) + (own if has_own else 0)
        if bool(((sums > 1 / SAFE_SUM) & (sums < SAFE_SUM)).all()):
            return exponentials, own, sums, paddle.log(sums).squeeze(1)
    scores = product(hidden, matrix, transpose_y=True)
    largest = paddle.maximum(scores.max(axis=1, keepdim=True), target_scores)
    exponentials = (scores - largest).exp_()
    own = paddle.exp(target_scores - largest) if has_own else None
    sums = _row_sums(exponentials) + (own if has_own else 0)
    return exponentials, own, sums, (paddle.log(sums) + largest).squeeze(1)


def _mean_row(matrix):
    """The mean of the rows of a matrix, float32 [1, columns]; on a processor as a product, in a tenth of the time."""
    if is_on_host(matrix):
        return paddle.matmul(paddle.full([1, matrix.shape[0]], 1 / matrix.shape[0]), matrix)
    return matrix.mean(axis=0, keepdim=True)


def _row_sums(values):
    """The sums of the rows of a matrix, float32 [rows, 1]; on a processor as a product, in a tenth of the time."""
    if is_on_host(values):
        return paddle.matmul(values, paddle.ones([values.shape[1], 1], values.dtype))
    return values.sum(axis=1, keepdim=True)
