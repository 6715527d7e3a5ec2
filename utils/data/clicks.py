"""A table of clicks in memory, and the filters and splits of data preparation.

Filters and splits don't change the table they are given. Sessions stay in the order of their ids, the clicks of a
session in the order of their times, and clicks at the same time in the order of the file.
"""

from dataclasses import dataclass, replace

import numpy as np

SECOND = 1_000_000  # in microseconds, the unit of all times here
DAY = 86_400 * SECOND


@dataclass
class Clicks:
    """Clicks grouped by session: those of session s are at `offsets[s]` up to `offsets[s + 1]` - 1, at least one.

    Attributes
    ----------
    sessions : int64 array [sessions]
        Ascending: the ids, or their indices in `session_names` if that is not None.
    offsets : int64 array [sessions + 1]
    items : int32 array [clicks]
        Indices of the item ids in `item_names`.
    times : int64 array [clicks]
        Microseconds since 1970, UTC.
    item_names : pyarrow.StringArray
    session_names : pyarrow.StringArray or None
        Sorted; None if all ids are integers.
    decimals : {0, 3, 6}
        How many decimals of a second the input's times need.
    """

    sessions: np.ndarray
    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray
    item_names: object
    session_names: object = None
    decimals: int = 0

    def __len__(self):
        return len(self.items)

    def lengths(self):
        """Clicks of each session: int64 [sessions]."""
        return np.diff(self.offsets)

    def starts(self):
        """Time of each session's first click: int64 [sessions]."""
        return self.times[self.offsets[:-1]]

    def ends(self):
        """Time of each session's last click: int64 [sessions]."""
        return self.times[self.offsets[1:] - 1]

    def clicked_items(self):
        """Which items occur: bool [len(item_names)]."""
        clicked = np.zeros(len(self.item_names), bool)
        clicked[self.items] = True
        return clicked

    def sizes(self):
        """The number of sessions, of clicks, and of items that occur."""
        return len(self.sessions), len(self), int(self.clicked_items().sum())


def group_by_session(sessions, items, times, item_names, session_names=None):
    """Clicks from columns in file order, sorted stably by session, then time. The given columns may be changed.

    Most files hold a session in one piece, with its clicks in order. So whole pieces are sorted by session, and only
    the sessions that need it are sorted by time.

    Parameters
    ----------
    sessions, items, times : int64, int32, int64 arrays [clicks]
        As in `Clicks`, but with one session for each click.
    """
    pieces = firsts_of_runs(sessions)
    lengths = np.diff(pieces, append=len(sessions))
    sessions = sessions[pieces]
    if np.any(sessions[1:] < sessions[:-1]):
        order = np.argsort(sessions, kind="stable")
        rows = joined_ranges(pieces[order], lengths[order])
        sessions, lengths, items, times = sessions[order], lengths[order], items[rows], times[rows]
        del rows
    firsts = firsts_of_runs(sessions)  # the first piece of each session
    lengths = np.add.reduceat(lengths, firsts)
    offsets = np.append(0, np.cumsum(lengths))

    early = np.append(False, times[1:] < times[:-1])  # clicks that come after a later one
    early[offsets[:-1]] = False
    if early.any():
        unsorted = np.unique(np.searchsorted(offsets, np.flatnonzero(early), side="right") - 1)
        rows = joined_ranges(offsets[unsorted], lengths[unsorted])
        order = rows[np.lexsort((times[rows], np.repeat(unsorted, lengths[unsorted])))]
        items[rows], times[rows] = items[order], times[order]
    return Clicks(sessions[firsts], offsets, items, times, item_names, session_names, decimals_of(times))


def firsts_of_runs(values):
    """The positions in the array `values` where a run of equal values begins: int64, ascending, the first one 0."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))


def joined_ranges(firsts, lengths):
    """Ranges of integers, one after another: int64 [sum(lengths)].

    Range i begins with `firsts[i]` and has `lengths[i]` >= 1 numbers.
    """
    steps = np.ones(lengths.sum(), np.int64)
    steps[np.cumsum(lengths[:-1])] = firsts[1:] - (firsts + lengths)[:-1] + 1
    steps[0] = firsts[0]
    return np.cumsum(steps, out=steps)


def decimals_of(times):
    """The fewest decimals of a second, 0, 3 or 6, that all `times` (int64, microseconds) can be written with."""
    return 0 if not np.any(times % SECOND) else 3 if not np.any(times % 1_000) else 6


def keep_clicks(clicks, keep):
    """Keep the clicks where `keep` (bool [clicks]) is true; a session with none left is dropped."""
    if keep.all():
        return clicks
    lengths = np.add.reduceat(keep, clicks.offsets[:-1], dtype=np.int64) if len(clicks) else clicks.lengths()
    left = lengths > 0
    offsets = np.append(0, np.cumsum(lengths[left]))
    return replace(clicks, sessions=clicks.sessions[left], offsets=offsets, items=clicks.items[keep],
                   times=clicks.times[keep])


def keep_sessions(clicks, keep):
    """Keep the sessions where `keep` (bool [sessions]) is true."""
    return keep_clicks(clicks, np.repeat(keep, clicks.lengths()))


def drop_short_sessions(clicks, min_length):
    """Drop the sessions with fewer than `min_length` clicks."""
    return keep_sessions(clicks, clicks.lengths() >= min_length)


def drop_rare_items(clicks, min_support):
    """Drop the items that were clicked fewer than `min_support` times."""
    support = np.bincount(clicks.items, minlength=len(clicks.item_names))
    return keep_clicks(clicks, (support >= min_support)[clicks.items])


def drop_repeats(clicks):
    """Of several clicks in a row on the same item, keep only the first: i, i, j, i becomes i, j, i."""
    new = np.diff(clicks.items, prepend=-1) != 0
    new[clicks.offsets[:-1]] = True
    return keep_clicks(clicks, new)


def cut_at_gaps(clicks, gap):
    """Cut each session, or history of a user, where more than `gap` microseconds are between two clicks.

    The pieces are numbered from 1 in the order of the ids and times.
    """
    cuts = np.flatnonzero(np.diff(clicks.times) > gap) + 1
    offsets = np.union1d(clicks.offsets, cuts)
    return replace(clicks, sessions=np.arange(1, len(offsets)), offsets=offsets, session_names=None)


def split_by_end(clicks, test_time):
    """Training and test sessions, divided by their ends: the official split of RSC15.

    The test sessions are those that end at most `test_time` (microseconds) before the last click of all.
    """
    late = clicks.ends() >= clicks.times.max() - test_time
    return keep_sessions(clicks, ~late), keep_sessions(clicks, late)


def split_by_start(clicks, test_time):
    """Training and test sessions, divided by their starts.

    The test sessions are those that start at most `test_time` (microseconds) before the last click of all. Training
    sessions lose their clicks within that time, so that training knows nothing about it. This is the split of Hidasi
    and Czapp, "The effect of third party implementations on reproducibility" (RecSys 2023).
    """
    split_time = clicks.times.max() - test_time
    return keep_clicks(clicks, clicks.times < split_time), keep_sessions(clicks, clicks.starts() >= split_time)


def newest_sessions(clicks, fraction, times):
    """Keep the newest `fraction` of the sessions, rounded up, by their `times` (int64 [sessions]).

    Of equally old sessions those with higher ids are kept.
    """
    count = int(np.ceil(fraction * len(clicks.sessions)))
    keep = np.zeros(len(clicks.sessions), bool)
    keep[np.argsort(times, kind="stable")[len(keep) - count:]] = True
    return keep_sessions(clicks, keep)


def keep_items_of(clicks, training):
    """Keep the clicks on items that occur in `training`, a table with the same `item_names`."""
    return keep_clicks(clicks, training.clicked_items()[clicks.items])
