"""The best items by their scores, without sorting all of them."""

import numpy as np

GROUPS = 1024


def top_k(scores, k, excluded=()):
    """The `k` best items of one row, as in `top_k_of_rows`, but `scores`, float array [items], is not changed."""
    return top_k_of_rows(np.array(scores)[None], k, [excluded])[0]


def top_k_among(scores, among, k, excluded=()):
    """The `k` best of some items, as in `top_k_of_rows`.

    Parameters
    ----------
    scores : float array [n]
        Theirs.
    among : int64 array [n]
        The items, ascending.
    k : int
    excluded : int array or list
        Items that must not be among the best.
    """
    if not len(among):
        return among, scores
    places = np.searchsorted(among, np.asarray(excluded, np.int64))
    places = [place for place, item in zip(places, excluded) if place < len(among) and among[place] == item]
    best, their_scores = top_k(scores, k, places)
    return among[best], their_scores


def top_k_of_rows(scores, k, excluded=None):
    """The `k` best items of each row, the best first; among equal scores the lower index comes first.

    Not all items are sorted: they form groups, and the k-th best of the groups' maxima is a score that at least k items
    reach, but few others do.

    Parameters
    ----------
    scores : float array [rows, items]
        Without NaN. An item with a score of -inf is excluded too. The array is changed if items are excluded. Fastest
        in the memory order of `Scorer.scores`, item after item.
    k : int
        >= 1; if fewer items are left, all of them are returned.
    excluded : list of int arrays or lists, optional
        For each row, the items that must not be among the best.

    Returns
    -------
    list of (items, their_scores), one for each row
        An int64 array [k or fewer], and a float array of the same length.
    """
    rows, scores = len(scores), np.ascontiguousarray(scores.T)
    for row, items in enumerate(excluded or ()):
        if len(items):
            scores[items, row] = -np.inf
    groups = GROUPS if k <= GROUPS <= len(scores) else len(scores)
    grouped = scores[:len(scores) // groups * groups].reshape(-1, groups * rows)
    maxima = grouped.max(axis=0).reshape(groups, rows)
    kth = max(groups - k, 0)
    reached = np.partition(maxima, kth, axis=0)[kth]
    in_groups = np.flatnonzero(grouped >= np.tile(reached, groups))
    behind_them = np.flatnonzero(scores[grouped.size // rows:] >= reached)
    found = np.concatenate([in_groups, behind_them + grouped.size])
    items, of_row = np.divmod(found, rows)
    values = scores[items, of_row]
    order = np.lexsort((items, -values, of_row))
    items, values, ends = items[order], values[order], np.cumsum(np.bincount(of_row, minlength=rows))
    best = []
    for start, end in zip(ends - np.diff(ends, prepend=0), ends):
        end = start + np.count_nonzero(values[start:min(end, start + k)] > -np.inf)  # excluded items come last
        best.append((items[start:end], values[start:end]))
    return best
