"""How networks and a memory answer together: the mean of their probabilities, by their weights.

    p(item) = sum over the networks of weight * softmax(scores)[item] + weight of the memory * share[item]

returns.py then changes what the items get that the session has clicked. All is computed as logarithms, where nothing
gets so small that two items become equal. Where no neighbour is found, the networks' weights are scaled up to a sum of
1.
"""

import numpy as np

from utils.model.returns import add_returns

TINY = 1e-30  # float32 has no numbers much smaller than this with all digits


def log_sum_exp(scores):
    """ln of the sum of exp(score) in each row of float32 [rows, items], a float64 array [rows].

    Each row must lie in memory item after item; then its sum doesn't depend on the other rows.
    """
    return _exp(scores)[1]


def mean_of_networks(scores, weights):
    """ln of the weighted mean of several networks' softmax.

    Parameters
    ----------
    scores : list of float32 arrays [rows, items]
        Each network's, with the rows as in `log_sum_exp`.
    weights : list of float
        Each network's, > 0; only their ratios count.

    Returns
    -------
    float32 array [rows, items]
    """
    mean, offsets = np.zeros_like(scores[0]), []
    for each, weight in zip(scores, weights):
        exps, totals, largest = _exp(each)
        offsets.append(np.log(weight / sum(weights)) - totals)
        exps *= np.exp(offsets[-1] + largest).astype(np.float32)[:, None]
        mean += exps
    rows, items = np.nonzero(mean < TINY)
    mean[rows, items] = 1
    mean = np.log(mean, out=mean)
    if len(rows):  # in logarithms from the start: exp would make them 0, and so equal
        mean[rows, items] = np.logaddexp.reduce([each[rows, items] + offset[rows]
                                                 for each, offset in zip(scores, offsets)])
    return mean


def _exp(scores):
    """exp(score - the row's largest), ln of the row's sum of exp(score), and the row's largest."""
    largest = scores.max(axis=1, keepdims=True)
    exps = scores - largest
    np.exp(exps, out=exps)
    largest = largest[:, 0].astype(np.float64)
    return exps, np.log(exps.sum(axis=1).astype(np.float64)) + largest, largest


def mix(scores, weights, memory=None, found=None, recent=None, log_sums=log_sum_exp):
    """The scores of a mixture, from which its probabilities follow.

    Parameters
    ----------
    scores : list of float32 arrays [rows, items]
        Each network's, with the rows as in `log_sum_exp`; with one network they are changed.
    weights : list of float
        Theirs; with that of the memory they sum to 1.
    memory : neighbours_file.Memory, optional
    found : (items, scores, offsets), optional
        As `Neighbours.shares_of` returns them.
    recent : int32 array [rows, RECENT], optional
        As `returns.recent_clicks` returns them. Both are there with a memory.
    log_sums : function
        Does what `log_sum_exp` does.

    Returns
    -------
    mixed : float32 array [rows, items]
        One network's scores stay as they are: a difference would round away what tells close ones apart.
    totals : float64 array [rows]
        What to subtract from a row for ln of the probability.
    """
    mixed = scores[0] if len(scores) == 1 else mean_of_networks(scores, weights)
    totals = log_sums(mixed) if len(scores) == 1 else np.zeros(len(mixed))
    if memory is None:
        return mixed, totals
    if memory.weight:
        add_neighbours(mixed, totals, memory.weight / sum(weights), found)
        has_neighbours = np.diff(found[2]) > 0
        totals = np.where(has_neighbours, totals - np.log(sum(weights)), totals)
    return mixed, add_returns(mixed, totals, recent, memory.returns)


def add_neighbours(scores, totals, odds, found):
    """Raise the scores of the items that neighbours hold, in place.

    A row's scores s may be a network's own, with ln of their sum of exp as the total t: then the mixture's probability
    is exp(s' - t) times the weight of the network, where s' = ln(exp(s) + odds * share * exp(t)) for these items, and
    s' = s, to the last bit, for all others.

    Parameters
    ----------
    scores : float32 array [rows, items]
    totals : float64 array [rows]
    odds : float
        The weight of the memory divided by that of the networks.
    found : (items, shares, offsets)
        As `Neighbours.shares_of` returns them.
    """
    items, shares, offsets = found
    row_of = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    at = row_of, items
    scores[at] = np.logaddexp(scores[at], np.log(odds * shares.astype(np.float64)) + totals[row_of])
