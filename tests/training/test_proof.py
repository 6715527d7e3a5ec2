"""utils/training/proof.py: what differs is found and trained by Paddle; the run's own weights stay as they are."""

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from small_runs import OPTIMIZERS

import net
from net import Network
from utils.data.batches import Batching
from utils.data.sessions import Sessions
from utils.files import InputError
from utils.losses import Loss, cross_entropy
from utils.model.layout import NetworkSettings
from utils.native.kernels import LOSSES, Kernels
from utils.native.network import NativeNetwork
from utils.training import proof as proof_module
from utils.training.engines import NativeEngine, PaddleEngine
from utils.training.fused import FusedEngine
from utils.training.objectives import AllItems, SharedNegatives, TiledNegatives
from utils.training.optimizers import Adagrad, RowOptimizer
from utils.training.proof import prove
from utils.training.softmax import PaddleSoftmax
from utils.training.trainer import Trainer

ITEMS = 40
AGREES = "engine:native loss:native optimizer:native"


def draw_sessions():
    random = np.random.default_rng(5)
    lengths = random.integers(1, 30, 60)
    items = random.integers(0, ITEMS, lengths.sum()).astype(np.int32)
    return Sessions(items, np.concatenate([[0], np.cumsum(lengths)]))


def make_trainer(settings=None, objective=AllItems, optimizer=None, network=None):
    network = network or Network(ITEMS, settings or NetworkSettings([9], 9), seed=3)
    return Trainer(network, draw_sessions(), Batching(True, 8), objective(network), optimizer or Adagrad(0.1, 0.2))


def proven(kernels, **given):
    trainer = make_trainer(**given)
    found, line = prove(trainer, kernels)
    return trainer, found, line


def shared(loss, logq=0.0, in_batch=True):
    return lambda network: SharedNegatives(network, loss, np.arange(ITEMS), 20, 0.5, logq, in_batch)


SETTINGS = {
    "shared": NetworkSettings([9], 9),
    "two layers, states dropped and carried": NetworkSettings([9, 7], 7, hid_dropout=0.4, through_time=False,
                                                              carry_dropped=True),
    "separate, dropout": NetworkSettings([9], 6, "separate", emb_dropout=0.3, hid_dropout=0.2),
    "none, reset before": NetworkSettings([9, 8], 0, "none", reset_after=False, gru_lr_x=2.0),
}
OBJECTIVES = {
    "all items": AllItems,
    **{f"{name}, {words}": shared(Loss(name, **{"elu": 0.5} if name == "bpr-max" else {}), logq, in_batch)
       for name in LOSSES for words, logq, in_batch in [("in batch", 0.0, True), ("drawn alone, logQ", 1.0, False)]},
    "smoothed": shared(Loss("ce", smoothing=0.1), 1.0),
    "tiled": lambda network: TiledNegatives(network, Loss("bpr"), 5, 0.3),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_as_it_comes_all_agrees(kernels, settings, objective):
    trainer, found, line = proven(kernels, settings=settings, objective=objective)
    assert line == AGREES
    assert found.agrees("scorer") and found.agrees("carrying")
    assert isinstance(trainer.engine, NativeEngine) and trainer.objective.kernels and trainer.optimizer.kernels


@pytest.mark.parametrize("objective", [AllItems, shared(Loss("bpr-max", elu=0.5)), shared(Loss("ce"), 1.0, False)])
@pytest.mark.parametrize("embedding", ["shared", "separate", "none"])
def test_all_agrees_where_scores_are_scaled(kernels, embedding, objective):
    settings = NetworkSettings([9], 0 if embedding == "none" else 9, embedding, emb_dropout=0.2, hid_dropout=0.4,
                               score_scale=16.0)
    trainer, found, line = proven(kernels, settings=settings, objective=objective)
    assert line == AGREES and found.agrees("scorer") and found.agrees("carrying")


@pytest.mark.parametrize("score_scale", [0.0, 16.0])
@pytest.mark.parametrize("objective", [AllItems, shared(Loss("ce"), 1.0), shared(Loss("ce"), 1.0, False)])
def test_without_cpp_paddle_trains(objective, score_scale):
    trainer, found, line = proven(None, settings=NetworkSettings([9], 9, score_scale=score_scale), objective=objective)
    assert line == "engine:paddle loss:softmax optimizer:paddle" and found.agrees("scorer")
    assert isinstance(trainer.engine, PaddleEngine) and trainer.objective.kernels is trainer.optimizer.kernels is None
    assert found.agrees("loss") and isinstance(trainer.objective.paddle_softmax, PaddleSoftmax)


@pytest.fixture
def on_gpu(monkeypatch):
    """What is chosen on a GPU alone is chosen here too."""
    monkeypatch.setattr(proof_module, "is_gpu", lambda: True)


@pytest.mark.parametrize("settings", [*list(SETTINGS.values())[:3], NetworkSettings([9], 9, score_scale=16.0)],
                         ids=[*list(SETTINGS)[:3], "scaled"])
def test_on_a_gpu_nn_gru_goes_through_the_network(on_gpu, settings):
    trainer, found, line = proven(None, settings=settings)
    assert line == "engine:fused loss:softmax optimizer:paddle" and found.agrees("engine")
    assert isinstance(trainer.engine, FusedEngine)


def test_on_a_gpu_what_nn_gru_cannot_compute_goes_by_net(on_gpu):
    trainer, found, line = proven(None, settings=SETTINGS["none, reset before"])
    assert line.startswith("engine:paddle loss:") and "engine" not in found.differs
    assert type(trainer.engine) is PaddleEngine


def test_on_a_gpu_an_edited_step_is_found(on_gpu, monkeypatch):
    monkeypatch.setattr(net.DynamicGRU, "step", EDITED_STEPS["candidate"])
    trainer, found, line = proven(None, settings=NetworkSettings([9], 9, hid_dropout=0.3))
    assert "hidden_states" in found.differs["engine"] and "(not what utils/training/fused.py computes: " in line
    assert type(trainer.engine) is PaddleEngine


def test_on_a_gpu_whole_sessions_are_compared_whole(on_gpu, monkeypatch):
    """An edit that only later clicks show."""
    monkeypatch.setattr(net.DynamicGRU, "step", lambda self, inputs, before: right_step(
        self, inputs, before if inputs.shape[0] == 6 else 0.9 * before))
    network = Network(ITEMS, NetworkSettings([9], 9, hid_dropout=0.3), seed=3)
    trainer = Trainer(network, draw_sessions(), Batching(False, 8), AllItems(network), Adagrad(0.1))
    assert prove(trainer, None)[0].differs["engine"]
    monkeypatch.undo()
    monkeypatch.setattr(proof_module, "is_gpu", lambda: True)
    assert prove(trainer, None)[0].agrees("engine")


def test_without_cpp_an_edited_loss_goes_by_autograd(monkeypatch):
    monkeypatch.setattr(Network, "loss", lambda self, scores, targets: 1.01 * cross_entropy(scores, targets))
    trainer, found, line = proven(None)
    assert found.differs["loss"] and "loss:paddle (not what utils/training/softmax.py computes: " in line
    assert trainer.objective.paddle_softmax is None
    assert "loss" not in proven(None, objective=shared(Loss("bpr")))[1].differs, "there is only autograd"


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_edited_optimizer_goes_by_paddle(kernels, monkeypatch, make):
    assert proven(kernels, optimizer=make())[2] == "engine:native loss:native optimizer:native"
    plain = type(make()).formula
    monkeypatch.setattr(type(make()), "formula", lambda self, gradient, *others: plain(self, 1.01 * gradient, *others))
    trainer, _, line = proven(kernels, optimizer=make())
    assert "optimizer:paddle (not what utils/native computes: weight" in line and trainer.optimizer.kernels is None


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_edit_that_begins_after_some_steps_is_found(kernels, monkeypatch, make):
    formula = type(make()).formula
    monkeypatch.setattr(type(make()), "formula", lambda self, gradient, rate, *others: formula(
        self, gradient, rate * (1 if self.steps < 1000 else 0.5), *others))
    assert "optimizer:paddle (not what utils/native computes: weights" in proven(kernels, optimizer=make())[2]


def test_an_optimizer_of_ones_own_goes_by_paddle(kernels):
    class Sign(RowOptimizer):
        kinds = ()

        def formula(self, gradient, rate, weight):
            return (weight - rate * paddle.sign(gradient),)
    trainer, _, line = proven(kernels, optimizer=Sign(0.1))
    assert line.startswith("engine:native loss:native optimizer:paddle (not what utils/native computes: ")
    assert line.endswith("Sign new)")
    trainer.step(next(iter(trainer.batches(np.random.default_rng(1)))))


def test_the_runs_own_weights_and_masks_stay_as_they_are(kernels, monkeypatch):
    settings = NetworkSettings([9], 9, hid_dropout=0.4)
    dropout, trainer = net.dropout, make_trainer(settings=settings)
    before = {name: weight.numpy() for name, weight in trainer.network.named_parameters()}
    prove(trainer, kernels)
    monkeypatch.setattr(Network, "scores", None)  # something fails in the middle
    with pytest.raises(TypeError):
        prove(trainer, kernels)
    for name, weight in trainer.network.named_parameters():
        assert (weight.numpy() == before[name]).all(), name
    assert net.dropout is dropout and trainer.network.training


def twisted(function, change):
    """A function that does what `function` does, and then changes its result, as C++ of a broken compiler."""
    def wrong(*arguments, **keywords):
        results = function(*arguments, **keywords)
        change(results, *arguments)
        return results
    return wrong


def times_wrong(array):
    array *= np.float32(1.01)


def times_wrong_in_place(results, kernels, name, updates, *others):
    with paddle.no_grad():
        for weight, *_ in updates:
            paddle.assign(1.01 * weight, weight)


@pytest.mark.parametrize("owner, name, change, part", [
    (NativeNetwork, "forward", lambda results, *_: times_wrong(results[0]), "engine"),
    (NativeNetwork, "backward", lambda results, *_: times_wrong(results[1]), "engine"),
    (NativeNetwork, "backward", lambda results, *_: times_wrong(results[0]["gru.0.bias"]), "engine"),
    (Kernels, "softmax_cross_entropy", lambda results, *_: times_wrong(results[0]), "loss"),
    (Kernels, "update_weights", times_wrong_in_place, "optimizer"),
], ids=["hidden states", "inputs' gradient", "bias's gradient", "loss", "optimizer"])
def test_wrong_cpp_is_not_used(kernels, monkeypatch, owner, name, change, part):
    monkeypatch.setattr(owner, name, twisted(getattr(owner, name), change))
    _, found, line = proven(kernels)
    assert found.differs[part] and f"{part}:paddle (not what utils/native computes: " in line


EDITED_STEPS = {
    "candidate": lambda self, inputs, before: paddle.tanh(1.01 * inputs[:, 18:]) * 0.5 + 0.5 * before,
    "large values alone": lambda self, inputs, before: paddle.clip(right_step(self, inputs, before), -0.9, 0.9),
    "without bias": lambda self, inputs, before: right_step_without_bias(self, inputs, before),
}
right_step = net.DynamicGRU.step


def right_step_without_bias(gru, inputs, before):
    products = paddle.matmul(before, gru.weight)
    reset, update = paddle.split(net.sigmoid(inputs[:, :18] + products[:, :18]), 2, axis=1)
    new = paddle.tanh(inputs[:, 18:] + reset * products[:, 18:])
    return new + update * (before - new)


@pytest.mark.parametrize("name", EDITED_STEPS)
def test_an_edited_step_is_found_by_engine_and_scorer(kernels, monkeypatch, name):
    monkeypatch.setattr(net.DynamicGRU, "step", EDITED_STEPS[name])
    trainer, found, _ = proven(kernels)
    assert "hidden_states" in found.differs["engine"] and "hidden_states" in found.differs["scorer"]
    assert found.agrees("loss") and isinstance(trainer.engine, PaddleEngine)


def test_dropout_of_an_edit_is_found_though_the_states_are_the_same_once_trained(kernels, monkeypatch):
    right = Network.hidden_states
    monkeypatch.setattr(Network, "hidden_states", lambda self, *arguments, **keywords: F.dropout(
        right(self, *arguments, **keywords), 0.1, training=self.training))
    _, found, _ = proven(kernels)
    assert found.differs["engine"] and found.agrees("scorer")


@pytest.mark.parametrize("objective", [AllItems, shared(Loss("bpr-max")), OBJECTIVES["tiled"]],
                         ids=["all", "shared", "tiled"])
def test_edited_scores_are_found(kernels, monkeypatch, objective):
    right = Network.scores
    monkeypatch.setattr(Network, "scores", lambda self, states, rows: right(self, states, rows) * 1.01)
    _, found, _ = proven(kernels, objective=objective)
    assert found.differs["loss"] and found.differs["scorer"] == ["scores"] and found.agrees("engine")


def test_a_weight_of_the_loss_is_found_where_it_changes_nothing_yet(kernels):
    class Idle(Network):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            self.idle = net.parameter(self, np.array([1.0]))

        def loss(self, scores, targets):
            return super().loss(scores, targets) + 0 * self.idle

    _, found, _ = proven(kernels, network=Idle(ITEMS, NetworkSettings([9], 9), seed=3))
    assert found.differs["loss"] == ["weight idle"]


def test_other_first_states_and_input_weights_are_found(kernels, monkeypatch):
    monkeypatch.setattr(Network, "first_states", lambda self, sessions: [paddle.ones([sessions, 9])])
    assert "first_states" in proven(kernels)[1].differs["engine"]
    monkeypatch.undo()
    network = Network(ITEMS, NetworkSettings([9], 10, "separate"), seed=1)
    monkeypatch.setattr(Network, "input_weights", lambda self: self.item_matrix)
    assert proven(kernels, network=network)[1].differs["engine"] == ["input_weights"]


WRONG_STATES = {  # what an edit makes of the states, and what the line says
    "too wide": (lambda states: paddle.concat([states, states[:, :1]], axis=1), r"states of shape \["),
    "too narrow": (lambda states: states[:, :-1], r"states of shape \["),
    "too few": (lambda states: states[:-1], r"states of shape \["),
    "three axes": (lambda states: states.unsqueeze(0), r"states of shape \["),
    "float64": (lambda states: states.astype("float64"), "float64"),
    "a list": (lambda states: [states], "returns a list"),
    "drawn anew": (lambda states: states + paddle.rand(states.shape), "other states the second time"),
    "no numbers": (lambda states: paddle.log(states - 9), "not finite"),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_states_that_no_score_can_take_are_refused(kernels_or_none, monkeypatch, name):
    """C++ would read and write beside them."""
    right, (change, message) = Network.hidden_states, WRONG_STATES[name]
    monkeypatch.setattr(Network, "hidden_states", lambda *arguments: change(right(*arguments)))
    with pytest.raises(InputError, match=f"^net.py: found .*{message}"):
        proven(kernels_or_none)


def test_cpp_takes_no_states_of_another_width(kernels):
    hidden, rows = np.ones([3, 5], np.float32), np.ones([7, 5], np.float32)
    with pytest.raises(ValueError, match="hidden states of 5 numbers, expected 4"):
        kernels.softmax_cross_entropy(hidden, rows, np.zeros(3, np.int64), 0.0, None, 2)
    with pytest.raises(ValueError, match="expected 4"):
        kernels.count_above(hidden, np.ones([4, 7], np.float32), np.zeros(3, np.int64), 2)


def test_a_network_that_trains_another_way_than_it_evaluates_is_refused(kernels, monkeypatch):
    right = Network.hidden_states
    monkeypatch.setattr(Network, "hidden_states", lambda self, items, rows_per_step, item_rows=None, before=None: right(
        self, items, rows_per_step, item_rows if item_rows is None else 2 * item_rows, before))
    with pytest.raises(InputError, match="item_rows"):
        proven(kernels)
    monkeypatch.setattr(Network, "input_weights", lambda self: paddle.tanh(self.item_matrix))
    with pytest.raises(InputError, match="input_weights"):
        proven(kernels)


def backwards(states, rows_per_step):
    """The mean of all states from each click of a session to its last one, as a layer that runs backwards has it."""
    after, found = states[:0], []
    for part in reversed(paddle.split(states, rows_per_step)):
        after = paddle.concat([part[:len(after)] + after, part[len(after):]])
        found.append(after)
    return paddle.concat(found[::-1])


SEE_THE_FUTURE = {
    "bidirectional": backwards,
    "no mask": lambda states, rows_per_step: states + states.mean(axis=0),
    "positions from the end": lambda states, rows_per_step: states * paddle.concat(
        [paddle.full([rows, 1], len(rows_per_step) - step) for step, rows in enumerate(rows_per_step)]),
}


@pytest.mark.parametrize("parallel", [True, False], ids=["side by side", "whole sessions"])
@pytest.mark.parametrize("name", SEE_THE_FUTURE)
def test_a_network_that_sees_later_clicks_is_refused(kernels, monkeypatch, name, parallel):
    right = Network.hidden_states
    monkeypatch.setattr(Network, "hidden_states", lambda self, items, rows_per_step, *given: SEE_THE_FUTURE[name](
        right(self, items, rows_per_step, *given), rows_per_step))
    network = Network(ITEMS, SETTINGS["shared"], seed=3)
    trainer = Trainer(network, draw_sessions(), Batching(parallel, 8), AllItems(network), Adagrad(0.1))
    with pytest.raises(InputError, match="net.py: found hidden_states where a click's state depends on later clicks"):
        prove(trainer, kernels)


def test_states_that_are_not_carried_are_found(monkeypatch):
    right = Network.hidden_states
    monkeypatch.setattr(Network, "hidden_states", lambda self, items, rows_per_step, item_rows=None, before=None: right(
        self, items, rows_per_step, item_rows))
    assert proven(None)[1].differs["carrying"] == ["hidden_states"]


def test_what_is_not_a_number_differs():
    values = np.array([1.0, np.nan])
    assert proof_module.differences({"a": values}, {"a": np.ones(2)}) == ["a"]
    assert proof_module.differences({"a": np.ones(2)}, {"a": values}) == ["a"]
    assert proof_module.differences({}, {"a": np.ones(2)}) == ["a"]
    assert proof_module.differences({"a": np.ones(3)}, {"a": np.ones(2)}) == ["a"]
    assert proof_module.differences({"a": np.ones(2) + 9e-4}, {"a": np.ones(2)}) == []
