"""The network: both GRU forms against plainly written ones, gradients included."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st

from net import DynamicGRU, Network, NetworkSettings, sigmoid

UNITS, INPUTS = 5, 4


def plain_gru(gate_inputs, weight, bias, rows_per_step, reset_after):
    """The docstring's formulas by Paddle's own operations and autograd."""
    state, states, start = paddle.zeros([rows_per_step[0], UNITS]), [], 0
    for rows in rows_per_step:
        x, before = gate_inputs[start:start + rows], state[:rows]
        x_r, x_z, x_c = paddle.split(x, 3, axis=1)
        u_r, u_z, u_c = paddle.split(weight, 3, axis=1)
        v_r, v_z, v_c = paddle.split(bias, 3)
        reset, update = F.sigmoid(x_r + before @ u_r + v_r), F.sigmoid(x_z + before @ u_z + v_z)
        recurrent = reset * (before @ u_c + v_c) if reset_after else (reset * before) @ u_c + v_c
        candidate = paddle.tanh(x_c + recurrent)
        state = update * before + (1 - update) * candidate
        states.append(state)
        start += rows
    return paddle.concat(states)


def draw_tensor(random, *shape):
    return paddle.to_tensor(random.normal(0, 1, shape).astype("float32"), stop_gradient=False)


@pytest.mark.usefixtures("native_or_paddle")
@pytest.mark.parametrize("reset_after", [True, False])
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(1, 6), min_size=1, max_size=7), seed=st.integers(0, 1000))
def test_gru_states_and_gradients_equal_the_plain_form(reset_after, rows, seed):
    rows_per_step = sorted(rows, reverse=True)
    random = np.random.default_rng(seed)
    gru = DynamicGRU(draw_tensor(random, UNITS, 3 * UNITS), 1.0, reset_after)
    gru.bias.set_value(draw_tensor(random, 3 * UNITS))
    gate_inputs, upstream = draw_tensor(random, sum(rows), 3 * UNITS), draw_tensor(random, sum(rows), UNITS)
    sources = [gate_inputs, gru.weight, gru.bias]
    found = gru(gate_inputs, rows_per_step)
    expected = plain_gru(*sources, rows_per_step, reset_after)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)
    for ours, theirs in zip(paddle.grad((found * upstream).sum(), sources), paddle.grad((expected * upstream).sum(), sources)):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("native_or_paddle")
def test_reset_after_is_paddles_own_gru():
    random = np.random.default_rng(3)
    theirs = paddle.nn.GRU(INPUTS, UNITS)
    gru = DynamicGRU(paddle.to_tensor(theirs.weight_hh_l0.numpy().T), 1.0, True)
    gru.bias.set_value(theirs.bias_hh_l0)
    clicks = draw_tensor(random, 1, 6, INPUTS)
    gate_inputs = F.linear(clicks[0], theirs.weight_ih_l0.t(), theirs.bias_ih_l0)
    np.testing.assert_allclose(gru(gate_inputs, [1] * 6).numpy(), theirs(clicks)[0][0].numpy(), atol=1e-6)


def test_sigmoid_by_tanh_is_sigmoid():
    values = paddle.linspace(-30, 30, 601)
    np.testing.assert_allclose(sigmoid(values).numpy(), 1 / (1 + np.exp(-values.numpy().astype(np.float64))), rtol=0, atol=2.5e-7)


VARIANTS = {
    "shared": dict(hid_size=[6], emb_size=6),
    "separate": dict(hid_size=[6], emb_size=4, embedding="separate"),
    "reset before": dict(hid_size=[6], emb_size=6, reset_after=False),
    "layers": dict(hid_size=[5, 7], emb_size=4, embedding="separate", reset_after=False),
    "smoothed": dict(hid_size=[6], emb_size=6, label_smoothing=0.1),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_loss_gradient_is_the_slope_of_the_loss(name):
    """Against finite differences in the direction of the gradient, for every weight."""
    network = Network(11, NetworkSettings(**VARIANTS[name]), seed=5)
    items, targets = paddle.to_tensor([1, 2, 3, 1, 5, 6]), paddle.to_tensor([2, 3, 3, 5, 6, 0])
    batch = items, targets, [3, 2, 1]
    network.loss(*batch).backward()
    for parameter_name, weight in network.named_parameters():
        gradient, start = weight.grad.numpy(), weight.numpy()
        length = np.linalg.norm(gradient)
        assert length > 0, parameter_name
        step = 1e-2 * gradient / length
        values = []
        for sign in (1, -1):
            weight.set_value(paddle.to_tensor(start + sign * step))
            values.append(float(network.loss(*batch)))
        weight.set_value(paddle.to_tensor(start))
        assert (values[0] - values[1]) / 2e-2 == pytest.approx(length, rel=0.02), parameter_name


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
    network.loss(paddle.to_tensor([1, 2, 3]), paddle.to_tensor([2, 3, 4]), [2, 1]).backward()
    optimizer.step()
    # Adagrad's first step is rate * g / (|g| + 1e-6): as long as the rate wherever g is not tiny.
    for name, weight in network.named_parameters():
        rate = 0.01 * {"embedding": 10, "item_matrix": 3}.get(name, 2)
        assert np.abs(weight.numpy() - before[name]).max() == pytest.approx(rate, rel=0.02), name
