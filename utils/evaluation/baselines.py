"""What a trained network must beat: popularity, transitions and nearest neighbours, fitted on the training sessions.

Each `*_scores` function fits one method. It returns a function that takes a session's clicks so far, int array
[clicks], oldest first, and returns the scores of all items as the next click, float64 [items]. Items that a method
knows nothing about rank behind all others, by popularity. Equal scores are ordered by popularity too, so that only
equally popular items stay tied.
"""

from typing import NamedTuple

import numpy as np

from utils.evaluation.metrics import target_ranks
from utils.model.neighbours import latest_clicks
from utils.model.top_k import top_k

# A score grows by this times the item's share of the clicks: enough to order equal scores, and hardly any others.
TIE_WEIGHT = 1e-6


def _click_shares(sessions, item_count):
    """Each item's share of the training clicks, float64 [items]: its popularity."""
    return np.bincount(sessions.items, minlength=item_count) / len(sessions.items)


def popularity_scores(sessions, item_count):
    """POP: an item's score is its share of the training clicks in any session. Hidasi et al., ICLR 2016, section 4."""
    shares = _click_shares(sessions, item_count)
    return lambda clicks: shares


def session_popularity_scores(sessions, item_count):
    """S-POP: how often this session has clicked the item so far; ties by POP. Hidasi et al., ICLR 2016, section 4."""
    popularity = 0.5 * _click_shares(sessions, item_count)  # less than one click
    return lambda clicks: np.bincount(clicks, minlength=item_count) + popularity


def transition_scores(sessions, item_count):
    """First-order transitions: how often the item followed the session's last click in training; ties by POP.

    This is a Markov chain, the MC of Ludewig and Jannach, "Evaluation of session-based recommendation algorithms",
    UMUAI 2018.
    """
    is_last = np.zeros(len(sessions.items), bool)
    is_last[sessions.offsets[1:] - 1] = True
    before = np.flatnonzero(~is_last)
    before = before[np.argsort(sessions.items[before], kind="stable")]
    starts = np.searchsorted(sessions.items[before], np.arange(item_count + 1))
    followers = sessions.items[before + 1]
    popularity = 0.5 * _click_shares(sessions, item_count)  # less than one transition

    def scores(clicks):
        last = clicks[-1]
        return np.bincount(followers[starts[last]:starts[last + 1]], minlength=item_count) + popularity

    return scores


def item_neighbour_scores(sessions, item_count, regularisation=20.0, alpha=0.5):
    """Item-KNN: how similar the item is to the last click, by the sessions that hold both.

    similarity(i, j) = n_ij / ((n_i + regularisation)^alpha (n_j + regularisation)^(1 - alpha))

    Here n_i is the number of training sessions that hold item i, and n_ij of those that hold both. With alpha = .5 this
    is the cosine of the items' binary session vectors, made smaller for rare items. An item is not its own neighbour:
    an immediately repeated click is predicted by popularity only.

    Hidasi et al., ICLR 2016, section 4, give the cosine and the regularisation. The authors' code, CoOccurence in
    baselines.py of hidasib/GRU4Rec, has the same formula and defaults. But it counts clicks instead of sessions (n_i
    and n_j are clicks, and a session adds one to n_ij for each click on i), and it keeps only the nearest 100 of each
    item.

    Parameters
    ----------
    sessions : sessions.Sessions
        The training sessions.
    item_count : int
    regularisation : float
        The formula's, >= 0, in sessions: reduces chance similarities of rare items.
    alpha : float
        0 to 1; how much the support of the last click counts instead of the item's. Only the item's changes ranks.
    """
    index = index_sessions(sessions, item_count)
    shares = _click_shares(sessions, item_count)
    support = np.maximum(np.diff(index.item_starts), 1) + regularisation  # an item without sessions has no similar ones
    item_factors = (1 + TIE_WEIGHT * shares) / support ** (1 - alpha)

    def scores(clicks):
        last = clicks[-1]
        together = np.bincount(index.items_of(index.sessions_with(last)), minlength=item_count)
        together[last] = 0
        return np.where(together > 0, together * item_factors / support[last] ** alpha, shares - 1)

    return scores


def session_neighbour_scores(sessions, item_count, neighbours=500, sample_size=5000, decay="harmonic", idf_weight=1.0):
    """V-SKNN: what was clicked in sessions like this one; the newest clicks count most for the similarity.

    1. Candidates are the `sample_size` newest training sessions that hold an item of this session.
    2. A candidate's similarity is the sum of w over the items it shares with this session, each counted once.
    3. Neighbours are the `neighbours` most similar candidates; if some are equally similar, the newer ones are taken.
       Each neighbour adds to the score of each item it holds
       similarity * d * (1 + idf_weight * ln(sessions / sessions that hold the item)).

    A click's step s is 1 for the latest of the session's n clicks, 2 for the one before it, and so on. For w it is the
    step of the latest click on the item, for d that of the latest click on any item of the neighbour:

    - harmonic: w = 1 / s, d = 1 / s
    - linear: w = (n - s + 1) / n, d = max(0, 1 - s / 10), so that only the last nine clicks lead to scores

    Linear w is from the paper, Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", UMUAI
    2018. Linear d and the inverse document frequency are from session-rec, the framework of Ludewig et al.,
    "Performance comparison of neural and non-neural approaches to session-based recommendation", RecSys 2019. Harmonic
    decay gave better results on a validation split of RSC15. The candidates come from an index of each item's newest
    sessions, as in VMIS-kNN, Kersbergen et al., "Serenade - low-latency session-based recommendation in e-commerce at
    scale", SIGMOD 2022; the index changes no score.

    Parameters
    ----------
    sessions : sessions.Sessions
        The training sessions, the newest last.
    item_count : int
    neighbours, sample_size : int
        >= 1.
    decay : {"harmonic", "linear"}
    idf_weight : float
        >= 0; 0 treats rare and frequent items alike.
    """
    index = index_sessions(sessions, item_count)
    shares = _click_shares(sessions, item_count)
    support = np.maximum(np.diff(index.item_starts), 1)  # an item without sessions is in no neighbour
    item_factors = (1 + TIE_WEIGHT * shares) * (1 + idf_weight * np.log(len(sessions.lengths) / support))

    def scores(clicks):
        items, steps = latest_clicks(clicks)
        numbers, similarity, latest = candidates(index, items, *decays(steps, len(clicks), decay), sample_size)
        if len(numbers) > neighbours:
            nearest = len(numbers) - 1 - np.argsort(-similarity[::-1], kind="stable")[:neighbours]
            numbers, similarity, latest = numbers[nearest], similarity[nearest], latest[nearest]
        weights = np.repeat(similarity * latest, index.lengths_of(numbers))
        totals = np.bincount(index.items_of(numbers), weights, minlength=item_count)
        return np.where(totals > 0, totals * item_factors, shares - 1)

    return scores


def candidates(index, items, weights, decays, sample_size):
    """The newest training sessions that hold one of `items`, in time order.

    Parameters
    ----------
    index : SessionIndex
    items : list of int
        The distinct items of the current session, the latest first.
    weights, decays : float arrays [items]
        w and d in `session_neighbour_scores`.
    sample_size : int

    Returns
    -------
    numbers : int64 array [candidates]
        At most `sample_size`, ascending.
    similarity : float64 array [candidates]
        The sum of `weights` over the shared items.
    decay : float64 array [candidates]
        The decay of the latest shared item.
    """
    lists = [index.sessions_with(item)[-sample_size:] for item in items]
    item_numbers = np.repeat(np.arange(len(items)), [len(numbers) for numbers in lists])
    numbers, first, inverse = np.unique(np.concatenate(lists), return_index=True, return_inverse=True)
    similarity = np.bincount(inverse, weights[item_numbers])
    newest = slice(-sample_size, None)
    return numbers[newest], similarity[newest], decays[item_numbers[first[newest]]]


class SessionIndex(NamedTuple):
    """The distinct items of each session, and the sessions that hold each item.

    items : int32 [pairs], session i holds items[session_starts[i]:session_starts[i + 1]], ascending
    session_starts : int64 [sessions + 1]
    sessions : int32 [pairs], item i is in sessions[item_starts[i]:item_starts[i + 1]], ascending
    item_starts : int64 [items + 1]
    """

    items: np.ndarray
    session_starts: np.ndarray
    sessions: np.ndarray
    item_starts: np.ndarray

    def sessions_with(self, item):
        """The sessions that hold `item`, int32 array, ascending."""
        return self.sessions[self.item_starts[item]:self.item_starts[item + 1]]

    def lengths_of(self, numbers):
        """How many distinct items each of the sessions `numbers` holds."""
        return self.session_starts[numbers + 1] - self.session_starts[numbers]

    def items_of(self, numbers):
        """The distinct items of the sessions `numbers`, one session after another, int32 array."""
        lengths = self.lengths_of(numbers)
        ends = np.cumsum(lengths)
        return self.items[np.repeat(self.session_starts[numbers + 1] - ends, lengths) + np.arange(lengths.sum())]


def index_sessions(sessions, item_count):
    """A SessionIndex of `sessions`."""
    session_count = len(sessions.lengths)
    pairs = np.repeat(np.arange(session_count) * item_count, sessions.lengths) + sessions.items
    pairs = np.unique(pairs)
    numbers, items = (pairs // item_count).astype(np.int32), (pairs % item_count).astype(np.int32)
    by_item = np.argsort(items, kind="stable")
    return SessionIndex(items, np.searchsorted(numbers, np.arange(session_count + 1)),
                        numbers[by_item], np.searchsorted(items[by_item], np.arange(item_count + 1)))


def baseline_ranks_and_best(scores_after, sessions, k=0, ties="standard", description="baseline"):
    """The rank of each prediction's target among all items, and the best items, by a fitted baseline.

    Parameters
    ----------
    scores_after : function
        Takes a session's clicks so far; the functions above return it.
    sessions : sessions.Sessions
    k : int
        How many of the best items to find.
    ties : {"standard", "conservative", "median"}
    description : str
        For the progress bar.

    Returns
    -------
    float64 array [predictions]
        In the order of the clicks in `sessions`.
    int32 array [predictions, k or the number of items]
        The best first; among equal scores the lower index comes first.
    """
    from utils.runlog import progress  # the progress bar loads for this alone: a memory of neighbours has no use for it
    ranks, best = [], []
    with progress(sessions.predictions, description) as bar:
        for start, end in zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist()):
            for position in range(start + 1, end):  # one row at a time stays in the cache; a batch of rows would not
                scores = scores_after(sessions.items[start:position])
                target = sessions.items[position]
                ranks.append(target_ranks(scores[None], scores[target:target + 1], ties)[0])
                best.append(top_k(scores, k)[0].astype(np.int32) if k else ())
            bar.update(end - start - 1)
    return np.array(ranks), np.array(best, np.int32)


def decays(steps, click_count, decay):
    """w and d in `session_neighbour_scores`, float64 arrays [steps]."""
    if decay == "harmonic":
        return 1 / steps, 1 / steps
    return (click_count - steps + 1) / click_count, np.maximum(0, 1 - steps / 10)
