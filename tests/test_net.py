"""The network: both GRU forms against plainly written ones, gradients included; its shape, its dropout, its loss."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from net import DynamicGRU, Network, sigmoid
from utils.model.layout import NetworkSettings, weight_shapes

UNITS, INPUTS = 5, 4


def plain_gru(gate_inputs, weight, bias, rows_per_step, state, reset_after, through_time=True):
    """The docstring's formulas by Paddle's own operations and autograd."""
    states, start = [], 0
    for rows in rows_per_step:
        x, before = gate_inputs[start:start + rows], state[:rows]
        before = before if through_time else before.detach()
        x_r, x_z, x_c = paddle.split(x, 3, axis=1)
        u_r, u_z, u_c = paddle.split(weight, 3, axis=1)
        v_r, v_z, v_c = paddle.split(bias, 3)
        reset, update = F.sigmoid(x_r + before @ u_r + v_r), F.sigmoid(x_z + before @ u_z + v_z)
        recurrent = reset * (before @ u_c + v_c) if reset_after else (reset * before) @ u_c + v_c
        candidate = paddle.tanh(x_c + recurrent)
        state = update * before + (1 - update) * candidate
        states.append(state)
        start += rows
    return paddle.concat(states), state


def draw_tensor(random, *shape):
    return paddle.to_tensor(random.normal(0, 1, shape).astype("float32"), stop_gradient=False)


def make_gru(weight, bias, **settings):
    gru = DynamicGRU(weight, NetworkSettings([UNITS], UNITS, **settings), "layer 0")
    gru.bias.set_value(bias)
    return gru


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("through_time", [True, False])
@hypothesis_settings(max_examples=25)
@given(rows=st.lists(st.integers(1, 6), min_size=1, max_size=7), seed=st.integers(0, 1000))
def test_gru_states_and_gradients_equal_the_plain_form(reset_after, through_time, rows, seed):
    rows_per_step = sorted(rows, reverse=True)
    random = np.random.default_rng(seed)
    gru = make_gru(random.normal(size=(UNITS, 3 * UNITS)), draw_tensor(random, 3 * UNITS), reset_after=reset_after,
                   through_time=through_time)
    gate_inputs, upstream = draw_tensor(random, sum(rows), 3 * UNITS), draw_tensor(random, sum(rows), UNITS)
    before = draw_tensor(random, rows_per_step[0], UNITS).detach()
    sources = [gate_inputs, gru.weight, gru.bias]
    found, carried = gru(gate_inputs, rows_per_step, before)
    expected, expected_carried = plain_gru(*sources, rows_per_step, before, reset_after, through_time)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=3e-6)
    np.testing.assert_allclose(carried.numpy(), expected_carried.numpy(), atol=3e-6)
    assert carried.stop_gradient
    gradients = [paddle.grad((states * upstream).sum(), sources) for states in (found, expected)]
    for ours, theirs in zip(*gradients):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_reset_after_is_paddles_own_gru():
    random = np.random.default_rng(3)
    theirs = paddle.nn.GRU(INPUTS, UNITS)
    gru = make_gru(theirs.weight_hh_l0.numpy().T, theirs.bias_hh_l0)
    clicks = draw_tensor(random, 1, 6, INPUTS)
    gate_inputs = F.linear(clicks[0], theirs.weight_ih_l0.t(), theirs.bias_ih_l0)
    states, carried = gru(gate_inputs, [1] * 6, paddle.zeros([1, UNITS]))
    np.testing.assert_allclose(states.numpy(), theirs(clicks)[0][0].numpy(), atol=1e-6)
    assert (carried.numpy() == states.numpy()[-1:]).all()


@pytest.mark.parametrize("carry_dropped", [False, True])
def test_the_next_click_sees_dropped_states_only_on_request(carry_dropped):
    gru = make_gru(np.ones((UNITS, 3 * UNITS)), paddle.ones([3 * UNITS]), hid_dropout=0.5, carry_dropped=carry_dropped)
    gru.train()
    inputs, first = draw_tensor(np.random.default_rng(0), 60, 3 * UNITS), paddle.zeros([30, UNITS])
    states, carried = gru(inputs, [30, 30], first)
    assert 0.3 < (states.numpy() == 0).mean() < 0.7
    assert ((carried.numpy() == 0).mean() > 0.3) == carry_dropped
    before = states[:30] if carry_dropped else gru.step(inputs[:30], first)
    kept = states.numpy()[30:] != 0
    expected = 2 * gru.step(inputs[30:], before).numpy()
    np.testing.assert_allclose(states.numpy()[30:][kept], expected[kept], rtol=1e-5, atol=1e-6)


def test_sigmoid_by_tanh_is_sigmoid():
    values = paddle.linspace(-30, 30, 601)
    expected = 1 / (1 + np.exp(-values.numpy().astype(np.float64)))
    np.testing.assert_allclose(sigmoid(values).numpy(), expected, rtol=0, atol=2.5e-7)


VARIANTS = {
    "shared": dict(hid_size=[6], emb_size=6),
    "separate": dict(hid_size=[6], emb_size=4, embedding="separate"),
    "reset before": dict(hid_size=[6], emb_size=6, reset_after=False),
    "layers": dict(hid_size=[5, 7], emb_size=4, embedding="separate", reset_after=False),
    "smoothed": dict(hid_size=[6], emb_size=6, label_smoothing=0.1),
    "none": dict(hid_size=[6, 5], emb_size=0, embedding="none"),
    "scaled": dict(hid_size=[6], emb_size=6, score_scale=4.0, init_range=0.5),
    "separate, scaled": dict(hid_size=[6], emb_size=4, embedding="separate", score_scale=4.0, init_range=0.5),
}


def loss_of(network, items, targets, rows_per_step):
    hidden = network.hidden_states(paddle.to_tensor(items), rows_per_step)
    return network.loss(network.scores(hidden, network.item_matrix), paddle.to_tensor(targets)).mean()


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_gradient_is_the_slope_of_the_loss(name):
    """Against finite differences in the direction of the gradient, for every weight."""
    network = Network(11, NetworkSettings(**VARIANTS[name]), seed=5)
    batch = [1, 2, 3, 1, 5, 6], [2, 3, 3, 5, 6, 0], [3, 2, 1]
    loss_of(network, *batch).backward()
    for parameter_name, weight in network.named_parameters():
        gradient, start = weight.grad.numpy(), weight.numpy()
        length = np.linalg.norm(gradient)
        assert length > 0, parameter_name
        step = 1e-2 * gradient / length
        values = []
        for sign in (1, -1):
            weight.set_value(paddle.to_tensor(start + sign * step))
            values.append(float(loss_of(network, *batch)))
        weight.set_value(paddle.to_tensor(start))
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(length, rel=0.02), parameter_name


def test_scores_are_products_and_biases_however_candidates_are_shared():
    network, random = Network(11, NetworkSettings([6], 6)), np.random.default_rng(0)
    states, rows = random.normal(size=(4, 6)).astype(np.float32), random.normal(size=(4, 3, 7)).astype(np.float32)
    shared = network.scores(paddle.to_tensor(states), paddle.to_tensor(rows[0])).numpy()
    own = network.scores(paddle.to_tensor(states).unsqueeze(1), paddle.to_tensor(rows)).numpy()
    assert shared.shape == (4, 3) and own.shape == (4, 1, 3)
    for position, candidate in np.ndindex(4, 3):
        expected = states[position] @ rows[0, candidate, :-1] + rows[0, candidate, -1]
        assert shared[position, candidate] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        expected = states[position] @ rows[position, candidate, :-1] + rows[position, candidate, -1]
        assert own[position, 0, candidate] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_scaled_scores_are_products_with_vectors_of_one_length_and_biases():
    network, random = Network(11, NetworkSettings([9], 9, score_scale=30.0)), np.random.default_rng(0)
    states, rows = random.uniform(-1, 1, (4, 9)).astype(np.float32), random.normal(size=(3, 10)).astype(np.float32)
    rows[2, :-1] = 0
    found = network.scores(paddle.to_tensor(states), paddle.to_tensor(rows)).numpy()
    directions = rows[:2, :-1] / np.linalg.norm(rows[:2, :-1], axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, :2], 10 * states @ directions.T + rows[:2, -1], rtol=1e-4)
    assert (found[:, 2] == rows[2, -1]).all(), "a vector of zeros has no direction"
    along = np.sign(rows[:1, :-1])
    equal = np.hstack([along, np.zeros((1, 1))]).astype(np.float32)
    largest = network.scores(paddle.to_tensor(along), paddle.to_tensor(equal)).item()
    assert largest == pytest.approx(30)


def test_a_scaled_network_reads_nothing_of_a_vector_but_its_direction():
    network, click = Network(11, NetworkSettings([6], 6, score_scale=16.0)), paddle.to_tensor([3])
    rows = network.item_matrix[3:4].detach()
    expected = network.hidden_states(click, [1], rows).numpy()
    np.testing.assert_allclose(network.hidden_states(click, [1], rows * 5).numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_rows_given_and_states_carried_change_nothing(name):
    """Training looks the rows up itself; sessions side by side go click by click."""
    settings = NetworkSettings(**VARIANTS[name])
    network, items, rows_per_step = Network(11, settings, seed=5), paddle.to_tensor([1, 2, 3, 1, 5, 6]), [3, 2, 1]
    rows = F.embedding(items, network.input_weights())
    with paddle.no_grad():
        whole = network.hidden_states(items, rows_per_step).numpy()
        assert (network.hidden_states(items, rows_per_step, rows).numpy() == whole).all()
        assert (network.hidden_states(items, rows_per_step, rows + 1).numpy() != whole).any()
        before = network.first_states(3)
        assert [tuple(state.shape) for state in before] == [(3, units) for units in settings.hid_size]
        for start, count in ((0, 3), (3, 2), (5, 1)):
            before = [state[:count] for state in before]
            found = network.hidden_states(items[start:start + count], [count], before=before).numpy()
            np.testing.assert_allclose(found, whole[start:start + count], atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_are_those_of_the_layout(name):
    settings = NetworkSettings(**VARIANTS[name])
    found = {name: list(weight.shape) for name, weight in Network(11, settings).named_parameters()}
    assert found == weight_shapes(settings, 11)


def test_shared_matrix_is_one_parameter():
    shared = Network(11, NetworkSettings([6], 6))
    separate = Network(11, NetworkSettings([6], 6, embedding="separate"))
    assert "embedding" not in dict(shared.named_parameters())
    assert dict(separate.named_parameters())["embedding"].shape == [11, 6]


def test_dropout_acts_in_training_only_and_follows_the_seed():
    network = Network(11, NetworkSettings([6], 6, emb_dropout=0.5, hid_dropout=0.5))
    click, rows = paddle.to_tensor([3] * 50), [50]
    paddle.seed(1)
    first = network.hidden_states(click, rows).numpy()
    paddle.seed(1)
    assert (network.hidden_states(click, rows).numpy() == first).all()
    assert 0.3 < (first == 0).mean() < 0.7
    network.eval()
    assert (network.hidden_states(click, rows).numpy() == network.hidden_states(click, rows).numpy()).all()
    assert (network.hidden_states(click, rows).numpy() != 0).all()


@pytest.mark.parametrize("init_range", [0.0, 0.04])
def test_initial_weights_follow_seed_and_range(init_range):
    make = lambda seed: Network(500, NetworkSettings([20], 30, embedding="separate", init_range=init_range), seed)
    first, again, other = make(1), make(1), make(2)
    bounds = {"embedding": (500 + 30), "item_matrix": (500 + 20), "fc.0.weight": (30 + 20), "gru.0.weight": (20 + 20)}
    for name, weight in first.named_parameters():
        values = weight.numpy()
        assert (values == dict(again.named_parameters())[name].numpy()).all()
        if name in bounds:
            drawn = values[:, :-1] if name == "item_matrix" else values
            bound = init_range or np.sqrt(6 / bounds[name])
            assert 0.95 * bound < np.abs(drawn).max() <= bound
            assert (values != dict(other.named_parameters())[name].numpy()).any()
    assert (dict(first.named_parameters())["item_matrix"].numpy()[:, -1] == 0).all()


def test_learning_rate_multipliers_reach_the_optimiser():
    settings = NetworkSettings([6], 6, embedding="separate", emb_lr_x=10.0, gru_lr_x=2.0, fc_lr_x=3.0)
    network = Network(11, settings)
    optimizer = paddle.optimizer.Adagrad(0.01, parameters=network.parameters())
    before = {name: weight.numpy() for name, weight in network.named_parameters()}
    loss_of(network, [1, 2, 3], [2, 3, 4], [2, 1]).backward()
    optimizer.step()
    # Adagrad's first step is rate * g / (|g| + 1e-6): as long as the rate wherever g is not tiny.
    for name, weight in network.named_parameters():
        rate = 0.01 * {"embedding": 10, "item_matrix": 3}.get(name, 2)
        assert np.abs(weight.numpy() - before[name]).max() == pytest.approx(rate, rel=0.02), name
