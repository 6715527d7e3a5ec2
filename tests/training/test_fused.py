"""utils/training/fused.py: nn.GRU computes what net.py does click by click, on a processor here."""

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

from utils.model.layout import NetworkSettings
from utils.training.engines import PaddleEngine
from utils.training.fused import FusedEngine, computes, padded_places

WHOLE = {name: NETWORKS[name] for name in ("shared", "separate")} | {"two layers": NetworkSettings([5, 7], 7)}
ONE_CLICK = WHOLE | {"stopped gradients": NETWORKS["stopped gradients"],
                     "dropped states": NetworkSettings([7], 7, carry_dropped=True, through_time=False)}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def assert_same_step(network, inputs, rows_per_step, states=None):
    """Hidden states, carried states and all gradients are those of net.py."""
    results, rows = [], draw(len(inputs), network.input_weights().shape[1])
    for engine in (FusedEngine(network), PaddleEngine(network)):
        engine.states = states and [paddle.to_tensor(state) for state in states]
        hidden = engine.forward(inputs, rows_per_step, rows).numpy()
        gradients, by_rows = engine.backward(draw(*hidden.shape, seed=1))
        results.append({"hidden": hidden, "by_rows": by_rows.numpy(),
                        **{f"state {number}": state.numpy() for number, state in enumerate(engine.states or [])},
                        **{name: values.numpy() for name, values in gradients.items()}})
    assert_same_arrays(*results, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows_per_step", [[4, 3, 3, 1], [1, 1, 1], [5], [3, 3]], ids=str)
@pytest.mark.parametrize("settings", WHOLE.values(), ids=WHOLE)
def test_whole_sessions_of_any_lengths_are_those_of_net(settings, rows_per_step):
    states = [np.tanh(draw(rows_per_step[0], units)) for units in settings.hid_size]
    for before in (None, states):
        assert_same_step(make_network(settings), np.arange(sum(rows_per_step)) % 9, rows_per_step, before)


@pytest.mark.parametrize("settings", ONE_CLICK.values(), ids=ONE_CLICK)
def test_one_click_with_carried_states_is_that_of_net(settings):
    states = [np.tanh(draw(6, units)) for units in settings.hid_size]
    assert_same_step(make_network(settings), np.array([3, 0, 7, 7, 1, 2]), [6], states)


@pytest.mark.parametrize("batching", BATCHINGS.values(), ids=BATCHINGS)
@pytest.mark.parametrize("settings", ONE_CLICK.values(), ids=ONE_CLICK)
def test_an_epoch_is_that_of_net(settings, batching):
    if not computes(settings, batching.side_by_side):
        pytest.skip("nn.GRU can't compute that")
    results = []
    for engine_class in (FusedEngine, PaddleEngine):
        network = make_network(settings)
        trainer = make_trainer(network, OBJECTIVES["shared ce, in batch, logq"](network), batching, None)
        trainer.use(engine_class(network))
        losses = train_epoch(trainer)
        results.append({"losses": np.array(losses), **weights_of(network), **trainer.running_state()})
    assert_same_arrays(*results, rtol=0, atol=2e-4)


def test_what_nn_gru_cannot_compute_is_left_to_net():
    assert computes(NETWORKS["shared"], one_click=False)
    assert computes(NETWORKS["stopped gradients"], one_click=True)
    for settings in (NETWORKS["stopped gradients"], NETWORKS["none"], NETWORKS["two layers"],
                     replace(NETWORKS["shared"], carry_dropped=True)):
        assert not computes(settings, one_click=False)


def test_dropout_is_that_of_the_seed_and_reaches_what_is_carried():
    network = make_network(replace(ONE_CLICK["dropped states"], hid_dropout=0.5))
    engine, found = FusedEngine(network), []
    first = next(BATCHINGS["parallel"].batches(draw_sessions(), np.random.default_rng(0)))
    for _ in range(2):
        engine.start_epoch(np.random.default_rng(0))
        paddle.seed(5)
        engine.carry_states(first)
        found.append(engine.forward(first.inputs, first.rows_per_step).numpy())
        assert (engine.states[0].numpy() == found[-1]).all() and (found[-1] == 0).any()
    assert (found[0] == found[1]).all()


def test_places_of_a_padded_batch():
    assert padded_places([3, 2, 2, 1]).tolist() == [0, 1, 2, 3, 4, 6, 7, 9]
