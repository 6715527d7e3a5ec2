"""utils/evaluation/significance.py: intervals and p-values are those of plain versions, and hold what they promise."""

import itertools

import numpy as np
import pytest

from utils.evaluation import significance
from utils.evaluation.significance import bootstrap_intervals, session_sums, sign_flip_p_values


def draw_sessions(sessions, seed, effect=0.0, spread=0.3):
    """Values of predictions that depend on their session, and the clicks of each session."""
    random = np.random.default_rng(seed)
    lengths = 1 + random.geometric(0.3, sessions)
    of_session = np.repeat(random.normal(effect, spread, sessions), lengths - 1)
    return of_session + random.normal(0, 0.1, len(of_session)), lengths


def test_sums_of_sessions_leave_out_those_without_a_prediction():
    sums, counts = session_sums([np.array([True, False, True, True]), np.array([0.5, 1, 2, 4])],
                                np.array([1, 3, 1, 2, 2, 1]))
    assert sums.tolist() == [[1, 1.5], [1, 2], [1, 4]] and counts.tolist() == [2, 1, 1]


def test_intervals_are_those_of_a_bootstrap_that_goes_through_all_predictions():
    values, lengths = draw_sessions(80, seed=1)
    sessions = np.split(values, np.cumsum(lengths - 1)[:-1])
    random = np.random.default_rng(2)
    means = [np.concatenate([sessions[number] for number in random.integers(80, size=80)]).mean() for _ in range(4000)]
    found = bootstrap_intervals(*session_sums([values], lengths), 4000, seed=3)
    np.testing.assert_allclose(found[0], np.quantile(means, [0.025, 0.975]), atol=0.01)
    assert found[0][1] - found[0][0] > 0.1


def test_intervals_hold_the_truth_19_times_in_20_and_wouldnt_without_the_sessions():
    held = alone = 0
    for seed in range(200):
        values, lengths = draw_sessions(60, seed)
        low, high = bootstrap_intervals(*session_sums([values], lengths), 200, seed=1)[0]
        held += low <= 0 <= high
        low, high = bootstrap_intervals(values[:, None], np.ones(len(values), int), 200, seed=1)[0]
        alone += low <= 0 <= high
    assert held > 175 > alone, (held, alone)


def test_p_values_are_those_of_all_signs():
    differences = np.random.default_rng(4).normal(0.4, 1, (9, 2))
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    expected = (np.abs(signs @ differences) >= np.abs(differences.sum(axis=0)) - 1e-9).mean(axis=0)
    np.testing.assert_allclose(sign_flip_p_values(differences, 40_000, seed=1), expected, atol=0.01)


def test_p_values_are_even_where_there_is_no_difference_and_small_where_there_is():
    found = [sign_flip_p_values(session_sums([draw_sessions(50, seed)[0]], draw_sessions(50, seed)[1])[0], 400, 1)[0]
             for seed in range(200)]
    assert 0.35 < np.mean(np.array(found) < 0.5) < 0.65 and np.mean(np.array(found) < 0.05) < 0.1
    values, lengths = draw_sessions(100, 1, effect=0.2)
    assert sign_flip_p_values(session_sums([values], lengths)[0], 999, 1) == pytest.approx([0.001])


def test_the_same_model_twice_is_no_difference():
    nothing = np.zeros((7, 3))
    assert sign_flip_p_values(nothing, 100, 1).tolist() == [1, 1, 1]
    assert bootstrap_intervals(nothing, np.arange(1, 8), 100, 1).tolist() == [[0, 0]] * 3


def test_each_of_two_sessions_may_be_drawn_alone():
    assert bootstrap_intervals(np.array([[2.0], [9.0]]), np.array([2, 3]), 1000, 1).tolist() == [[1, 3]]


def test_a_single_session_has_an_interval_of_no_width():
    assert bootstrap_intervals(np.array([[3.0]]), np.array([4]), 100, 1).tolist() == [[0.75, 0.75]]
    assert sign_flip_p_values(np.array([[3.0]]), 100, 1).tolist() == [1]


def test_draws_repeat_with_their_seed_and_come_in_parts(monkeypatch):
    sums, counts = session_sums([draw_sessions(40, 1)[0]], draw_sessions(40, 1)[1])
    for compute in lambda seed: bootstrap_intervals(sums, counts, 300, seed), \
            lambda seed: sign_flip_p_values(sums, 300, seed):
        assert np.array_equal(compute(1), compute(1)) and not np.array_equal(compute(1), compute(2))
        with monkeypatch.context() as patch:
            patch.setattr(significance, "DRAWN_NUMBERS", 700)
            np.testing.assert_allclose(compute(1), compute(2), atol=0.1)
    monkeypatch.setattr(significance, "DRAWN_NUMBERS", 700)
    assert [sum(significance._parts(draws, 100)) for draws in (1, 7, 8, 100)] == [1, 7, 8, 100]
    assert max(significance._parts(100, 100)) == 7 and set(significance._parts(5, 10_000)) == {1}
