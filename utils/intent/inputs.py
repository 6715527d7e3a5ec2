"""What the network for purchase intent sees of sessions: numbers for each click, and for each clicked item. No Paddle.

The numbers of a click come from it and from the clicks before it. So those of a session's first clicks are the same
whether or not more clicks follow. How long a click is looked at is known with the next click: the last one's dwell time
is in no number.
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

OWN = ("log_gap", "log_position", "log_repeats", "log_since_item", "is_same_item", "distinct_share", "log_most_repeats",
       "log_span", "log_longest_gap", "mean_log_gap", "log_item_seconds", "hour_sin", "hour_cos", "weekday_sin",
       "weekday_cos", "is_same_category", "log_returns")
KNOWN = ("item_sessions", "item_buying", "item_bought", "category_sessions", "category_buying", "category_bought")
RATES = "item_buying", "item_bought", "category_buying", "category_bought"  # of these, the mean so far is one, too
CLICK_INPUTS = OWN + KNOWN + tuple(f"mean_{name}" for name in RATES)
PAIR_INPUTS = ("log_clicks", "clicks_share", "log_clicks_after", "is_last", "log_first_position", "log_seconds",
               "log_longest", "seconds_share", "log_session_clicks")
KNOTS = 64  # quantiles of the training sessions that an input is compared with
DAY, WEEK = 86400, 604800
THURSDAY = 3 * DAY  # 1 January 1970, seconds after a Monday's midnight


class Packed(NamedTuple):
    """Some sessions as the network reads them: every session's first click, then every second one, and so on.

    Rows are in descending order of length, as in batches.Batch.

    places : int64 [clicks], the clicks in this order, as positions in the sessions' flat arrays
    rows_per_step : list of int
    mirror : int64 [clicks], for each click the place in this order of the one that is as far from its session's end
    ends : int64 [sessions], each session's last click in this order
    """

    places: np.ndarray
    rows_per_step: list
    mirror: np.ndarray
    ends: np.ndarray


def pack(offsets):
    """The Packed of sessions with these offsets, int64 [sessions + 1]; each has a click at least."""
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    steps = np.arange(lengths[order[0]])
    rows_per_step = np.searchsorted(-lengths[order], -steps, side="left")
    starts = np.cumsum(rows_per_step) - rows_per_step
    time = np.repeat(steps, rows_per_step)
    row = np.arange(len(time)) - starts[time]
    from_end = lengths[order][row] - 1 - time
    ends = np.empty(len(lengths), np.int64)
    ends[order] = starts[lengths[order] - 1] + np.arange(len(order))
    return Packed(offsets[order][row] + time, rows_per_step.tolist(), starts[from_end] + row, ends)


def click_inputs(sessions, known):
    """The numbers of each click, by CLICK_INPUTS: float32 [clicks, CLICK_INPUTS].

    Seconds and counts come as log(1 + x). Hour and weekday are those of UTC.

    Parameters
    ----------
    sessions : sessions.IntentSessions
    known : dict of str to float64 arrays [clicks]
        What features.Counts.log_counts_and_rates says of them.
    """
    ids, offsets, times = sessions.ids, sessions.offsets, sessions.times
    session, position = _places(offsets)
    first = offsets[session]
    is_first = position == 0
    gap = np.where(is_first, 0.0, np.maximum(np.diff(times, prepend=times[:1]), 0))
    repeats, before = _earlier(session, ids)
    since = np.where(repeats > 0, times - times[before], 0.0)
    is_same = ~is_first & (ids == np.roll(ids, 1))
    is_same_category = ~is_first & (sessions.categories == np.roll(sessions.categories, 1))
    dwell = np.where(np.roll(is_first, -1), 0.0, np.roll(gap, -1))  # of each click, known with the next one
    item_seconds = _sums_before(session, ids, dwell)
    log_gap = np.log1p(gap)
    rates, clicks = [known[name] for name in RATES], position + 1
    sums, (most_repeats, longest_gap) = _running(
        offsets, np.stack([repeats == 0, log_gap, (repeats > 0) & ~is_same, *rates]), np.stack([repeats, gap]))
    day, week = 2 * np.pi * (times % DAY) / DAY, 2 * np.pi * ((times + THURSDAY) % WEEK) / WEEK
    columns = [log_gap, np.log1p(position), np.log1p(repeats), np.log1p(np.maximum(since, 0)), is_same,
               sums[0] / clicks, np.log1p(most_repeats), np.log1p(np.maximum(times - times[first], 0)),
               np.log1p(longest_gap), sums[1] / np.maximum(position, 1), np.log1p(item_seconds),
               np.sin(day), np.cos(day), np.sin(week), np.cos(week), is_same_category,
               np.log1p(sums[2]), *(known[name] for name in KNOWN), *(total / clicks for total in sums[3:])]
    return np.stack(columns, axis=1).astype(np.float32)


def pair_inputs(sessions, pairs):
    """The numbers of each item in its session, which know all of its clicks: float32 [pairs, PAIR_INPUTS].

    Parameters
    ----------
    sessions : sessions.IntentSessions
    pairs : features.Pairs
        Those of the sessions.
    """
    offsets, owners = sessions.offsets, pairs.owners
    position = np.arange(len(sessions.items)) - np.repeat(offsets[:-1], sessions.lengths())
    dwell = np.maximum(np.diff(sessions.times, append=sessions.times[-1:]), 0)
    dwell[offsets[1:] - 1] = 0
    clicks, seconds = np.bincount(pairs.of_clicks), np.bincount(pairs.of_clicks, dwell)
    longest = np.zeros(len(owners))
    np.maximum.at(longest, pairs.of_clicks, dwell)
    lengths, spans = sessions.lengths()[owners], np.add.reduceat(dwell, offsets[:-1])[owners]
    after = lengths - 1 - position[pairs.lasts]
    columns = [np.log(clicks), clicks / lengths, np.log1p(after), after == 0, np.log1p(position[pairs.firsts]),
               np.log1p(seconds), np.log1p(longest), seconds / np.maximum(spans, 1), np.log(lengths)]
    return np.stack(columns, axis=1).astype(np.float32)


def knots_of(inputs):
    """What `normal_scores` compares inputs with: of some sessions' inputs, float32 [rows, columns], the quantiles.

    Returns
    -------
    float32 [2, columns, KNOTS]
        Ascending quantiles, and what a number from the standard normal distribution is at the same share of it; a
        quantile that comes several times has the mean of these.
    """
    shares = (np.arange(KNOTS) + 0.5) / KNOTS
    scores = np.array([NormalDist().inv_cdf(share) for share in shares])
    quantiles = np.quantile(inputs, shares, axis=0, method="inverted_cdf").T
    knots = np.empty([2, *quantiles.shape], np.float32)
    for column, values in enumerate(quantiles.astype(np.float32)):
        distinct, of_knots, counts = np.unique(values, return_inverse=True, return_counts=True)
        knots[0, column], knots[1, column] = values, (np.bincount(of_knots, scores) / counts)[of_knots]
    return knots


def normal_scores(inputs, knots):
    """Inputs, float32 [rows, columns], as numbers of about a standard normal distribution, by knots of `knots_of`."""
    return np.stack([np.interp(column, quantiles, scores) for column, quantiles, scores in zip(inputs.T, *knots)],
                    axis=1).astype(np.float32)


def _places(offsets):
    """The session of each click, and its position there from 0: two int64 arrays."""
    session = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return session, np.arange(len(session)) - offsets[session]


def _by_item(session, ids):
    """The clicks ordered by session, item and time, and where in this order a group of one item begins, for each."""
    order = np.lexsort((ids, session))
    is_new = np.ones(len(ids), bool)
    is_new[1:] = (np.diff(session[order]) != 0) | (np.diff(ids[order]) != 0)
    starts = np.flatnonzero(is_new)
    return order, np.repeat(starts, np.diff(starts, append=len(ids)))


def _earlier(session, ids):
    """How many clicks on a click's item came before it in its session, and the last of them, or itself."""
    order, start = _by_item(session, ids)
    rank = np.arange(len(ids)) - start
    repeats, before = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    repeats[order] = rank
    before[order] = order[np.arange(len(ids)) - (rank > 0)]
    return repeats, before


def _sums_before(session, ids, values):
    """For each click the sum of float64 `values` over the clicks on its item before it in its session."""
    order, start = _by_item(session, ids)
    sums = np.cumsum(values[order]) - values[order]
    found = np.empty(len(ids))
    found[order] = sums - sums[start]
    return found


def _running(offsets, added, compared):
    """Of each session, the sums of some rows of numbers so far, and the largest of others: two float64 [rows, clicks].

    Click by click, so that more clicks, or other sessions, change nothing in how a number is rounded.
    """
    found = np.concatenate([added, compared]).astype(np.float64)
    sums, lengths = len(added), np.diff(offsets)
    for step in range(1, lengths.max(initial=1)):
        at = offsets[:-1][lengths > step] + step
        found[:sums, at] += found[:sums, at - 1]
        found[sums:, at] = np.maximum(found[sums:, at], found[sums:, at - 1])
    return found[:sums], found[sums:]
