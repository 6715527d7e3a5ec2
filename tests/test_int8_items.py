"""utils/int8_items.py: the same best items as by the whole matrix, and their exact scores."""

import sys

import numpy as np
import pytest

from conftest import write_random_model
from utils.files import InputError
from utils.int8_items import candidates_of_rows, to_int8
from utils.model_reload import ServedModel
from utils.scorer import top_k_of_rows

ITEMS = 3000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = write_random_model(tmp_path_factory.mktemp("model") / "model", items=ITEMS, hid_size=(24,))
    return ServedModel(directory), ServedModel(directory, item_matrix="int8")


def states_of(rows):
    return np.random.default_rng(1).uniform(-1, 1, (rows, 24)).astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("k", [1, 20, 1000])
def test_the_best_items_are_found_and_scored_exactly(models, rows, k):
    whole, rounded = models
    states, nothing = states_of(rows), [()] * rows
    wanted, found = whole.best(states, k, nothing), rounded.best(states, k, nothing)
    shared = [len(np.intersect1d(one[0], other[0])) / k for one, other in zip(wanted, found)]
    assert np.mean(shared) > 0.999
    for state, (items, scores) in zip(states, found):
        assert len(items) == k and (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, whole.scorer.scores(state)[items], rtol=0, atol=1e-5)


def test_candidates_alone_would_be_worse(models):
    """That the second step is needed: the rounded scores themselves put items in another order."""
    whole, rounded = models
    states = states_of(20)
    integers, factors = to_int8(states)
    rough = np.asarray(rounded.rough.dots_packed(integers, rounded.rough.packed)) * rounded.rough.factors * factors[:, None]
    rough = (rough + rounded.rough.biases).astype(np.float32)
    same = [np.array_equal(one[0], other[0])
            for one, other in zip(top_k_of_rows(rough, 20), whole.best(states, 20, [()] * 20))]
    assert np.mean(same) < 0.9


def test_excluded_items_are_not_among_the_best(models):
    _, rounded = models
    states = states_of(2)
    first = rounded.best(states, 5, [(), ()])
    second = rounded.best(states, 5, [first[0][0], ()])
    assert not np.intersect1d(first[0][0], second[0][0]).size
    np.testing.assert_array_equal(first[1][0], second[1][0])
    assert [len(items) for items, _ in rounded.best(states, 5, [range(ITEMS), range(ITEMS - 2)])] == [0, 2]


@pytest.mark.parametrize("items", [1, 100, 1023, 1024, 5000])
@pytest.mark.parametrize("wanted", [1, 50, 2000])
def test_candidates_hold_the_best(items, wanted):
    random = np.random.default_rng(items)
    scores = random.integers(0, 500, (3, items)).astype(np.float32)  # many are equal
    scores[random.random(scores.shape) < 0.1] = -np.inf
    for row, found in zip(scores, candidates_of_rows(scores.copy(), wanted)):
        best = np.argsort(-row, kind="stable")[:wanted]
        assert set(best[row[best] > -np.inf]) <= set(found) and (row[found] > -np.inf).all() and (np.diff(found) > 0).all()


def test_rounding():
    rows = np.array([[1, -0.5, 0], [0, 0, 0], [1e-20, 2e-20, -2e-20], [300, 1, -300]], np.float32)
    integers, factors = to_int8(rows)
    assert integers.dtype == np.int8 and integers[0].tolist() == [127, -64, 0] and integers[1].tolist() == [0, 0, 0]
    np.testing.assert_allclose(integers * factors[:, None], rows, rtol=0, atol=300 / 127 / 2)
    np.testing.assert_allclose(integers[2] * factors[2], rows[2], rtol=0.01)


def test_without_numkong(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "numkong", None)
    with pytest.raises(InputError, match="--item_matrix int8: found no numkong"):
        ServedModel(write_random_model(tmp_path / "model"), item_matrix="int8")
