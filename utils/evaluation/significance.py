"""How far figures can be trusted: intervals, and a test of two models on the same predictions.

Predictions of the same session depend on each other, so whole sessions are drawn, or change sides, together. Everything
is computed from sums over each session; nothing is evaluated again.
"""

import numpy as np

LEVEL = 0.95  # of the intervals
DRAWN_NUMBERS = 1 << 22  # random numbers that are held at once


def session_sums(values, lengths):
    """The sums of each session's predictions, and their number.

    Parameters
    ----------
    values : list of float or bool arrays [predictions]
        In the order of the sessions.
    lengths : int array [sessions]
        Clicks of each session; those without a prediction, of one click, are left out.

    Returns
    -------
    float64 array [sessions with predictions, values]
    int array [sessions with predictions]
    """
    counts = lengths[lengths > 1] - 1
    starts = np.cumsum(counts) - counts
    sums = [np.add.reduceat(np.asarray(of_metric, np.float64), starts) for of_metric in values]
    return np.stack(sums, axis=1), counts


def bootstrap_intervals(sums, counts, draws, seed):
    """95 % intervals of means over predictions, by drawing as many sessions with replacement.

    The percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3) of a cluster
    bootstrap (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8): a draw's mean is the
    sum over its sessions, divided by the number of their predictions. For differences of two models it is the paired
    bootstrap, as both have the same sessions in each draw.

    Parameters
    ----------
    sums : float64 array [sessions, metrics]
    counts : int array [sessions]
        As `session_sums` returns them.
    draws : int
    seed : int

    Returns
    -------
    float64 array [metrics, 2]
        The lower and the upper ends.
    """
    random, sessions = np.random.default_rng(seed), len(counts)
    both, means = np.column_stack([sums, counts]), []
    for rows in _parts(draws, sessions):
        drawn = random.integers(sessions, size=(rows, sessions), dtype=np.int32)
        times = np.stack([np.bincount(row, minlength=sessions) for row in drawn])
        totals = times @ both
        means.append(totals[:, :-1] / totals[:, -1:])
    tail = (1 - LEVEL) / 2
    return np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).T


def sign_flip_p_values(differences, draws, seed):
    """Two-sided p-values of mean differences of two models, by a randomisation test.

    If neither model were better, each session's difference could as well have the other sign. The p-value is the share
    of random signs that make the sum at least as large, with the signs as they are counted as one of them, so that it
    is never 0 (Smucker et al., "A comparison of statistical significance tests for information retrieval evaluation",
    CIKM 2007; Phipson and Smyth, "Permutation p-values should never be zero", 2010).

    Parameters
    ----------
    differences : float64 array [sessions, metrics]
        The sums over each session of the one model, less those of the other.
    draws : int
    seed : int

    Returns
    -------
    float64 array [metrics]
    """
    random, sessions = np.random.default_rng(seed), len(differences)
    total, reached = differences.sum(axis=0), np.zeros(differences.shape[1])
    enough = np.abs(total) - 1e-9 * np.abs(differences).sum(axis=0)  # sums in another order round differently
    for rows in _parts(draws, sessions):
        is_flipped = random.integers(2, size=(rows, sessions), dtype=np.int8)
        reached += (np.abs(total - 2 * (is_flipped.astype(np.float64) @ differences)) >= enough).sum(axis=0)
    return (1 + reached) / (1 + draws)


def _parts(draws, sessions):
    """How many draws are made at a time: a list of int whose sum is `draws`."""
    at_once = max(1, DRAWN_NUMBERS // sessions)
    return [min(at_once, draws - start) for start in range(0, draws, at_once)]
