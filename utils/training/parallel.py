"""Training by several processes: which part of a step each of them computes, and how their gradients meet.

All processes hold all sessions, and draw the same steps and negatives from the same seed. So each knows the whole step,
and the rows of the item matrix that it touches, without asking the others. It computes its share of the step's
sessions; what is exchanged are the gradients. A step is then that of one process with as many sessions as all have
together.
"""

from typing import NamedTuple

import numpy as np
import paddle

from utils.data.batches import SideBySideStep
from utils.tensors import as_array, as_tensor, host_array, is_on_host, wrapped

KEYS_APART = 0x9E3779B97F4A7C15  # of the dropout of two processes: odd, and far from what a key advances by


class Part(NamedTuple):
    """What one process computes of a step.

    batch : batches.Batch or SideBySideStep, of its sessions alone
    own : int64 [positions] or None, where in the whole step they are; None for the whole step
    share : float, of the step's predictions; 0 where there are fewer sessions than processes, and this process has
        none: it goes through one of another process then, for gradients of the same shapes, which don't count
    """

    batch: object
    own: np.ndarray = None
    share: float = 1.0


class Division:
    """The parts of this process, step by step.

    Parameters
    ----------
    processes : Processes
    """

    def __init__(self, processes):
        self.processes, self.slots = processes, None

    def start_epoch(self):
        """Begin an epoch: no slot of sessions side by side has an owner yet."""
        self.slots = None

    def part(self, batch):
        """The Part of a batches.Batch or SideBySideStep."""
        if self.processes.is_alone:
            return Part(batch)
        return self._of_slots(batch) if isinstance(batch, SideBySideStep) else self._of_sessions(batch)

    def own_slots(self):
        """The slots of the last step whose sessions this process computes, int64 array."""
        return np.flatnonzero(self.slots == self.processes.rank)

    def _of_sessions(self, batch):
        rows = rows_by_process(batch.rows_per_step, self.processes.count)[self.processes.rank]
        share = 1.0
        if not len(rows):
            rows, share = np.zeros(1, np.int64), 0.0
        rows_per_step = np.asarray(batch.rows_per_step)
        counts = np.searchsorted(rows, rows_per_step)  # of each time step, how many of the rows still run
        time = np.repeat(np.arange(len(counts)), counts)
        row = np.arange(len(time)) - np.repeat(np.cumsum(counts) - counts, counts)
        own = (np.cumsum(rows_per_step) - rows_per_step)[time] + rows[row]
        part = batch._replace(inputs=batch.inputs[own], targets=batch.targets[own], positions=batch.positions[own],
                              rows_per_step=counts[counts > 0].tolist())
        return Part(part, own, share * len(own) / len(batch.targets))

    def _of_slots(self, step):
        rank, before = self.processes.rank, self.slots
        if before is None:
            self.slots = np.arange(len(step.targets)) % self.processes.count
        elif step.kept is not None:
            self.slots = before[step.kept]
        own, kept, share = self.own_slots(), None, 1.0
        if before is not None and step.kept is not None:
            kept = np.searchsorted(np.flatnonzero(before == rank), step.kept[self.slots == rank])
        restarted = None if step.restarted is None else step.restarted[own]
        if not len(own):  # the state of one slot stays, for the gradients' shapes
            own, share, restarted = np.zeros(1, np.int64), 0.0, None
            kept = np.zeros(1, np.int64) if kept is not None and (before == rank).any() else None
        part = SideBySideStep(step.inputs[own], step.targets[own], kept, restarted)
        return Part(part, own, share * len(own) / len(step.targets))


def rows_by_process(rows_per_step, count):
    """Rows of a packed batch for each process, so that their clicks are as many on each as can be had easily.

    From the longest row down, each goes to the process that has the fewest clicks (Graham, 1969).

    Parameters
    ----------
    rows_per_step : list of int
        As in batches.Batch.
    count : int

    Returns
    -------
    list of int64 arrays
        Each ascending; together they have every row once.
    """
    lengths = np.searchsorted(-np.asarray(rows_per_step), -np.arange(rows_per_step[0]), side="left")
    clicks, rows = [0] * count, [[] for _ in range(count)]
    for row, length in enumerate(lengths.tolist()):
        fewest = clicks.index(min(clicks))
        clicks[fewest] += length
        rows[fewest].append(row)
    return [np.array(numbers, np.int64) for numbers in rows]


class Exchange:
    """The one all-reduce of a step, or of several.

    every : int, steps from one to the next
    heard : list of float, what the processes told each other with the last step, summed; 0 where nothing was exchanged
    bytes : int, how many the last step summed

    Parameters
    ----------
    processes : Processes
    every : int
    """

    def __init__(self, processes, every=1):
        self.processes, self.every, self.told, self.heard, self.bytes = processes, every, [], [], 0

    def tell(self, notes):
        """Tell the other processes a list of numbers with the next step."""
        self.told, self.heard = notes, [0.0] * len(notes)

    def sum(self, gradients, loss):
        """The sums over all processes of a list of optimizers.Gradient and of a float."""
        if self.processes.is_alone:
            return gradients, loss
        sums, loss = self._sum([gradient.values for gradient in gradients], loss)
        return [gradient._replace(values=summed) for gradient, summed in zip(gradients, sums)], loss

    @paddle.no_grad()
    def average(self, tensors):
        """Replace each of some tensors by the mean of those that the processes have."""
        for tensor, summed in zip(tensors, self._sum(tensors, 0.0)[0]):
            mean = summed / self.processes.count
            paddle.assign(wrapped(mean) if isinstance(mean, np.ndarray) else mean, tensor)

    def _sum(self, parts, number):
        """The sums over all processes of some arrays or tensors, which are of either kind, and of a float."""
        flat = _flat([*parts, np.array([float(number), *self.told], np.float32)])
        self.bytes = 4 * flat.shape[0]
        self.processes.sum(flat)
        values = host_array(flat) if is_on_host(flat) else flat
        start, sums = 0, []
        for part in parts:
            size = int(np.prod(part.shape))
            sums.append(values[start:start + size].reshape(part.shape))
            start += size
        number, *self.heard = map(float, as_array(values[start:]))
        return sums, number


def _flat(parts):
    """All numbers of float32 arrays or tensors one after the other, a tensor on the device."""
    if any(not isinstance(part, np.ndarray) and not is_on_host(part) for part in parts):
        return paddle.concat([as_tensor(part).reshape([-1]) for part in parts])
    return wrapped(np.concatenate([as_array(part).reshape(-1) for part in parts]))
