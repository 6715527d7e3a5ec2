import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.sessions import Sessions
from utils.evaluation.baselines import (
    TIE_WEIGHT,
    baseline_ranks_and_best,
    candidates,
    index_sessions,
    item_neighbour_scores,
    popularity_scores,
    session_neighbour_scores,
    session_popularity_scores,
    transition_scores,
)
from utils.model.neighbours import latest_clicks


def as_sessions(lists):
    return Sessions(np.array([item for items in lists for item in items], np.int32),
                    np.cumsum([0, *map(len, lists)], dtype=np.int64))


def clicks(*items):
    return np.array(items, np.int32)


def baseline_ranks(scores_after, sessions, ties="standard"):
    return baseline_ranks_and_best(scores_after, sessions, ties=ties)[0]


TRAINING = as_sessions([[0, 1, 2], [0, 1], [0, 2, 0], [3]])  # 9 clicks: 0 four times, 1 and 2 twice, 3 once, 4 never
SHARES = np.array([4, 2, 2, 1, 0]) / 9
METHODS = [popularity_scores, session_popularity_scores, transition_scores, item_neighbour_scores,
           session_neighbour_scores]
FIVE_LISTS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=8)
CURRENT = st.lists(st.integers(0, 4), min_size=1, max_size=14)


def shares_of(lists):
    return [sum(items.count(item) for items in lists) / sum(map(len, lists)) for item in range(5)]


def near(scores):
    return pytest.approx(np.array(scores), rel=2 * TIE_WEIGHT)


def test_popularity_is_the_share_of_clicks_whatever_came_before():
    scores_after = popularity_scores(TRAINING, 5)
    assert scores_after(clicks(0)) == pytest.approx(SHARES)
    assert scores_after(clicks(1, 3)) == pytest.approx(SHARES)


def test_session_popularity_counts_this_session_and_fills_up_with_popularity():
    assert session_popularity_scores(TRAINING, 5)(clicks(4, 2, 4)) == pytest.approx(SHARES / 2 + [0, 0, 1, 0, 2])


def test_transitions_count_what_came_next_and_fill_up_with_popularity():
    scores_after = transition_scores(TRAINING, 5)
    assert scores_after(clicks(3, 0)) == pytest.approx(SHARES / 2 + [0, 2, 1, 0, 0])
    # 2 ended the first session: no 0 came next
    assert scores_after(clicks(2)) == pytest.approx(SHARES / 2 + [1, 0, 0, 0, 0])
    assert scores_after(clicks(0, 3)) == pytest.approx(SHARES / 2)


def test_an_item_that_follows_itself_is_a_transition():
    assert transition_scores(as_sessions([[1, 1, 1], [0]]), 3)(clicks(1)) == pytest.approx([1 / 8, 2 + 3 / 8, 0])


def test_item_neighbours_are_the_items_of_the_sessions_that_hold_the_last_click():
    scores = item_neighbour_scores(TRAINING, 5)(clicks(3, 0))  # sessions: 0 in three, 1 and 2 in two, 3 in one
    assert scores == near([4 / 9 - 1, 2 / math.sqrt(23 * 22), 2 / math.sqrt(23 * 22), 1 / 9 - 1, -1])
    assert scores[1] == scores[2]  # as often together with 0, and equally popular


def test_the_regularisation_and_alpha_of_item_neighbours():
    assert item_neighbour_scores(TRAINING, 5, 1, 0.25)(clicks(1)) == near(
        [2 / (3 ** 0.25 * 4 ** 0.75), 2 / 9 - 1, 1 / (3 ** 0.25 * 3 ** 0.75), 1 / 9 - 1, -1])
    assert item_neighbour_scores(TRAINING, 5, 0, 1)(clicks(0)) == near([4 / 9 - 1, 2 / 3, 2 / 3, 1 / 9 - 1, -1])
    assert item_neighbour_scores(TRAINING, 5, 0, 0)(clicks(4)) == near(SHARES - 1)  # nothing is known of 4


def test_equally_similar_items_are_ordered_by_popularity():
    scores = item_neighbour_scores(as_sessions([[0, 1, 2, 2], [3, 3, 3]]), 4)(clicks(0))
    assert np.argsort(-scores).tolist() == [2, 1, 3, 0]
    assert scores[2] == pytest.approx(scores[1])


def test_neighbouring_sessions_score_what_they_hold():
    scores = session_neighbour_scores(TRAINING, 5, idf_weight=0)(clicks(1, 2))
    # similarities: {0,1,2} 1/2 + 1 by 2, {0,1} 1/2 by 1, the second click from the end, {0,2} 1 by 2
    assert scores == near([1.5 + 1 / 4 + 1, 1.5 + 1 / 4, 1.5 + 1, 1 / 9 - 1, -1])


def test_the_linear_decay_of_neighbouring_sessions():
    scores = session_neighbour_scores(TRAINING, 5, decay="linear", idf_weight=0)(clicks(1, 2))
    assert scores == near([1.5 * 0.9 + 0.5 * 0.8 + 1 * 0.9, 1.5 * 0.9 + 0.5 * 0.8, 1.5 * 0.9 + 1 * 0.9, 1 / 9 - 1, -1])


def test_rare_items_of_neighbouring_sessions_gain():
    plain = session_neighbour_scores(TRAINING, 5, idf_weight=0)(clicks(1, 2))
    scores = session_neighbour_scores(TRAINING, 5, idf_weight=3)(clicks(1, 2))
    assert scores[:3] / plain[:3] == near([1 + 3 * math.log(4 / 3), 1 + 3 * math.log(4 / 2), 1 + 3 * math.log(4 / 2)])
    assert (scores[3:] == plain[3:]).all()


def test_only_the_most_similar_of_the_newest_sessions_are_neighbours():
    training = as_sessions([[0, 1, 2], [0, 3], [0, 4]])
    scores = lambda *settings: session_neighbour_scores(training, 5, *settings)(clicks(1, 0))
    scored = lambda *settings: np.flatnonzero(scores(*settings) > 0).tolist()
    assert scored(1, 3) == [0, 1, 2]  # the most similar
    assert scored(2, 3) == [0, 1, 2, 4]  # and of two equal ones the newer
    assert scored(1, 2) == [0, 4]  # the first session is too old
    assert scored(3, 3) == [0, 1, 2, 3, 4]


def test_ten_clicks_back_nothing_counts_with_linear_decay():
    training = as_sessions([[0, 1], [2]])
    linear = session_neighbour_scores(training, 3, decay="linear")
    assert linear(clicks(0, *[2] * 8))[1] > 0
    assert linear(clicks(0, *[2] * 9)) == near([1 / 3 - 1, 1 / 3 - 1, 0.1 * 9 * (1 + math.log(2))])


def test_items_that_no_session_holds_are_no_neighbours():
    assert session_neighbour_scores(TRAINING, 6)(clicks(4, 5)) == pytest.approx([*SHARES - 1, -1])


def test_the_latest_click_of_an_item_counts():
    items, steps = latest_clicks(clicks(7, 3, 7, 5, 3))
    assert items == [3, 5, 7] and steps.tolist() == [1, 2, 3]


def test_the_index_holds_each_item_of_a_session_once():
    index = index_sessions(TRAINING, 5)
    assert [index.items_of(np.array([number])).tolist() for number in range(4)] == [[0, 1, 2], [0, 1], [0, 2], [3]]
    assert [index.sessions_with(item).tolist() for item in range(5)] == [[0, 1, 2], [0, 1], [0, 2], [3], []]
    assert index.items_of(np.array([2, 0])).tolist() == [0, 2, 0, 1, 2]
    assert index.items_of(np.array([], int)).tolist() == []


@given(lists=FIVE_LISTS, current=CURRENT, sample_size=st.integers(1, 9))
def test_sampling_the_newest_sessions_of_each_item_finds_the_newest_of_all(lists, current, sample_size):
    items, steps = latest_clicks(clicks(*current))
    numbers, similarity, decay = candidates(index_sessions(as_sessions(lists), 5), items, 10.0 ** -steps, -steps,
                                            sample_size)
    expected = [number for number, session in enumerate(lists) if set(session) & set(items)][-sample_size:]
    assert numbers.tolist() == expected
    shared = [[step for item, step in zip(items, steps) if item in lists[number]] for number in expected]
    assert similarity == pytest.approx([sum(10.0 ** -step for step in found) for found in shared])
    assert decay.tolist() == [-min(found) for found in shared]


@given(lists=FIVE_LISTS, current=CURRENT)
def test_session_popularity_and_transitions_equal_slow_plain_versions(lists, current):
    shares = shares_of(lists)
    expected = [current.count(item) + shares[item] / 2 for item in range(5)]
    assert session_popularity_scores(as_sessions(lists), 5)(clicks(*current)) == pytest.approx(expected)
    expected = [sum(pair == (current[-1], item) for items in lists for pair in zip(items, items[1:])) + shares[item] / 2
                for item in range(5)]
    assert transition_scores(as_sessions(lists), 5)(clicks(*current)) == pytest.approx(expected)


@given(lists=FIVE_LISTS, current=CURRENT, regularisation=st.sampled_from([0, 1, 20]),
       alpha=st.sampled_from([0, 0.3, 0.5, 1]))
def test_item_neighbours_equal_a_slow_plain_version(lists, current, regularisation, alpha):
    sets, last, shares = [set(items) for items in lists], current[-1], shares_of(lists)
    support = [sum(item in items for items in sets) + regularisation for item in range(5)]
    together = [sum({item, last} <= items for items in sets) * (item != last) for item in range(5)]
    norms = [support[last] ** alpha * support[item] ** (1 - alpha) for item in range(5)]
    expected = [together[item] * (1 + TIE_WEIGHT * shares[item]) / norms[item] if together[item] else shares[item] - 1
                for item in range(5)]
    scores = item_neighbour_scores(as_sessions(lists), 5, regularisation, alpha)(clicks(*current))
    assert scores == pytest.approx(expected, rel=1e-12)


def plain_session_neighbour_scores(lists, current, neighbours, sample_size, decay, idf_weight):
    count, shares = len(current), shares_of(lists)
    step = {item: current[::-1].index(item) + 1 for item in current[::-1]}  # in the order of the latest clicks
    weight = {item: 1 / s if decay == "harmonic" else (count - s + 1) / count for item, s in step.items()}
    found = [(sum(weight[item] for item in step if item in session), number, session)
             for number, session in enumerate(lists)
             if set(session) & set(step)]
    totals = [0] * 5
    for similarity, _, session in sorted(found[-sample_size:], reverse=True)[:neighbours]:
        latest = min(step[item] for item in session if item in step)
        for item in set(session):
            totals[item] += similarity * (1 / latest if decay == "harmonic" else max(0, 1 - latest / 10))
    return [totals[item] * (1 + TIE_WEIGHT * shares[item])
            * (1 + idf_weight * math.log(len(lists) / sum(item in session for session in lists)))
            if totals[item] > 0 else shares[item] - 1 for item in range(5)]


@given(lists=FIVE_LISTS, current=CURRENT, neighbours=st.integers(1, 9), sample_size=st.integers(1, 9),
       decay=st.sampled_from(["harmonic", "linear"]), idf_weight=st.sampled_from([0, 1, 5]))
def test_session_neighbours_equal_a_slow_plain_version(lists, current, neighbours, sample_size, decay, idf_weight):
    settings = neighbours, sample_size, decay, idf_weight
    scores = session_neighbour_scores(as_sessions(lists), 5, *settings)(clicks(*current))
    assert scores == pytest.approx(plain_session_neighbour_scores(lists, current, *settings), rel=1e-12)


@given(lists=FIVE_LISTS, current=CURRENT)
def test_what_a_method_says_nothing_of_ranks_behind_by_popularity(lists, current):
    shares = np.array(shares_of(lists))
    current = clicks(*current)
    for fit in item_neighbour_scores, session_neighbour_scores:
        scores = fit(as_sessions(lists), 5)(current)
        silent = scores <= 0
        assert scores.dtype == np.float64 and scores.shape == (5,)
        assert np.array_equal(scores[silent], shares[silent] - 1)


@pytest.mark.parametrize("fit, standard, conservative", [
    (popularity_scores, [2, 2, 1], [3, 3, 1]),  # 1 and 2 are equally popular
    (session_popularity_scores, [2, 3, 2], [3, 3, 2]),  # the first click is ahead, 1 and 2 are equally popular
    (transition_scores, [1, 2, 1], [1, 3, 1]),  # after 2 only 0 ever came, so 1 and 2 are tied again
    (item_neighbour_scores, [1, 2, 1], [2, 2, 1]),  # an item is no neighbour of itself
])
def test_a_baseline_ranks_every_click_but_the_first_from_those_before_it(fit, standard, conservative):
    test = as_sessions([[0, 1], [4], [2, 1], [2, 0]])
    assert baseline_ranks(fit(TRAINING, 5), test).tolist() == standard
    assert baseline_ranks(fit(TRAINING, 5), test, "conservative").tolist() == conservative
    median = baseline_ranks(fit(TRAINING, 5), test, "median")
    assert median.tolist() == pytest.approx(np.add(standard, conservative) / 2)


@pytest.mark.parametrize("fit", METHODS)
def test_a_prediction_knows_all_clicks_before_it_and_none_after(fit):
    scores_after, session = fit(TRAINING, 5), [2, 0, 0, 3, 1]
    expected = [baseline_ranks(lambda _: scores_after(clicks(*session[:end])),
                               as_sessions([session[end - 1:end + 1]]))[0]
                for end in range(1, 5)]
    assert baseline_ranks(scores_after, as_sessions([[1], session, [4]])).tolist() == expected


def test_fitting_and_ranking_change_no_session():
    for fit in METHODS:
        training, test = as_sessions([[0, 1, 2], [2, 0]]), as_sessions([[0, 0, 2], [1, 2]])
        for array in *training, *test:
            array.flags.writeable = False
        assert len(baseline_ranks(fit(training, 3), test)) == 3
