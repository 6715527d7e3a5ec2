"""utils/training/engines.py: C++ computes what net.py does by Paddle's operations, and both carry states rightly."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from small_runs import (
    BATCHINGS,
    NETWORKS,
    OBJECTIVES,
    assert_same_arrays,
    draw_sessions,
    make_network,
    make_trainer,
    train_epoch,
    weights_of,
)

from net import Network
from utils.model.layout import ITEM_MATRIX, NetworkSettings, input_matrix, input_width
from utils.training.engines import NativeEngine, PaddleEngine
from utils.training.objectives import AllItems

UNITS = 6


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def make_engine(network, kernels):
    return NativeEngine(network, kernels) if kernels else PaddleEngine(network)


def trained(make_objective, settings, batching, kernels, smoothing):
    """Losses, weights and the optimiser's state after an epoch."""
    network = make_network(settings, smoothing)
    trainer = make_trainer(network, make_objective(network), batching, kernels)
    assert trainer.engine.name == ("native" if kernels else "paddle")
    return train_epoch(trainer), weights_of(network), trainer.optimizer_state()


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS)
@pytest.mark.parametrize("objective", [*OBJECTIVES, "all items smoothed"])
def test_a_step_is_that_of_paddles_operations(kernels, settings, batching, objective):
    make_objective, smoothing = OBJECTIVES.get(objective, AllItems), 0.2 if objective.endswith("smoothed") else 0.0
    losses, weights, state = trained(make_objective, settings, batching, kernels, smoothing)
    expected_losses, expected_weights, expected_state = trained(make_objective, settings, batching, None, smoothing)
    np.testing.assert_allclose(losses, expected_losses, atol=1e-4)
    assert_same_arrays(weights, expected_weights, rtol=0, atol=2e-4)
    assert_same_arrays(state, expected_state, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_forward_is_the_network_and_backward_names_its_weights(kernels_or_none, settings):
    network, inputs, rows_per_step = make_network(settings), np.array([1, 2, 3, 1, 5, 6]), [3, 2, 1]
    engine = make_engine(network, kernels_or_none)
    hidden = np.array(engine.forward(inputs, rows_per_step))
    with paddle.no_grad():
        expected = network.hidden_states(paddle.to_tensor(inputs), rows_per_step).numpy()
    np.testing.assert_allclose(hidden, expected, atol=1e-6)
    gradients, by_rows = engine.backward(draw(*hidden.shape))
    shapes = {name: values.shape for name, values in weights_of(network).items()
              if name not in (ITEM_MATRIX, "embedding")}
    assert {name: tuple(values.shape) for name, values in gradients.items()} == shapes
    assert by_rows.shape[0] == 6 and not np.array(by_rows)[:, input_width(settings):].any(), "nothing by the bias"

    other_rows = draw(6, network.input_weights().shape[1])
    found = np.array(engine.forward(inputs, rows_per_step, other_rows))
    assert not np.allclose(found, expected)
    with paddle.no_grad():
        expected = network.hidden_states(paddle.to_tensor(inputs), rows_per_step, paddle.to_tensor(other_rows)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_are_those_of_the_weight(kernels_or_none):
    network = make_network(NETWORKS["separate"])
    engine, weights = make_engine(network, kernels_or_none), weights_of(network)
    for name in (ITEM_MATRIX, "embedding"):
        assert (np.array(engine.rows(name)) == weights[name]).all()
        assert (np.array(engine.rows(name, np.array([5, 0, 22]))) == weights[name][[5, 0, 22]]).all()


SLOPES = {
    "embedding": NetworkSettings([UNITS, UNITS], UNITS, emb_dropout=0.4),
    "layers": NetworkSettings([UNITS, UNITS], UNITS, hid_dropout=0.4),
    "all": NetworkSettings([UNITS, UNITS], 5, "separate", reset_after=False, emb_dropout=0.2, hid_dropout=0.3),
    "no embedding": NetworkSettings([UNITS, UNITS], 0, "none", emb_dropout=0.2, hid_dropout=0.3),
    "carried": NetworkSettings([UNITS, UNITS], UNITS, hid_dropout=0.4, carry_dropped=True, through_time=False),
}


@pytest.mark.parametrize("name", SLOPES)
def test_the_gradient_is_the_slope_of_the_loss_under_dropout(kernels_or_none, name):
    network = make_network(SLOPES[name])
    engine, inputs, rows_per_step = make_engine(network, kernels_or_none), np.array([1, 2, 3, 4, 5, 6]), [3, 2, 1]
    if name == "carried":  # without gradients through time a loss over several clicks has another slope
        rows_per_step = [6]
    weights = draw(6, UNITS)

    def loss():
        paddle.seed(3)
        return float((np.array(engine.forward(inputs, rows_per_step)) * weights).astype(np.float64).sum())

    engine.start_epoch(np.random.default_rng(77))
    loss()
    key = getattr(engine, "key", None)
    gradients, by_inputs = engine.backward(weights.copy())
    gradients = {part: np.array(values) for part, values in gradients.items()}
    matrix = input_matrix(network.settings)
    gradients[matrix] = np.zeros(network.input_weights().shape, np.float32)
    gradients[matrix][inputs, :by_inputs.shape[1]] = np.array(by_inputs)
    parameters = dict(network.named_parameters())
    engine.key = key  # the masks of the step before once more
    for part in ("fc.0.weight", "gru.0.weight", "gru.1.bias", matrix):
        start, change = parameters[part].numpy(), np.zeros(parameters[part].shape, np.float32)
        changed = np.random.default_rng(0).choice(change.size, change.size // 2, replace=False)
        change.reshape(-1)[changed] = 1e-3
        ends = []
        for sign in (1, -1):
            paddle.assign(paddle.to_tensor(start + sign * change), parameters[part])
            ends.append(loss())
        paddle.assign(paddle.to_tensor(start), parameters[part])
        slope = gradients[part].reshape(-1)[changed].sum()
        assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(slope, rel=0.02, abs=2e-3), part


def test_dropout_follows_the_seed_and_is_another_in_every_step(kernels):
    engine = NativeEngine(make_network(replace(NETWORKS["two layers"], emb_dropout=0.2, hid_dropout=0.4)), kernels)

    def steps(seed):
        random = np.random.default_rng(seed)
        before = random.bit_generator.state
        engine.start_epoch(random)
        assert random.bit_generator.state == before, "what else is drawn is the same with and without C++"
        found = []
        for _ in range(2):
            found.append(engine.forward(np.arange(20), [20]).copy())
            engine.backward(np.ones_like(found[-1]))
        return np.array(found)

    first = steps(1)
    assert (steps(1) == first).all() and (steps(2) != first).any() and (first[0] != first[1]).any()
    assert 0.25 < (first == 0).mean() < 0.55


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_sessions_side_by_side_have_the_states_of_whole_ones(kernels_or_none, settings):
    """Each click is an item of its own here, so that a state can be told by its item."""
    sessions = draw_sessions()
    sessions.items[:] = np.arange(len(sessions.items))
    network = Network(len(sessions.items), settings, seed=1)
    [whole] = replace(BATCHINGS["sessions"], size=1000).batches(sessions, np.random.default_rng(0))
    engine, seen = make_engine(network, kernels_or_none), []
    expected = np.zeros((len(sessions.items), settings.hid_size[-1]))
    expected[whole.inputs] = engine.forward(whole.inputs, whole.rows_per_step)
    engine.start_epoch(np.random.default_rng(0))
    for step in BATCHINGS["parallel"].batches(sessions, np.random.default_rng(0)):
        engine.carry_states(step)
        np.testing.assert_allclose(engine.forward(step.inputs, step.rows_per_step), expected[step.inputs], atol=1e-6)
        seen += step.inputs.tolist()
    assert sorted(seen) == sorted(whole.inputs)


@pytest.mark.parametrize("before", ["native", "paddle"])
def test_an_engine_goes_on_where_another_stopped(kernels, kernels_or_none, before):
    """Also where the run was stopped with C++ and goes on without it, or the other way round."""
    dropped = 0.3 if kernels_or_none and before == "native" else 0.0
    network = make_network(replace(NETWORKS["two layers"], hid_dropout=dropped))
    whole = make_engine(network, kernels if before == "native" else None)
    resumed = make_engine(network, kernels_or_none)
    steps = list(BATCHINGS["parallel"].batches(draw_sessions(), np.random.default_rng(0)))

    def hidden_of(engine, some):
        found = []
        for step in some:
            engine.carry_states(step)
            found.append(np.array(engine.forward(step.inputs, step.rows_per_step)))
            engine.backward(np.ones_like(found[-1]))
        return found

    whole.start_epoch(np.random.default_rng(1))
    hidden_of(whole, steps[:6])
    arrays = {name: np.array(values) for name, values in whole.state_arrays().items()}
    assert arrays["running.0"].dtype == arrays["running.1"].dtype == np.float32
    expected = hidden_of(whole, steps[6:])
    resumed.start_epoch(np.random.default_rng(2))
    resumed.restore(arrays)
    for ours, theirs in zip(hidden_of(resumed, steps[6:]), expected):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_nothing_restored_is_a_new_start(kernels_or_none):
    engine = make_engine(make_network(NETWORKS["shared"]), kernels_or_none)
    engine.start_epoch(np.random.default_rng(0))
    assert engine.states is None and not [name for name in engine.state_arrays() if name != "running.key"]
    engine.restore(engine.state_arrays())
    assert engine.states is None
    step = next(BATCHINGS["parallel"].batches(draw_sessions(), np.random.default_rng(0)))
    engine.carry_states(step)
    assert all(not np.array(state).any() for state in engine.states)
