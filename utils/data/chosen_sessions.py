"""Which sessions are trained on: those of several items, the newest ones, and old ones in fewer epochs than new ones.

Sessions are in time order, the newest last.
"""

import numpy as np

from utils.data.sessions import choose


def without_one_item(sessions):
    """The Sessions whose clicks are not all on the same item."""
    firsts = np.repeat(sessions.items[sessions.offsets[:-1]], sessions.lengths)
    differs = np.concatenate([[0], np.cumsum(sessions.items != firsts)])
    return choose(sessions, np.flatnonzero(np.diff(differs[sessions.offsets])))


def newest(sessions, count):
    """The last `count` of the Sessions, or all if there are fewer."""
    first = max(0, len(sessions.lengths) - count)
    return choose(sessions, np.arange(first, len(sessions.lengths)))


def chances_by_recency(sessions, half_life):
    """The probability of each of the Sessions of two clicks or more to be drawn: 0.5^(newer ones / half_life).

    The two newest are always drawn: a step may need two targets to compare.

    Parameters
    ----------
    sessions : Sessions
    half_life : float
        In sessions, above 0.

    Returns
    -------
    float64 [sessions of two clicks or more]
    """
    newer = np.arange(np.count_nonzero(sessions.lengths > 1))[::-1]
    chances = 0.5 ** (newer / half_life)
    chances[-2:] = 1
    return chances


def drawn_by_recency(sessions, half_life, random):
    """Draw some of the Sessions by their `chances_by_recency` from a numpy.random.Generator.

    So over the epochs of a training, the loss of each session counts by its probability. Sessions of one click have no
    loss, and are left out.
    """
    chances = chances_by_recency(sessions, half_life)
    return choose(sessions, np.flatnonzero(sessions.lengths > 1)[random.random(len(chances)) < chances])
