"""Optimisers that update the rows of a matrix that a step touched, and whole weights, alike.

Rows that a step doesn't touch keep their weights and their state as they are: sums of squares and velocities of an item
change only when the item is scored or clicked.
"""

from typing import NamedTuple

import numpy as np
import paddle

from utils.device import add_rows, as_tensor, is_on_host


class Gradient(NamedTuple):
    """The gradient of a weight, or of some of its rows.

    name : str, the weight's
    values : float32, an array or a tensor; of the whole weight, or [len(rows), ...]
    rows : int64 array or None, each once
    rows_with_bias : int or None; where less than len(rows), the rows from there on have no gradient by their last
        column, the bias, because the step had nothing to do with it; its state rests
    """

    name: str
    values: object
    rows: np.ndarray = None
    rows_with_bias: int = None

    def added_to(self, whole):
        """The Gradient of the whole weight: `whole`, a tensor, and this one."""
        values = as_tensor(self.values)
        if self.rows is None:
            return Gradient(self.name, whole + values)
        return Gradient(self.name, add_rows(whole, values, as_tensor(self.rows)))


class RowOptimizer:
    """What the optimisers share: a weight's state by the weight's name, `state`, a dict of dicts of float32 tensors."""

    kernels = None  # kernels.Kernels that may be used, where the optimiser has any

    def __init__(self):
        self.state = {}

    def step(self, parameters, gradients):
        """One update of the weights, a dict by name, for a list of Gradient."""
        self.start_step()
        for gradient in gradients:
            self.update(gradient, parameters[gradient.name])

    def state_of_all(self, parameters):
        """The state of all weights, a dict by name, as a list of tensors; at first zeros."""
        return [tensor for name, weight in parameters.items() for tensor in self._state_of(name, weight).values()]

    def _state_of(self, name, weight):
        if name not in self.state:
            self.state[name] = {kind: paddle.zeros_like(weight) for kind in self.kinds}
        return self.state[name]

    def start_step(self):
        """Called before the updates of a step."""

    def state_arrays(self):
        """The state by parameter and kind, as float32 arrays."""
        return {f"{name}.{kind}": value.numpy() for name, kinds in self.state.items() for kind, value in kinds.items()}

    def restore(self, arrays):
        """Put back what `state_arrays` returned."""
        self.state = {}
        for key, values in arrays.items():
            name, kind = key.rsplit(".", 1)
            self.state.setdefault(name, {})[kind] = paddle.to_tensor(values)


class Adagrad(RowOptimizer):
    """Adagrad (Duchi et al., JMLR 2011) with classical momentum, in the official GRU4Rec's form or in Paddle's.

    sum += g^2; v = momentum * v - rate * g / sqrt(sum + epsilon); weight += v. With `epsilon_inside` false the divisor
    is sqrt(sum) + epsilon, as in paddle.optimizer.Adagrad.

    Parameters
    ----------
    rate, momentum, epsilon : float
    epsilon_inside : bool
    """

    def __init__(self, rate, momentum=0.0, epsilon=1e-6, epsilon_inside=True):
        super().__init__()
        self.rate, self.momentum, self.epsilon, self.epsilon_inside = rate, momentum, epsilon, epsilon_inside
        self.kinds = ["sum"] + ["velocity"] * bool(momentum)

    def step(self, parameters, gradients):
        """One update of the weights, a dict by name, for a list of Gradient."""
        if not self.kernels:
            super().step(parameters, gradients)
            return
        updates = []
        for name, values, rows, rows_with_bias in gradients:
            state, rate = self._state_and_rate(name, parameters[name])
            updates.append((parameters[name], state["sum"], state.get("velocity"), values, rows, rows_with_bias, rate))
        self.kernels.adagrad(updates, self.momentum, self.epsilon, self.epsilon_inside)

    def update(self, gradient, weight):
        """One step of the parameter `weight`, float32 tensor, in place, for its Gradient, by Paddle's operations."""
        name, values, rows, rows_with_bias = gradient
        rows = None if rows is None else as_tensor(rows)
        self._update_plainly(weight, *self._state_and_rate(name, weight), as_tensor(values), rows, rows_with_bias)

    def _state_and_rate(self, name, weight):
        return self._state_of(name, weight), self.rate * learning_rate_multiplier(weight)

    @paddle.no_grad()
    def _update_plainly(self, weight, state, rate, gradient, rows, rows_with_bias):
        touched = _touched(gradient, rows_with_bias)
        squares = _read(state["sum"], rows) + gradient * gradient
        _write(state["sum"], squares, rows)
        divisor = paddle.sqrt(squares + self.epsilon) if self.epsilon_inside else paddle.sqrt(squares) + self.epsilon
        change = gradient / divisor * -rate
        if self.momentum:
            before = _read(state["velocity"], rows)
            moving = before if touched is None else before * touched
            change += self.momentum * moving
            _write(state["velocity"], change if touched is None else change + (before - moving), rows)
        _write(weight, _read(weight, rows) + change, rows)


class Adam(RowOptimizer):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), lazy: an untouched row's moments don't decay.

    Parameters
    ----------
    rate, decay, square_decay, epsilon : float
    """

    kinds = "mean", "square"

    def __init__(self, rate, decay=0.9, square_decay=0.999, epsilon=1e-8):
        super().__init__()
        self.rate, self.decay, self.square_decay, self.epsilon = rate, decay, square_decay, epsilon
        self.steps = 0

    def start_step(self):
        """Called before the updates of a step."""
        self.steps += 1

    def state_arrays(self):
        """As of any optimiser, and the steps done as an int64 array [1]."""
        return super().state_arrays() | {"steps": np.array([self.steps])}

    def restore(self, arrays):
        """Put back what `state_arrays` returned."""
        super().restore({key: values for key, values in arrays.items() if key != "steps"})
        self.steps = int(arrays["steps"][0])

    @paddle.no_grad()
    def update(self, gradient, weight):
        """As `Adagrad.update`."""
        name, gradient, rows, rows_with_bias = gradient
        gradient, rows = as_tensor(gradient), None if rows is None else as_tensor(rows)
        touched = _touched(gradient, rows_with_bias)
        state = self._state_of(name, weight)
        mean = self.decay * _read(state["mean"], rows) + (1 - self.decay) * gradient
        square = self.square_decay * _read(state["square"], rows) + (1 - self.square_decay) * gradient * gradient
        if touched is not None:  # elsewhere the gradient is 0: the moments rest, and so does the weight
            mean += (_read(state["mean"], rows) - mean) * (1 - touched)
            square += (_read(state["square"], rows) - square) * (1 - touched)
        _write(state["mean"], mean, rows)
        _write(state["square"], square, rows)
        unbiased = (1 - self.square_decay**self.steps) ** 0.5 / (1 - self.decay**self.steps)
        change = mean / (paddle.sqrt(square) + self.epsilon * (1 - self.square_decay**self.steps) ** 0.5)
        change *= self.rate * learning_rate_multiplier(weight) * unbiased
        _write(weight, _read(weight, rows) - (change if touched is None else change * touched), rows)


def learning_rate_multiplier(weight):
    """What net.py gave the parameter, 1 by default."""
    return weight.optimize_attr["learning_rate"]


def clip_by_global_norm(gradients, largest):
    """Scale a list of Gradient by largest / norm where the norm of all together is larger; 0 for no limit.

    Pascanu et al., ICML 2013, algorithm 1.
    """
    if not largest:
        return gradients
    norm = sum(_squared_norm(gradient.values) for gradient in gradients) ** 0.5
    if not isinstance(norm, float):  # on a GPU: to look would mean to wait
        scale = paddle.clip(largest / norm, max=1.0)
        return [gradient._replace(values=gradient.values * scale) for gradient in gradients]
    if norm < largest:
        return gradients
    return [gradient._replace(values=gradient.values * (largest / norm)) for gradient in gradients]


def _squared_norm(values):
    if isinstance(values, np.ndarray):
        return float(np.square(values, dtype=np.float64).sum())
    squared_norm = (values * values).sum()
    return float(squared_norm) if is_on_host(squared_norm) else squared_norm


def _touched(gradient, rows_with_bias):
    """1 for what a step touched of its rows, 0 for the biases of the rows from `rows_with_bias` on; None for all ones.
    """
    if rows_with_bias is None or rows_with_bias == len(gradient):
        return None
    touched = paddle.ones_like(gradient)
    touched[rows_with_bias:, -1] = 0.0
    return touched


def _read(weight, rows):
    return weight.detach() if rows is None else paddle.gather(weight.detach(), rows)


def _write(weight, values, rows):
    if rows is None:
        paddle.assign(values, weight)
    else:
        paddle.scatter_(weight, rows, values)
