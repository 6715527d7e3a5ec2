"""A table of clicks in memory, and the filters and splits of data preparation.

Filters and splits don't change the table they are given. Sessions stay in the order of their ids, the clicks of a
session in the order of their times, and clicks at the same time in the order of the file.

They take `Clicks`, or `stored_clicks.StoredClicks`, which are many of these in files. So each rule is a function of one
block of whole sessions, and of numbers that are counted over all blocks before.
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

    def support(self):
        """Clicks on each item: int64 [len(item_names)]."""
        return np.bincount(self.items, minlength=len(self.item_names))

    def sizes(self):
        """The number of sessions, of clicks, and of items that occur."""
        return len(self.sessions), len(self), np.count_nonzero(self.support())

    def time_range(self):
        """The times of the first and of the last click of all."""
        return int(self.times.min()), int(self.times.max())

    def blocks(self):
        """Yield the clicks in blocks of whole sessions, here in one."""
        yield self

    def each(self, change):
        """What the function `change` makes of each block, which it gets in order."""
        return change(self)

    def in_order_of_starts(self, numbers_of):
        """Yield blocks, here one, and the order in which their sessions start, int64 [sessions].

        For a block, the function `numbers_of` returns int64 [sessions], the order of those that start at once.
        """
        yield self, np.lexsort((numbers_of(self), self.starts()))


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
    return clicks.each(lambda block: keep_sessions(block, block.lengths() >= min_length))


def drop_rare_items(clicks, min_support):
    """Drop the items that were clicked fewer than `min_support` times."""
    frequent = clicks.support() >= min_support
    return clicks.each(lambda block: keep_clicks(block, frequent[block.items]))


def drop_repeats(clicks):
    """Of several clicks in a row on the same item, keep only the first: i, i, j, i becomes i, j, i."""
    def drop(block):
        new = np.diff(block.items, prepend=-1) != 0
        new[block.offsets[:-1]] = True
        return keep_clicks(block, new)

    return clicks.each(drop)


def drop_one_item(clicks):
    """Drop the sessions whose clicks are all on the same item."""
    def drop(block):
        differs = block.items != np.repeat(block.items[block.offsets[:-1]], block.lengths())
        return keep_sessions(block, np.diff(np.append(0, np.cumsum(differs))[block.offsets]) > 0)

    return clicks.each(drop)


def cut_at_gaps(clicks, gap):
    """Cut each session, or history of a user, where more than `gap` microseconds are between two clicks.

    The pieces are numbered from 1 in the order of the ids and times.
    """
    return _cut(clicks, lambda block: np.flatnonzero(np.diff(block.times) > gap) + 1)


def cut_at_span(clicks, span):
    """Cut each session so that no click comes more than `span` microseconds after the first one of its piece.

    The pieces are numbered as by `cut_at_gaps`.
    """
    def cuts(block):
        times, starts, ends, found = block.times, block.offsets[:-1], block.offsets[1:], []
        while (too_long := times[ends - 1] - times[starts] > span).any():
            starts, ends = starts[too_long], ends[too_long]
            starts = _first_after(times, starts, ends, times[starts] + span)
            found.append(starts)
        return np.concatenate([np.empty(0, np.int64), *found])

    return _cut(clicks, cuts)


def _first_after(times, starts, ends, limits):
    """The first click of each range of ascending times that is later than its limit, which its last click is."""
    low, high = starts, ends - 1
    while (low < high).any():
        middle = (low + high) // 2
        late = times[middle] > limits
        low, high = np.where(late, low, np.minimum(middle + 1, high)), np.where(late, middle, high)
    return low


def _cut(clicks, cuts_of):
    """Cut sessions before the clicks that the function `cuts_of` returns for a block, and number the pieces from 1."""
    first = 1

    def cut(block):
        nonlocal first
        offsets = np.union1d(block.offsets, cuts_of(block))
        sessions = np.arange(first, first + len(offsets) - 1)
        first += len(sessions)
        return replace(block, sessions=sessions, offsets=offsets, session_names=None)

    return clicks.each(cut)


def split_by_end(clicks, test_time):
    """Training and test sessions, divided by their ends: the official split of RSC15.

    The test sessions are those that end at most `test_time` (microseconds) before the last click of all.
    """
    split_time = clicks.time_range()[1] - test_time
    return (clicks.each(lambda block: keep_sessions(block, block.ends() < split_time)),
            clicks.each(lambda block: keep_sessions(block, block.ends() >= split_time)))


def split_by_start(clicks, test_time):
    """Training and test sessions, divided by their starts.

    The test sessions are those that start at most `test_time` (microseconds) before the last click of all. Training
    sessions lose their clicks within that time, so that training knows nothing about it. This is the split of Hidasi
    and Czapp, "The effect of third party implementations on reproducibility" (RecSys 2023).
    """
    split_time = clicks.time_range()[1] - test_time
    return (clicks.each(lambda block: keep_clicks(block, block.times < split_time)),
            clicks.each(lambda block: keep_sessions(block, block.starts() >= split_time)))


def around(clicks, time):
    """The times of the last click before `time` and of the first one since, all in microseconds.

    Where there is none before, the first of all takes its place.
    """
    last, first = clicks.time_range()
    for block in clicks.blocks():
        is_before = block.times < time
        last = np.max(block.times[is_before], initial=last)
        first = np.min(block.times[~is_before], initial=first)
    return int(last), int(first)


def newest_times(clicks, count):
    """The times of the last `count` clicks (microseconds), ascending: int64 [count], or fewer."""
    newest = np.empty(0, np.int64)
    for block in clicks.blocks():
        newest = np.sort(np.concatenate([newest, block.times]))[-count:]
    return newest


def newest_sessions(clicks, fraction, times_of):
    """Keep the newest `fraction` of the sessions, rounded up; of equally old ones those with higher ids.

    `times_of` is `Clicks.starts` or `Clicks.ends`.
    """
    times = np.concatenate([times_of(block) for block in clicks.blocks()])
    older = len(times) - int(np.ceil(fraction * len(times)))
    times.partition(older)
    oldest = times[older]  # the time of the oldest one to keep
    to_skip = np.count_nonzero(times[:older] == oldest)

    def keep(block):
        nonlocal to_skip
        block_times = times_of(block)
        newest = block_times > oldest
        equally_old = np.flatnonzero(block_times == oldest)
        newest[equally_old[to_skip:]] = True
        to_skip -= min(to_skip, len(equally_old))
        return keep_sessions(block, newest)

    return clicks.each(keep)


def sessions_since(clicks, time, times_of):
    """Keep the sessions of the last `time` microseconds before the last click.

    `times_of` is `Clicks.starts` or `Clicks.ends`.
    """
    first = clicks.time_range()[1] - time
    return clicks.each(lambda block: keep_sessions(block, times_of(block) >= first))


def keep_items_of(clicks, training):
    """Keep the clicks on items that occur in `training`, a table with the same `item_names`."""
    known = training.support() > 0
    return clicks.each(lambda block: keep_clicks(block, known[block.items]))
