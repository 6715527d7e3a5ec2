"""utils/model/joined.py and mixture.py: networks and a memory answer with the mean of their probabilities."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import write_random_model
from forms import sessions_of
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data.selection import Selection
from utils.files import InputError
from utils.model import checkpoint, load, upkeep
from utils.model import joined as joined_module
from utils.model.checked_json import write_json
from utils.model.joined import JoinedScorer, member_directory
from utils.model.load import load_model, load_scorer
from utils.model.mixture import add_neighbours, log_sum_exp, mean_of_networks
from utils.model.neighbours import RECENT, Neighbours, Remembered, remember
from utils.model.neighbours_file import Memory, write_neighbours
from utils.model.returns import features, recent_clicks
from utils.model.scorer import Scorer
from utils.model.top_k import top_k

ITEMS = 50
FORMS = [dict(hid_size=(8,)), dict(hid_size=(5, 8), embedding="separate", reset_after=False),
         dict(hid_size=(6,), embedding="none")]
random = np.random.default_rng(3)
# so that half of the items are in no neighbour, and some sessions have none
TRAINING = sessions_of([random.integers(ITEMS // 2, size=length).tolist() for length in 1 + random.geometric(0.3, 30)])
RETURNS = [0.3, -0.2, 0.4, 0.7]
CLICKS = st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=7)


def softmax(scores):
    return np.exp(scores.astype(np.float64)) / np.exp(scores.astype(np.float64)).sum()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    directory = tmp_path_factory.mktemp("networks")
    return [load_scorer(write_random_model(directory / str(seed), seed, ITEMS, **form))[0]
            for seed, form in enumerate(FORMS)]


@pytest.fixture(scope="module", params=["memory", "networks", "both"])
def joined(request, networks):
    """A network with a memory, three networks, and these with a memory."""
    memory = Memory(Neighbours(remember(TRAINING, ITEMS)), 0.4, "", RETURNS)
    if request.param == "networks":
        return JoinedScorer(networks, [0.5, 0.2, 0.3])
    if request.param == "both":
        return JoinedScorer(networks, [0.3, 0.2, 0.1], memory)
    return JoinedScorer(networks[:1], [0.6], memory)


def plain_probabilities(joined, clicks):
    """The mixture by its formula, float64 [items]: each network click by click, and then the neighbours' shares."""
    mixed, weights = np.zeros(ITEMS), np.array(joined.weights)
    shares = np.zeros(ITEMS)
    if joined.memory:
        items, found = joined.memory.neighbours.shares(np.array(clicks, np.int32))
        shares[items] = found
    if not shares.any():
        weights = weights / weights.sum()
    for scorer, weight in zip(joined.scorers, weights):
        states = scorer.before_first_click()
        for item in clicks:
            states = scorer.click(item, states)
        mixed += weight * softmax(scorer.scores(states[-1]))
    if not joined.memory:
        return mixed
    mixed += joined.memory.weight * shares
    recent = recent_clicks(np.array(clicks), np.array([0]), np.array([len(clicks)]))
    biases = (features(recent) @ RETURNS)[0]
    for item, bias in zip(recent[0] - 1, biases):  # 0 but at the latest click on each item
        mixed[item] *= np.exp(bias)
    return mixed / mixed.sum()


# The formula

def test_a_hand_worked_mixture():
    scores = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]], np.float32)) + np.float32(3)
    totals = log_sum_exp(scores)
    np.testing.assert_allclose(totals, [3, 3], atol=1e-6)
    before = scores.copy()
    # the first row's neighbours give item 1 three quarters, item 2 a quarter; the second row has none; weight .4
    found = np.array([1, 2]), np.array([0.75, 0.25], np.float32), np.array([0, 2, 2])
    add_neighbours(scores, totals, 0.4 / 0.6, found)
    np.testing.assert_allclose(0.6 * np.exp(scores[0] - 3), [0.3, 0.15 + 0.3, 0.15 + 0.1], rtol=1e-6)
    assert (scores[1] == before[1]).all() and scores[0, 0] == before[0, 0]


def test_a_hand_worked_mean_of_networks():
    first, second = np.log(np.array([[0.5, 0.5]], np.float32)), np.log(np.array([[0.9, 0.1]], np.float32)) + 7
    np.testing.assert_allclose(np.exp(mean_of_networks([first, second], [3, 1])), [[0.6, 0.4]], rtol=1e-6)


def test_nothing_is_so_unlikely_that_it_is_tied():
    scores = np.array([[0, -200, -300]], np.float32)
    mean = mean_of_networks([scores.copy(), scores.copy()], [0.5, 0.5])
    np.testing.assert_allclose(mean, scores, rtol=1e-6)
    add_neighbours(scores, log_sum_exp(scores), 1e-3, (np.array([2]), np.array([1], np.float32), np.array([0, 1])))
    assert scores[0, 2] == pytest.approx(np.log(1e-3)) and (scores[0, :2] == [0, -200]).all()


# What answers

@settings(max_examples=30)
@given(clicks=CLICKS)
def test_scores_are_those_of_the_formula(joined, clicks):
    state = joined.after_sessions(sessions_of([clicks]))
    expected = np.log(plain_probabilities(joined, clicks))
    np.testing.assert_allclose(joined.scores(state)[0], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(joined.scores(state, [3, 1])[0], expected[[3, 1]], rtol=0, atol=1e-4)


def test_numpy_answers_as_cpp_does(joined, networks, tmp_path):
    models = [write_random_model(tmp_path / str(seed), seed, ITEMS, **form)
              for seed, form in enumerate(FORMS[:len(joined.scorers)])]
    plain = JoinedScorer([Scorer(*load_model(model)[:2]) for model in models], joined.weights, joined.memory)
    sessions = sessions_of([[3, 1, 8], [40], [40, 2, 2, 7, 9]])
    states = plain.after_sessions(sessions)
    np.testing.assert_allclose(plain.scores(states), joined.scores(joined.after_sessions(sessions)), rtol=0, atol=1e-5)
    assert plain.scores(states).flags.c_contiguous and [len(found[0]) for found in plain.best(
        states, [1, 2, ITEMS], [()] * 3, [None] * 3)] == [1, 2, ITEMS]


@settings(max_examples=30)
@given(sessions=st.lists(CLICKS, min_size=1, max_size=5), data=st.data())
def test_answers_are_those_of_all_scores_to_the_last_bit_however_batched(joined, sessions, data):
    rows = len(sessions)
    draw = lambda each: data.draw(st.lists(each, min_size=rows, max_size=rows))
    ks, excluded = draw(st.integers(1, ITEMS + 2)), draw(CLICKS)
    some = st.lists(st.integers(0, ITEMS - 1), max_size=9)
    allowed = draw(st.none() | some | some.map(lambda items: Selection(np.isin(np.arange(ITEMS), items))))
    states = joined.after_sessions(sessions_of(sessions))
    for row, (found, their_scores) in enumerate(joined.best(states, ks, excluded, allowed)):
        state = joined.after_sessions(sessions_of(sessions[row:row + 1]))
        assert (state.view(np.uint32) == states[row].view(np.uint32)).all()
        scores = joined.scores(state)[0]
        passing = np.ones(ITEMS, bool) if allowed[row] is None else (
            allowed[row].mask() if isinstance(allowed[row], Selection) else np.isin(np.arange(ITEMS), allowed[row]))
        expected, expected_scores = top_k(scores, ks[row], [*excluded[row], *np.flatnonzero(~passing)])
        assert found.tolist() == expected.tolist() and their_scores.tolist() == expected_scores.tolist()


@settings(max_examples=30)
@given(sessions=st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=7), min_size=1, max_size=5))
def test_click_by_click_is_the_whole_session(joined, sessions):
    whole = joined.replay(sessions_of(sessions), np.zeros((len(sessions), joined.state_size), np.float32))
    for row, clicks in enumerate(sessions):
        state = np.zeros((1, joined.state_size), np.float32)
        for item in clicks:
            stored = joined.replay(sessions_of([[item]]), state).tobytes()  # as the stores of live sessions keep it
            state = np.frombuffer(stored, np.float32)[None]
        assert state.tobytes() == whole[row].tobytes()


def test_rows_scored_a_few_at_a_time_are_answered_the_same(joined, monkeypatch):
    states = joined.after_sessions(sessions_of([[3, 1], [40], [2, 2, 7]]))
    answers = lambda: [items.tolist() for items, _ in joined.best(states, [5] * 3, [()] * 3, [None] * 3)]
    expected = answers()
    monkeypatch.setattr(joined_module, "SCORES_AT_ONCE", 2 * ITEMS)
    assert answers() == expected and expected[0] != expected[2]


def test_packed_states_are_those_after_each_click(joined):
    clicks = [[4, 9, 4, 7], [1, 2], [30]]
    packed = joined.packed_states(np.array([4, 1, 30, 9, 2, 4, 7]), [3, 2, 1, 1])
    prefixes = [clicks[row][:step + 1] for step in range(4) for row in range(3) if step < len(clicks[row])]
    expected = joined.after_sessions(sessions_of(prefixes))
    np.testing.assert_allclose(joined.scores(packed), joined.scores(expected), rtol=0, atol=1e-5)


def test_clicks_one_by_one_lead_to_the_same_scores(joined):
    states, several = joined.before_first_click(), joined.before_first_click(2)
    for item in (3, 5, 8):
        states, several = joined.click(item, states), joined.click(np.array([item, 7]), several)
    whole = joined.after_sessions(sessions_of([[3, 5, 8]]))
    np.testing.assert_allclose(joined.scores(states[-1]), joined.scores(whole)[0], rtol=1e-5)
    np.testing.assert_allclose(joined.scores(several[-1])[0], joined.scores(whole)[0], rtol=1e-5)


def test_a_damaged_state_is_answered_without_its_clicks(joined):
    clicks = joined.clicks
    if not clicks:
        pytest.skip("no memory")
    state = joined.replay(sessions_of([[3, 5, 8]]), np.zeros((1, joined.state_size), np.float32))
    without = state.copy()
    state[:, -3:].view(np.int32)[0] = [-1, ITEMS + 1, 2**31 - 1]
    without[:, -clicks:] = 0
    best = [joined.best(joined.last_layer(each), [5], [()], [None])[0] for each in (state, without)]
    assert best[0][0].tolist() == best[1][0].tolist() and np.isfinite(best[0][1]).all()


# Model directories

@pytest.fixture
def with_memory(tmp_path):
    model = write_random_model(tmp_path / "model", items=ITEMS)
    write_neighbours(model, remember(TRAINING, ITEMS), 0.4)
    return model


def test_a_directory_answers_with_its_memory_in_every_epoch(with_memory, tmp_path):
    alone = load_scorer(write_random_model(tmp_path / "alone", items=ITEMS))[0]
    write_random_model(with_memory, seed=1, items=ITEMS, epoch=2)
    for epoch in 1, 2:
        scorer = load_scorer(with_memory, epoch)[0]
        assert (scorer.memory.weight, scorer.weights) == (0.4, [0.6])
        assert scorer.state_size == 8 + RECENT and "neighbours:" in scorer.way
    first = load_scorer(with_memory, 1)[0]
    assert first.weights_checksum == alone.weights_checksum and first.checksum != alone.checksum
    write_neighbours(with_memory, remember(TRAINING, ITEMS), 0.5)
    assert load_scorer(with_memory, 1)[0].checksum != first.checksum
    assert not isinstance(load_scorer(with_memory, 1, network_alone=True)[0], JoinedScorer)
    assert load_model(with_memory, 1)[0].hid_size == [8]
    upkeep.start_run(with_memory, {"data": {}}, with_memory / "vocab.txt", overwrite=True)
    assert not (with_memory / checkpoint.NEIGHBOURS).exists()


def assert_refused(model, *fragments):
    with pytest.raises(InputError) as error:
        load_scorer(model)
    for fragment in (*fragments, "expected"):
        assert str(fragment) in str(error.value), error.value
    assert len(str(error.value).splitlines()) == 1


def edit(model, **changes):
    config = checkpoint.read_config(model)
    write_json(model / "config.json", config | {"neighbours": config["neighbours"] | changes})


@pytest.mark.parametrize("changes, fragments", [
    (dict(weight=-0.1), ["weight"]), (dict(weight=1.0), ["weight"]), (dict(weight="a"), ["weight"]),
    (dict(more=1), ["more"]), (dict(version=2), ["version 2"]), (dict(version="1"), ["version"]),
    (dict(returns=[0.0] * 3), ["returns"]), (dict(returns=[0.0, 0.0, 0.0, 1e9]), ["1000000000"]),
    (dict(returns=["a"] * 4), ["returns"]), (dict(returns=0.5), ["returns"]),
    (dict(file={}), ["bytes"]), (dict(file={"bytes": "1"}), ["bytes"]),
])
def test_wrong_entries_are_refused(with_memory, changes, fragments):
    edit(with_memory, **changes)
    assert_refused(with_memory, *fragments)


def test_whole_numbers_are_weights_too(with_memory):
    edit(with_memory, weight=0, returns=[0, 1, 0.5, -1])
    memory = load_scorer(with_memory)[0].memory
    assert (memory.weight, memory.returns) == (0, [0, 1, 0.5, -1])


def test_broken_files_are_refused(with_memory):
    path = with_memory / checkpoint.NEIGHBOURS
    data = path.read_bytes()
    for broken in data[:-1], data[:-1] + b"\1", b"":
        path.write_bytes(broken)
        assert_refused(with_memory, path, "config.json")
    path.unlink()
    assert_refused(with_memory, path)


@pytest.mark.parametrize("sessions, fragment", [
    (sessions_of([[1, ITEMS]]), f"to {ITEMS}"), (sessions_of([[-1, 2]]), "from -1"), (sessions_of([]), "offsets"),
    (sessions_of([[1], []]), "offsets"), (sessions_of([[1], [2]])._replace(offsets=np.array([0, 1])), "offsets"),
    (sessions_of([[1]])._replace(offsets=np.array([[0, 1]])), "dimension"),
])
def test_sessions_of_other_items_or_none_are_refused(with_memory, sessions, fragment):
    write_neighbours(with_memory, Remembered(sessions, np.zeros(ITEMS, np.float32)), 0.4)
    assert_refused(with_memory, checkpoint.NEIGHBOURS, fragment)


@pytest.mark.parametrize("rates", [np.zeros(ITEMS - 1), np.full(ITEMS, 1.5), np.full(ITEMS, np.nan)])
def test_wrong_rates_of_repeats_are_refused(with_memory, rates):
    write_neighbours(with_memory, Remembered(TRAINING, rates), 0.4)
    assert_refused(with_memory, checkpoint.NEIGHBOURS, "rates")


@pytest.fixture
def side_by_side(tmp_path):
    """A directory of two joined models."""
    models = [write_random_model(tmp_path / str(seed), seed, ITEMS, **form) for seed, form in enumerate(FORMS[:2])]
    config = checkpoint.read_config(models[0])
    upkeep.start_run(tmp_path / "joined", {"data": config["data"], "joined": {"weights": [0.75, 0.25]}},
                         models[0] / "vocab.txt", overwrite=False)
    with checkpoint.joined_epoch(tmp_path / "joined") as directory:
        for place, model in enumerate(models):
            shutil.copytree(model, member_directory(directory, place + 1))
    return tmp_path / "joined"


def change_config(model, **changes):
    write_json(model / "config.json", checkpoint.read_config(model) | changes)


@pytest.mark.parametrize("break_it, fragments", [
    (lambda model: change_config(model, joined={"weights": [0.75, 0.3]}), ["weights", "0.75"]),
    (lambda model: change_config(model, joined={"weights": [1.25, -0.25]}), ["weights"]),
    (lambda model: change_config(model, joined={"weights": ["1"]}), ["weights"]),
    (lambda model: change_config(model, joined={}), ["weights"]),
    (lambda model: change_config(model, joined={"weights": [0.5, 0.25, 0.25]}), ["model_3"]),
    (lambda model: shutil.rmtree(model / "epoch_1/model_2"), ["model_2"]),
    (lambda model: shutil.rmtree(model / "epoch_1/model_1/epoch_1"), ["model_1"]),
    (lambda model: change_config(model / "epoch_1/model_2", data={"vocab_sha256": "0" * 64}), ["model_2", "vocab"]),
    (lambda model: change_config(model / "epoch_1/model_2", joined={"weights": [1]}), ["model_2", "joined"]),
])
def test_incomplete_joined_models_are_refused(side_by_side, break_it, fragments):
    scorer, item_ids = load_scorer(side_by_side)
    assert len(item_ids) == ITEMS and scorer.weights == [0.75, 0.25] and len(scorer.scorers) == 2
    load.prepare(side_by_side)
    break_it(side_by_side)
    assert_refused(side_by_side, *fragments)


def test_joined_models_are_no_network(side_by_side):
    for refusing in load_model, lambda model: load_scorer(model, network_alone=True):
        with pytest.raises(InputError, match="joined models.*epoch_1"):
            refusing(side_by_side)


def test_an_epoch_of_joined_models_appears_whole_or_not_at_all(side_by_side):
    shutil.rmtree(side_by_side / "epoch_1")
    with pytest.raises(KeyboardInterrupt):
        with checkpoint.joined_epoch(side_by_side) as directory:
            Path(directory, "model_1").mkdir()
            raise KeyboardInterrupt
    assert sorted(path.name for path in side_by_side.iterdir()) == ["config.json", "vocab.txt"]
