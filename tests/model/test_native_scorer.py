"""utils/native/scoring.cc: what the NumPy scorer answers, for certain, and the same to the last bit in any company."""

import ctypes
import shutil
from functools import partial

import numpy as np
import pytest
from forms import draw_weights, sessions_of, settings_of
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from utils.data.selection import Selection
from utils.model import native_scorer
from utils.model.native_scorer import ARGUMENTS, NativeScorer
from utils.model.scorer import Scorer
from utils.native.compiling import NotCompiled, level_flags, library

SMALL = 23
FORMS = [("shared", [6], True), ("shared", [6], False), ("separate", [5, 7], True), ("separate", [33, 20, 4], False),
         ("none", [6, 3], True)]


def draw_pair(items=SMALL, seed=0, change=lambda weights: None, form=FORMS[0], units=None):
    """A `Scorer` and a `NativeScorer` of the same random weights; `units` stands for a shared matrix and one layer."""
    settings = settings_of("shared", [units], True) if units else settings_of(*form)
    weights = draw_weights(settings, items, seed)
    change(weights)
    return Scorer(settings, weights), NativeScorer(settings, weights)


def draw_states(rows, units, seed=1):
    return np.random.default_rng(seed).uniform(-1, 1, (rows, units)).astype(np.float32)


def in_float64(scorer, state):
    return scorer.item_vectors.astype(np.float64) @ state + scorer.item_biases


@pytest.fixture(params=["this processor's", "any x86-64", "x86-64-v3", "by clang"])
def every_level(request, monkeypatch):
    """The library for this processor, and those for lesser ones; and the first by another compiler."""
    flags = [f"-march={request.param.split()[-1]}"] if "x86" in request.param else level_flags()
    if request.param == "by clang":
        if not shutil.which("clang++"):
            pytest.skip("no clang++ on this machine")
        monkeypatch.setenv("CXX", "clang++")
        flags.append("-DBY_CLANG")  # so that it isn't what the other compiler made
    if request.param == "x86-64-v3" and not level_flags():
        pytest.skip("this processor has no AVX2")
    try:
        found = library(native_scorer.SOURCES, [*flags, "-fopenmp-simd"])
    except NotCompiled as reason:
        pytest.skip(f"not compiled: {reason}")
    for name, types in ARGUMENTS.items():
        getattr(found, name).argtypes, getattr(found, name).restype = types, None
    monkeypatch.setattr(native_scorer, "native_library", lambda: (found, ""))


# States

@pytest.mark.parametrize("form", FORMS, ids=str)
@given(data=st.data())
def test_replay_is_the_plain_one(form, data):
    plain, native = draw_pair(form=form)
    lists = data.draw(st.lists(st.lists(st.integers(0, SMALL - 1), max_size=9), min_size=1, max_size=11))
    before = draw_states(len(lists), sum(form[1]))
    kept = before.copy()
    found = native.replay(sessions_of(lists), before)
    np.testing.assert_allclose(found, plain.replay(sessions_of(lists), before), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(before, kept)
    for row, items in enumerate(lists):
        np.testing.assert_array_equal(native.replay(sessions_of([items]), before[row:row + 1])[0], found[row],
                                      "to the last bit")


def test_replay_at_every_level(every_level):
    for form in FORMS:
        plain, native = draw_pair(form=form)
        sessions = sessions_of([[1, 2, 3], [], [4], [5, 6, 7, 8, 9], [0, 22], [3]])
        before = draw_states(6, sum(form[1]))
        np.testing.assert_allclose(native.replay(sessions, before), plain.replay(sessions, before), rtol=0, atol=1e-5)


def test_states_beyond_what_exp_takes():
    plain, native = draw_pair(units=6, change=lambda weights: weights["gru.0.bias"].__imul__(1e4))
    sessions, before = sessions_of([[1, 2, 3]]), draw_states(1, 6)
    np.testing.assert_allclose(native.replay(sessions, before), plain.replay(sessions, before), rtol=0, atol=1e-5)


# The best items

def assert_best(native, states, ks, excluded, allowed):
    """The answers are the head of a sort by exact scores; items whose scores differ by rounding may change places."""
    found = native.best(states, ks, excluded, allowed)
    assert len(found) == len(states)
    for state, k, left_out, among, (items, scores) in zip(states, ks, excluded, allowed, found, strict=True):
        exact = in_float64(native, state)
        may = np.setdiff1d(np.array(range(len(exact)) if among is None else among, np.int64),
                           np.array(left_out, np.int64))
        assert items.dtype == np.int64 and scores.dtype == np.float32
        assert len(items) == len(set(items)) == min(k, len(may))
        assert set(items) <= set(may)
        tolerance = 1e-5 * max(1, np.abs(exact).max())
        np.testing.assert_allclose(scores, exact[items], rtol=0, atol=tolerance)
        np.testing.assert_allclose(scores, np.sort(exact[may])[::-1][:k], rtol=0, atol=tolerance)
        one_by_one = native.scores(state, may)
        order = np.lexsort((may, -one_by_one))[:k]
        assert items.tolist() == may[order].tolist(), "best first, equal ones by index"
        assert scores.tobytes() == one_by_one[order].tobytes()


@given(items=st.integers(1, 70), units=st.integers(1, 40), rows=st.integers(1, 10), seed=st.integers(0, 10**6),
       data=st.data())
@hypothesis_settings(max_examples=60)
def test_the_best_items_for_certain(items, units, rows, seed, data):
    _, native = draw_pair(items, seed, units=units)
    one_a_row = lambda of: data.draw(st.lists(of, min_size=rows, max_size=rows))
    ids = st.lists(st.integers(0, items - 1), max_size=items)
    assert_best(native, draw_states(rows, units, seed), one_a_row(st.integers(1, 80)), one_a_row(ids),
                one_a_row(st.none() | ids))


def test_the_best_items_at_every_level(every_level):
    _, native = draw_pair(5000, units=37)
    assert_best(native, draw_states(13, 37), [20] * 13, [()] * 12 + [range(4990)], [None] * 13)
    every, masks = native.best(draw_states(9, 37), [5000] * 9, [()] * 9, [None] * 9), np.eye(9, 5000, 4991, bool)
    masks |= np.arange(5000) % np.arange(2, 11)[:, None] == 1
    found = native.best(draw_states(9, 37), [20] * 9, [()] * 9, [Selection(mask) for mask in masks])
    for (items, scores), (all_items, all_scores), mask in zip(found, every, masks, strict=True):
        assert items.tolist() == all_items[mask[all_items]][:20].tolist()
        assert scores.tobytes() == all_scores[mask[all_items]][:20].tobytes()


@pytest.mark.parametrize("items, units", [(1, 1), (3, 5), (50, 15), (50, 16), (501, 37), (40, 600), (5000, 4)])
def test_all_scores_are_the_exact_ones_and_the_same_in_any_company(every_level, items, units):
    _, native = draw_pair(items, units=units)
    states = draw_states(11, units)
    scores = native.scores_alone(states)
    assert scores.dtype == np.float32 and scores.flags.c_contiguous
    exact = np.array([in_float64(native, state) for state in states])
    np.testing.assert_allclose(scores, exact, rtol=0, atol=1e-5 * max(1, np.abs(exact).max()))
    np.testing.assert_allclose(native.log_sums(scores), Scorer.log_sums(native, scores), rtol=0, atol=1e-5)
    for first, last in (0, 1), (0, 2), (3, 8), (10, 11), (2, 11):
        assert native.log_sums(scores[first:last]).tolist() == native.log_sums(scores)[first:last].tolist()
        assert native.scores_alone(states[first:last]).tobytes() == scores[first:last].tobytes()


def close_scores(weights):
    """Items whose scores differ by far less than rounding to 4 bits does."""
    matrix = weights["item_matrix"]
    matrix[:] = matrix[0] + np.random.default_rng(5).normal(0, 1e-3, matrix.shape).astype(np.float32)


def one_large_weight(weights):
    """An item's largest weight, by which all are rounded, dwarfs the others, but its unit is small in the states."""
    weights["item_matrix"][:, 3] = 300


@pytest.mark.parametrize("change", [close_scores, one_large_weight, lambda weights: weights["item_matrix"].fill(0)],
                         ids=["close", "large", "zero"])
def test_scores_that_rounding_would_mix_up(change):
    plain, native = draw_pair(3000, units=24, change=change)
    states = draw_states(9, 24)
    states[:, 3] *= np.float32(1e-4)
    assert_best(native, states, [20] * 9, [()] * 9, [None] * 9)
    if change is not close_scores:
        return
    _, factors, _, _ = native.packed
    factors = factors.reshape(-1)[:3000, None]
    integers = np.clip(2 * np.round((plain.item_vectors / factors + 15) / 2) - 15, -15, 15)
    rough = states @ (integers * factors).T + plain.item_biases
    best = native.best(states, [20] * 9, [()] * 9, [None] * 9)
    same = [set(np.argsort(-row)[:20]) == set(items) for row, (items, _) in zip(rough, best)]
    assert not all(same), "the rounded scores alone would do"


def test_what_8_bits_of_a_state_do_not_show_is_allowed_for():
    """All items look the same by them, and the last one is the best."""
    def change(weights):
        weights["item_matrix"][:, :-1], weights["item_matrix"][:, -1] = 1, 0
        weights["item_matrix"][:16, 48:-1] = -1  # as whole numbers they are packed without a loss

    state = np.full((1, 64), 0.4, np.float32)
    state[0, 0] = 127
    (items, scores), = draw_pair(17, change=change, units=64)[1].best(state, [1], [()], [None])
    assert items.tolist() == [16] and scores.tolist() == [pytest.approx(127 + 0.4 * 63)]


def test_equal_scores_come_in_the_order_of_the_items():
    _, native = draw_pair(200, units=8, change=lambda weights: weights["item_matrix"].fill(0.5))
    (items, _), = native.best(draw_states(1, 8), [30], [[3, 5]], [None])
    assert items.tolist() == [item for item in range(32) if item not in (3, 5)]


def test_the_largest_weights_have_best_items():
    _, native = draw_pair(100, units=8, change=lambda weights: weights["item_matrix"].__imul__(np.float32(1e14)))
    assert_best(native, draw_states(3, 8), [5] * 3, [()] * 3, [None] * 3)


@pytest.mark.parametrize("rows", [2, 4, 7, 8, 9, 16])
def test_company_changes_nothing(rows):
    _, native = draw_pair(1000, units=50)
    states = draw_states(rows, 50)
    together = native.best(states, [10] * rows, [()] * rows, [None] * rows)
    for row in range(rows):
        (items, scores), = native.best(states[row:row + 1], [10], [()], [None])
        (among, their_scores), = native.best(states[row:row + 1], [10], [()], [items])
        assert items.tolist() == together[row][0].tolist() == among.tolist()
        assert scores.tobytes() == together[row][1].tobytes() == their_scores.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_no_network_has_harm_nobody_else(value):
    """A store may hold anything."""
    _, native = draw_pair(100, units=8)
    states = draw_states(5, 8)
    expected = native.best(states[1:], [3] * 4, [()] * 4, [None] * 4)
    states[0, 2] = value
    for (items, _), (wanted, _) in zip(native.best(states, [3] * 5, [()] * 5, [None] * 5)[1:], expected, strict=True):
        assert items.tolist() == wanted.tolist()


# How it comes

def test_without_compiler_what_was_compiled_before_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load = partial(library, native_scorer.SOURCES, ["-fopenmp-simd"])
    load()
    monkeypatch.setenv("PATH", "")
    assert isinstance(load(), ctypes.CDLL) and len(list(tmp_path.glob("gru4rec-paddle/scoring-*.so"))) == 1
