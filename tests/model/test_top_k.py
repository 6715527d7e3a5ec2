"""utils/model/top_k.py: the best items as a full sort finds them."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from utils.model.top_k import GROUPS, top_k, top_k_among, top_k_of_rows

ITEMS = 23


def by_full_sort(scores, k, excluded=()):
    order = np.lexsort((np.arange(len(scores)), -scores))
    return [item for item in order if item not in set(excluded) and scores[item] > -np.inf][:k]


@given(items=st.integers(1, 40) | st.integers(GROUPS - 2, 3 * GROUPS), levels=st.sampled_from([1, 2, 5, 100, 10**6]),
       k=st.integers(1, 30) | st.integers(GROUPS - 1, GROUPS + 1) | st.just(10**6), seed=st.integers(0, 10**6),
       excluded=st.lists(st.integers(0, 10**6), max_size=5))
@example(items=GROUPS, levels=1, k=GROUPS, seed=0, excluded=[])
def test_top_k_is_the_head_of_a_full_sort(items, levels, k, seed, excluded):
    scores = np.random.default_rng(seed).integers(levels, size=items).astype(np.float32) / 7 - 5
    excluded = [item % items for item in excluded]
    kept = scores.copy()
    best, their_scores = top_k(scores, k, excluded)
    assert best.tolist() == by_full_sort(scores, k, excluded)
    assert (their_scores == scores[best]).all() and their_scores.dtype == np.float32 and best.dtype == np.int64
    assert (scores == kept).all()


@pytest.mark.parametrize("winner", [0, GROUPS - 1, GROUPS, 2 * GROUPS + 4])  # the last one is in no group
def test_top_k_finds_the_best_wherever_it_stands(winner):
    scores = np.zeros(2 * GROUPS + 5, np.float32)
    scores[winner] = 1
    assert top_k(scores, 1)[0].tolist() == [winner]
    assert top_k(scores, 2, [winner])[0].tolist() == [item for item in range(3) if item != winner][:2]


def test_the_best_of_each_row_are_found_where_they_are_in_no_group():
    scores = np.zeros((2, 2 * GROUPS + 5), np.float32)
    scores[[0, 1], [-1, -2]] = 1
    assert [items.tolist() for items, _ in top_k_of_rows(scores, 1)] == [[2 * GROUPS + 4], [2 * GROUPS + 3]]


def test_excluded_items_that_are_not_among_the_others_exclude_nothing():
    items, scores = top_k_among(np.float32([1, 3, 2]), np.array([2, 5, 7]), 2, [3, 9])
    assert items.tolist() == [5, 7] and scores.tolist() == [3, 2]


def test_top_k_of_nothing_but_excluded_items_is_empty():
    assert top_k(np.ones(3, np.float32), 2, [0, 1, 2, 2])[0].tolist() == []
    assert top_k(np.full(2 * GROUPS, -np.inf, np.float32), 2)[0].tolist() == []


@given(data=st.data())
def test_the_best_of_several_rows_equal_those_of_each_alone(data):
    rows, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 30))
    scores = np.array(data.draw(st.lists(st.lists(st.integers(0, 9), min_size=ITEMS, max_size=ITEMS), min_size=rows,
                                         max_size=rows)),
                      np.float32)
    excluded = data.draw(st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=ITEMS), min_size=rows, max_size=rows))
    for made in (scores.copy(), np.asfortranarray(scores)):
        for found, row, left_out in zip(top_k_of_rows(made, k, excluded), scores, excluded, strict=True):
            expected = [item for item in np.argsort(-row, kind="stable") if item not in left_out][:k]
            assert found[0].tolist() == expected and found[1].tolist() == row[expected].tolist()
