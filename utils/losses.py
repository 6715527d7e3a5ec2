"""Losses over scores, as formulas; Paddle's autograd has their gradients.

Edit one, and that is what trains: utils/native/losses.cc, which computes the same faster, is used only for losses that
stand here as they came (utils/sources.py), and after both agreed on a small batch.
"""

import paddle
import paddle.nn.functional as F

FAR = 1e30  # below any score
SMALLEST = 1e-24  # the official code's; keeps logarithms finite
SAFE_SUM = 1e30  # sums of exponentials from 1/SAFE_SUM to SAFE_SUM lost nothing to overflow or underflow


class Loss:
    """A loss over a sample with its parameters: a function of scores and targets as `bpr` is.

    Parameters
    ----------
    name : str
        One of FUNCTIONS.
    parameters : float
        Of that function, by their names.
    """

    def __init__(self, name="ce", **parameters):
        self.name, self.parameters = name, parameters

    def __call__(self, scores, targets):
        return FUNCTIONS[self.name](scores, targets, **self.parameters)


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
    # The largest score cancels out. F.log_softmax takes a hundred times as long.
    scores = scores - scores.detach().max(axis=1, keepdim=True)
    log_probabilities = scores - paddle.log(paddle.exp(scores).sum(axis=1, keepdim=True))
    target_part = -_picked(log_probabilities, targets)
    if not smoothing:
        return target_part
    count = scores.shape[1]
    return (1 - smoothing * count / (count - 1)) * target_part - smoothing / (count - 1) * log_probabilities.sum(axis=1)


# By their names on the command line; sampled_flags.py says which flags their parameters come from.
FUNCTIONS = {"ce": cross_entropy, "bpr": bpr, "bpr-max": bpr_max, "top1": top1, "top1-max": top1_max}


def cross_entropy_of_scores(scores, targets):
    """Softmax cross-entropy over all columns, without gradient and in a third of the time of `cross_entropy`.

    Arguments and result as for `bpr`.
    """
    sums = paddle.matmul(paddle.exp(scores), paddle.ones([scores.shape[1], 1], scores.dtype)).squeeze(1)
    if bool(((sums > 1 / SAFE_SUM) & (sums < SAFE_SUM)).all()):
        return paddle.log(sums) - _picked(scores, targets)
    return cross_entropy(scores, targets)


def _target_and_negatives(scores, targets):
    """The targets' scores, [rows, 1], and 1 for every negative, 0 for the target, [rows, candidates]."""
    return _picked(scores, targets).unsqueeze(1), 1 - F.one_hot(targets, scores.shape[1])


def _picked(matrix, columns):
    """matrix[i, columns[i]] of every row i: float32 [rows]."""
    rows = paddle.arange(matrix.shape[0], dtype=columns.dtype)
    return paddle.gather_nd(matrix, paddle.stack([rows, columns], axis=1))


def _softmax_of_negatives(scores, is_negative):
    """The softmax over a row's negatives, with weight 0 for the target: float32 [rows, candidates]."""
    masked = scores - (1 - is_negative) * FAR
    largest = masked.detach().max(axis=1, keepdim=True)  # cancels out, and so has no part in the gradient
    exponentials = paddle.exp(masked - largest)
    return exponentials / exponentials.sum(axis=1, keepdim=True)


def _top1_terms(scores, target_scores):
    return F.sigmoid(scores - target_scores) + F.sigmoid(scores * scores)
