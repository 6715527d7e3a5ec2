"""utils/model/returns.py: features and probabilities worked by hand, and weights that are found again."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.model.neighbours import RECENT
from utils.model.neighbours_file import LARGEST
from utils.model.returns import NAMES, add_returns, features, fit_returns, recent_clicks

ITEMS = 6
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=RECENT + 5), min_size=1, max_size=4)


def recent_of(*sessions):
    """The sessions' last clicks as `recent_clicks` gives them."""
    ends = np.cumsum([len(session) for session in sessions])
    items = np.array([item for session in sessions for item in session] or [0], np.int32)
    return recent_clicks(items, np.concatenate([[0], ends[:-1]]), ends)


def plain_features(session):
    """The features of each item of a session, a dict of lists, by the docstring's formula."""
    clicks = session[-RECENT:]
    found, distinct = {}, len(set(clicks))
    habit = math.log((len(clicks) - distinct + 0.5) / max(distinct, 1))
    for step, item in enumerate(reversed(clicks), start=1):
        found.setdefault(item, [float(step == 1), 1, math.log(step), habit])
    return found


def test_recent_clicks_end_with_the_last_one():
    recent = recent_of([4, 5], [], list(range(6)) * 4)
    assert recent.dtype == np.int32 and recent.shape == (3, RECENT)
    assert recent[0].tolist() == [0] * 18 + [5, 6] and not recent[1].any()
    assert recent[2].tolist() == ([1, 2, 3, 4, 5, 6] * 4)[-RECENT:]


def test_features_worked_by_hand():
    found = features(recent_of([3, 1, 3, 2]))[0]
    habit = math.log(1.5 / 3)  # four clicks on three items
    np.testing.assert_allclose(found[-4:], [[0, 0, 0, 0],  # clicked again two clicks later
                                            [0, 1, math.log(3), habit], [0, 1, math.log(2), habit], [1, 1, 0, habit]])
    assert not found[:-4].any()


@given(SESSIONS)
def test_features_are_those_of_the_formula(sessions):
    found, recent = features(recent_of(*sessions)), recent_of(*sessions)
    for row, session in enumerate(sessions):
        expected = plain_features(session)
        places = np.flatnonzero(found[row, :, 1])
        assert sorted(recent[row, places] - 1) == sorted(expected)
        for place in places:
            assert found[row, place] == pytest.approx(expected[recent[row, place] - 1])


def test_probabilities_worked_by_hand():
    p = np.array([[0.5, 0.3, 0.2]])
    scores = np.log(p).astype(np.float32) + np.float32(7)
    totals = add_returns(scores, np.array([7.0]), recent_of([1, 2]), [math.log(2), 0, -math.log(3) / math.log(2), 0])
    raised = np.array([0.5, 0.3 / 3, 0.2 * 2])  # item 2 was clicked last; item 1 before it, ln(s) = ln(2)
    np.testing.assert_allclose(np.exp(scores - totals[:, None])[0], raised / raised.sum(), rtol=1e-5)


@pytest.mark.parametrize("score", [200, np.nextafter(np.float32(200), np.float32(300))])  # p = 1, and more by rounding
def test_an_item_that_is_sure_stays_so(score):
    scores = np.array([[score, 0, -300]], np.float32)
    found = add_returns(scores, np.array([200.0]), recent_of([0]), [0, -50.0, 0, 0])
    np.testing.assert_allclose(np.exp(scores - found[:, None]), [[1, 0, 0]], atol=1e-4)


@settings(max_examples=50)
@given(SESSIONS, st.lists(st.floats(-4, 4), min_size=4, max_size=4), st.integers(0, 99))
def test_probabilities_sum_to_1_and_rows_do_not_depend_on_others(sessions, weights, seed):
    scores = np.random.default_rng(seed).normal(size=(len(sessions), ITEMS)).astype(np.float32)
    totals, recent = np.log(np.exp(scores.astype(float)).sum(axis=1)), recent_of(*sessions)
    changed = scores.copy()
    found = add_returns(changed, totals, recent, weights)
    np.testing.assert_allclose(np.exp(changed.astype(float) - found[:, None]).sum(axis=1), 1, rtol=1e-4)
    for row, session in enumerate(sessions):
        alone = scores[row:row + 1].copy()
        assert add_returns(alone, totals[row:row + 1], recent[row:row + 1], weights)[0] == found[row]
        assert (alone[0] == changed[row]).all()
        others = [item for item in range(ITEMS) if item not in session[-RECENT:]]
        assert (changed[row, others] == scores[row, others]).all()


def drawn(weights, count, seed=1):
    """Features, probabilities and next clicks of sessions that come back by these weights."""
    random = np.random.default_rng(seed)
    recent = recent_of(*(random.integers(ITEMS, size=length).tolist() for length in random.integers(1, 9, count)))
    scores = random.normal(size=(count, ITEMS)).astype(np.float32)
    totals = np.log(np.exp(scores).sum(axis=1, dtype=float))
    before = np.exp(scores[np.arange(count)[:, None], recent - 1] - totals[:, None])
    totals = add_returns(scores, totals, recent, weights)
    shares = np.exp(scores - totals[:, None]).cumsum(axis=1)
    clicked = (shares < random.random((count, 1)) * shares[:, -1:]).sum(axis=1)
    return features(recent), before, recent - 1 == clicked[:, None]


def test_the_weights_that_made_the_clicks_are_found_again():
    weights = [-0.5, 0.6, 0.8, 1.2]
    assert fit_returns(*drawn(weights, 40_000)) == pytest.approx(weights, abs=0.15)
    assert fit_returns(*drawn([0, 0, 0, 0], 40_000)) == pytest.approx([0] * len(NAMES), abs=0.15)


def test_few_or_extreme_clicks_give_weights_near_0():
    some = [part[:3] for part in drawn([0, 0, 0, 0], 40)]
    assert max(map(abs, fit_returns(*some))) < 2
    always = drawn([0, 0, 0, 0], 500)
    is_last = always[0][..., 0] > 0  # every session clicks its last item again
    found = fit_returns(*always[:2], is_last)
    assert np.isfinite(found).all() and max(map(abs, found)) < 50 and found[0] > 1
    assert fit_returns(*(part[:0] for part in always)) == [0] * len(NAMES)


def test_clicks_on_items_that_the_network_thinks_impossible_are_fitted_too():
    some, before, is_next = drawn([0, 0, 0, 0], 500)
    for share in 1e-6, 1e-12:
        last, clicked, step, habit = fit_returns(some, np.full(before.shape, share), is_next)
        assert clicked == pytest.approx(-math.log(share), rel=0.2) and max(map(abs, (last, step, habit))) < 3


@pytest.mark.parametrize("signs", [(1, 1, 1, 1), (-1, -1, -1, -1), (1, 1, 1, -1), (-1, -1, -1, 1)])
def test_the_largest_weights_that_are_read_leave_numbers(signs):
    """Also for items whose probability float32 has as 0."""
    recent = recent_of(*([place % distinct for place in range(RECENT)] for distinct in range(1, RECENT + 1)))
    scores = np.full((RECENT, RECENT), -200, np.float32)
    totals = add_returns(scores, np.zeros(RECENT), recent, [sign * LARGEST for sign in signs])
    assert np.isfinite(scores).all() and np.isfinite(totals).all()
