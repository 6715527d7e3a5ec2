"""Sessions with what they bought: how they are in memory, and how they are read from what preprocess.py writes.

The directory of a split has two tables, `clicks.tsv` (SessionId, ItemId, Category, Time) and `buys.tsv` (SessionId,
ItemId, Time). No click there is as late as its session's first purchase. `vocab.txt` and `categories.txt` beside the
directories have the items and categories of the training sessions, in the form of vocab.txt.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from utils.data.click_columns import Columns
from utils.data.clicks import SECOND, joined_ranges
from utils.data.vocabulary import checksum, read_vocabulary
from utils.files import InputError, require_file
from utils.intent.events import join, read_events
from utils.intent.preparation_flags import CATEGORIES, CLICKS, ITEMS, PURCHASES


@dataclass
class IntentSessions:
    """Sessions: the clicks of session s are at `offsets[s]` up to `offsets[s + 1]` - 1, at least one, in time order.

    Attributes
    ----------
    items : int32 array [clicks]
        Indices in the vocabulary of items; one past its end for an item that isn't there.
    categories : int32 array [clicks]
        1 + the index in the vocabulary of categories; 0 for one that is missing or unknown.
    times : float64 array [clicks], unix seconds
    ids : int32 array [clicks]
        Indices in `item_ids`: which item it is, whether the vocabulary has it or not.
    bought : bool array [clicks]
        Whether the session buys this item.
    offsets : int64 array [sessions + 1]
    buys : bool array [sessions]
        Whether the session buys anything.
    bought_count : int32 array [sessions]
        The different items that it buys, clicked or not.
    session_ids, item_ids : pyarrow.StringArray
    """

    items: np.ndarray
    categories: np.ndarray
    times: np.ndarray
    ids: np.ndarray
    bought: np.ndarray
    offsets: np.ndarray
    buys: np.ndarray
    bought_count: np.ndarray
    session_ids: object
    item_ids: object

    def __len__(self):
        return len(self.buys)

    def lengths(self):
        """Clicks of each session: int64 [sessions]."""
        return np.diff(self.offsets)


def read_intent_vocabularies(directory, flag):
    """The items and the categories of `vocab.txt` and `categories.txt` in a directory: two lists of str.

    InputError if one is missing or wrong. There may be no categories.
    """
    items = read_vocabulary(require_file(Path(directory, ITEMS), flag), flag).item_ids
    if items is None:
        raise InputError(f"{Path(directory, ITEMS)}: found only a number of items, expected their ids")
    path = require_file(Path(directory, CATEGORIES), flag)
    if not path.stat().st_size:
        return items, []
    categories, count, _ = read_vocabulary(path, flag)
    if categories is None:  # one category whose name is a number
        categories = [str(count)]
    return items, categories


def read_intent_sessions(directory, vocabularies, flag):
    """The IntentSessions of a split.

    Parameters
    ----------
    directory : str or Path
        With clicks.tsv and buys.tsv.
    vocabularies : pair of lists of str
        Items and categories, as of `read_intent_vocabularies`.
    flag : str
        What names the directory, for messages.

    Raises
    ------
    InputError
        A file is missing, or a line is wrong, or a click is as late as its session's first purchase.
    """
    if not Path(directory).is_dir():
        raise InputError(f"{flag}: found no directory {directory}, expected one with {CLICKS} and {PURCHASES}, as "
                         "preprocess.py --to_intent writes them")
    paths = [require_file(Path(directory, name), flag) for name in (CLICKS, PURCHASES)]
    joined, left_out = join(read_events(paths[:1], paths[1:], Columns(category="Category"), (flag, flag)))
    for found, what in ((left_out["late_clicks"], "clicks at or after their session's first purchase"),
                        (left_out["sessions_without_clicks"], "sessions with purchases alone")):
        if found:
            raise InputError(f"{flag}: found {found:,} {what} in {directory}, expected none "
                             "(preprocess.py --to_intent leaves them out)")
    return sessions_of(joined, vocabularies)


def data_checksums(train_dir, valid_dir=""):
    """SHA-256 of each file that a training reads, a dict of dict by flag and name; InputError where one is wrong."""
    vocabularies = read_intent_vocabularies(Path(train_dir).resolve().parent, "--train_dir")
    sums = {}
    for flag, directory in (("--train_dir", train_dir), ("--valid_dir", valid_dir)):
        if directory:
            read_intent_sessions(directory, vocabularies, flag)
            sums[flag] = {name: checksum(Path(directory, name)) for name in (CLICKS, PURCHASES)}
    sums["--train_dir"] |= {name: checksum(Path(train_dir).resolve().parent / name) for name in (ITEMS, CATEGORIES)}
    return sums


def sessions_of(joined, vocabularies):
    """The IntentSessions of an events.Joined, with the indices of two `vocabularies`, lists of str."""
    clicks, purchases = joined.clicks, joined.purchases
    items, categories = vocabularies
    unknown = len(items)
    item_indices = _indices(clicks.item_names, items, unknown)
    category_indices = _indices(joined.category_names, categories, -1) + 1
    buyers = np.searchsorted(clicks.sessions, purchases.sessions)
    pairs = np.unique(np.repeat(buyers, purchases.lengths()) * len(clicks.item_names) + purchases.items)
    owners = np.repeat(np.arange(len(clicks.sessions)), clicks.lengths())
    bought = np.isin(owners * len(clicks.item_names) + clicks.items, pairs)
    bought_count = np.bincount(pairs // len(clicks.item_names), minlength=len(clicks.sessions)).astype(np.int32)
    return IntentSessions(item_indices[clicks.items], category_indices[joined.categories], clicks.times / SECOND,
                          clicks.items, bought, clicks.offsets, bought_count > 0, bought_count, joined.session_ids(),
                          clicks.item_names)


def _indices(names, vocabulary, missing):
    """The index of each of the `names` in a vocabulary, `missing` where it isn't there: int32 [names]."""
    found = pc.index_in(names, pa.array(vocabulary, pa.string()))
    return pc.fill_null(found, missing).to_numpy(zero_copy_only=False).astype(np.int32)


def choose_sessions(sessions, numbers):
    """The IntentSessions with these `numbers` (int array, from 0), in that order."""
    lengths = sessions.lengths()[numbers]
    rows = joined_ranges(sessions.offsets[numbers], lengths) if len(numbers) else np.empty(0, np.int64)
    chosen = {}
    for field in fields(sessions):
        value = getattr(sessions, field.name)
        if field.name in ("items", "categories", "times", "ids", "bought"):
            chosen[field.name] = value[rows]
        elif field.name in ("buys", "bought_count"):
            chosen[field.name] = value[numbers]
    return replace(sessions, **chosen, offsets=np.append(0, np.cumsum(lengths)),
                   session_ids=sessions.session_ids.take(pa.array(numbers)))


def first_clicks(sessions, most):
    """The sessions with their first `most` clicks alone, as they were then; what they buy stays."""
    lengths = np.minimum(sessions.lengths(), most)
    rows = joined_ranges(sessions.offsets[:-1], lengths)
    return replace(sessions, offsets=np.append(0, np.cumsum(lengths)), **{
        name: getattr(sessions, name)[rows] for name in ("items", "categories", "times", "ids", "bought")})
