"""utils/intent/metrics.py: cases worked by hand, scikit-learn's figures, and thresholds found by trying all."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.files import InputError
from utils.intent import metrics
from utils.intent.features import pairs_of
from utils.intent.metrics import Measured, Outcomes, decide, tune_thresholds
from utils.intent.sessions import IntentSessions

# Session 0 clicks a, b, c and buys a and b; 1 clicks d and buys another item; 2 clicks e and f, 3 clicks g.
FOUR = Outcomes(np.array([True, True, False, False]), np.array([2, 1, 0, 0]), np.array([0, 0, 0, 1, 2, 2, 3]),
                np.array([True, True, False, False, False, False, False]))


@st.composite
def outcomes_and_scores(draw):
    """Outcomes of a few sessions, some of which buy, and scores with ties."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=7))
    owners = np.repeat(np.arange(len(sizes)), sizes)
    buys = np.array(draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))))
    buys[:2] = True, False
    bought = np.array(draw(st.lists(st.booleans(), min_size=len(owners), max_size=len(owners)))) & buys[owners]
    unclicked = np.array(draw(st.lists(st.integers(0, 2), min_size=len(sizes), max_size=len(sizes))))
    bought_count = np.where(buys, np.maximum(np.bincount(owners, bought) + unclicked, 1), 0).astype(int)
    scores = [np.array(draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))) / 10
              for count in (len(sizes), len(owners))]
    return Outcomes(buys, bought_count, owners, bought), *scores


def figures(outcomes, session_scores, pair_scores, *thresholds):
    return Measured(outcomes, decide(outcomes.owners, np.array(session_scores), np.array(pair_scores),
                                     *thresholds)).figures()


@pytest.mark.parametrize("session_scores, item_threshold, score, precision, recall", [
    # Sb / S is 1/2. Session 0 with {a, b}: 1/2 + 1. Session 1: 1/2 + 0. Session 2: -1/2.
    ([.9, .8, .7, .1], .55, 1.5, 2 / 3, 1),
    ([.9, .1, .2, .3], .55, 1.5, 1, .5),
    ([.9, .1, .2, .3], .3, 1 / 2 + 2 / 3, 1, .5),  # {a, b, c}: two of three
    ([.9, .1, .2, .3], .85, 1 / 2 + 1 / 2, 1, .5),  # {a}: one of two
    ([.1, .2, .9, .8], .55, -1, 0, 0),
    ([.9, .9, .9, .9], .55, 1.5 + .5 - 1, .5, 1),
    ([.1, .1, .1, .1], .55, 0, np.nan, 0),
])
def test_cases_worked_by_hand(session_scores, item_threshold, score, precision, recall):
    found = figures(FOUR, session_scores, [.9, .6, .5, .1, .2, .1, .3], .5, item_threshold)
    assert (found["score"], found["share_of_maximum"]) == pytest.approx((score, score / 3))  # at most 2 * (1 + 1/2)
    assert (found["precision"], found["recall"]) == pytest.approx((precision, recall), nan_ok=True)


def test_the_jaccard_is_the_mean_over_sessions_that_buy():
    found = figures(FOUR, [.1, .2, .3, .4], [.9, .6, .5, .1, .2, .1, .3], .5, .3)
    assert found["jaccard"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["item_auc"] == 1  # a and b before c and d


def test_of_equally_good_items_the_first_is_chosen_where_none_reaches_the_threshold():
    chosen = decide(FOUR.owners, np.zeros(4), np.array([.1, .3, .3, 0, .2, .2, 0]), 0, .5).chosen
    assert chosen.tolist() == [False, True, False, True, True, False, True]


@given(outcomes_and_scores())
def test_figures_are_those_of_scikit_learn(case):
    sklearn = pytest.importorskip("sklearn.metrics")
    outcomes, session_scores, pair_scores = case
    found = figures(outcomes, session_scores, pair_scores, .25, .25)
    predicted = session_scores >= .25
    expected = {"auc": sklearn.roc_auc_score(outcomes.buys, session_scores),
                "average_precision": sklearn.average_precision_score(outcomes.buys, session_scores),
                "recall": sklearn.recall_score(outcomes.buys, predicted)}
    if predicted.any():
        expected["precision"] = sklearn.precision_score(outcomes.buys, predicted)
    of_buying = outcomes.buys[outcomes.owners]
    if 0 < outcomes.bought.sum() < of_buying.sum():
        expected["item_auc"] = sklearn.roc_auc_score(outcomes.bought[of_buying], pair_scores[of_buying])
    assert {name: found[name] for name in expected} == pytest.approx(expected)


@given(outcomes_and_scores())
def test_a_weight_counts_a_session_as_often(case):
    outcomes, session_scores, pair_scores = case
    weights = np.arange(len(outcomes.buys)) % 3 + 1
    predictions = decide(outcomes.owners, session_scores, pair_scores, .25, .25)
    rows = np.repeat(np.arange(len(weights)), weights)
    pairs = np.concatenate([np.flatnonzero(outcomes.owners == row) for row in rows])
    sizes = np.bincount(outcomes.owners)[rows]
    repeated = Outcomes(outcomes.buys[rows], outcomes.bought_count[rows], np.repeat(np.arange(len(rows)), sizes),
                        outcomes.bought[pairs])
    of_repeated = decide(repeated.owners, session_scores[rows], pair_scores[pairs], .25, .25)
    names = [name for name in metrics.METRICS if name != "calibration_error"]  # whose bins are of all sessions alike
    found, expected = Measured(outcomes, predictions).figures(weights), Measured(repeated, of_repeated).figures()
    assert [found[name] for name in names] == pytest.approx([expected[name] for name in names], nan_ok=True)


@given(outcomes_and_scores())
def test_no_other_threshold_of_the_sessions_or_of_the_items_is_better(case):
    outcomes, session_scores, pair_scores = case
    session_threshold, item_threshold = tune_thresholds(outcomes, session_scores, pair_scores)
    best = figures(outcomes, session_scores, pair_scores, session_threshold, item_threshold)["score"]
    for tried in np.arange(-.05, .7, .1):
        for thresholds in ((tried, item_threshold), (session_threshold, tried)):
            assert figures(outcomes, session_scores, pair_scores, *thresholds)["score"] <= best + 1e-9


def test_calibration_of_sessions_that_buy_as_often_as_predicted_or_not():
    random = np.random.default_rng(1)
    probabilities = random.random(20000)
    buys = random.random(20000) < probabilities
    predicted, found, counts = metrics.reliability_curve(probabilities, buys)
    assert counts.tolist() == [2000] * 10 and np.abs(predicted - found).max() < .04
    outcomes = Outcomes(buys, buys.astype(int), np.arange(20000), buys)
    error = [figures(outcomes, scores, probabilities, .5, .5)["calibration_error"]
             for scores in (probabilities, probabilities / 2)]
    assert error[0] < .02 and error[1] == pytest.approx(.25, abs=.02)


def test_intervals_hold_the_figures_and_narrow_with_more_sessions():
    widths = []
    for copies in (50, 800):
        pairs = np.arange(7 * copies)
        outcomes = Outcomes(np.tile(FOUR.buys, copies), np.tile(FOUR.bought_count, copies),
                            (FOUR.owners + 4 * np.arange(copies)[:, None]).ravel(), np.tile(FOUR.bought, copies))
        random = np.random.default_rng(copies)
        measured = Measured(outcomes, decide(outcomes.owners, random.random(4 * copies), random.random(len(pairs)),
                                             .5, .5))
        ends = metrics.intervals(measured.drawn(200, seed=1))
        found = np.array(list(measured.figures().values()))
        holds = dict(zip(metrics.METRICS, (ends[:, 0] <= found) & (found <= ends[:, 1])))
        holds.pop("calibration_error")  # which grows with what the draws add by chance
        assert all(holds.values())
        widths.append(ends[0, 1] - ends[0, 0])
        assert (measured.drawn(3, seed=5) == measured.drawn(3, seed=5)).all()
    assert widths[0] == pytest.approx(4 * widths[1], rel=.4)


def test_a_figure_that_no_draw_has_has_no_interval():
    ends = metrics.intervals(np.array([[1, np.nan, np.nan], [3, 2, np.nan]]))
    assert ends[:2].tolist() == [[pytest.approx(1.05), pytest.approx(2.95)], [2, 2]] and np.isnan(ends[2]).all()


def test_the_submission_names_sessions_and_items():
    sessions = IntentSessions(None, None, np.arange(5.), np.array([0, 1, 0, 2, 1], np.int32), np.zeros(5, bool),
                              np.array([0, 3, 4, 5]), np.zeros(3, bool), np.zeros(3, np.int32),
                              pa.array(["11", "12", "anna"]), pa.array(["x", "y", "z"]))
    pairs = pairs_of(sessions)
    predictions = decide(pairs.owners, np.array([.9, .1, .8]), np.array([.6, .7, .9, .1]), .5, .5)
    file = io.StringIO()
    metrics.write_submission(sessions, pairs, predictions, file)
    assert file.getvalue() == "11;x,y\nanna;y\n"
    sessions.item_ids = pa.array(["x", "y;y", "z"])
    with pytest.raises(InputError, match="'y;y'"):
        metrics.write_submission(sessions, pairs, predictions, io.StringIO())
