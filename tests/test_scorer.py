"""utils/scorer.py: Paddle's scores without Paddle, the best items as a full sort finds them, and nothing foreign loaded."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import example, given, strategies as st

from utils import checkpoint
from utils.files import InputError
from utils.scorer import GROUPS, SETTINGS, Scorer, choose_epoch, load_scorer, top_k, top_k_of_rows, weight_shapes
from utils.sessions import Sessions
from utils.vocabulary import checksum

ITEMS = 23
TRAINING_ALONE = {"emb_dropout", "hid_dropout", "carry_dropped", "through_time", "label_smoothing", "init_range",
                  "emb_lr_x", "gru_lr_x", "fc_lr_x"}
EVERY_FORM = [(embedding, hid_size, reset_after) for embedding in ("shared", "separate", "none")
              for hid_size in ([6], [5, 7], [4, 6, 5]) for reset_after in (True, False)]


def forms(function):
    """Run a test for every form of the network."""
    return pytest.mark.parametrize("embedding, hid_size, reset_after", EVERY_FORM)(function)


def settings_of(embedding, hid_size, reset_after):
    emb_size = {"shared": hid_size[-1], "separate": 3, "none": 0}[embedding]
    return {"hid_size": hid_size, "emb_size": emb_size, "embedding": embedding, "reset_after": reset_after}


def draw_weights(settings, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.7, shape).astype(np.float32) for name, shape in weight_shapes(settings, ITEMS).items()}


def draw_scorer(*form):
    settings = settings_of(*form)
    return Scorer(settings, draw_weights(settings))


def sessions_of(lists):
    return Sessions(np.array(sum(lists, []), np.int32), np.cumsum([0] + [len(items) for items in lists]))


def click_by_click(scorer, items):
    """The last layer's state after each click, float32 [clicks, units]."""
    states, found = scorer.before_first_click(), []
    for item in items:
        states = scorer.click(item, states)
        found.append(states[-1])
    return np.array(found)


def paddles_states(network, items):
    """The same by Paddle."""
    import paddle
    network.eval()
    with paddle.no_grad():
        return network.hidden_states(paddle.to_tensor(np.array(items)), [1] * len(items))


def paddles_scores(network, states):
    import paddle
    with paddle.no_grad():
        return (paddle.matmul(states, network.item_matrix[:, :-1], transpose_y=True) + network.item_matrix[:, -1]).numpy()


def set_weights(network, weights):
    import paddle
    for name, parameter in network.named_parameters():
        parameter.set_value(paddle.to_tensor(weights[name]))


# Equal to Paddle

@forms
def test_every_click_scores_as_in_paddle(embedding, hid_size, reset_after):
    from net import Network, NetworkSettings
    settings = settings_of(embedding, hid_size, reset_after)
    network = Network(ITEMS, NetworkSettings(**settings, emb_dropout=0.5, hid_dropout=0.5))
    assert {name: parameter.shape for name, parameter in network.named_parameters()} == weight_shapes(settings, ITEMS)
    weights = draw_weights(settings)
    set_weights(network, weights)
    scorer = Scorer(settings, weights)
    items = np.random.default_rng(1).integers(ITEMS, size=12).tolist()

    paddles = paddles_states(network, items)
    states = click_by_click(scorer, items)
    expected = paddles_scores(network, paddles)
    assert states.dtype == np.float32 and np.ptp(expected) > 1
    np.testing.assert_allclose(states, paddles.numpy(), rtol=0, atol=1e-5)
    prefixes = scorer.after_sessions(sessions_of([items[:clicks] for clicks in range(1, len(items) + 1)]))
    for found in (scorer.scores(states), scorer.scores(prefixes), np.array([scorer.scores(state) for state in states])):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_trained_model_scores_as_in_paddle(tiny_model, tiny_data, epoch):
    from net import Network, NetworkSettings
    config = checkpoint.read_config(tiny_model)
    network = Network(36, NetworkSettings(**config["network"]))
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    set_weights(network, checkpoint.load_weights(tiny_model, epoch, shapes))
    scorer, item_ids = load_scorer(tiny_model, epoch)
    assert item_ids == (tiny_data / "vocab.txt").read_text(encoding="utf-8").split()
    for line in (tiny_data / "test_data" / "test.txt").read_text().splitlines()[:10]:
        items = [int(item) for item in line.split()]
        expected = paddles_scores(network, paddles_states(network, items))
        np.testing.assert_allclose(scorer.scores(click_by_click(scorer, items)), expected, rtol=0, atol=1e-5)


def test_no_setting_of_the_network_is_overlooked():
    from net import NetworkSettings
    fields = {field.name for field in dataclasses.fields(NetworkSettings)}
    assert fields == {*SETTINGS, *TRAINING_ALONE}, "does the new setting change the scores? then utils/scorer.py must know it"


# Equal to itself

@forms
@given(data=st.data())
def test_whole_sessions_equal_click_by_click(embedding, hid_size, reset_after, data):
    scorer = draw_scorer(embedding, hid_size, reset_after)
    lists = data.draw(st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=9), min_size=1, max_size=6))
    found = scorer.after_sessions(sessions_of(lists))
    assert found.shape == (len(lists), hid_size[-1]) and found.dtype == np.float32
    for items, state in zip(lists, found):
        expected = click_by_click(scorer, items)[-1] if items else 0
        np.testing.assert_allclose(state, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", EVERY_FORM[::5])
def test_several_live_sessions_at_once_equal_each_alone(form):
    scorer = draw_scorer(*form)
    clicks = np.random.default_rng(2).integers(ITEMS, size=(4, 3))
    states = scorer.before_first_click(3)
    for items in clicks:
        before = [state.copy() for state in states]
        after = scorer.click(items, states)
        assert all((kept == state).all() for kept, state in zip(before, states))
        states = after
    expected = [click_by_click(scorer, session)[-1] for session in clicks.T]
    np.testing.assert_allclose(states[-1], expected, rtol=0, atol=1e-6)
    alone = scorer.click(clicks[0, :1], scorer.before_first_click(1))
    assert [state.shape for state in alone] == [(1, units) for units in scorer.hid_size]


@pytest.mark.parametrize("candidates", [[4], [7, 0, 7, 22], []])
def test_candidates_score_as_among_all(candidates):
    scorer = draw_scorer("separate", [6], True)
    candidates = np.array(candidates, np.int64)
    states = np.random.default_rng(3).normal(0, 0.5, (5, 6)).astype(np.float32)
    np.testing.assert_allclose(scorer.scores(states, candidates), scorer.scores(states)[:, candidates], rtol=0, atol=1e-6)
    np.testing.assert_allclose(scorer.scores(states[0], candidates), scorer.scores(states)[0, candidates], rtol=0, atol=1e-6)
    assert scorer.scores(states[:1], candidates).shape == (1, len(candidates))


# The best items

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


def test_top_k_of_nothing_but_excluded_items_is_empty():
    assert top_k(np.ones(3, np.float32), 2, [0, 1, 2, 2])[0].tolist() == []
    assert top_k(np.full(2 * GROUPS, -np.inf, np.float32), 2)[0].tolist() == []


# What can't be loaded

@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of `tiny_model`, to change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def assert_refused(model_dir, *fragments, epoch=None):
    with pytest.raises(InputError) as error:
        load_scorer(model_dir, epoch)
    for fragment in (*fragments, "expected"):
        assert str(fragment) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def edit_network(model, **changes):
    config = json.loads((model / "config.json").read_text())
    config["network"] |= changes
    (model / "config.json").write_text(json.dumps(config))


def resave(model, change):
    """Save the last epoch anew, its weights as `change` returns them."""
    weights = checkpoint.load_weights(model, 2, weight_shapes(checkpoint.read_config(model)["network"], 36))
    shutil.rmtree(model / "epoch_2")
    checkpoint.save_epoch(model, 2, {name: change(values) for name, values in weights.items()}, {}, {})


def test_the_last_epoch_is_the_default(model):
    assert choose_epoch(model) == 2 and choose_epoch(model, 1) == 1
    last, first = load_scorer(model)[0], load_scorer(model, 1)[0]
    assert (last.item_vectors == load_scorer(model, 2)[0].item_vectors).all()
    assert (last.item_vectors != first.item_vectors).any()
    (model / "epoch_2" / "state.json").unlink()
    assert choose_epoch(model) == 1


def test_epochs_that_are_not_there(model):
    assert_refused(model, "--epoch", "3", "1, 2", epoch=3)
    for epoch in 1, 2:
        shutil.rmtree(model / f"epoch_{epoch}")
    assert_refused(model, "--model_dir", model)


@pytest.mark.parametrize("changes", [
    {"hid_size": []}, {"hid_size": [0]}, {"hid_size": [8.0]}, {"hid_size": ["8"]}, {"hid_size": 8}, {"hid_size": [True]},
    {"hid_size": None}, {"emb_size": "8"}, {"emb_size": -1}, {"embedding": "triple"}, {"embedding": []}, {"reset_after": 1},
    {"reset_after": None}, {"reset_after": "after"}], ids=str)
def test_settings_that_no_network_has(model, changes):
    edit_network(model, **changes)
    assert_refused(model, model / "config.json", "network settings")


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_missing(model, name):
    config = json.loads((model / "config.json").read_text())
    del config["network"][name]
    (model / "config.json").write_text(json.dumps(config))
    assert_refused(model, model / "config.json", name)


@pytest.mark.parametrize("network", [None, [], "shared", {}], ids=str)
def test_a_config_without_a_network(model, network):
    config = json.loads((model / "config.json").read_text()) | {"network": network}
    (model / "config.json").write_text(json.dumps(config))
    assert_refused(model, model / "config.json", "network settings")


@pytest.mark.parametrize("changes", [{"hid_size": [9]}, {"hid_size": [8, 8]}, {"emb_size": 9}, {"embedding": "none"}], ids=str)
def test_weights_of_another_network(model, changes):
    edit_network(model, **changes)
    assert_refused(model, model / "epoch_2" / "model.safetensors", "shapes")


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_truncated_weights(model, kept):
    path = model / "epoch_2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(model, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, -1e20])
def test_weights_that_are_not_finite_numbers(model, value):
    def spoil(values):
        values = values.copy()
        values.flat[-1] = value
        return values
    resave(model, spoil)
    assert_refused(model, model / "epoch_2" / "model.safetensors", "without overflow")


@pytest.mark.parametrize("precision", ["float64", "float16", "int32", "bool", "complex64"])
def test_weights_of_another_type(model, precision):
    resave(model, lambda values: values.astype(precision))
    assert_refused(model, model / "epoch_2" / "model.safetensors", precision)


def test_the_largest_weights_give_no_nan():
    for form in EVERY_FORM:
        settings = settings_of(*form)
        scorer = Scorer(settings, {name: np.sign(values) * np.float32(1e15) for name, values in draw_weights(settings).items()})
        assert np.isfinite(scorer.scores(click_by_click(scorer, range(ITEMS)))).all()


def test_another_vocabulary_than_in_training(model):
    with open(model / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("one_more\n")
    assert_refused(model, model / "vocab.txt", "SHA-256")
    config = json.loads((model / "config.json").read_text())
    config["data"]["vocab_sha256"] = checksum(model / "vocab.txt")
    (model / "config.json").write_text(json.dumps(config))
    assert_refused(model, "shapes")
    (model / "config.json").write_text(json.dumps(config | {"data": {}}))
    assert_refused(model, model / "config.json", "checksum")
    (model / "vocab.txt").unlink()
    assert_refused(model, model / "vocab.txt")


@given(data=st.data())
def test_the_best_of_several_rows_equal_those_of_each_alone(data):
    rows, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 30))
    scores = np.array(data.draw(st.lists(st.lists(st.integers(0, 9), min_size=ITEMS, max_size=ITEMS), min_size=rows, max_size=rows)),
                      np.float32)
    excluded = data.draw(st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=ITEMS), min_size=rows, max_size=rows))
    for made in (scores.copy(), np.asfortranarray(scores)):
        for found, row, left_out in zip(top_k_of_rows(made, k, excluded), scores, excluded, strict=True):
            expected = [item for item in np.argsort(-row, kind="stable") if item not in left_out][:k]
            assert found[0].tolist() == expected and found[1].tolist() == row[expected].tolist()


@pytest.mark.parametrize("form", EVERY_FORM[::4])
def test_replay_goes_on_from_earlier_states(form):
    scorer = draw_scorer(*form)
    whole, first, rest = [[1, 2, 3, 4], [5], [6, 7, 8]], [[1, 2], [], [6, 7, 8]], [[3, 4], [5], []]
    expected = scorer.replay(sessions_of(whole), np.zeros((3, sum(scorer.hid_size)), np.float32))
    before = scorer.replay(sessions_of(first), np.zeros((3, sum(scorer.hid_size)), np.float32))
    kept = before.copy()
    np.testing.assert_array_equal(scorer.replay(sessions_of(rest), before), expected)
    np.testing.assert_array_equal(before, kept)
