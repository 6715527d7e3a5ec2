"""utils/model/paddle_scorer.py: a network that only net.py knows is answered as by the faster scorers, or refused."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import assert_worked, write_random_model
from forms import EVERY_FORM, sessions_of

from utils.data.batches import evaluation_batches
from utils.files import InputError
from utils.model import checkpoint, load, paddle_scorer
from utils.model.checked_json import write_json
from utils.model.load import load_model, load_scorer
from utils.model.native_scorer import NativeScorer
from utils.model.paddle_scorer import PaddleScorer
from utils.model.scorer import Scorer
from utils.model.top_k import top_k
from utils.serving.micro_batches import Question, answer
from utils.serving.model_reload import ServedModel

ITEMS = 50
LISTS = [[3, 1, 4, 1], [], [49], [9, 2, 6, 5, 3, 5, 8], [7, 9], [3, 2]]  # several lengths, one of them 0


def edit_config(model_dir, **changes):
    write_json(model_dir / "config.json", checkpoint.read_config(model_dir) | changes)


@pytest.fixture(params=EVERY_FORM[::3], ids=str)
def model_dir(request, tmp_path):
    """A model that doesn't say who knows its network."""
    embedding, hid_size, reset_after = request.param
    return write_random_model(tmp_path / "model", items=ITEMS, hid_size=hid_size, embedding=embedding,
                              reset_after=reset_after)


@pytest.fixture
def scorers(model_dir):
    """The PaddleScorer of a network that C++ knows too, and that of C++, or of NumPy where nothing compiles."""
    quick, item_ids = load_scorer(model_dir)
    assert isinstance(quick, Scorer) and not isinstance(quick, PaddleScorer)
    edit_config(model_dir, network_is_known=False)
    slow, same_ids = load_scorer(model_dir)
    assert type(slow) is PaddleScorer and same_ids == item_ids == [f"item_{item}" for item in range(ITEMS)]
    return slow, quick


def assert_same_best(found, expected):
    for (items, scores), (wanted, their_scores) in zip(found, expected, strict=True):
        assert items.tolist() == wanted.tolist()
        np.testing.assert_allclose(scores, their_scores, rtol=0, atol=1e-4)


def test_states_scores_and_best_items_are_those_of_the_quick_one(scorers):
    slow, quick = scorers
    sessions = sessions_of(LISTS)
    states = slow.after_sessions(sessions)
    assert states.dtype == np.float32
    np.testing.assert_allclose(states, quick.after_sessions(sessions), rtol=0, atol=1e-4)
    candidates = np.array([7, 0, 7, 49])
    for among in None, candidates:
        found = slow.scores(states, among)
        assert found.shape == (len(LISTS), ITEMS if among is None else 4)
        np.testing.assert_allclose(found, quick.scores(states, among), rtol=0, atol=1e-4)
        np.testing.assert_allclose(slow.scores(states[3], among), found[3], rtol=0, atol=1e-4)
    ks, excluded = [1, 5, 100, 3, 7, 2], [(), [2], LISTS[2], LISTS[3], [], range(ITEMS)]
    allowed = [None, None, None, [1, 2, 3, 4], [], None]
    assert_same_best(slow.best(states, ks, excluded, allowed), quick.best(states, ks, excluded, allowed))


def test_sessions_alone_or_together_and_none_at_all(scorers):
    slow, quick = scorers
    together = slow.after_sessions(sessions_of(LISTS))
    for row, items in enumerate(LISTS):
        np.testing.assert_allclose(slow.after_sessions(sessions_of([items]))[0], together[row], rtol=0, atol=1e-5)
    assert (together[LISTS.index([])] == 0).all()
    nothing = slow.after_sessions(sessions_of([[], []]))
    assert nothing.shape == (2, together.shape[1]) and (nothing == 0).all()


def test_states_of_packed_clicks(scorers):
    slow, quick = scorers
    for batch in evaluation_batches(sessions_of(LISTS), batch_size=3):
        found = slow.packed_states(batch.inputs, batch.rows_per_step)
        np.testing.assert_allclose(found, quick.packed_states(batch.inputs, batch.rows_per_step), rtol=0, atol=1e-4)


def test_live_sessions_have_no_state_and_are_replayed_whole(scorers, model_dir):
    _, quick = scorers
    model = ServedModel(model_dir)
    assert type(model.scorer) is PaddleScorer
    clicks = ["item_3", "unknown", "item_1", "item_4"]
    questions = [Question(clicks, 10, covered=covered, model=name, state=state) for covered, name, state in [
        (0, "", b""), (2, "another", b"\1" * 40), (2, model.checksum, b"\1" * 40), (2, model.checksum, b""),
        (4, model.checksum, b"")]] + [Question([], 10), Question(["unknown"], 10)]
    *answers, no_click, no_known_click = answer(model, questions)
    state = quick.after_sessions(sessions_of([[3, 1, 4]]))
    items, scores = top_k(quick.scores(state)[0], 10)
    for found in answers:
        assert found.item_ids == [f"item_{item}" for item in items] and found.unknown == 1
        np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-4)
    assert no_click.item_ids == no_known_click.item_ids == []
    assert {found.state for found in (*answers, no_click, no_known_click)} == {b""}


# Who is asked

def test_an_edited_network_answers_as_it_was_edited(scorers, monkeypatch):
    from net import Network
    slow, quick = scorers
    plain_scores, plain_states = Network.scores, Network.hidden_states
    monkeypatch.setattr(Network, "scores", lambda self, states, rows: -plain_scores(self, states, rows))
    monkeypatch.setattr(Network, "hidden_states", lambda self, *asked: 0.5 * plain_states(self, *asked))
    states = slow.after_sessions(sessions_of(LISTS))
    np.testing.assert_allclose(states, 0.5 * quick.after_sessions(sessions_of(LISTS)), rtol=0, atol=1e-4)
    np.testing.assert_allclose(slow.scores(states), -quick.scores(states), rtol=0, atol=1e-4)
    (items, _), = slow.best(states[:1], [3], [()], [None])
    assert items.tolist() == np.argsort(quick.scores(states[0]))[:3].tolist()


@pytest.mark.parametrize("known", [True, None])
def test_a_known_network_and_an_old_model_need_no_paddle(tmp_path, monkeypatch, known):
    """A config.json of before there were edited networks says nothing of it."""
    model_dir = write_random_model(tmp_path / "model")
    if known is not None:
        edit_config(model_dir, network_is_known=known)
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    assert isinstance(load_scorer(model_dir)[0], NativeScorer | Scorer)
    assert load_model(model_dir)[0].hid_size == [8]


@pytest.mark.parametrize("known", [False, None, 0, "yes"])
def test_without_paddle_an_unknown_network_is_refused(tmp_path, monkeypatch, known):
    model_dir = write_random_model(tmp_path / "model")
    edit_config(model_dir, network_is_known=known)
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    for refusing in load_scorer, load_model:
        with pytest.raises(InputError, match="edited in net.py.*expected") as error:
            refusing(model_dir)
        assert str(error.value).startswith(f"{model_dir}: found") and "\n" not in str(error.value)


def test_weights_that_net_py_lacks_are_refused(tmp_path):
    model_dir = write_random_model(tmp_path / "model")
    network = checkpoint.read_config(model_dir)["network"] | {"hid_size": [8, 8]}
    edit_config(model_dir, network_is_known=False, network=network)
    with pytest.raises(InputError, match="model.safetensors: found .*, expected .*, as config.json and vocab.txt say"):
        load_scorer(model_dir)


def test_paddle_is_loaded_in_the_main_thread_and_any_may_use_it(tmp_path):
    model_dir = write_random_model(tmp_path / "model")
    edit_config(model_dir, network_is_known=False)
    with ThreadPoolExecutor(1) as other:
        paddle_scorer.prepare.cache_clear()
        with pytest.raises(InputError, match="main thread"):
            other.submit(load_scorer, model_dir).result()
        load.prepare(model_dir)
        assert type(other.submit(load_scorer, model_dir).result()[0]) is PaddleScorer


def test_a_model_that_is_missing_or_known_loads_no_paddle(tmp_path, monkeypatch):
    monkeypatch.setattr(paddle_scorer, "prepare", lambda: pytest.fail("Paddle was loaded"))
    load.prepare(tmp_path / "none")
    load.prepare(write_random_model(tmp_path / "model"))


def test_scripts_say_how_it_is_answered_or_refuse(tmp_path, run_here):
    model_dir = write_random_model(tmp_path / "model")
    expected = run_here("recommend.py", "--model_dir", model_dir, "item_1", "item_2")
    assert expected.stderr == ""
    edit_config(model_dir, network_is_known=False)
    found = run_here("recommend.py", "--model_dir", model_dir, "item_1", "item_2")
    assert found.returncode == 0 and found.stderr.count("\n") == 1 and "Paddle" in found.stderr
    words = [process.stdout.split() for process in (found, expected)]
    assert words[0][2::4] == words[1][2::4] and len(words[0]) == 80
    scores = [np.array(of[3::4], float) for of in words]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-4)
    other = shutil.copytree(model_dir, tmp_path / "other")
    assert_worked(run_here("merge_models.py", model_dir, other, "--model_dir", tmp_path / "merged"))
    joined = run_here("recommend.py", "--model_dir", tmp_path / "merged", "item_1", "item_2")
    assert joined.returncode == 0 and joined.stderr.count("\n") == 1 and "Paddle" in joined.stderr
    assert joined.stdout.split()[2::4] == words[0][2::4]  # two of the same, side by side
