import numpy as np
import pytest
from hypothesis import given, strategies as st

from utils.baselines import popularity_scores, transition_scores
from utils.evaluation import baseline_ranks
from utils.sessions import Sessions


def as_sessions(lists):
    return Sessions(np.array([item for items in lists for item in items], np.int32),
                    np.cumsum([0, *map(len, lists)], dtype=np.int64))


TRAINING = as_sessions([[0, 1, 2], [0, 1], [0, 2, 0], [3]])  # 9 clicks: 0 four times, 1 and 2 twice, 3 once, 4 never
FIVE_LISTS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=8)


def test_popularity_is_the_share_of_clicks_whatever_came_before():
    scores = popularity_scores(TRAINING, 5)(np.array([0, 3]))
    assert scores == pytest.approx(np.array([[4, 2, 2, 1, 0]] * 2) / 9)


def test_transitions_count_what_came_next_and_fill_up_with_popularity():
    scores = transition_scores(TRAINING, 5)(np.array([0, 2, 3]))
    popularity = np.array([4, 2, 2, 1, 0]) / 18
    assert scores[0] == pytest.approx(popularity + [0, 2, 1, 0, 0])
    assert scores[1] == pytest.approx(popularity + [1, 0, 0, 0, 0])  # 2 ended the first session: 0 didn't follow it there
    assert scores[2] == pytest.approx(popularity)
    assert (scores[0] >= 1).tolist() == [False, True, True, False, False]  # popularity never passes a transition


def test_an_item_that_follows_itself_is_a_transition():
    assert transition_scores(as_sessions([[1, 1, 1], [0]]), 3)(np.array([1]))[0] == pytest.approx([1 / 8, 2 + 3 / 8, 0])


@given(lists=FIVE_LISTS, last=st.integers(0, 4))
def test_transitions_equal_a_slow_plain_version(lists, last):
    expected = [sum(pair == (last, item) for items in lists for pair in zip(items, items[1:]))
                + 0.5 * sum(items.count(item) for items in lists) / sum(map(len, lists)) for item in range(5)]
    assert transition_scores(as_sessions(lists), 5)(np.array([last, last])).tolist() == [pytest.approx(expected)] * 2


@pytest.mark.parametrize("fit, standard, conservative", [
    (popularity_scores, [2, 2, 1], [3, 3, 1]),  # 1 and 2 are equally popular
    (transition_scores, [1, 2, 1], [1, 3, 1]),  # after 2 only 0 ever came, so 1 and 2 are tied again
])
def test_a_baseline_ranks_every_click_but_the_first_from_the_one_before(fit, standard, conservative):
    test = as_sessions([[0, 1], [4], [2, 1], [2, 0]])
    assert baseline_ranks(fit(TRAINING, 5), test).tolist() == standard
    assert baseline_ranks(fit(TRAINING, 5), test, "conservative").tolist() == conservative


@given(lists=FIVE_LISTS, rows=st.integers(1, 4))
def test_the_ranks_do_not_depend_on_how_many_are_computed_at_once(lists, rows):
    lists.append([0, 1])
    scores_after = transition_scores(TRAINING, 5)
    test = as_sessions(lists)
    assert np.array_equal(baseline_ranks(scores_after, test, rows=rows), baseline_ranks(scores_after, test))
