"""A memory of neighbours: what was clicked in the training sessions that are most like this one.

A network forgets what it saw seldom; the memory has it. `plain_shares` says how much of the next click it gives to each
item; mixture.py adds that to a network's scores. Neighbours are found as in V-SKNN (`utils/evaluation/baselines.py`),
but what a neighbour recommends depends on where it stands in it. That order counts is known from Garg et al.,
"Sequence and time aware neighborhood for session-based recommendations: STAN", SIGIR 2019.
"""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.sessions import Sessions, choose
from utils.memory import own_room
from utils.native.compiling import INTEGER, POINTER, NotCompiled, address, level_flags, library

VERSION = 1  # of the formula with these numbers: a model directory says which one its weight was chosen for
RECENT = 20  # the last clicks of a session, which neighbours are found by
NEWEST = 500  # sessions that each item leads to
NEIGHBOURS = 500
REACH = 50  # clicks on both sides of the anchor that a neighbour recommends
DECAY = 0.9  # of a click's weight from one step to the one before it
TOLERANCE = 1e-4  # how far C++'s shares may be from NumPy's, relative to them
PRIOR = 10  # clicks that an item's own rate of repeats must outweigh

SOURCE = Path(__file__).parent.parent / "native" / "neighbours.cc"


@lru_cache(maxsize=1)
def native_library():
    """The compiled utils/native/neighbours.cc, or None where there is no compiler."""
    try:
        found = library([SOURCE], level_flags())
    except NotCompiled:
        return None
    found.neighbour_shares.argtypes = [POINTER, POINTER, INTEGER, POINTER, POINTER]
    found.neighbour_shares.restype = INTEGER
    return found


class Remembered(NamedTuple):
    """What a memory keeps of the training sessions.

    sessions : sessions.Sessions, the newest last
    repeat_rates : float32 array [items], how often each item is clicked again directly
    """

    sessions: Sessions
    repeat_rates: np.ndarray


def remember(sessions, item_count):
    """The Remembered of some sessions.Sessions.

    Sessions that no item leads to, because each of their items is in so many newer ones, are left out: no answer
    depends on them.
    """
    repeated, followed = _repeats(sessions, item_count)
    overall = repeated.sum() / max(followed.sum(), 1)
    session_of = session_of_clicks(sessions)
    kept = choose(sessions, np.unique(session_of[index_newest(sessions.items, session_of, item_count)[1]]))
    return Remembered(kept, ((repeated + PRIOR * overall) / (followed + PRIOR)).astype(np.float32))


def _repeats(sessions, item_count):
    """How often each item was clicked again directly, and how often another click followed it at all."""
    follows = np.ones(len(sessions.items), bool)
    follows[sessions.offsets[1:] - 1] = False
    places = np.flatnonzero(follows)
    before = sessions.items[places]
    repeated = before[before == sessions.items[places + 1]]
    return np.bincount(repeated, minlength=item_count), np.bincount(before, minlength=item_count)


def session_of_clicks(sessions):
    """The number of each click's session, int32 array [clicks]."""
    return np.repeat(np.arange(len(sessions.lengths), dtype=np.int32), sessions.lengths)


def index_newest(items, session_of, item_count):
    """The newest clicks on each item, one a session, the last there, of at most NEWEST sessions.

    Returns
    -------
    starts : int64 array [items + 1]
    clicks : int64 array
        Those on item i are clicks[starts[i]:starts[i + 1]], ascending.
    """
    clicks = np.argsort(items, kind="stable")
    of_item, of_session = items[clicks], session_of[clicks]
    is_last = np.ones(len(clicks), bool)
    is_last[:-1] = (of_item[1:] != of_item[:-1]) | (of_session[1:] != of_session[:-1])
    clicks, of_item = clicks[is_last], of_item[is_last]
    ends = np.searchsorted(of_item, np.arange(item_count), side="right")
    is_new = ends[of_item] - np.arange(len(clicks)) <= NEWEST
    starts = np.searchsorted(of_item[is_new], np.arange(item_count + 1))
    return starts, clicks[is_new]


class Neighbours:
    """A memory, ready to be asked. Threads may share one.

    Parameters
    ----------
    remembered : Remembered
    room : function
        Where the index lies: a function as `memory.own_room` with a key.
    """

    def __init__(self, remembered, room=lambda *how: own_room("", *how)):
        sessions, repeat_rates = remembered
        self.items = np.ascontiguousarray(sessions.items, np.int32)
        self.offsets = np.ascontiguousarray(sessions.offsets, np.int64)
        self.repeat_rates = np.ascontiguousarray(repeat_rates, np.float32)
        self.session_of, self.starts, self.newest = self._index(sessions, len(repeat_rates), room)
        self.step_weights = DECAY ** np.arange(RECENT)
        arrays = (self.items, self.offsets, self.session_of, self.starts, self.newest, self.repeat_rates,
                  self.step_weights)
        self.layout = np.array([*map(address, arrays), RECENT, NEIGHBOURS, REACH, len(repeat_rates)], np.int64)
        self.most = min(len(repeat_rates), NEIGHBOURS * (2 * REACH + 1) + 1)  # items that can have a share at once
        self.library = native_library()
        if self.library and not self._counts_right():
            self.library = None
        self.way = "native" if self.library else "numpy"

    def _index(self, sessions, item_count, room):
        """`session_of_clicks`, and what `index_newest` returns, one after another in a room."""
        ends = np.cumsum([8 * (item_count + 1), 8 * len(self.items), 4 * len(self.items)]).tolist()
        place = lambda data: (data[ends[1]:].view(np.int32), data[:ends[0]].view(np.int64),
                              data[ends[0]:ends[1]].view(np.int64))

        def fill(data):
            session_of, starts, newest = place(data)
            session_of[:] = session_of_clicks(sessions)
            starts[:], found = index_newest(self.items, session_of, item_count)
            newest[:len(found)], newest[len(found):] = found, 0
        session_of, starts, newest = place(room(ends[-1], fill, f"{len(self.items)} clicks of a memory"))
        return session_of, starts, newest[:starts[-1]]

    def _counts_right(self):
        """Whether C++ gives the first, the middle and the last session the shares that NumPy does."""
        last = len(self.offsets) - 2
        for number in {0, last // 2, last}:
            clicks = self.items[self.offsets[number]:self.offsets[number + 1]]
            items, shares = self.shares(clicks)
            plain_items, plain = plain_shares(self, clicks)
            if not (np.array_equal(items, plain_items) and np.allclose(shares, plain, rtol=TOLERANCE, atol=0)):
                return False
        return True

    def shares(self, clicks):
        """How much of the next click the memory gives to each item.

        Parameters
        ----------
        clicks : int array [clicks]
            Those of a session so far, the newest last.

        Returns
        -------
        int32 array [n]
            The items that have a share, ascending.
        float32 array [n]
            Their shares, > 0, which sum to 1. Both are empty where no session like this one is remembered.
        """
        if not self.library:
            return plain_shares(self, clicks)
        clicks = np.ascontiguousarray(clicks, np.int32)
        items, shares = np.empty(self.most, np.int32), np.empty(self.most, np.float32)
        count = self.library.neighbour_shares(address(self.layout), address(clicks), len(clicks), address(items),
                                              address(shares))
        return items[:count].copy(), shares[:count].copy()

    def shares_of(self, clicks, starts, ends):
        """The shares of several sessions, one after another.

        Parameters
        ----------
        clicks : int32 array [events]
        starts, ends : int64 arrays [rows]
            A row's clicks are clicks[start:end].

        Returns
        -------
        items : int32 array [n]
        shares : float32 array [n]
        offsets : int64 array [rows + 1]
            A row has items[offsets[row]:offsets[row + 1]] and these shares, as `shares` gives them.
        """
        found = [self.shares(clicks[start:end]) for start, end in zip(starts.tolist(), ends.tolist())]
        items, shares = (np.concatenate(part) for part in zip(*found))
        return items, shares, np.cumsum([0, *(len(part) for part, _ in found)])


def plain_shares(memory, clicks):
    """`Neighbours.shares` in NumPy, which C++ is compared with.

    1. Of the session's last RECENT clicks, each distinct item leads to the NEWEST newest sessions that hold it.
    2. A session's similarity is (sum of DECAY^(s - 1) over the items it shares)^2; s is an item's step: 1 for the last
       click, 2 for the one before, and so on. The NEIGHBOURS most similar ones count; among equal ones, the newer.
    3. A neighbour's anchor is its last click on the shared item with the smallest step s. It adds to the item of each
       of its clicks, d clicks behind the anchor, similarity / s / d, and where d <= 0, similarity / s / sqrt(1 - d). So
       what followed comes first, then what is shared, and what came before.
    4. The item clicked last gets the rate at which it was clicked again directly in training. The other items share
       the rest in proportion.
    """
    items, steps = latest_clicks(np.asarray(clicks)[-RECENT:])
    lists = [memory.newest[memory.starts[item]:memory.starts[item + 1]] for item in items]
    nothing = np.empty(0, np.int32), np.empty(0, np.float32)
    if not sum(map(len, lists)):
        return nothing
    found, found_steps = np.concatenate(lists), np.repeat(steps, list(map(len, lists)))
    numbers, first, inverse = np.unique(memory.session_of[found], return_index=True, return_inverse=True)
    similarity = np.bincount(inverse, memory.step_weights[found_steps - 1]) ** 2
    nearest = len(numbers) - 1 - np.argsort(-similarity[::-1], kind="stable")[:NEIGHBOURS]
    totals = np.zeros(len(memory.repeat_rates))
    for place in nearest:
        start, end = memory.offsets[numbers[place]:numbers[place] + 2]
        anchor, step = found[first[place]], found_steps[first[place]]
        around = np.arange(max(start, anchor - REACH), min(end, anchor + REACH + 1))
        distance = around - anchor
        shares = np.where(distance > 0, 1 / np.maximum(distance, 1), 1 / np.sqrt(1 - np.minimum(distance, 0)))
        np.add.at(totals, memory.items[around], similarity[place] / step * shares)
    totals[clicks[-1]] = 0
    if not totals.any():
        return nothing
    rate = memory.repeat_rates[clicks[-1]]
    totals *= (1 - rate) / totals.sum()
    totals[clicks[-1]] = rate
    totals = totals.astype(np.float32)
    known = np.flatnonzero(totals).astype(np.int32)
    return known, totals[known]


def latest_clicks(clicks):
    """The distinct items of a session, the latest first, and their steps: 1 for the last click, 2 for the one before.

    Returns
    -------
    items : list of int
    steps : int64 array [items]
        If an item was clicked several times, its latest step.
    """
    steps = {}
    for step, item in enumerate(clicks[::-1].tolist(), start=1):
        steps.setdefault(item, step)
    return list(steps), np.array(list(steps.values()), np.int64)
