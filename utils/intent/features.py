"""Hand-made features of sessions and of the items in them, computed from clicks alone.

They are of the kind with which the RecSys Challenge 2015 was won: Romov and Sokolov, "RecSys Challenge 2015: ensemble
learning with categorical features", 2015, tables 1 and 2.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from utils.data.clicks import firsts_of_runs
from utils.intent.sessions import choose_sessions

INNER_FOLDS = 10
BLOCK = 1 << 18  # sessions
DAY, HOUR, THURSDAY = 86_400, 3_600, 3  # seconds; 1970 began on a Thursday
SMOOTHING = 20.0  # sessions that an item's rate counts at the mean rate


@dataclass
class Pairs:
    """Each item of each session once, in the order of the sessions and of the items' first clicks.

    Attributes
    ----------
    owners : int64 array [pairs], the session's number
    of_clicks : int64 array [clicks], the pair that each click is of
    firsts, lasts : int64 arrays [pairs], the first and the last of its clicks
    """

    owners: np.ndarray
    of_clicks: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray


def pairs_of(sessions):
    """The Pairs of IntentSessions."""
    owners = np.repeat(np.arange(len(sessions)), sessions.lengths())
    order = np.lexsort((sessions.ids, owners))  # stable: the clicks of an item stay in order
    starts = firsts_of_runs(owners[order] * np.int64(len(sessions.item_ids)) + sessions.ids[order])
    firsts, lasts = order[starts], order[np.append(starts[1:], len(order)) - 1]
    by_first = np.argsort(firsts)
    numbers = np.empty(len(starts), np.int64)
    numbers[by_first] = np.arange(len(starts))
    of_clicks = np.empty(len(order), np.int64)
    of_clicks[order] = np.repeat(numbers, np.diff(starts, append=len(order)))
    return Pairs(owners[firsts[by_first]], of_clicks, firsts[by_first], lasts[by_first])


@dataclass
class Counts:
    """How often the items and categories of training sessions were clicked and bought, to compute rates from.

    Counts are kept for each part of the training sessions. The features of a training session are computed without its
    own part: else they would tell what it bought.

    Attributes
    ----------
    items : float64 array [parts, 3, items + 1]
        Sessions with the item, those of them that buy anything, those that buy it; last, all unknown items together.
    categories : float64 array [parts, 3, categories + 1]
        The same of categories.
    folds : int64 array [training sessions], optional
        The part of each.
    """

    items: np.ndarray
    categories: np.ndarray
    folds: np.ndarray | None = None

    @cached_property
    def _totals(self):
        """The counts of all parts, their sums, and the sums of each part: of items, and of categories."""
        totals = [(counts.sum(axis=0), counts.sum(axis=2)) for counts in (self.items, self.categories)]
        return [(total, of_parts.sum(axis=0), of_parts) for total, of_parts in totals]

    def log_counts_and_rates(self, sessions, folds=None):
        """What is known of each click's item and category.

        Parameters
        ----------
        sessions : IntentSessions
        folds : int64 array [sessions], optional
            The part of each, whose counts are left out: `self.folds` for the training sessions.

        Returns
        -------
        dict of str to float64 arrays [clicks]
            item_sessions and category_sessions, the logarithm of its share of all; item_buying, item_bought,
            category_buying and category_bought, the smoothed log-odds of the rate at which sessions with it buy, or buy
            it, less those of the mean rate.
        """
        found = {}
        for name, counts, values, (total, overall, of_parts) in (
                ("item", self.items, sessions.items, self._totals[0]),
                ("category", self.categories, sessions.categories, self._totals[1])):
            of_click = total[:, values]
            if folds is not None:
                own = np.repeat(folds, sessions.lengths())
                of_click = of_click - counts[own, :, values].T
                overall = (overall - of_parts)[own].T
            else:
                overall = overall[:, None]
            found[f"{name}_sessions"] = np.log((of_click[0] + 1) / (overall[0] + 1))
            for place, what in ((1, "buying"), (2, "bought")):
                mean = np.clip(overall[place] / np.maximum(overall[0], 1), 1e-6, 1 - 1e-6)
                rate = (of_click[place] + SMOOTHING * mean) / (of_click[0] + SMOOTHING)
                found[f"{name}_{what}"] = _log_odds(rate) - _log_odds(mean)
        return found


def count(training, item_count, category_count, seed):
    """The Counts of IntentSessions, in INNER_FOLDS parts that `seed` draws."""
    folds = np.random.default_rng(seed).integers(INNER_FOLDS, size=len(training))
    return Counts(_counts_by_fold(training, training.items, item_count + 1, folds),
                  _counts_by_fold(training, training.categories, category_count + 1, folds), folds)


def _counts_by_fold(training, values, size, folds):
    """The counts of the items or categories `values`, int array [clicks] of numbers below `size`, as in Counts."""
    owners = np.repeat(np.arange(len(training)), training.lengths())
    order = np.lexsort((values, owners))
    starts = firsts_of_runs(owners[order] * np.int64(size) + values[order])
    owners, values = owners[order[starts]], values[order[starts]]
    bought = np.maximum.reduceat(training.bought[order], starts)
    places = folds[owners] * size + values
    counts = [np.bincount(places, weights, INNER_FOLDS * size).reshape(INNER_FOLDS, size)
              for weights in (None, training.buys[owners], bought)]
    return np.stack(counts, axis=1).astype(np.float64)


def _log_odds(rate):
    rate = np.clip(rate, 1e-9, 1 - 1e-9)
    return np.log(rate / (1 - rate))


def features_of(sessions, counts, folds=None):
    """The features of sessions and of the items in them.

    Parameters
    ----------
    sessions : IntentSessions
    counts : Counts
        Of training sessions with the same vocabularies.
    folds : int64 array [sessions], optional
        `counts.folds`, if these are the training sessions.

    Returns
    -------
    session_features : float32 array [sessions, len(session_names)]
    pair_features : float32 array [pairs, len(pair_names)]
        In the order of `pairs_of(sessions)`; its session's features are the last columns.
    session_names, pair_names : lists of str
    """
    pairs = pairs_of(sessions)
    dwell = _dwell_times(sessions)
    known = counts.log_counts_and_rates(sessions, folds)
    of_session = _session_columns(sessions, pairs, dwell, known)
    of_pair = _pair_columns(sessions, pairs, dwell, known)
    session_features = np.stack(list(of_session.values()), axis=1).astype(np.float32)
    pair_features = np.concatenate([np.stack(list(of_pair.values()), axis=1).astype(np.float32),
                                    session_features[pairs.owners]], axis=1)
    return session_features, pair_features, list(of_session), [*of_pair, *of_session]


def session_features(sessions, counts, folds=None):
    """The session features of `features_of` alone, a block of sessions at a time, which takes less memory."""
    blocks = []
    for first in range(0, len(sessions), BLOCK):
        numbers = np.arange(first, min(first + BLOCK, len(sessions)))
        block = choose_sessions(sessions, numbers)
        known = counts.log_counts_and_rates(block, None if folds is None else folds[numbers])
        columns = _session_columns(block, pairs_of(block), _dwell_times(block), known)
        blocks.append(np.stack(list(columns.values()), axis=1).astype(np.float32))
    return np.concatenate(blocks)


def _dwell_times(sessions):
    """Seconds from each click to the next one of its session, 0 for the last: float64 [clicks]."""
    dwell = np.diff(sessions.times, append=0)
    dwell[sessions.offsets[1:] - 1] = 0
    return dwell


def _session_columns(sessions, pairs, dwell, known):
    """Names and columns [sessions] of the sessions' features."""
    starts, lasts = sessions.offsets[:-1], sessions.offsets[1:] - 1
    lengths = sessions.lengths()
    pair_clicks = np.bincount(pairs.of_clicks)
    pair_starts = firsts_of_runs(pairs.owners)
    distinct = np.diff(pair_starts, append=len(pairs.owners))
    most_clicks = np.maximum.reduceat(pair_clicks, pair_starts)
    begin, end = sessions.times[starts], sessions.times[lasts]
    new_category = np.append(True, sessions.categories[1:] != sessions.categories[:-1])
    new_category[starts] = True
    repeats = np.append(False, sessions.ids[1:] == sessions.ids[:-1])
    repeats[starts] = False
    columns = {
        "log_clicks": np.log(lengths), "log_items": np.log(distinct), "clicks_an_item": lengths / distinct,
        "most_clicks_on_an_item": most_clicks,
        "items_clicked_again": np.add.reduceat((pair_clicks > 1).astype(int), pair_starts),
        "repeats_in_a_row": np.add.reduceat(repeats.astype(int), starts),
        "log_duration": np.log1p(end - begin), "log_mean_dwell": np.log1p((end - begin) / np.maximum(lengths - 1, 1)),
        "log_longest_dwell": np.log1p(np.maximum.reduceat(dwell, starts)),
        "log_shortest_dwell": np.log1p(_shortest(dwell, sessions)),
        "log_last_dwell": np.log1p(dwell[np.maximum(lasts - 1, starts)]),
        "hour": begin % DAY / HOUR, "hour_sine": np.sin(2 * np.pi * end / DAY),
        "hour_cosine": np.cos(2 * np.pi * end / DAY), "weekday": (begin // DAY + THURSDAY) % 7, "day": begin / DAY,
        "category_changes": np.add.reduceat(new_category.astype(int), starts),
        "first_category": sessions.categories[starts], "last_category": sessions.categories[lasts],
        "last_item_clicks": pair_clicks[pairs.of_clicks[lasts]],
        "last_item_is_first": sessions.ids[lasts] == sessions.ids[starts],
    }
    for name, values in known.items():
        columns |= {f"{name}_mean": np.add.reduceat(values, starts) / lengths,
                    f"{name}_max": np.maximum.reduceat(values, starts),
                    f"{name}_min": np.minimum.reduceat(values, starts), f"{name}_first": values[starts],
                    f"{name}_last": values[lasts]}
    return columns


def _shortest(dwell, sessions):
    """The shortest time between two clicks of each session, 0 where there is one click: float64 [sessions]."""
    others = dwell.copy()
    others[sessions.offsets[1:] - 1] = np.inf
    shortest = np.minimum.reduceat(others, sessions.offsets[:-1])
    return np.where(np.isinf(shortest), 0, shortest)


def _pair_columns(sessions, pairs, dwell, known):
    """Names and columns [pairs] of the features of items in sessions."""
    starts, lasts = sessions.offsets[:-1][pairs.owners], sessions.offsets[1:][pairs.owners] - 1
    clicks = np.bincount(pairs.of_clicks)
    total_dwell = np.bincount(pairs.of_clicks, dwell)
    pair_starts = firsts_of_runs(pairs.owners)
    most = np.maximum.reduceat(clicks, pair_starts)[pairs.owners]
    longest = np.maximum.reduceat(total_dwell, pair_starts)[pairs.owners]
    all_dwell = np.bincount(pairs.owners, total_dwell)[pairs.owners]
    columns = {
        "clicks": clicks, "share_of_clicks": clicks / (lasts - starts + 1), "is_most_clicked": clicks == most,
        "is_first": pairs.firsts == starts, "is_last": pairs.lasts == lasts,
        "place_of_first_click": pairs.firsts - starts, "clicks_after_first": lasts - pairs.firsts,
        "clicks_after_last": lasts - pairs.lasts,
        "relative_place": (pairs.lasts - starts) / np.maximum(lasts - starts, 1),
        "log_dwell": np.log1p(total_dwell), "share_of_dwell": total_dwell / np.maximum(all_dwell, 1e-9),
        "is_longest": total_dwell == longest,
        "log_time_to_end": np.log1p(sessions.times[lasts] - sessions.times[pairs.lasts]),
        "log_time_from_start": np.log1p(sessions.times[pairs.firsts] - sessions.times[starts]),
        "log_span": np.log1p(sessions.times[pairs.lasts] - sessions.times[pairs.firsts]),
        "items": np.bincount(pairs.owners)[pairs.owners], "category": sessions.categories[pairs.firsts],
    }
    for name, values in known.items():
        columns[name] = values[pairs.firsts]
    return columns
