"""popular.json of a model directory: what was clicked most lately, for sessions of which the model knows no click.

Models of older versions have none.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.selection import chosen_items
from utils.files import InputError
from utils.model.checked_json import read_json, require_kinds
from utils.model.top_k import top_k, top_k_among

POPULAR = "popular.json"
NEWEST = 10_000  # training sessions that are counted; benchmarks/popular.py shows what other numbers bring
MOST = 10_000  # items whose clicks are kept
KINDS = {"sessions": int, "items": list, "clicks": list, "first_clicks": list}


class Popular(NamedTuple):
    """How often each item was clicked in the newest training sessions.

    clicks : float32 array [items]
    first_clicks : float32 array [items], how often as the first of a session
    """

    clicks: np.ndarray
    first_clicks: np.ndarray

    def best(self, is_empty, k, excluded, allowed):
        """The most clicked items, and their clicks; among equally popular ones the lower index comes first.

        Parameters
        ----------
        is_empty : bool
            The session has no click at all, so its first one is to come, and first clicks are compared.
        k, excluded, allowed
            As in `Scorer.best`, for one row.

        Returns
        -------
        int64 array [k or fewer], float32 array of the same length
        """
        clicks = self.first_clicks if is_empty else self.clicks
        if allowed is None:
            return top_k(clicks, k, excluded)
        among = chosen_items(allowed)
        return top_k_among(clicks[among], among, k, excluded)


def count_popular(sessions, item_count):
    """What popular.json says of the newest (the last) of some sessions.Sessions: a dict."""
    first = max(len(sessions.lengths) - NEWEST, 0)
    clicks = np.bincount(sessions.items[sessions.offsets[first]:sessions.offsets[-1]], minlength=item_count)
    first_clicks = np.bincount(sessions.items[sessions.offsets[first:-1]], minlength=item_count)
    items = np.argsort(-clicks, kind="stable")[:min(MOST, np.count_nonzero(clicks))]
    return {"sessions": len(sessions.lengths) - first, "items": items.tolist(), "clicks": clicks[items].tolist(),
            "first_clicks": first_clicks[items].tolist()}


def read_popular_record(model_dir):
    """What `count_popular` returned for a model, or None; InputError for a file that isn't as it was written."""
    path = Path(model_dir) / POPULAR
    if not os.path.lexists(path):
        return None
    record = read_json(path, "--model_dir", "the popular items that train.py writes")
    if not isinstance(record, dict) or record.keys() != KINDS.keys():
        raise InputError(f"{path}: found other names than {', '.join(KINDS)}, expected what train.py writes")
    require_kinds(path, record, KINDS)
    return record


def read_popular(model_dir, item_count):
    """The Popular of a model directory with so many items, or None; errors of `read_popular_record`."""
    record = read_popular_record(model_dir)
    if record is None:
        return None
    path, items, counts = Path(model_dir) / POPULAR, record["items"], [record["clicks"], record["first_clicks"]]
    numbers = [number for part in (items, *counts) for number in part]
    if not (len(items) == len(counts[0]) == len(counts[1]) and all(type(number) is int for number in numbers)
            and all(0 <= item < item_count for item in items) and len(set(items)) == len(items)
            and all(0 <= number < 2**31 for number in numbers)):
        raise InputError(f"{path}: found no counts of {item_count} items, expected those of train.py")
    popular = Popular(np.zeros(item_count, np.float32), np.zeros(item_count, np.float32))
    for into, found in zip(popular, counts):
        into[items] = found
    return popular
