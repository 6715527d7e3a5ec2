"""What the tests of engines, objectives and trainers share: networks, sessions and trainers of all kinds, small."""

from dataclasses import replace

import numpy as np

from net import Network
from utils.data.batches import Batching
from utils.data.sessions import Sessions
from utils.losses import Loss
from utils.model.layout import NetworkSettings
from utils.training.engines import NativeEngine
from utils.training.objectives import AllItems, SharedNegatives, TiledNegatives
from utils.training.optimizers import SGD, Adagrad, Adam, Nadam, RMSProp
from utils.training.trainer import Trainer

ITEMS = 23
NETWORKS = {
    "shared": NetworkSettings([7], 7),
    "stopped gradients": NetworkSettings([7, 7], 7, through_time=False),
    "two layers": NetworkSettings([5, 7], 7, reset_after=False),
    "separate": NetworkSettings([7, 6], 4, "separate"),
    "none": NetworkSettings([6, 5], 0, "none", reset_after=False, gru_lr_x=2.0),
    "scaled": NetworkSettings([7], 7, score_scale=3.0),
}
BATCHINGS = {"sessions": Batching(side_by_side=False, size=6), "parallel": Batching(side_by_side=True, size=6)}
LOSSES = {
    "ce": Loss("ce"),
    "ce smoothed": Loss("ce", smoothing=0.2),
    "bpr": Loss("bpr"),
    "bpr-max": Loss("bpr-max", elu=0.5, regularisation=1.5),
    "top1": Loss("top1"),
    "top1-max": Loss("top1-max"),
}

OPTIMIZERS = {
    "official": lambda: Adagrad(0.1), "official, momentum": lambda: Adagrad(0.1, 0.5),
    "official, L2": lambda: Adagrad(0.1, weight_decay=0.2),
    "official, momentum, L2": lambda: Adagrad(0.1, 0.5, weight_decay=0.2),
    "adagrad": lambda: Adagrad(0.1, epsilon_inside=False),
    "rmsprop": lambda: RMSProp(0.1), "rmsprop, momentum, L2": lambda: RMSProp(0.1, 0.3, weight_decay=0.2),
    "sgd": lambda: SGD(0.1), "sgd, L2": lambda: SGD(0.1, weight_decay=0.2),
    "sgd, momentum, L2": lambda: SGD(0.1, 0.3, weight_decay=0.2),
    "adam": lambda: Adam(0.1), "adam, L2": lambda: Adam(0.1, weight_decay=0.2),
    "adamw": lambda: Adam(0.1, weight_decay=0.2, decoupled=True),
    "nadam": lambda: Nadam(0.1), "nadam, L2": lambda: Nadam(0.1, weight_decay=0.2),
}


def draw_sessions(count=25, seed=5):
    """Sessions of one to eight clicks."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, count)
    items = random.integers(0, ITEMS, lengths.sum()).astype(np.int32)
    return Sessions(items, np.concatenate([[0], np.cumsum(lengths)]))


def make_network(settings, smoothing=0.0, network_class=Network):
    """A network in training whose weights, the biases too, are far enough from 0 for all of them to matter."""
    network = network_class(ITEMS, replace(settings, label_smoothing=smoothing), seed=3)
    random = np.random.default_rng(8)
    for weight in network.parameters():
        weight.set_value(weight + np.float32(0.3) * random.normal(size=weight.shape).astype(np.float32))
    network.train()
    return network


def shared(network, loss="ce", in_batch=True, logq=1.0, size=12):
    """SharedNegatives with the support of `draw_sessions`."""
    support = np.bincount(draw_sessions().items, minlength=ITEMS)
    return SharedNegatives(network, LOSSES[loss], support, size, 0.5, logq, in_batch)


def tiled(network, loss="bpr", size=4, candidate_dropout=0.0):
    return TiledNegatives(network, LOSSES[loss], size, candidate_dropout)


OBJECTIVES = {"all items": AllItems}
for loss_name in ("ce", "bpr-max", "top1-max"):
    for with_targets in (True, False):
        for strength in (0.0, 1.0):
            key = f"shared {loss_name}{', in batch' * with_targets}{', logq' * bool(strength)}"
            OBJECTIVES[key] = lambda network, arguments=(loss_name, with_targets, strength): shared(network, *arguments)
for loss_name in ("ce", "bpr"):
    OBJECTIVES[f"tiled {loss_name}"] = lambda network, loss=loss_name: tiled(network, loss)


def make_trainer(network, objective, batching, kernels, momentum=0.3, grad_cap=0.0, optimizer=None):
    """A trainer whose parts all go by C++, as proof.prove arranges it, or, without kernels, by Paddle's operations."""
    optimizer = optimizer or Adagrad(0.1, momentum)
    trainer = Trainer(network, draw_sessions(), batching, objective, optimizer, grad_cap)
    if kernels:
        trainer.use(NativeEngine(network, kernels), kernels)
        objective.kernels = optimizer.kernels = kernels
    return trainer


def weights_of(network):
    return {name: weight.numpy() for name, weight in network.named_parameters()}


def assert_same_arrays(found, expected, **tolerances):
    """Of two dicts of arrays."""
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], err_msg=name, **tolerances)


def train_epoch(trainer, seed=4):
    """An epoch of steps: their losses."""
    return [trainer.step(batch) for batch in trainer.batches(np.random.default_rng(seed))]
