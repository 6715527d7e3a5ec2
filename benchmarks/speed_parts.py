"""The parts that speed.py measures. Import it after `device.prepare`: it loads Paddle.

A part has `run`, which works for some seconds and returns the predictions done and the seconds that they took,
`operations`, those that a prediction needs, and `computed_by`, a few words for the end of its row.
"""

import time
from contextlib import ExitStack
from itertools import islice
from unittest import mock

import numpy as np
import paddle

from net import Network
from utils.evaluation.flags import add_inference_flags
from utils.evaluation.ranks import Way, network_ranks
from utils.options import Parser
from utils.tensors import chunk_rows
from utils.training.flags import asked_by
from utils.training.proof import prove

COUNTED_STEPS = 20  # whose candidates are counted
METHODS = [  # of a trainer's parts, and what of a step's time they are
    ("engine", "carry_states", "forward"), ("objective", "draw", "drawing"), ("engine", "forward", "forward"),
    ("engine", "rows", "looking up rows"), ("objective", "__call__", "loss"), ("engine", "backward", "backward"),
    ("trainer", "collect_gradients", "adding gradients up"), ("optimizer", "step", "optimiser"),
]


class TrainingPart:
    """Steps of a trainer, made as its script makes it and proven as a run proves it.

    Parameters
    ----------
    flags : module
        full_flags or sampled_flags, of a script.
    arguments : list of str
        The script's command line.
    item_count : int
    sessions : sessions.Sessions
    kernels : kernels.Kernels or None
    """

    def __init__(self, flags, arguments, item_count, sessions, kernels):
        options = flags.parse_arguments(arguments)
        self.network = Network(item_count, asked_by(options).network, options.seed)
        self.trainer = flags.make_trainer(options, self.network, sessions)
        self.computed_by = prove(self.trainer, kernels)[1]
        self.units, self.epochs = self.network.settings.hid_size[-1], 0
        self.operations = 6 * scored_items(self.trainer) * self.units + 36 * self.units**2

    def run(self, wanted_seconds):
        began, done = time.perf_counter(), 0
        for batch in self.batches():
            loss = self.trainer.step(batch)
            done += len(batch.targets)
            if time.perf_counter() - began > wanted_seconds:
                break
        float(loss)  # a GPU has ended before it gives the number
        return done, time.perf_counter() - began

    def batches(self):
        """The batches of one epoch after the other, without end."""
        self.network.train()
        while True:
            self.epochs += 1
            yield from self.trainer.batches(np.random.default_rng(self.epochs))


class EvaluationPart:
    """The ranking that infer.py does, always of all sessions."""

    computed_by = ""

    def __init__(self, network, sessions, kernels):
        parser = Parser("")
        add_inference_flags(parser)
        self.network, self.sessions = network, sessions
        self.way = Way(parser.parse_args([]).batch_size, kernels=kernels)
        item_count, units = network.item_matrix.shape[0], network.settings.hid_size[-1]
        self.operations = 2 * item_count * units + 12 * units**2

    def run(self, wanted_seconds):
        began = time.perf_counter()
        network_ranks(self.network, self.sessions, self.way)
        return self.sessions.predictions, time.perf_counter() - began


class ProductsPart:
    """The three products of a chunk of the softmax over all items, and nothing else."""

    computed_by = ""

    def __init__(self, item_count, units):
        random, self.rows = np.random.default_rng(1), chunk_rows(item_count)
        self.hidden = paddle.to_tensor(random.random([self.rows, units], dtype=np.float32))
        self.matrix = paddle.to_tensor(random.random([item_count, units], dtype=np.float32))
        self.operations = 6 * item_count * units

    def run(self, wanted_seconds):
        began, chunks = time.perf_counter(), 0
        while time.perf_counter() - began < wanted_seconds:
            scores = paddle.matmul(self.hidden, self.matrix, transpose_y=True)
            paddle.matmul(scores, self.matrix)
            float(paddle.matmul(scores, self.hidden, transpose_x=True)[0, 0])
            chunks += 1
        return chunks * self.rows, time.perf_counter() - began


def scored_items(trainer):
    """How many different items a prediction must be scored for: the mean over the predictions of some steps."""
    objective = trainer.objective
    if not objective.is_sampled:
        return trainer.network.item_matrix.shape[0]
    counts, predictions = [], []
    for batch in islice(trainer.batches(np.random.default_rng(0)), COUNTED_STEPS):
        scored = objective.draw(batch)
        if scored is None:
            continue
        if scored.candidates.ndim == 2:  # each position has candidates of its own
            counts.append(scored.candidates.shape[1])
        elif objective.in_batch:
            counts.append(scored.candidate_count)
        else:
            counts.append(1 + len(np.unique(scored.candidates[len(batch.targets):])))
        predictions.append(len(batch.targets))
    return np.average(counts, weights=predictions)


def time_of_a_step(part, wanted_seconds):
    """How the time of some training steps is divided.

    Returns
    -------
    int
        How many steps were measured.
    float
        The seconds that they took.
    dict of str to float
        The seconds by what was done in them.
    """
    trainer, spent = part.trainer, {"batching": 0.0, **dict.fromkeys((kind for _, _, kind in METHODS), 0.0)}

    def timed(method, kind):
        def wrapped(*arguments, **keywords):
            began = time.perf_counter()
            try:
                return method(*arguments, **keywords)
            finally:
                spent[kind] += time.perf_counter() - began
        return wrapped

    with ExitStack() as stack:
        for name, method, kind in METHODS:
            owner = type(trainer if name == "trainer" else getattr(trainer, name))
            stack.enter_context(mock.patch.object(owner, method, timed(getattr(owner, method), kind)))
        next_batch, steps, began = timed(part.batches().__next__, "batching"), 0, time.perf_counter()
        while time.perf_counter() - began < wanted_seconds:
            trainer.step(next_batch())
            steps += 1
        total = time.perf_counter() - began
    return steps, total, {**spent, "rest": total - sum(spent.values())}
