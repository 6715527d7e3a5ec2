"""How readily a session comes back to the items that it has clicked: a factor on their probabilities.

    p'(i) = p(i) exp(b(i)) / (1 + sum over the clicked items j of p(j) (exp(b(j)) - 1))
    b(i) = w0 [i was clicked last] + w1 + w2 ln(s) + w3 ln((n - d + 1/2) / d)

s is the item's step: 1 for the last click, 2 for the one before. n counts the session's clicks, the last RECENT of
them, and d their distinct items, so n - d is how often it came back so far. Some sessions do so all the time, and
others never. A network that is trained on whole shops learns that roughly; the four weights are fitted to sessions that
it wasn't trained on. RepeatNet (Ren et al., AAAI 2019) has a network of its own for whether a session returns.
"""

import numpy as np

from utils.model.neighbours import RECENT

NAMES = "last", "clicked", "step", "habit"  # the weights
RIDGE = 1.0  # holds the weights near 0 where few predictions say anything
LATER = np.triu(np.ones((RECENT, RECENT), bool), 1)
BY_PLACE = np.stack([np.arange(RECENT) == RECENT - 1, np.ones(RECENT), np.log(np.arange(RECENT, 0, -1))], axis=1)
STEPS, HALVINGS, ENOUGH = 50, 30, 1e-9  # Newton's method


def recent_clicks(items, starts, ends):
    """The last clicks of several sessions.

    Parameters
    ----------
    items : int32 array [clicks]
    starts, ends : int64 arrays [rows]
        A row's clicks are items[start:end].

    Returns
    -------
    int32 array [rows, RECENT]
        1 + index of the item, the newest click last; 0 where there is none.
    """
    places = ends[:, None] - RECENT + np.arange(RECENT)
    return np.where(places >= starts[:, None], items[np.maximum(places, 0)] + np.int32(1), np.int32(0))


def features(recent):
    """What the weights are multiplied by, float64 [rows, RECENT, 4]: 0 but at the latest click on each item.

    Parameters
    ----------
    recent : int32 array [rows, RECENT]
        As `recent_clicks` returns it.
    """
    is_click = recent > 0
    is_latest = is_click & ~((recent[:, :, None] == recent[:, None, :]) & LATER).any(axis=2)
    distinct = np.maximum(is_latest.sum(axis=1), 1)
    found = np.empty((*recent.shape, len(NAMES)))
    found[..., :-1] = BY_PLACE
    found[..., -1] = np.log((np.maximum(is_click.sum(axis=1) - distinct, 0) + 0.5) / distinct)[:, None]
    return found * is_latest[..., None]


def add_returns(scores, totals, recent, weights):
    """Change the scores of the items that a session has clicked, in place.

    Parameters
    ----------
    scores : float32 array [rows, items]
    totals : float64 array [rows]
        What to subtract from a row for ln of the probability p.
    recent : int32 array [rows, RECENT]
    weights : four floats

    Returns
    -------
    float64 array [rows]
        What to subtract now, for ln of p'.
    """
    biases = features(recent) @ np.asarray(weights, np.float64)
    rows, places = np.nonzero(biases)
    at = rows, recent[rows, places] - 1
    biases = biases[rows, places]
    before = np.exp(scores[at] - totals[rows])
    scores[at] += biases.astype(np.float32)
    of_clicked, raised = (np.bincount(rows, each, minlength=len(totals)) for each in (before, before * np.exp(biases)))
    return totals + np.log(np.maximum(1 - of_clicked, 0) + raised)  # rounded, the clicked items may have more than 1


@np.errstate(over="ignore", invalid="ignore")  # of steps that go too far
def fit_returns(features, probabilities, is_next):
    """The weights that make the clicks that followed most likely, by Newton's method: the problem is convex.

    Parameters
    ----------
    features : float64 array [predictions, RECENT, 4]
    probabilities : float array [predictions, RECENT]
        p of each click's item.
    is_next : bool array [predictions, RECENT]
        Whether the item was clicked next.

    Returns
    -------
    list of four floats
    """
    is_item = features[..., 1] > 0
    probabilities, observed = np.where(is_item, probabilities, 0), features[is_next & is_item].sum(axis=0)

    def loss_of(weights):
        added = (probabilities * np.expm1(features @ weights)).sum(axis=1)
        return np.log1p(added).sum() - observed @ weights + RIDGE / 2 * weights @ weights

    weights = np.zeros(len(NAMES))
    loss = loss_of(weights)
    for _ in range(STEPS):
        raised = probabilities * np.exp(features @ weights)
        shares = raised / (1 + (raised - probabilities).sum(axis=1))[:, None]
        means = np.einsum("pc,pcf->pf", shares, features)
        gradient = means.sum(axis=0) - observed + RIDGE * weights
        curvature = np.einsum("pc,pcf,pcg->fg", shares, features, features) - means.T @ means
        step = np.linalg.solve(curvature + RIDGE * np.eye(len(NAMES)), gradient)
        for _ in range(HALVINGS):  # a whole step may go too far, and never up
            if loss_of(weights - step) <= loss:
                break
            step = step / 2
        weights, before, loss = weights - step, loss, loss_of(weights - step)
        if before - loss <= ENOUGH * len(features):
            break
    return weights.tolist()
