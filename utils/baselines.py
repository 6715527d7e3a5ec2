"""What a trained network must beat: popularity and item-to-item transitions, fitted on the training sessions."""

import numpy as np


def popularity_scores(sessions, item_count):
    """POP: an item's score is its share of the training clicks, whatever the session.

    Returns
    -------
    function
        Of the last clicks, int array [rows]: scores, float64 [rows, items].
    """
    support = np.bincount(sessions.items, minlength=item_count) / len(sessions.items)
    return lambda last_clicks: np.broadcast_to(support, (len(last_clicks), item_count))


def transition_scores(sessions, item_count):
    """First-order transitions: how often an item came next after the session's last click.

    Items that never followed it are ordered by popularity, behind all that did.

    Returns
    -------
    function
        Of the last clicks, int array [rows]: scores, float64 [rows, items].
    """
    is_last = np.zeros(len(sessions.items), bool)
    is_last[sessions.offsets[1:] - 1] = True
    before = np.flatnonzero(~is_last)
    pairs = sessions.items[before].astype(np.int64) * item_count + sessions.items[before + 1]
    pairs, counts = np.unique(pairs, return_counts=True)
    starts = np.searchsorted(pairs, np.arange(item_count + 1) * item_count)
    popularity = 0.5 * popularity_scores(sessions, item_count)([0])[0]  # less than one transition

    def scores(last_clicks):
        result = np.tile(popularity, (len(last_clicks), 1))
        for row, item in enumerate(last_clicks):
            followers = slice(starts[item], starts[item + 1])
            result[row, pairs[followers] - item * item_count] += counts[followers]
        return result

    return scores
