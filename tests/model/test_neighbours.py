"""utils/model/neighbours.py: shares worked by hand, and C++ as NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.sessions import Sessions
from utils.model import neighbours
from utils.model.neighbours import Neighbours, index_newest, plain_shares, remember

ITEMS = 6


def sessions_of(*clicks):
    return Sessions(np.array([item for session in clicks for item in session], np.int32),
                    np.cumsum([0, *map(len, clicks)]))


def memory_of(*clicks, item_count=ITEMS):
    return Neighbours(remember(sessions_of(*clicks), item_count))


@pytest.fixture(params=["native", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(neighbours, "native_library", lambda: None)
    elif neighbours.native_library() is None:
        pytest.skip("no C++ compiler")


@pytest.mark.usefixtures("way")
def test_shares_of_a_session_worked_by_hand():
    memory = memory_of([0, 1, 2], [3, 1])  # nothing is ever repeated
    items, shares = memory.shares(np.array([0, 1]))
    # The first session shares both clicks, similarity (1 + .9)^2 = 3.61; its anchor is item 1, the last click. Item 2
    # follows it, d = 1, and item 0 is one before, 1 / sqrt(2). The second shares item 1 alone: similarity 1.
    expected = {0: 3.61 / math.sqrt(2), 2: 3.61, 3: 1 / math.sqrt(2)}
    assert items.tolist() == [0, 2, 3]
    assert shares == pytest.approx([expected[item] / sum(expected.values()) for item in items], rel=1e-6)


@pytest.mark.usefixtures("way")
def test_an_earlier_click_is_an_anchor_too_and_counts_less():
    items, shares = memory_of([4, 5, 5, 0]).shares(np.array([4, 3]))  # nobody clicked item 3: step 2 is the anchor
    expected = {4: 1.0, 5: 1 + 1 / 2, 0: 1 / 3}  # all times .81 / 2; no rate for item 3, which nothing followed
    rate = neighbours.PRIOR * (1 / 3) / neighbours.PRIOR
    assert items.tolist() == [0, 3, 4, 5]
    assert shares[1] == pytest.approx(rate)
    others = [(1 - rate) * expected[item] / sum(expected.values()) for item in (0, 4, 5)]
    assert shares[[0, 2, 3]] == pytest.approx(others, rel=1e-6)


@pytest.mark.usefixtures("way")
def test_the_last_item_has_its_rate_of_direct_repeats():
    memory = memory_of([0, 0, 1], [0, 2], [3, 1])
    overall = 1 / 4
    rates = [(1 + 10 * overall) / (3 + 10), overall, overall, 10 * overall / (1 + 10), overall, overall]
    assert memory.repeat_rates == pytest.approx(rates)
    items, shares = memory.shares(np.array([0]))
    assert shares[items.tolist().index(0)] == pytest.approx(rates[0])
    assert shares.sum() == pytest.approx(1)


@pytest.mark.usefixtures("way")
def test_a_neighbour_recommends_no_farther_than_its_reach():
    for clicks in range(61), range(60, -1, -1):  # after its anchor, and before it
        items, _ = memory_of(clicks, item_count=61).shares(np.array([0]))
        assert items.tolist() == list(range(1, neighbours.REACH + 1))


@pytest.mark.usefixtures("way")
def test_nothing_is_said_of_a_session_like_no_other():
    memory = memory_of([0, 1], [2])
    for clicks in ([4], [2], []):  # not remembered; remembered, but nothing else with it; no click
        items, shares = memory.shares(np.array(clicks, np.int32))
        assert len(items) == len(shares) == 0


@pytest.mark.usefixtures("way")
def test_only_the_newest_sessions_of_an_item_are_remembered(monkeypatch):
    monkeypatch.setattr(neighbours, "NEWEST", 2)
    sessions = sessions_of([0, 1], [0, 2], [0, 3, 0], [0, 4])
    starts, clicks = index_newest(sessions.items, neighbours.session_of_clicks(sessions), ITEMS)
    assert clicks[starts[0]:starts[1]].tolist() == [6, 7]  # one a session, the last there
    assert remember(sessions, ITEMS).sessions.offsets.tolist() == [0, 2, 4, 7, 9]  # items 1 and 2 lead to older ones
    older = sessions_of([0, 1], [0, 1], [0, 1], [0, 2])
    assert remember(older, ITEMS).sessions.offsets.tolist() == [0, 2, 4, 6]  # nothing leads to the first
    assert memory_of([0, 1], [0, 1], [0, 1], [0, 2]).shares(np.array([0]))[0].tolist() == [1, 2]  # 0 is never repeated


@pytest.mark.skipif(neighbours.native_library() is None, reason="no C++ compiler")
@pytest.mark.parametrize("wrong", [False, True])
def test_cpp_that_gives_other_shares_is_not_used(monkeypatch, wrong):
    if wrong:
        found = Neighbours.shares
        halved = lambda self, clicks: (found(self, clicks)[0], found(self, clicks)[1] / 2)
        monkeypatch.setattr(Neighbours, "shares", halved)
    assert memory_of([0, 1, 2], [3, 1]).way == ("numpy" if wrong else "native")


sessions_strategy = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=70), min_size=1, max_size=25)


@pytest.mark.skipif(neighbours.native_library() is None, reason="no C++ compiler")
@settings(max_examples=100, deadline=None)
@given(sessions_strategy, st.lists(st.integers(0, 7), min_size=1, max_size=30), st.integers(1, 6))
def test_native_shares_are_those_of_numpy(training, clicks, few):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "NEIGHBOURS", few)  # so that some have to be left out
        memory = memory_of(*training, item_count=9)
        assert memory.way == "native"
        items, shares = memory.shares(np.array(clicks))
        plain_items, expected = plain_shares(memory, np.array(clicks))
        assert items.tolist() == plain_items.tolist()
        assert shares == pytest.approx(expected, rel=1e-5)
        assert not len(shares) or shares.sum() == pytest.approx(1, rel=1e-5)
        together = memory.shares_of(np.array([5, *clicks, 3], np.int32), np.array([0, 1, 1]),
                                    np.array([1, 1, 1 + len(clicks)]))
        assert together[0][together[2][2]:].tolist() == items.tolist()
        assert together[1][together[2][2]:].tolist() == shares.tolist()
        assert together[2][1] == together[2][2] == len(memory.shares(np.array([5]))[0])
