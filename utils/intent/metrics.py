"""How good predictions of purchases are: of the sessions that buy, and of the items that they buy."""

from dataclasses import dataclass

import numpy as np

from utils.data.clicks import firsts_of_runs
from utils.evaluation.significance import LEVEL
from utils.files import InputError

BINS = 10  # of the calibration, with equally many sessions
METRICS = ("auc", "average_precision", "precision", "recall", "calibration_error", "item_auc", "jaccard", "score",
           "share_of_maximum")


@dataclass
class Outcomes:
    """What sessions bought.

    Attributes
    ----------
    buys : bool array [sessions]
    bought_count : int array [sessions]
        The different items that each buys, clicked or not.
    owners : int64 array [pairs], ascending
        Each pair is an item clicked in the session of this number; each session has one at least.
    bought : bool array [pairs]
    """

    buys: np.ndarray
    bought_count: np.ndarray
    owners: np.ndarray
    bought: np.ndarray


@dataclass
class Predictions:
    """What is predicted of sessions and of their pairs.

    Attributes
    ----------
    session_scores : float array [sessions], the probability that the session buys
    pair_scores : float array [pairs], the probability that the item is bought if the session buys
    predicted : bool array [sessions], which sessions are said to buy
    chosen : bool array [pairs], which items each session would buy: one at least
    """

    session_scores: np.ndarray
    pair_scores: np.ndarray
    predicted: np.ndarray
    chosen: np.ndarray


def outcomes_of(sessions, pairs):
    """The Outcomes of IntentSessions and their features.Pairs."""
    return Outcomes(sessions.buys, sessions.bought_count, pairs.owners, sessions.bought[pairs.firsts])


def decide(owners, session_scores, pair_scores, session_threshold, item_threshold):
    """The Predictions at two thresholds: a session's items are those that reach theirs, or else its best one."""
    starts = firsts_of_runs(owners)
    best = np.maximum.reduceat(pair_scores, starts)
    is_best = pair_scores == best[owners]
    place = np.cumsum(is_best)
    is_best &= place == place[starts][owners] + ~is_best[starts][owners]  # the first of equally good ones
    return Predictions(session_scores, pair_scores, session_scores >= session_threshold,
                       (pair_scores >= item_threshold) | is_best)


def _jaccard_of_sessions(outcomes, chosen):
    """Of the items chosen and the items bought, the share that is both: float64 [sessions]; 0 where nothing is bought.
    """
    sessions = len(outcomes.buys)
    hits = np.bincount(outcomes.owners, chosen & outcomes.bought, sessions)
    union = np.bincount(outcomes.owners, chosen, sessions) + outcomes.bought_count - hits
    return hits / union


def tune_thresholds(outcomes, session_scores, pair_scores, rounds=10):
    """The thresholds with the highest score of the challenge, to be found on validation sessions, never on test ones.

    In turn, the threshold of the sessions is the best for the items chosen, and that of the items the best for the
    sessions predicted, until neither changes. Each takes one sort, since the score changes by a known amount with each
    session or item that is added.

    Parameters
    ----------
    outcomes : Outcomes
    session_scores, pair_scores : float arrays [sessions], [pairs]
        As in Predictions.

    Returns
    -------
    session_threshold, item_threshold : float
    """
    gains_of_pairs = _gains_of_pairs(outcomes, pair_scores)
    item_threshold = _best_threshold(pair_scores, gains_of_pairs)
    session_threshold = None
    for _ in range(rounds):
        chosen = decide(outcomes.owners, session_scores, pair_scores, 0, item_threshold).chosen
        new = _best_threshold(session_scores, _gains_of_sessions(outcomes, chosen))
        if new == session_threshold:
            break
        session_threshold = new
        predicted = (session_scores >= session_threshold)[outcomes.owners]
        item_threshold = _best_threshold(pair_scores, np.where(predicted, gains_of_pairs, 0))
    return session_threshold, item_threshold


def _gains_of_sessions(outcomes, chosen):
    """What the challenge's score gains by each session that is said to buy its `chosen` items: float64 [sessions].

    With S the sessions, of which Sb buy: |Sb| / |S| and the Jaccard similarity of the items if it buys, otherwise
    -|Sb| / |S| (https://2015.recsyschallenge.com/challenge.html, "Evaluation Measure").
    """
    rate = outcomes.buys.mean()
    return np.where(outcomes.buys, rate + _jaccard_of_sessions(outcomes, chosen), -rate)


def _gains_of_pairs(outcomes, pair_scores):
    """What its session's Jaccard similarity gains when an item is chosen after all with higher scores: float64 [pairs].

    The best item of each session is chosen at any threshold, so it gains nothing.
    """
    order = np.lexsort((-pair_scores, outcomes.owners))
    owners, bought = outcomes.owners[order], outcomes.bought[order].astype(np.float64)
    starts = firsts_of_runs(owners)
    before = np.cumsum(bought) - bought
    hits = np.cumsum(bought) - before[starts][owners]
    places = np.arange(len(owners)) - starts[owners] + 1
    jaccard = hits / (places + outcomes.bought_count[owners] - hits)
    steps = np.diff(jaccard, prepend=0)
    steps[starts] = 0
    gains = np.empty(len(owners))
    gains[order] = steps
    return gains


def _best_threshold(scores, gains):
    """The threshold that gives the highest sum of the gains of those that reach it.

    It lies halfway between two scores, below all or above all.
    """
    order = np.argsort(-scores, kind="stable")
    scores = scores[order].astype(np.float64)
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # equal scores are reached together
    sums = np.append(0, np.cumsum(gains[order])[ends])
    best = int(np.argmax(sums))
    above = scores[ends[best - 1]] if best else scores[0] + 1
    below = scores[ends[best]] if best < len(ends) else scores[-1] - 1
    return float((above + below) / 2)


class Measured:
    """All METRICS of predictions, for any weights of the sessions, with the scores sorted once.

    Parameters
    ----------
    outcomes : Outcomes
        At least one session buys, and one doesn't.
    predictions : Predictions
    """

    def __init__(self, outcomes, predictions):
        self.outcomes, self.predictions = outcomes, predictions
        self._sessions = _Ranked(predictions.session_scores, outcomes.buys)
        self._of_buying = np.flatnonzero(outcomes.buys[outcomes.owners])
        self._items = _Ranked(predictions.pair_scores[self._of_buying], outcomes.bought[self._of_buying])
        self._jaccard = _jaccard_of_sessions(outcomes, predictions.chosen)

    def figures(self, weights=None):
        """The METRICS, a dict of float.

        auc and average_precision are of the sessions, item_auc and jaccard of the items of the sessions that buy;
        precision and recall are of the sessions predicted; calibration_error is the mean difference of probability and
        share that buys in BINS bins of equally many sessions; score and share_of_maximum are the challenge's.

        Parameters
        ----------
        weights : float array [sessions], optional
            How often each session counts; by default once.
        """
        buys, predicted = self.outcomes.buys, self.predictions.predicted
        weights = np.ones(len(buys)) if weights is None else weights
        sessions, buying = weights.sum(), weights @ buys
        said, right = weights @ predicted, weights @ (predicted & buys)
        rate = buying / sessions
        matched = weights @ (self._jaccard * (predicted & buys))
        score = matched + rate * (2 * right - said)
        most = buying * (1 + rate)
        with np.errstate(invalid="ignore"):
            item_auc = self._items.auc(weights[self.outcomes.owners[self._of_buying]])
            found = (self._sessions.auc(weights), self._sessions.average_precision(weights), _share(right, said),
                     _share(right, buying), self._sessions.calibration_error(weights), item_auc,
                     _share(weights @ self._jaccard, buying), score, _share(score, most))
        return dict(zip(METRICS, map(float, found)))

    def drawn(self, draws, seed):
        """The METRICS of as many sessions drawn with replacement, `draws` times: float64 [draws, METRICS].

        With the same seed, other predictions of the same sessions are measured on the same draws.
        """
        random, sessions = np.random.default_rng(seed), len(self.outcomes.buys)
        rows = []
        for _ in range(draws):
            drawn = np.bincount(random.integers(sessions, size=sessions), minlength=sessions).astype(np.float64)
            rows.append(list(self.figures(drawn).values()))
        return np.array(rows)


def intervals(drawn):
    """The ends of the 95 % percentile intervals of `Measured.drawn`, or of differences of two: [METRICS, 2].

    Draws without the figure, such as the precision where no session is said to buy, are left out.
    """
    tail = (1 - LEVEL) / 2
    known = [column[~np.isnan(column)] for column in drawn.T]
    return np.array([np.quantile(column, [tail, 1 - tail]) if len(column) else [np.nan, np.nan] for column in known])


def reliability_curve(scores, buys, bins=BINS):
    """How often sessions buy of those with about the same probability, in bins of equally many sessions.

    Returns
    -------
    predicted, found : float64 arrays [bins]
        The mean probability and the share that buys.
    counts : int64 array [bins]
    """
    ranked, weights = _Ranked(scores, buys, bins), np.ones(len(scores))
    counts, predicted, found = ranked.bins(weights)
    return predicted, found, counts.astype(np.int64)


def write_submission(sessions, pairs, predictions, file):
    """Write the sessions that are predicted to buy as the challenge has them, `SessionId;item,item`, to a text file.

    InputError for an id with a comma or a semicolon.
    """
    chosen = predictions.chosen & predictions.predicted[pairs.owners]
    items = sessions.item_ids.take(sessions.ids[pairs.firsts[chosen]]).to_pylist()
    owners = pairs.owners[chosen]
    starts = firsts_of_runs(owners) if len(owners) else np.empty(0, np.int64)
    names = sessions.session_ids.take(owners[starts]).to_pylist()
    require_readable((*names, *items), ",;", "--submission")
    for name, start, end in zip(names, starts.tolist(), [*starts[1:].tolist(), len(owners)]):
        file.write(f"{name};{','.join(items[start:end])}\n")


def require_readable(names, separators, flag):
    """InputError for an id with one of the `separators` between the ids of a file, which could not be read back."""
    for name in names:
        if not set(separators).isdisjoint(name):
            raise InputError(f"{flag}: found the id {name[:80]!r}, expected ids without {' and '.join(separators)}")


def _share(part, whole):
    return part / whole if whole else np.nan


class _Ranked:
    """Scores in descending order, equal ones together, and which of them are right."""

    def __init__(self, scores, is_right, bins=BINS):
        self.order = np.argsort(-scores, kind="stable")
        self.scores = scores[self.order].astype(np.float64)
        self.is_right = is_right[self.order]
        self.ties = firsts_of_runs(self.scores)
        # where each bin begins: sessions with the same score are in one
        wanted = len(scores) * np.arange(bins) // bins
        self.bin_starts = np.unique(self.ties[np.searchsorted(self.ties, wanted, side="right") - 1])

    def _right_and_wrong(self, weights):
        """The weights of those that are right and of those that are wrong, by score: two arrays [scores]."""
        weights = weights[self.order]
        right = weights * self.is_right
        return np.add.reduceat(right, self.ties), np.add.reduceat(weights - right, self.ties)

    def auc(self, weights):
        """The area under the ROC curve: the share of pairs in which the right one has the higher score, ties half."""
        right, wrong = self._right_and_wrong(weights)
        return right @ (wrong.sum() - np.cumsum(wrong) + wrong / 2) / (right.sum() * wrong.sum())

    def average_precision(self, weights):
        """The mean precision over the right ones, at each one's score."""
        right, wrong = self._right_and_wrong(weights)
        reached = np.cumsum(right + wrong)
        precision = np.cumsum(right) / np.where(reached > 0, reached, 1)
        return right @ precision / right.sum()

    def bins(self, weights):
        """The weight, the mean score and the share that is right of each bin: three arrays [bins]."""
        weights = weights[self.order]
        totals = np.add.reduceat(weights, self.bin_starts)
        means = [np.add.reduceat(weights * values, self.bin_starts) / np.maximum(totals, 1e-300)
                 for values in (self.scores, self.is_right)]
        return totals, *means

    def calibration_error(self, weights):
        """The mean difference of score and share that is right over the bins."""
        totals, means, shares = self.bins(weights)
        return totals @ np.abs(means - shares) / totals.sum()
