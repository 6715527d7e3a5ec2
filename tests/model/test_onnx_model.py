"""utils/model/onnx_model.py: ONNX Runtime gives the scorer's states, scores and best items, in every form."""

import numpy as np
import onnx
import onnxruntime
import pytest
from forms import EVERY_FORM, draw_weights, sessions_of, settings_of

from utils.files import InputError
from utils.model import onnx_model
from utils.model.onnx_model import session_model
from utils.model.scorer import Scorer
from utils.model.top_k import top_k_of_rows

ITEMS = 23
LISTS = [[1, 2, 3, 4, 5, 6, 7], [3], [], [22, 0, 22]]
CLICKS = np.array([[1, 2, -1, 3, 4, 5, 6, 7], [-1] * 3 + [3] + [-1] * 4, [-1] * 8, [22, -1, 0, -1, 22, -1, -1, -1]])


def scorer_and_runtime(form, k=5):
    """The scorer of a form, and a function that runs its graph: from clicks and states to a dict of outputs."""
    settings = settings_of(*form)
    weights = draw_weights(settings, ITEMS)
    model = session_model(settings, weights, k, {"weights_sha256": "abc"})
    onnx.checker.check_model(model, full_check=True)
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in runtime.get_outputs()]
    return Scorer(settings, weights), lambda items, states: dict(zip(names, runtime.run(
        None, {"items": np.asarray(items, np.int64), "states": states})))


@pytest.mark.parametrize("form", EVERY_FORM, ids=str)
def test_whole_sessions_from_any_states_as_by_the_scorer(form):
    scorer, run = scorer_and_runtime(form)
    for before in np.zeros((4, sum(form[1])), np.float32), \
            np.random.default_rng(1).normal(0, 0.4, (4, sum(form[1]))).astype(np.float32):
        found, states = run(CLICKS, before), scorer.replay(sessions_of(LISTS), before)
        np.testing.assert_allclose(found["new_states"], states, rtol=0, atol=1e-5)
        expected = scorer.scores(scorer.last_layer(states))
        np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=1e-5)
        for row, (items, scores) in enumerate(top_k_of_rows(expected, 5)):
            assert found["best_items"][row].tolist() == items.tolist()
            np.testing.assert_allclose(found["best_scores"][row], scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", EVERY_FORM[::4], ids=str)
def test_click_by_click_is_the_whole_session(form):
    _, run = scorer_and_runtime(form)
    states = nothing = np.zeros((2, sum(form[1])), np.float32)
    clicks = np.random.default_rng(2).integers(ITEMS, size=(2, 6))
    for step in range(6):
        states = run(clicks[:, step:step + 1], states)["new_states"]
    np.testing.assert_allclose(states, run(clicks, nothing)["new_states"], rtol=0, atol=1e-6)


def test_equal_scores_come_by_index_and_k_may_be_too_large():
    settings = settings_of("shared", [6], True)
    weights = {name: 0 * values for name, values in draw_weights(settings, ITEMS).items()}
    model = session_model(settings, weights, 100, {})
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    best, = runtime.run(["best_items"], {"items": np.array([[3]]), "states": np.zeros((1, 6), np.float32)})
    assert best.tolist() == [list(range(ITEMS))]


def test_what_older_runtimes_know_is_all_that_is_used():
    settings = settings_of("none", [4, 6], False)
    model = session_model(settings, draw_weights(settings, ITEMS), 5, {"weights_sha256": "abc"})
    assert model.ir_version == 8 and [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert [(note.key, note.value) for note in model.metadata_props] == [("weights_sha256", "abc")]


def test_more_than_a_file_holds_is_refused(monkeypatch):
    settings = settings_of("shared", [6], True)
    monkeypatch.setattr(onnx_model, "LARGEST", 1000)
    with pytest.raises(InputError, match="--onnx: found weights of 0.0 GiB, expected less than 2 GiB"):
        session_model(settings, draw_weights(settings, ITEMS), 5, {})
