"""utils/data/selection.py: the best items of a selection are those that all scores, masked and sorted, give."""

import numpy as np
import pytest
from forms import draw_weights, settings_of
from hypothesis import given
from hypothesis import strategies as st

from utils.data.selection import FEW, Selection
from utils.model.native_scorer import NativeScorer
from utils.model.scorer import Scorer
from utils.model.top_k import top_k_among

UNITS = 7


def plain_best(scores, mask, k, excluded):
    """All scores, masked and sorted."""
    may = mask.copy()
    may[list(excluded)] = False
    order = [item for item in np.argsort(-scores, kind="stable") if may[item]][:k]
    return order, scores[order]


@given(mask=st.lists(st.booleans(), min_size=1, max_size=100), data=st.data())
def test_what_is_in_it(mask, data):
    mask = np.array(mask)
    selection = Selection(mask)
    assert selection.mask().tolist() == mask.tolist() and selection.count == mask.sum()
    items = np.array(data.draw(st.lists(st.integers(0, len(mask) - 1))), np.int64)
    assert selection.has(items).tolist() == mask[items].tolist()
    assert (selection.few is not None) == (selection.count * FEW <= len(mask))
    assert selection.few is None or selection.few.tolist() == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("kind", [Scorer, NativeScorer])
@given(items=st.integers(1, 400), share=st.sampled_from([0, 0.01, 0.03, 0.1, 0.5, 0.9, 1]), rows=st.integers(1, 10),
       seed=st.integers(0, 10**6), data=st.data())
def test_the_best_are_those_of_all_scores_masked_and_sorted_to_the_last_bit(kind, items, share, rows, seed, data):
    random = np.random.default_rng(seed)
    scorer = kind(settings := settings_of("shared", [UNITS], True), draw_weights(settings, items, seed))
    states = random.uniform(-1, 1, (rows, UNITS)).astype(np.float32)
    masks = [random.random(items) < share for _ in range(rows)]
    ks = [data.draw(st.integers(1, 40)) for _ in range(rows)]
    excluded = [random.choice(items, size=min(items, 5)) for _ in range(rows)]
    among_all = scorer.best(states, [items] * rows, [()] * rows, [None] * rows)
    allowed = [Selection(mask) if random.random() < 0.8 else None for mask in masks]
    found = scorer.best(states, ks, excluded, allowed)
    for row, (best, scores) in enumerate(found):
        all_scores = np.empty(items, np.float32)
        all_scores[among_all[row][0]] = among_all[row][1]
        mask = np.ones(items, bool) if allowed[row] is None else masks[row]
        expected, their_scores = plain_best(all_scores, mask, ks[row], excluded[row])
        assert best.tolist() == expected and best.dtype == np.int64
        assert scores.tobytes() == their_scores.tobytes()


def test_a_selection_from_another_number_of_items_is_refused():
    settings = settings_of("shared", [UNITS], True)
    scorer = NativeScorer(settings, draw_weights(settings, 40, 1))
    with pytest.raises(IndexError, match="another number of items"):
        scorer.best(np.zeros((1, UNITS), np.float32), [3], [()], [Selection(np.ones(39, bool))])
    few = Selection(np.arange(400) == 399)
    with pytest.raises(IndexError, match="another number of items"):
        scorer.best(np.zeros((1, UNITS), np.float32), [3], [()], [few])


@given(scores=st.lists(st.integers(0, 5).map(float), max_size=20), k=st.integers(1, 30), data=st.data())
def test_the_best_of_some_items(scores, k, data):
    among = np.array(sorted(data.draw(st.sets(st.integers(0, 99), min_size=len(scores), max_size=len(scores)))),
                     np.int64)
    excluded = data.draw(st.lists(st.integers(0, 99)))
    best, their_scores = top_k_among(np.array(scores), among, k, excluded)
    expected = sorted(((-score, item) for score, item in zip(scores, among.tolist()) if item not in excluded))[:k]
    assert best.tolist() == [item for _, item in expected]
    assert their_scores.tolist() == [-score for score, _ in expected]
