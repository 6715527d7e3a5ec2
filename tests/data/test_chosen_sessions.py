"""utils/data/chosen_sessions.py: which sessions are trained on, as slow plain versions put it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.chosen_sessions import chances_by_recency, drawn_by_recency, newest, without_one_item
from utils.data.sessions import Sessions

SESSION_LISTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=20)


def as_sessions(lists):
    return Sessions(np.array([item for items in lists for item in items], np.int32),
                    np.cumsum([0, *map(len, lists)], dtype=np.int64))


def as_lists(sessions):
    return [sessions.items[start:end].tolist() for start, end in zip(sessions.offsets, sessions.offsets[1:])]


@given(lists=SESSION_LISTS)
def test_sessions_of_one_item_are_left_out(lists):
    assert as_lists(without_one_item(as_sessions(lists))) == [items for items in lists if len(set(items)) > 1]


@given(lists=SESSION_LISTS, count=st.integers(1, 25))
def test_the_newest_are_the_last(lists, count):
    assert as_lists(newest(as_sessions(lists), count)) == lists[-count:]


def test_a_session_with_as_many_newer_ones_as_the_half_life_is_drawn_every_second_time():
    sessions = as_sessions([[1, 2]] + [[3]] + [[1, 2]] * 8)  # one click is no session to train on
    chances = chances_by_recency(sessions, 4.0)
    assert chances[[0, 4]].tolist() == [0.25, 0.5] and chances[-2:].tolist() == [1, 1] and len(chances) == 9
    assert (np.diff(chances) >= 0).all()
    assert chances_by_recency(as_sessions([[1, 2]] * 3000), 1.0)[0] == 0  # too small for a float


def test_sessions_are_drawn_as_often_as_their_chances_say():
    sessions = as_sessions([[number, number, number] for number in range(10)])
    random, draws = np.random.default_rng(0), 2000
    counts = np.zeros(10)
    for _ in range(draws):
        drawn = drawn_by_recency(sessions, 3.0, random)
        assert (np.diff(drawn.items[::3]) > 0).all()  # the order stays
        counts[drawn.items[::3]] += 1
    assert counts / draws == pytest.approx(chances_by_recency(sessions, 3.0), abs=0.04)
    assert counts[-1] == counts[-2] == draws


def test_the_same_seed_draws_the_same_sessions():
    sessions = as_sessions([[number, number] for number in range(100)])
    drawn = [as_lists(drawn_by_recency(sessions, 20.0, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
