"""utils/model/scorer.py: Paddle's scores without Paddle, and the same whether clicks come alone or in sessions."""

import numpy as np
import pytest
from forms import EVERY_FORM, draw_weights, sessions_of, settings_of
from hypothesis import given
from hypothesis import strategies as st

from utils.data.selection import Selection
from utils.model import checkpoint
from utils.model.equal_lengths import fold_lengths
from utils.model.layout import NetworkSettings, weight_shapes
from utils.model.load import load_model
from utils.model.scorer import Scorer
from utils.model.top_k import top_k

ITEMS = 23


def forms(function):
    """Run a test for every form of the network."""
    return pytest.mark.parametrize("embedding, hid_size, reset_after", EVERY_FORM)(function)


def draw_scorer(*form):
    settings = settings_of(*form)
    return Scorer(settings, draw_weights(settings, ITEMS))


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
        return (paddle.matmul(states, network.item_matrix[:, :-1],
                              transpose_y=True) + network.item_matrix[:, -1]).numpy()


def set_weights(network, weights):
    import paddle
    for name, parameter in network.named_parameters():
        parameter.set_value(paddle.to_tensor(weights[name]))


# Equal to Paddle

@forms
def test_every_click_scores_as_in_paddle(embedding, hid_size, reset_after):
    from net import Network
    settings = settings_of(embedding, hid_size, reset_after, emb_dropout=0.5, hid_dropout=0.5)
    network = Network(ITEMS, settings)
    weights = draw_weights(settings, ITEMS)
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
    from net import Network
    settings = NetworkSettings(**checkpoint.read_config(tiny_model)["network"])
    network = Network(36, settings)
    set_weights(network, checkpoint.load_weights(tiny_model, epoch, weight_shapes(settings, 36)))
    settings, weights, item_ids = load_model(tiny_model, epoch)
    scorer = Scorer(settings, weights)
    assert item_ids == (tiny_data / "vocab.txt").read_text(encoding="utf-8").split()
    for line in (tiny_data / "test_data" / "test.txt").read_text().splitlines()[:10]:
        items = [int(item) for item in line.split()]
        expected = paddles_scores(network, paddles_states(network, items))
        np.testing.assert_allclose(scorer.scores(click_by_click(scorer, items)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", [("shared", [6], True), ("separate", [5, 7], False), ("none", [6], True)], ids=str)
def test_scaled_scores_are_those_of_paddle(form):
    import paddle

    from net import Network
    settings = settings_of(*form, score_scale=8.0)
    network, weights = Network(ITEMS, settings), draw_weights(settings, ITEMS)
    set_weights(network, weights)
    scorer, items = Scorer(fold_lengths(settings, weights), weights), [5, 0, 22, 5, 7, 7, 1]
    paddles, states = paddles_states(network, items), click_by_click(scorer, items)
    with paddle.no_grad():
        expected = network.scores(paddles, network.item_matrix).numpy()
    np.testing.assert_allclose(states, paddles.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(scorer.scores(states), expected, rtol=0, atol=1e-4)


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
    np.testing.assert_allclose(scorer.scores(states, candidates), scorer.scores(states)[:, candidates], rtol=0,
                               atol=1e-6)
    np.testing.assert_allclose(scorer.scores(states[0], candidates), scorer.scores(states)[0, candidates], rtol=0,
                               atol=1e-6)
    assert scorer.scores(states[:1], candidates).shape == (1, len(candidates))


def test_best_items_of_several_rows_are_those_of_the_scores_of_each():
    scorer, states = draw_scorer("shared", [6], True), np.random.default_rng(3).normal(0, 0.5, (4, 6))
    states, odd = states.astype(np.float32), np.arange(ITEMS) % 2 == 1
    asked = [(3, [4], None, []), (1, (), Selection(odd), ~odd), (ITEMS + 2, [1, 3], Selection(odd), ~odd),
             (2, (), [7, 5, 7], ~np.isin(np.arange(ITEMS), [5, 7]))]
    ks, excluded, allowed, others = zip(*asked)
    for row, (items, scores) in enumerate(scorer.best(states, ks, excluded, allowed)):
        left_out = [*excluded[row], *np.flatnonzero(others[row])]
        expected, their_scores = top_k(scorer.scores(states[row:row + 1])[0], ks[row], left_out)
        assert items.tolist() == expected.tolist()
        np.testing.assert_allclose(scores, their_scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", EVERY_FORM[::4])
def test_replay_goes_on_from_earlier_states(form):
    scorer = draw_scorer(*form)
    whole, first, rest = [[1, 2, 3, 4], [5], [6, 7, 8]], [[1, 2], [], [6, 7, 8]], [[3, 4], [5], []]
    expected = scorer.replay(sessions_of(whole), np.zeros((3, sum(scorer.hid_size)), np.float32))
    before = scorer.replay(sessions_of(first), np.zeros((3, sum(scorer.hid_size)), np.float32))
    kept = before.copy()
    np.testing.assert_array_equal(scorer.replay(sessions_of(rest), before), expected)
    np.testing.assert_array_equal(before, kept)


def test_the_largest_weights_give_no_nan():
    for form in EVERY_FORM:
        settings = settings_of(*form)
        scorer = Scorer(settings, {name: np.sign(values) * np.float32(1e15)
                                   for name, values in draw_weights(settings, ITEMS).items()})
        assert np.isfinite(scorer.scores(click_by_click(scorer, range(ITEMS)))).all()
