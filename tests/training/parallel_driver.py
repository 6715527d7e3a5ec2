"""Trains the trainers of small_runs.py by two processes, for test_parallel.py, which compares the weights.

    python tests/training/parallel_driver.py WEIGHTS.npz
"""

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from utils import device  # noqa: E402
from utils.launch import watch  # noqa: E402
from utils.process import place, run  # noqa: E402

SMOOTHING, AVERAGED_AFTER = 0.1, 5
CASES = {f"{engine}, {network}, {objective}, {batching}": (engine, network, objective, batching)
         for engine in ("native", "paddle") for network, objective, batching in (
             ("scaled", "all items", "sessions"), ("separate", "all items", "parallel"),
             ("shared", "shared ce, in batch, logq", "parallel"), ("two layers", "shared ce, logq", "sessions"),
             ("none", "shared bpr-max, in batch, logq", "sessions"),
             ("shared", "shared top1-max, in batch", "parallel"), ("scaled", "shared bpr-max", "parallel"),
             ("separate", "tiled bpr", "sessions"))}
CASES |= {f"{case}, {optimizer}": (*CASES[case], optimizer) for case, optimizer in (
    ("native, shared, shared ce, in batch, logq, parallel", "nadam, L2"),
    ("native, separate, all items, parallel", "adamw"),
    ("native, two layers, shared ce, logq, sessions", "sgd, momentum, L2"))}


def steps_of(case, splits_items):
    """The steps of one of CASES: many where they take little time."""
    return 20 if splits_items else 200 if case.startswith("native") else 50


def train(case, kernels, processes, steps, splits_items=False):
    """The weights after some steps of one of CASES, and their losses; all processes together have six sessions a step.
    """
    import small_runs

    from net import Network
    from utils.training.split import own_rows
    engine, network, objective, batching, *optimizer = CASES[case]
    settings = small_runs.NETWORKS[network]
    network = small_runs.make_network(settings, SMOOTHING)
    if splits_items:
        whole, network = network, Network(small_runs.ITEMS, network.settings, rows=own_rows(processes))
    own_share = small_runs.BATCHINGS[batching].size // processes.count
    batching = small_runs.Batching(batching == "parallel", own_share)
    trainer = small_runs.make_trainer(network, small_runs.OBJECTIVES[objective](network), batching,
                                      kernels if engine == "native" else None, momentum=0.1, grad_cap=3.0,
                                      optimizer=small_runs.OPTIMIZERS[optimizer[0]]() if optimizer else None)
    trainer.optimizer.rate = 0.02
    trainer.join(processes, splits_items)
    if splits_items:
        network.train()
        trainer.put_weights(small_runs.weights_of(whole))
    losses, epoch = [], 0
    while len(losses) < steps:
        losses += [trainer.step(batch) for batch in trainer.batches(np.random.default_rng(epoch))]
        epoch += 1
    return trainer.weights() | {"losses": np.array(losses)}


def alone_for_a_while(kernels, processes, exchange_steps):
    """A trainer of sessions side by side whose processes train by themselves in between, and its epoch's batches."""
    import small_runs
    network = small_runs.make_network(small_runs.NETWORKS["two layers"])
    batching = small_runs.Batching(True, 3)
    trainer = small_runs.make_trainer(network, small_runs.shared(network), batching, kernels)
    trainer.join(processes, exchange_steps=exchange_steps)
    return trainer, trainer.batches(np.random.default_rng(1))


def main():
    if place().count == 1:
        watch(2, 0)
    prepared = device.prepare(threads=1, joins=True)
    kernels, processes = prepared.kernels, prepared.processes
    found = {f"{case}, split" if splits_items else case: train(case, kernels, processes, steps_of(case, splits_items),
                                                               splits_items)
             for case in CASES for splits_items in (False, True)}
    trainer, batches = alone_for_a_while(kernels, processes, AVERAGED_AFTER)
    for batch, _ in zip(batches, range(2 * AVERAGED_AFTER)):
        trainer.step(batch)
    found["averaged"] = trainer.weights()
    if processes.is_first:
        np.savez(sys.argv[1], **{f"{case}: {name}": values for case, weights in found.items()
                                 for name, values in weights.items()})


if __name__ == "__main__":
    run(main)
