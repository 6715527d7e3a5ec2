"""utils/training/trainer.py: how the parts of a step meet, whichever way each of them goes."""

from dataclasses import replace
from itertools import product

import numpy as np
import paddle
import pytest
from small_runs import (
    BATCHINGS,
    ITEMS,
    NETWORKS,
    OBJECTIVES,
    assert_same_arrays,
    draw_sessions,
    make_network,
    make_trainer,
    shared,
    train_epoch,
    weights_of,
)

from net import Network, parameter
from utils.data.batches import pack
from utils.model.layout import ITEM_MATRIX
from utils.training.engines import NativeEngine, PaddleEngine
from utils.training.objectives import AllItems
from utils.training.optimizers import Adagrad, Adam
from utils.training.trainer import Trainer


class Recorder:
    """In the place of an optimiser: keeps what it is given, and moves nothing."""

    rate, kernels = 0.1, None

    def step(self, parameters, gradients):
        self.gradients = gradients

    def whole(self, network):
        """The gradient of every weight of the network as a float32 array of its shape, 0 where it has none."""
        found = {name: np.zeros_like(values) for name, values in weights_of(network).items()}
        for gradient in self.gradients:
            rows = slice(None) if gradient.rows is None else gradient.rows
            found[gradient.name][rows] += np.array(gradient.values)
        return found


def gradients_of_a_step(network, objective, batch, kernels=None, batching="sessions", grad_cap=0.0):
    """Of one step, by every weight, and what it returned."""
    trainer = make_trainer(network, objective, BATCHINGS[batching], kernels, grad_cap=grad_cap)
    trainer.optimizer = Recorder()
    trainer.batches(np.random.default_rng(9))
    loss = trainer.step(batch)
    return trainer.optimizer.whole(network), loss


def gradients_by_one_graph(network, batch):
    """Of the mean loss over all items, by Paddle's autograd through the whole network at once."""
    hidden = network.hidden_states(paddle.to_tensor(batch.inputs), batch.rows_per_step)
    loss = network.loss(network.scores(hidden, network.item_matrix), paddle.to_tensor(batch.targets)).mean()
    names, weights = zip(*network.named_parameters())
    gradients = paddle.grad([loss], list(weights), allow_unused=True)
    return {name: np.zeros(weight.shape, np.float32) if gradient is None else gradient.numpy()
            for name, weight, gradient in zip(names, weights, gradients)}


def draw_batch(batching="sessions"):
    return next(BATCHINGS[batching].batches(draw_sessions(), np.random.default_rng(0)))


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_gradients_are_those_of_one_graph(kernels_or_none, settings):
    network, batch = make_network(settings, smoothing=0.1), draw_batch()
    found, _ = gradients_of_a_step(network, AllItems(network), batch, kernels_or_none)
    assert_same_arrays(found, gradients_by_one_graph(network, batch), rtol=1e-3, atol=1e-6)


class Averaging(Network):
    """Its states depend on all items: the matrices that rows are looked up in have gradients beyond those rows."""

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        hidden = super().hidden_states(items, rows_per_step, item_rows, before)
        return hidden + self.input_weights().mean() * self.item_matrix.mean(axis=0)[:-1]


class Popular(Network):
    """Its scores depend on all items, and on a weight of the GRU, and the loss on a weight of its own."""

    def __init__(self, *arguments, **kw):
        super().__init__(*arguments, **kw)
        self.penalty, self.unused = parameter(self, np.array([0.7])), parameter(self, np.array([1.0]))

    def scores(self, states, item_rows):
        scores = super().scores(states, item_rows)
        return scores * (1 + self.item_matrix.mean()) + states.sum() * self.gru[0].bias.mean()

    def loss(self, scores, targets):
        return super().loss(scores, targets) + self.penalty * scores.mean(axis=1)


@pytest.mark.parametrize("network_class", [Averaging, Popular])
@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_a_network_may_use_the_item_matrices_beyond_the_rows_looked_up(network_class, settings):
    network, batch = make_network(settings, network_class=network_class), draw_batch()
    found, _ = gradients_of_a_step(network, AllItems(network), batch)
    expected = gradients_by_one_graph(network, batch)
    assert network_class is Averaging or np.abs(expected["penalty"]).max() > 0
    assert_same_arrays(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("network_class", [Averaging, Popular])
@pytest.mark.parametrize("settings", [NETWORKS["shared"], NETWORKS["separate"]], ids=["shared", "separate"])
def test_so_it_may_where_only_a_sample_is_scored(network_class, settings):
    """Against the slope of the loss in a random direction."""
    network, batch = make_network(settings, network_class=network_class), draw_batch()
    objective = shared(network, "bpr-max", False)
    found, _ = gradients_of_a_step(network, objective, batch)
    parameters, random = dict(network.named_parameters()), np.random.default_rng(2)
    for name in (ITEM_MATRIX, "gru.0.bias"):
        direction = random.normal(size=parameters[name].shape).astype(np.float32)
        start, ends = parameters[name].numpy(), []
        for sign in (1, -1):
            parameters[name].set_value(paddle.to_tensor(start + np.float32(sign * 1e-3) * direction))
            ends.append(gradients_of_a_step(network, objective, batch)[1])
        parameters[name].set_value(paddle.to_tensor(start))
        assert (ends[0] - ends[1]) / 2e-3 == pytest.approx((found[name] * direction).sum(), rel=0.02, abs=2e-3), name


def test_weights_that_nothing_uses_stay(kernels):
    network = make_network(NETWORKS["shared"], network_class=Popular)
    before = weights_of(network)
    trainer = Trainer(network, draw_sessions(), BATCHINGS["sessions"], AllItems(network), Adagrad(0.1))
    trainer.optimizer.kernels = kernels
    train_epoch(trainer)
    moved = {name for name, values in weights_of(network).items() if (values != before[name]).any()}
    assert moved == set(before) - {"unused"}


WAYS = [ways for ways in product([False, True], repeat=4) if any(ways)]


@pytest.mark.parametrize("network_class, ways", [
    *((Network, ways) for ways in WAYS),
    *((Popular, ways) for ways in WAYS if not ways[1])])  # whose loss is not what C++ computes
@pytest.mark.parametrize("name", ["all items", "shared bpr-max, in batch, logq", "tiled bpr"])
def test_each_part_may_go_its_own_way(kernels, network_class, ways, name):
    """What proof.prove finds to differ in net.py or losses.py goes by Paddle, and the rest by C++."""
    def trained(ways):
        network = make_network(NETWORKS["separate"], network_class=network_class)
        trainer = make_trainer(network, OBJECTIVES[name](network), BATCHINGS["sessions"], None, grad_cap=0.5)
        engine, loss, optimizer, rest = (kernels if used else None for used in ways)
        trainer.use(NativeEngine(network, kernels) if engine else None, rest)
        trainer.objective.kernels, trainer.optimizer.kernels = loss, optimizer
        return train_epoch(trainer), weights_of(network)

    (losses, weights), (expected_losses, expected_weights) = trained(ways), trained([False] * 4)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    assert_same_arrays(weights, expected_weights, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["all items", "shared ce, in batch, logq", "shared top1-max", "tiled bpr"])
@pytest.mark.parametrize("settings", [NETWORKS["shared"], NETWORKS["none"]], ids=["shared", "none"])
def test_gradients_are_capped_together(kernels_or_none, settings, name):
    network, batch = make_network(settings), draw_batch()
    without, _ = gradients_of_a_step(network, OBJECTIVES[name](network), batch, kernels_or_none)
    norm = np.sqrt(sum((values.astype(np.float64) ** 2).sum() for values in without.values()))
    for cap, factor in ((norm * 1.01, 1.0), (norm / 3, 1 / 3)):
        capped, _ = gradients_of_a_step(network, OBJECTIVES[name](network), batch, kernels_or_none, grad_cap=cap)
        assert_same_arrays(capped, {part: values * factor for part, values in without.items()}, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["all items", "shared ce, in batch, logq"])
def test_fewer_sessions_side_by_side_weigh_less(kernels_or_none, name):
    """The official code divides by the nominal number also when fewer are left. Whole sessions aren't divided so."""
    network, step = make_network(NETWORKS["two layers"]), draw_batch("parallel")
    fewer = step._replace(inputs=step.inputs[:2], targets=step.targets[:2], restarted=step.restarted[:2])
    objective = lambda: OBJECTIVES[name](network)
    side_by_side, loss = gradients_of_a_step(network, objective(), fewer, kernels_or_none, "parallel")
    whole, same_loss = gradients_of_a_step(network, objective(), fewer, kernels_or_none, "sessions")
    assert loss == same_loss
    assert_same_arrays(side_by_side, {part: values * 2 / 6 for part, values in whole.items()}, rtol=1e-4, atol=1e-7)


def test_a_step_with_nothing_to_compare_changes_nothing(kernels_or_none):
    network = make_network(NETWORKS["shared"])
    before = weights_of(network)
    trainer = make_trainer(network, shared(network, size=0), BATCHINGS["sessions"], kernels_or_none)
    trainer.batches(np.random.default_rng(0))
    sessions = draw_sessions()
    assert trainer.step(pack(sessions, np.flatnonzero(sessions.lengths == 2)[:1])) == 0.0
    assert_same_arrays(weights_of(network), before, rtol=0, atol=0)


def test_only_rows_of_candidates_and_inputs_move(kernels_or_none):
    network, batch = make_network(NETWORKS["separate"]), draw_batch()
    before = weights_of(network)
    trainer = make_trainer(network, shared(network, size=0), BATCHINGS["sessions"], kernels_or_none)
    trainer.batches(np.random.default_rng(0))
    trainer.step(batch)
    moved = {name: set(np.flatnonzero((values != before[name]).any(axis=-1)))
             for name, values in weights_of(network).items()}
    assert moved[ITEM_MATRIX] == set(batch.targets) and moved["embedding"] == set(batch.inputs)
    assert max(map(len, (moved[ITEM_MATRIX], moved["embedding"]))) < ITEMS


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("make_optimizer", [lambda: Adagrad(0.1, 0.3), lambda: Adam(0.01)], ids=["adagrad", "adam"])
def test_a_trainer_goes_on_within_an_epoch_where_another_stopped(kernels_or_none, batching, name, make_optimizer):
    def start():
        network = make_network(replace(NETWORKS["two layers"], hid_dropout=0.3 if kernels_or_none else 0.0))
        trainer = make_trainer(network, OBJECTIVES[name](network), BATCHINGS[batching], kernels_or_none)
        trainer.optimizer = make_optimizer()
        return trainer, list(trainer.batches(np.random.default_rng(1)))

    (whole, batches), (resumed, _) = start(), start()
    for batch in batches[:2]:
        whole.step(batch), resumed.skip(batch)
    for name_of_weight, weight in resumed.parameters.items():
        paddle.assign(whole.parameters[name_of_weight], weight)
    arrays = whole.optimizer_state() | whole.running_state()
    resumed.restore({key: np.array(values) for key, values in arrays.items()})
    assert [resumed.step(batch) for batch in batches[2:]] == [whole.step(batch) for batch in batches[2:]]
    assert_same_arrays(weights_of(resumed.network), weights_of(whole.network), rtol=0, atol=0)
    assert_same_arrays(resumed.optimizer_state(), whole.optimizer_state(), rtol=0, atol=0)


def test_the_rate_is_the_optimisers_and_the_way_is_paddles_by_default(kernels):
    network = make_network(NETWORKS["shared"])
    trainer = Trainer(network, draw_sessions(), BATCHINGS["sessions"], AllItems(network), Adagrad(0.1))
    assert isinstance(trainer.engine, PaddleEngine) and trainer.kernels is None
    trainer.set_rate(0.0)
    before = weights_of(network)
    train_epoch(trainer)
    assert_same_arrays(weights_of(network), before, rtol=0, atol=0)
    trainer.use(None, kernels)
    assert isinstance(trainer.engine, PaddleEngine) and trainer.kernels is kernels
