"""Losses over scores, with gradients written by hand where autograd would keep too much."""

import paddle
import paddle.nn.functional as F
from paddle.autograd import PyLayer

CHUNK_ROWS = 96  # a chunk of logits then fits into the processor's caches, and the products still run at full speed
CHUNK_LOGITS = 64 << 20  # at most this many logits exist at once (256 MiB)
SMALLEST = 1e-24  # the official code's; keeps logarithms finite
SAFE_SUM = 1e30  # sums of exponentials from 1/SAFE_SUM to SAFE_SUM lost nothing to overflow or underflow


class FullSoftmaxCrossEntropy(PyLayer):
    """Mean cross-entropy of a softmax over all items, in chunks of rows: no logits outlive their chunk.

    For hidden states h, item matrix W, biases b and label smoothing e, with s = h W^T + b, p = softmax(s) and
    q = (1 - e) onehot(target) + e / items (Szegedy et al., CVPR 2016, section 7), the loss is the mean over rows of
    -sum_j q_j log p_j, and its gradient by s is (p - q) / rows. Loss and gradients come from one pass over the items.

    The arguments of `apply`:

    hidden : float32 tensor [rows, units]
    item_matrix : float32 tensor [items, units + 1]
        W, and b as its last column: so the bias costs no pass of its own over the logits.
    targets : int64 tensor [rows]
    smoothing : float, 0 <= smoothing < 1
    shift : float32 tensor [items], added to every row of scores; None for nothing

    It returns a float32 scalar tensor.
    """

    @staticmethod
    def forward(ctx, hidden, item_matrix, targets, smoothing=0.0, shift=None):
        ctx.arguments = 3 if shift is None else 4
        rows, items, chunk = hidden.shape[0], item_matrix.shape[0], chunk_rows(item_matrix.shape[0])
        if shift is not None:
            item_matrix = paddle.concat([item_matrix[:, :-1], item_matrix[:, -1:] + shift.unsqueeze(1)], axis=1)
        hidden = with_ones(hidden)
        target_rows = paddle.gather(item_matrix, targets)
        log_sums, expected_rows, matrix_gradient = [], [], None
        for start in range(0, rows, chunk):
            chunk_hidden = hidden[start:start + chunk]
            exponentials, sums, log_sum = _exponentials(chunk_hidden, item_matrix)
            log_sums.append(log_sum)
            expected_rows.append(paddle.matmul(exponentials, item_matrix) / sums)
            part = paddle.matmul(exponentials, chunk_hidden / (rows * sums), transpose_x=True)
            del exponentials  # so that the next chunk takes the same memory, still in the cache
            matrix_gradient = part if matrix_gradient is None else matrix_gradient.add_(part)

        losses = paddle.concat(log_sums) - (hidden * target_rows).sum(axis=1)
        hidden_gradient = paddle.concat(expected_rows) - (1 - smoothing) * target_rows
        paddle.index_add_(matrix_gradient, targets, 0, hidden * ((smoothing - 1) / rows))
        if smoothing:
            mean_row = paddle.matmul(paddle.full([1, items], 1 / items), item_matrix)  # a tenth of the time of mean(axis=0)
            losses += smoothing * (hidden * (target_rows - mean_row)).sum(axis=1)
            hidden_gradient -= smoothing * mean_row
            matrix_gradient.subtract_(smoothing / items * hidden.mean(axis=0))
        ctx.save_for_backward(hidden_gradient[:, :-1] / rows, matrix_gradient)
        return losses.mean()

    @staticmethod
    def backward(ctx, loss_gradient):
        hidden_gradient, matrix_gradient = ctx.saved_tensor()
        factor = float(loss_gradient)
        if factor != 1:
            hidden_gradient, matrix_gradient = hidden_gradient * factor, matrix_gradient * factor
        return (hidden_gradient, matrix_gradient, None, None)[:ctx.arguments]


def bpr(scores, targets):
    """Bayesian personalised ranking: the mean over negatives j of -log(sigmoid(s_target - s_j)).

    Rendle et al., UAI 2009, in the form of Hidasi et al., ICLR 2016, section 3.1.3.

    Parameters
    ----------
    scores : float32 tensor [rows, candidates]
    targets : int64 tensor [rows], the target's column; the other columns are the row's negatives

    Returns
    -------
    float32 tensor [rows]
    """
    target_scores, is_negative = _target_and_negatives(scores, targets)
    return (F.softplus(scores - target_scores) * is_negative).sum(axis=1) / (scores.shape[1] - 1)


def top1(scores, targets):
    """TOP1: the mean over negatives j of sigmoid(s_j - s_target) + sigmoid(s_j^2).

    Hidasi et al., ICLR 2016, section 3.1.3. Arguments and result as for `bpr`.
    """
    target_scores, is_negative = _target_and_negatives(scores, targets)
    return (_top1_terms(scores, target_scores) * is_negative).sum(axis=1) / (scores.shape[1] - 1)


def top1_max(scores, targets):
    """TOP1-max: TOP1's terms weighted by the softmax over the negatives.

    Hidasi and Karatzoglou, CIKM 2018, section 3.3.1. Arguments and result as for `bpr`.
    """
    target_scores, is_negative = _target_and_negatives(scores, targets)
    return (_softmax_of_negatives(scores, is_negative) * _top1_terms(scores, target_scores)).sum(axis=1)


def bpr_max(scores, targets, elu=0.0, regularisation=1.0):
    """BPR-max with score regularisation, on scores that may go through an ELU first.

    With w the softmax over the negatives: -log(sum_j w_j sigmoid(s_target - s_j)) + regularisation * sum_j w_j s_j^2.
    Hidasi and Karatzoglou, CIKM 2018, sections 3.3.2 and 3.4.

    Parameters
    ----------
    scores, targets
        As for `bpr`.
    elu : float
        Negative scores become elu * (exp(score) - 1); 0 leaves them.
    regularisation : float

    Returns
    -------
    float32 tensor [rows]
    """
    if elu:
        scores = F.elu(scores, elu)
    target_scores, is_negative = _target_and_negatives(scores, targets)
    weights = _softmax_of_negatives(scores, is_negative)
    better = (weights * F.sigmoid(target_scores - scores)).sum(axis=1)
    return -paddle.log(better + SMALLEST) + regularisation * (weights * scores * scores).sum(axis=1)


def cross_entropy(scores, targets, smoothing=0.0):
    """Softmax cross-entropy over the candidates, the target's share smoothed over all of them.

    -(1 - e n / (n - 1)) log p_target - e / (n - 1) sum_j log p_j for n candidates and smoothing e, as the official
    code has it. Arguments and result as for `bpr`.
    """
    scores = scores - scores.detach().max(axis=1, keepdim=True)  # cancels out; F.log_softmax takes a hundred times as long
    log_probabilities = scores - paddle.log(paddle.exp(scores).sum(axis=1, keepdim=True))
    target_part = -_picked(log_probabilities, targets)
    if not smoothing:
        return target_part
    count = scores.shape[1]
    return (1 - smoothing * count / (count - 1)) * target_part - smoothing / (count - 1) * log_probabilities.sum(axis=1)


def cross_entropy_of_scores(scores, targets):
    """Softmax cross-entropy over all columns, without gradient and in a third of the time of `cross_entropy`.

    Arguments and result as for `bpr`.
    """
    sums = paddle.matmul(paddle.exp(scores), paddle.ones([scores.shape[1], 1], scores.dtype)).squeeze(1)
    if bool(((sums > 1 / SAFE_SUM) & (sums < SAFE_SUM)).all()):
        return paddle.log(sums) - _picked(scores, targets)
    return cross_entropy(scores, targets)


def chunk_rows(items):
    """Rows of logits that are computed at once for `items` items, at least 1."""
    return max(1, min(CHUNK_ROWS, CHUNK_LOGITS // items))


def with_ones(hidden):
    """`hidden`, float32 [rows, units], and the column of ones that meets the bias column of the item matrix."""
    return paddle.concat([hidden, paddle.ones([hidden.shape[0], 1], hidden.dtype)], axis=1)


def _exponentials(hidden, item_matrix):
    """exp(scores) up to a factor a row, float32 [rows, items], its row sums [rows, 1], and log(sum(exp(scores))) [rows].

    Exponentials of the scores as they are need one pass over the logits instead of softmax's three. Where that would
    overflow or underflow, softmax takes over.
    """
    exponentials = paddle.matmul(hidden, item_matrix, transpose_y=True).exp_()
    sums = paddle.matmul(exponentials, paddle.ones([item_matrix.shape[0], 1], hidden.dtype))
    if bool(((sums > 1 / SAFE_SUM) & (sums < SAFE_SUM)).all()):
        return exponentials, sums, paddle.log(sums).squeeze(1)
    scores = paddle.matmul(hidden, item_matrix, transpose_y=True)
    largest = scores.max(axis=1, keepdim=True)
    exponentials = (scores - largest).exp_()
    sums = exponentials.sum(axis=1, keepdim=True)
    return exponentials, sums, (paddle.log(sums) + largest).squeeze(1)


def _target_and_negatives(scores, targets):
    """The targets' scores, [rows, 1], and 1 for every negative, 0 for the target, [rows, candidates]."""
    return _picked(scores, targets).unsqueeze(1), 1 - F.one_hot(targets, scores.shape[1])


def _picked(matrix, columns):
    """matrix[i, columns[i]] of every row i: float32 [rows]."""
    rows = paddle.arange(matrix.shape[0], dtype=columns.dtype)
    return paddle.gather_nd(matrix, paddle.stack([rows, columns], axis=1))


def _softmax_of_negatives(scores, is_negative):
    """The softmax over a row's negatives, with weight 0 for the target: float32 [rows, candidates]."""
    masked = scores * is_negative
    largest = masked.detach().max(axis=1, keepdim=True)  # cancels out, and so has no part in the gradient
    exponentials = paddle.exp(masked - largest) * is_negative
    return exponentials / exponentials.sum(axis=1, keepdim=True)


def _top1_terms(scores, target_scores):
    return F.sigmoid(scores - target_scores) + F.sigmoid(scores * scores)
