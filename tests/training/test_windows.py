"""Windows that overlap, in training: what is only seen has no loss of its own, whichever way a step goes."""

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
    shared,
    train_epoch,
    weights_of,
)

from utils.files import InputError
from utils.training.objectives import AllItems
from utils.training.preparation import require_possible
from utils.training.settings import Asked, Data
from utils.training.trainer import loss_of_a_guess

OVERLAPPING = {name: replace(batching, longest=3, overlap=2) for name, batching in BATCHINGS.items()}


class Recorder:
    """In the place of an optimiser: keeps the gradients it is given as arrays, and moves nothing."""

    rate, kernels = 0.1, None

    def step(self, parameters, gradients):
        self.found = {name: np.zeros(weight.shape, np.float32) for name, weight in parameters.items()}
        for gradient in gradients:
            rows = slice(None) if gradient.rows is None else gradient.rows
            self.found[gradient.name][rows] += np.array(gradient.values)


@pytest.mark.parametrize("settings", ["shared", "separate"])
def test_the_gradient_is_that_of_the_predictions_alone(kernels_or_none, settings):
    network = make_network(NETWORKS[settings], smoothing=0.1)
    trainer = make_trainer(network, AllItems(network), OVERLAPPING["sessions"], kernels_or_none)
    trainer.optimizer = Recorder()
    batch = next(batch for batch in trainer.batches(np.random.default_rng(9)) if batch.predicted is not None)
    loss = trainer.step(batch)
    hidden = network.hidden_states(paddle.to_tensor(batch.inputs), batch.rows_per_step)
    hidden = paddle.gather(hidden, paddle.to_tensor(batch.predicted))
    expected = network.loss(network.scores(hidden, network.item_matrix), paddle.to_tensor(batch.targets)).mean()
    names, weights = zip(*network.named_parameters())
    gradients = dict(zip(names, (gradient.numpy() for gradient in paddle.grad([expected], list(weights)))))
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert_same_arrays(trainer.optimizer.found, gradients, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("batching", OVERLAPPING)
@pytest.mark.parametrize("objective", ["all items", "shared ce, in batch, logq", "shared bpr-max", "tiled bpr"])
def test_both_ways_train_the_same(kernels, objective, batching):
    if objective.startswith("tiled") and batching == "parallel":
        pytest.skip("no such training")
    trained, losses = [], []
    for way in None, kernels:
        network = make_network(NETWORKS["shared"])
        trainer = make_trainer(network, OBJECTIVES[objective](network), OVERLAPPING[batching], way)
        losses.append(train_epoch(trainer))
        trained.append(weights_of(network))
    assert trainer.predictions == draw_sessions().predictions
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert_same_arrays(trained[1], trained[0], rtol=1e-3, atol=1e-4)


def test_side_by_side_the_states_go_on_where_nothing_is_predicted(kernels_or_none):
    """The last slot's prediction after two clicks that are only seen is that of whole windows."""
    network = make_network(NETWORKS["shared"])
    network.eval()
    network.settings.emb_dropout = network.settings.hid_dropout = 0.0
    trainer = make_trainer(network, shared(network, size=0), replace(OVERLAPPING["parallel"], size=2), kernels_or_none)
    trainer.optimizer = Recorder()
    steps = list(trainer.batches(np.random.default_rng(2)))
    assert any(len(step.targets) == 0 for step in steps) and any(len(step.targets) == 1 for step in steps)
    rows, checked = [], 0
    for step in steps:
        rows = [[] for _ in step.inputs] if not rows else rows if step.kept is None else [rows[k] for k in step.kept]
        rows = [[] if step.restarted is not None and new else row
                for row, new in zip(rows, [0] * len(rows) if step.restarted is None else step.restarted)]
        rows = [[*row, int(item)] for row, item in zip(rows, step.inputs)]
        trainer.step(step)
        for slot, row in enumerate(rows):
            expected = network.hidden_states(paddle.to_tensor(np.array(row)), [1] * len(row))[-1].numpy()
            np.testing.assert_allclose(np.array(trainer.engine.states[-1])[slot], expected, rtol=1e-3, atol=1e-5)
            checked += len(row) > 2
    assert checked


def test_a_guess_and_the_skipped_steps_go_the_same_way():
    network = make_network(NETWORKS["shared"])
    trainer = make_trainer(network, shared(network), OVERLAPPING["parallel"], None)
    assert 0 < loss_of_a_guess(trainer) < 10
    following = []
    for done in trainer.step, trainer.skip:
        for batch in trainer.batches(np.random.default_rng(3)):
            done(batch)
        following.append(trainer.objective.sampler.draw().tolist())
    assert following[0] == following[1]


def test_several_processes_are_refused():
    class Two:
        is_alone = False
    with pytest.raises(InputError, match="--window_overlap, --look_back: found windows that overlap"):
        require_possible(Asked(Data(["train_data"], "vocab.txt", 5, 4), None, None, None, {}), Two)
    require_possible(Asked(Data(["train_data"], "vocab.txt", 5, 0), None, None, None, {}), Two)
