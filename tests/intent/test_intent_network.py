"""The network for purchase intent: what it sees, that its scorer in NumPy equals it, and that it looks back alone."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from purchases import FORMS, SIZES, draw_sessions, make_network

from utils.intent.answers import network_scores, scores
from utils.intent.batches import blocks, epoch_batches, make_batch
from utils.intent.inputs import CLICK_INPUTS, KNOTS, KNOWN, click_inputs, knots_of, normal_scores, pack
from utils.intent.scorer import IntentScorer
from utils.intent.sessions import choose_sessions, first_clicks
from utils.intent.settings import weight_shapes
from utils.intent.trainer import IntentLoss, tensors_of
from utils.model.network import named_weights, shapes


@pytest.mark.parametrize("form", FORMS)
def test_numpy_computes_what_paddle_does(form):
    network, counts, knots = make_network(form)
    assert shapes(network) == weight_shapes(FORMS[form], *SIZES)
    sessions = draw_sessions(30, seed=9)
    expected = network_scores(network, sessions, counts, knots)
    scorer = IntentScorer(FORMS[form], named_weights(network))
    found = scores(scorer.log_odds, sessions, counts, knots, FORMS[form].min_support)
    for values, wanted in zip(found, expected):
        np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-6)
    assert found[0].std() > 0.01 and found[1].std() > 0.01
    alone = [scores(scorer.log_odds, choose_sessions(sessions, np.array([number])), counts, knots,
                    FORMS[form].min_support)[0] for number in range(5)]
    np.testing.assert_allclose(np.concatenate(alone), found[0][:5], rtol=1e-5)


def test_after_each_click_the_answer_is_that_of_the_sessions_first_clicks():
    network, counts, knots = make_network()
    sessions = draw_sessions(30, seed=9)
    batch = make_batch(sessions, counts, knots, 3)
    scorer = IntentScorer(FORMS["forward"], named_weights(network))
    of_clicks, _ = scorer.log_odds(batch)
    for clicks in range(1, 10):
        prefix = make_batch(first_clicks(sessions, clicks), counts, knots, 3)
        at_end, _ = scorer.log_odds(prefix)
        for session in np.flatnonzero(sessions.lengths() >= clicks):
            [place] = np.flatnonzero(batch.sessions_of_clicks == session)[clicks - 1:clicks]
            assert at_end[prefix.ends[session]] == pytest.approx(of_clicks[place], abs=1e-5)


def test_a_second_direction_sees_later_clicks():
    network, counts, knots = make_network("bidirectional")
    sessions = draw_sessions(20, seed=9)
    batch = tensors_of(make_batch(sessions, counts, knots, 3))
    states = network.members[0].hidden_states(batch)[0].numpy()
    longest = int(np.argmax(sessions.lengths()))
    first = np.flatnonzero(batch.sessions_of_clicks.numpy() == longest)[0]
    shorter = tensors_of(make_batch(first_clicks(sessions, 2), counts, knots, 3))
    before = network.members[0].hidden_states(shorter)[0].numpy()
    there = np.flatnonzero(shorter.sessions_of_clicks.numpy() == longest)[0]
    np.testing.assert_allclose(states[first, :5], before[there, :5], atol=1e-6)
    assert np.abs(states[first, 5:] - before[there, 5:]).max() > 1e-3


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_packing_takes_each_click_once_in_the_order_of_time(lengths):
    offsets = np.append(0, np.cumsum(lengths))
    packed = pack(offsets)
    assert sorted(packed.places) == list(range(offsets[-1])) and sum(packed.rows_per_step) == offsets[-1]
    owners = np.repeat(np.arange(len(lengths)), lengths)
    np.testing.assert_array_equal(packed.places[packed.ends], offsets[1:] - 1)
    np.testing.assert_array_equal(packed.mirror[packed.mirror], np.arange(offsets[-1]))
    here, there = packed.places, packed.places[packed.mirror]
    np.testing.assert_array_equal(owners[here], owners[there])
    np.testing.assert_array_equal(here - offsets[owners[here]], offsets[owners[there] + 1] - 1 - there)


def test_the_numbers_of_a_click_worked_by_hand():
    sessions = draw_sessions(3)
    sessions = replace(sessions, offsets=np.array([0, 4, 5]), ids=np.array([7, 2, 7, 7, 2], np.int32),
                       items=np.array([7, 2, 7, 7, 2], np.int32), times=np.array([0, 10, 40, 100, 7.0]) + 86400 * 3,
                       categories=np.array([1, 1, 2, 2, 0], np.int32))
    known = dict.fromkeys(KNOWN, np.zeros(5)) | {"item_bought": np.array([3, 1, 5, 7, 2.0])}
    found = click_inputs(sessions, known)
    np.testing.assert_allclose(found[:, 0], np.log1p([0, 10, 30, 60, 0]), rtol=1e-6)  # seconds since the click before
    np.testing.assert_allclose(found[:, 2], np.log1p([0, 0, 1, 2, 0]), rtol=1e-6)  # earlier clicks on the item
    np.testing.assert_allclose(found[:, 3], np.log1p([0, 0, 40, 60, 0]), rtol=1e-6)  # seconds since the last of them
    np.testing.assert_array_equal(found[:, 4], [0, 0, 0, 1, 0])  # the same item as before
    np.testing.assert_allclose(found[:, 5], [1, 1, 2 / 3, 2 / 4, 1], rtol=1e-6)  # different items
    np.testing.assert_allclose(found[:, 10], np.log1p([0, 0, 10, 70, 0]), rtol=1e-6)  # the item's dwell time so far
    np.testing.assert_array_equal(found[:, 15], [0, 1, 0, 1, 0])
    np.testing.assert_allclose(found[:, 16], np.log1p([0, 0, 1, 1, 0]), rtol=1e-6)  # came back to an item
    np.testing.assert_allclose(found[:, CLICK_INPUTS.index("mean_item_bought")], [3, 2, 3, 4, 2], rtol=1e-6)


def test_normal_scores_follow_ranks_and_stay_within_the_quantiles():
    random = np.random.default_rng(1)
    inputs = np.stack([random.exponential(size=5000), random.integers(0, 2, 5000), np.full(5000, 3.0)], axis=1)
    knots = knots_of(inputs.astype(np.float32))
    assert knots.shape == (2, 3, KNOTS)
    found = normal_scores(inputs, knots)
    assert abs(found[:, 0].mean()) < 0.05 and found[:, 0].std() == pytest.approx(1, abs=0.1)
    assert (np.diff(found[np.argsort(inputs[:, 0]), 0]) >= 0).all()
    assert len(np.unique(found[:, 1])) == 2 and len(np.unique(found[:, 2])) == 1
    far = normal_scores(np.array([[1e30, -5, 9], [-1e30, 7, -9]], np.float32), knots)
    assert np.abs(far).max() < 3


def test_epochs_and_blocks_take_each_session_once():
    sessions = draw_sessions(50)
    for parts in (epoch_batches(sessions, 8, 3, np.random.default_rng(1)), blocks(sessions, 20)):
        assert sorted(np.concatenate(list(parts))) == list(range(50))


def test_the_loss_worked_by_hand():
    sessions = draw_sessions(6, seed=2)
    _, counts, knots = make_network()
    batch = tensors_of(make_batch(sessions, counts, knots, 3))
    random = np.random.default_rng(1)
    of_clicks, of_pairs = (random.normal(size=len(values)).astype(np.float32)
                           for values in (batch.rows, batch.pair_last))
    ends, owners = batch.ends.numpy(), batch.sessions_of_clicks.numpy()
    entropy = lambda log_odds, label: np.logaddexp(0, -log_odds if label else log_odds)
    expected = 0.0
    for session in range(6):
        label, of_session = sessions.buys[session], np.flatnonzero(owners == session)
        weight = 4 if label else 1
        each = [weight * entropy(of_clicks[click] + np.log(4), label) for click in [ends[session], *of_session]]
        expected += (0.75 * each[0] + 0.25 * np.mean(each[1:])) / 6
        if label:
            pairs = np.flatnonzero(owners[batch.pair_end.numpy()] == session)
            expected += 2 * sum(entropy(of_pairs[pair], batch.bought.numpy()[pair]) for pair in pairs) / 6
    loss = IntentLoss(buying_weight=4, item_weight=2, prefix_weight=0.25)
    found = loss(batch, paddle.to_tensor(of_clicks), paddle.to_tensor(of_pairs))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    focal = IntentLoss(focal=2.0).of_sessions(paddle.to_tensor([0.0]), paddle.to_tensor([1.0]))
    assert float(focal[0]) == pytest.approx(0.25 * np.log(2), rel=1e-5)
