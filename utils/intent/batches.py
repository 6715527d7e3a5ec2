"""Batches of sessions for the network for purchase intent, packed as it reads them. No Paddle."""

from typing import NamedTuple

import numpy as np

from utils.intent.features import pairs_of
from utils.intent.inputs import click_inputs, normal_scores, pack, pair_inputs


class IntentBatch(NamedTuple):
    """Sessions packed as inputs.Packed; places are those of clicks in its order.

    rows : int64 [clicks], of the items' matrix
    categories : int64 [clicks]
    click_inputs : float32 [clicks, CLICK_INPUTS]
    rows_per_step : list of int
    mirror : int64 [clicks]
    ends : int64 [sessions], places of the last clicks
    sessions_of_clicks : int64 [clicks]
    click_weights : float32 [clicks], 1 shared by all clicks, every session's as much as another one's
    pair_inputs : float32 [pairs, PAIR_INPUTS]
    pair_last, pair_end : int64 [pairs], places of the last click on the item and of the session's last one
    targets : float32 [sessions], 1 where a session buys
    bought : float32 [pairs], 1 where it buys the item
    pair_buys : float32 [pairs], 1 where the session buys
    """

    rows: np.ndarray
    categories: np.ndarray
    click_inputs: np.ndarray
    rows_per_step: list
    mirror: np.ndarray
    ends: np.ndarray
    sessions_of_clicks: np.ndarray
    click_weights: np.ndarray
    pair_inputs: np.ndarray
    pair_last: np.ndarray
    pair_end: np.ndarray
    targets: np.ndarray
    bought: np.ndarray
    pair_buys: np.ndarray


def make_batch(sessions, counts, knots, min_support, folds=None):
    """The IntentBatch of IntentSessions.

    Parameters
    ----------
    sessions : sessions.IntentSessions
    counts : features.Counts
    knots : pair of float32 arrays
        Those of inputs.knots_of for clicks and for pairs.
    min_support : int
        As of settings.IntentSettings.
    folds : int64 [sessions], optional
        As of Counts.log_counts_and_rates.
    """
    packed, pairs = pack(sessions.offsets), pairs_of(sessions)
    places = np.empty(len(packed.places), np.int64)
    places[packed.places] = np.arange(len(places))
    support = counts.items[:, 0].sum(axis=0)
    support[-1] = 0
    rows = np.where(support[sessions.items] >= max(min_support, 1), sessions.items, len(support) - 1)
    owners = np.repeat(np.arange(len(sessions)), sessions.lengths())
    inputs = normal_scores(click_inputs(sessions, counts.log_counts_and_rates(sessions, folds)), knots[0])
    of_pairs = normal_scores(pair_inputs(sessions, pairs), knots[1])
    weights = 1 / (sessions.lengths() * len(sessions))
    return IntentBatch(rows[packed.places].astype(np.int64), sessions.categories[packed.places].astype(np.int64),
                       inputs[packed.places], packed.rows_per_step, packed.mirror, packed.ends, owners[packed.places],
                       weights[owners[packed.places]].astype(np.float32), of_pairs,
                       places[pairs.lasts], packed.ends[pairs.owners], sessions.buys.astype(np.float32),
                       sessions.bought[pairs.lasts].astype(np.float32),
                       sessions.buys[pairs.owners].astype(np.float32))


def epoch_batches(sessions, size, group, random):
    """Yield the numbers of the sessions of each step of an epoch, int64 arrays.

    Sessions come in random order; those of `group` neighbouring batches are sorted by length together, so that a batch
    has fewer steps with few rows, and these batches come in random order.
    """
    lengths, order = sessions.lengths(), random.permutation(len(sessions))
    for start in range(0, len(order), group * size):
        members = order[start:start + group * size]
        members = members[np.argsort(lengths[members], kind="stable")]
        for cut in random.permutation(np.arange(0, len(members), size)):
            yield members[cut:cut + size]


def blocks(sessions, clicks):
    """Yield numbers of sessions, the longest first, so that a block has about so many clicks, or a session."""
    lengths = sessions.lengths()
    order = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(lengths[order]) - lengths[order]
    for members in np.split(order, np.flatnonzero(np.diff(starts // clicks)) + 1):
        yield members
