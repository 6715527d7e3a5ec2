"""Item matrices too large for one device: each process holds some of their rows, and of the optimiser's state for them.

Process r of N holds the rows r, r + N, r + 2 N and so on, so that all have about as many of the frequent items. What a
step needs of other rows is summed up from all processes, each giving the rows that it holds and 0 for the others. The
result is that of processes that each hold all rows.
"""

import numpy as np
import paddle

from utils.files import InputError
from utils.model.layout import ITEM_MATRIX, scored_length
from utils.tensors import as_array, as_tensor
from utils.training.objectives import AllItems, Scored
from utils.training.optimizers import Gradient
from utils.training.sampling import distinct
from utils.training.softmax import lengths_gradient, product, set_lengths

ROWS_AT_ONCE = 1 << 14  # of a matrix that goes from all processes to one


class SplitRows:
    """Which rows of the item matrices are here, and how the others come and go.

    Parameters
    ----------
    network : net.Network
        With the rows `own_rows(processes)` of its matrices.
    processes : processes.Processes
    """

    def __init__(self, network, processes):
        self.network, self.processes = network, processes
        self.matrices = {name: weight for name, weight in network.named_parameters()
                         if name in (ITEM_MATRIX, "embedding")}

    def look_up(self, name, items):
        """The rows of a matrix for an int64 array of items, the same on all processes: float32 tensor [items, ...]."""
        weight = self.matrices[name].detach()
        is_here, places = self.places(items)
        rows = paddle.zeros([len(items), weight.shape[1]], weight.dtype)
        if not len(items):
            return rows
        if len(places):
            rows = paddle.scatter(rows, as_tensor(is_here), paddle.gather(weight, as_tensor(places)))
        return self.processes.sum(rows)

    def places(self, items):
        """Which of an int64 array of items are here, by their places in it, and which rows here these are."""
        is_here = np.flatnonzero(items % self.processes.count == self.processes.rank)
        return is_here, items[is_here] // self.processes.count

    def own(self, gradients, items_gradient=None):
        """A list of Gradient with those of the matrices for the rows here, and for the weights.

        With `items_gradient`, that of the item matrix by all rows here, what the list has for it is added to that.
        """
        found = []
        for gradient in gradients:
            if gradient.name in self.matrices:
                gradient = self._of_rows_here(gradient)
                if gradient.name == ITEM_MATRIX and items_gradient is not None:
                    has_rows = len(gradient.rows) > 0
                    gradient = gradient.added_to(items_gradient) if has_rows else Gradient(ITEM_MATRIX, items_gradient)
            found.append(gradient)
        return found

    def _of_rows_here(self, gradient):
        if gradient.rows is None:
            raise InputError(f"--split_items 1: found a net.py that uses all of {gradient.name} at once, expected one "
                             "that uses the rows that it is given")
        is_here, places = self.places(gradient.rows)
        with_bias = gradient.rows_with_bias
        if with_bias is not None:
            with_bias = int(np.searchsorted(is_here, with_bias))
        return Gradient(gradient.name, np.ascontiguousarray(as_array(gradient.values)[is_here]), places, with_bias)

    def whole(self, values):
        """A matrix from the rows of all processes, and what else is by rows: float32 array, None but on process 0."""
        count, rank = self.processes.count, self.processes.rank
        items = int(self.processes.sum_of_array(np.array([len(values)], np.int64))[0])
        result = np.empty([items, values.shape[1]], np.float32) if self.processes.is_first else None
        for start in range(0, items, ROWS_AT_ONCE * count):
            end = min(start + ROWS_AT_ONCE * count, items)
            rows = np.zeros([end - start, values.shape[1]], np.float32)
            rows[rank::count] = values[start // count:start // count + ROWS_AT_ONCE]
            rows = self.processes.sum_of_array(rows)
            if result is not None:
                result[start:end] = rows
        return result

    def whole_arrays(self, arrays):
        """Arrays by a weight's name, with what follows it after a dot: those of split matrices made whole."""
        return {name: self.whole(values) if self.is_split(name) else values for name, values in arrays.items()}

    def own_arrays(self, arrays):
        """The way back: the rows here of what `whole_arrays` returned on process 0."""
        return {name: values[own_rows(self.processes)] if self.is_split(name) else values
                for name, values in arrays.items()}

    def is_split(self, name):
        """Whether an array by that name has a row for each item."""
        return name.split(".")[0] in self.matrices


class SplitAllItems(AllItems):
    """The softmax cross-entropy over all items, of which each process scores its own for all positions of a step.

    With P the softmax and q the target's distribution, as in softmax.py, the gradient by a score is P - q. Processes
    exchange the hidden states, three numbers of each position, and the gradients by the hidden states.
    """

    def __init__(self, objective, rows):
        super().__init__(objective.network)
        self.rows, self.processes = rows, rows.processes
        self.name, self.gradient = objective.name, None

    def draw(self, batch):
        items, places = distinct(batch.inputs, self.place_of_item, self.kernels)
        self.targets = batch.targets
        if self.has_own_input_matrix:
            return Scored(np.empty(0, np.int64), None, 0, items, places)
        return Scored(items, None, 0, None, places)

    def part(self, scored, own):
        return scored._replace(inputs=scored.inputs[own], own=own)

    def __call__(self, hidden, item_rows, scored):
        """As in Objective, but for the gradient by the item matrix: `gradient` has that of the rows here, complete."""
        hidden, own, positions = as_tensor(hidden), as_tensor(scored.own), len(self.targets)
        every = paddle.scatter(paddle.zeros([positions, hidden.shape[1]]), own, hidden)
        every = self.processes.sum(every)
        matrix, length, units = self.network.item_matrix.detach(), scored_length(self.network.settings), hidden.shape[1]
        if length:
            matrix, factors = set_lengths(matrix, units, length)
        scores = product(every, matrix[:, :-1], transpose_y=True) + matrix[:, -1]
        log_sum, targets, mean, is_here, places = self._of_all(scores)
        smoothing, items = self.network.settings.label_smoothing, self.item_count
        losses = log_sum - (1 - smoothing) * targets - smoothing * mean
        gradient = paddle.exp(scores - log_sum.unsqueeze(1)) - smoothing / items
        if len(places):
            picked = as_tensor(np.stack([is_here, places], axis=1))
            gradient = paddle.scatter_nd_add(gradient, picked, paddle.full([len(places)], smoothing - 1.0))
        gradient /= positions
        ones = paddle.ones([positions, 1])
        self.gradient = product(gradient, paddle.concat([every, ones], axis=1), transpose_x=True)
        by_hidden = self.processes.sum(product(gradient, matrix[:, :-1]))
        if length:
            self.gradient = lengths_gradient(self.gradient, matrix, factors, units, length)
        own_share = len(scored.own) / positions  # the trainer multiplies by it
        return (float(paddle.gather(losses, own).mean()), paddle.gather(by_hidden, own) / own_share,
                paddle.zeros_like(item_rows), {})

    def _of_all(self, scores):
        """log(sum(exp(scores))), the targets' and the mean scores over the items of all processes, float32 [positions].

        And the positions whose targets are here, with their rows, int64 arrays.
        """
        is_here, places = self.rows.places(self.targets)
        largest = scores.max(axis=1)
        log_sum = largest + paddle.log(paddle.exp(scores - largest.unsqueeze(1)).sum(axis=1))
        told = np.zeros([self.processes.count + 2, len(self.targets)], np.float32)
        told[self.processes.rank] = log_sum.numpy()
        if len(places):
            told[-2, is_here] = paddle.gather_nd(scores, as_tensor(np.stack([is_here, places], axis=1))).numpy()
        told[-1] = scores.sum(axis=1).numpy() / self.item_count
        heard = as_tensor(self.processes.sum_of_array(told))
        return paddle.logsumexp(heard[:-2], axis=0), heard[-2], heard[-1], is_here, places


def own_rows(processes):
    """The rows of the item matrices that a process holds where they are split, a slice."""
    return slice(processes.rank, None, processes.count)
