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

STEPS, SMOOTHING = 200, 0.1
CASES = {f"{engine}, {network}, {objective}, {batching}": (engine, network, objective, batching)
         for engine in ("native", "paddle") for network, objective, batching in (
             ("shared", "all items", "sessions"), ("separate", "all items", "parallel"),
             ("shared", "shared ce, in batch, logq", "parallel"), ("two layers", "shared ce, logq", "sessions"),
             ("none", "shared bpr-max, in batch, logq", "sessions"),
             ("shared", "shared top1-max, in batch", "parallel"), ("shared", "shared bpr-max", "parallel"),
             ("separate", "tiled bpr", "sessions"))}


def train(case, kernels, processes, splits_items=False):
    """The weights after STEPS steps of one of CASES, where all processes together have six sessions a step."""
    import small_runs

    from net import Network
    from utils.training.split import own_rows
    engine, network, objective, batching = CASES[case]
    settings = small_runs.NETWORKS[network]
    network = small_runs.make_network(settings, SMOOTHING)
    if splits_items:
        whole, network = network, Network(small_runs.ITEMS, network.settings, rows=own_rows(processes))
    own_share = small_runs.BATCHINGS[batching].size // processes.count
    batching = small_runs.Batching(batching == "parallel", own_share)
    trainer = small_runs.make_trainer(network, small_runs.OBJECTIVES[objective](network), batching,
                                      kernels if engine == "native" else None, momentum=0.1, grad_cap=3.0)
    trainer.optimizer.rate = 0.02
    trainer.join(processes, splits_items)
    if splits_items:
        network.train()
        trainer.put_weights(small_runs.weights_of(whole))
    steps, epoch = 0, 0
    while steps < STEPS:
        for batch in trainer.batches(np.random.default_rng(epoch)):
            trainer.step(batch)
            steps += 1
        epoch += 1
    return trainer.weights()


def main():
    if place().count == 1:
        watch(2, 0)
    prepared = device.prepare(threads=1, joins=True)
    found = {f"{case}, split" * splits_items or case: train(case, prepared.kernels, prepared.processes, splits_items)
             for case in CASES for splits_items in (False, True)}
    if prepared.processes.is_first:
        np.savez(sys.argv[1], **{f"{case}: {name}": values for case, weights in found.items()
                                 for name, values in weights.items()})


if __name__ == "__main__":
    run(main)
