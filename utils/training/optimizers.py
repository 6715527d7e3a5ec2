"""Optimisers that update the rows of a matrix that a step touched, and whole weights, alike.

Rows that a step doesn't touch keep their weights and their state as they are: sums of squares and velocities of an item
change only when the item is scored or clicked.
"""

from typing import NamedTuple

import numpy as np
import paddle

from utils.tensors import add_rows, as_tensor, is_on_host

MOST_WARMING = 400  # steps; after so many, 1 - U_t of Nadam is 1 to the last bit


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
    """What the optimisers share: a weight's state by the weight's name, `state`, a dict of dicts of float32 tensors.

    An optimiser is one formula: `formula` has it in Paddle's operations, and utils/native/optimizers.cc in C++. From a
    gradient, the learning rate, a weight and what is kept of it, by `kinds`, it computes the new weight and what is
    kept then, in this order. All are float32 tensors of one shape.
    """

    name = None  # of its function in the C++, where there is one
    kernels = None  # kernels.Kernels that may be used
    counts_steps = False  # whether the formula goes by how many steps were done
    zero_changes_nothing = False  # whether a gradient of 0 leaves a weight and its state as they are

    def __init__(self, rate, weight_decay=0.0):
        self.rate, self.weight_decay = rate, weight_decay
        self.state, self.steps = {}, 0

    def step(self, parameters, gradients):
        """One update of the weights, a dict by name, for a list of Gradient."""
        self.steps += 1
        if not self.kernels:
            for gradient in gradients:
                self.update(gradient, parameters[gradient.name])
            return
        updates = []
        for name, values, rows, rows_with_bias in gradients:
            weight = parameters[name]
            updates.append((weight, self._state_of(name, weight), values, rows, rows_with_bias, self._rate_of(weight)))
        self.kernels.update_weights(self.name, updates, self.numbers())

    @paddle.no_grad()
    def update(self, gradient, weight):
        """One step of the parameter `weight`, float32 tensor, in place, for its Gradient, by Paddle's operations."""
        name, gradient, rows, rows_with_bias = gradient
        gradient, rows = as_tensor(gradient), None if rows is None else as_tensor(rows)
        tensors = [weight, *self._state_of(name, weight)]
        before = [_read(tensor, rows) for tensor in tensors]
        after = self.formula(gradient, self._rate_of(weight), *before)
        touched = None if self.zero_changes_nothing else _touched(gradient, rows_with_bias)
        for tensor, old, new in zip(tensors, before, after):
            _write(tensor, new if touched is None else paddle.where(touched, new, old), rows)

    def numbers(self):
        """What the C++ needs for a step beside rates, gradients and state, in the order of its arguments."""
        return []

    def state_of_all(self, parameters):
        """The state of all weights, a dict by name, as a list of tensors; at first zeros."""
        return [tensor for name, weight in parameters.items() for tensor in self._state_of(name, weight)]

    def state_arrays(self):
        """The state by parameter and kind, as float32 arrays; where steps count, they too, as an int64 array [1]."""
        arrays = {"steps": np.array([self.steps])} if self.counts_steps else {}
        for name, state in self.state.items():
            arrays |= {f"{name}.{kind}": tensor.numpy() for kind, tensor in state.items()}
        return arrays

    def restore(self, arrays):
        """Put back what `state_arrays` returned."""
        self.state, self.steps = {}, 0
        for key, values in arrays.items():
            if key == "steps":
                self.steps = int(values[0])
                continue
            name, kind = key.rsplit(".", 1)
            self.state.setdefault(name, {})[kind] = paddle.to_tensor(values)

    def _state_of(self, name, weight):
        """What is kept of a weight, a list of tensors in the order of `kinds`; a file that was restored has its own."""
        if name not in self.state:
            self.state[name] = {kind: paddle.zeros_like(weight) for kind in self.kinds}
        return [self.state[name][kind] for kind in self.kinds]

    def _rate_of(self, weight):
        return self.rate * learning_rate_multiplier(weight)

    def _decayed(self, gradient, weight):
        """The gradient of the loss and of weight_decay / 2 * weight^2 (L2)."""
        return gradient + self.weight_decay * weight if self.weight_decay else gradient


class Adagrad(RowOptimizer):
    """Adagrad (Duchi et al., JMLR 2011) with classical momentum, in the official GRU4Rec's form or in Paddle's.

    sum += g^2; v = momentum * v - rate * g / sqrt(sum + epsilon); weight += v. With `epsilon_inside` false the divisor
    is sqrt(sum) + epsilon, as in paddle.optimizer.Adagrad.

    Parameters
    ----------
    rate, momentum, epsilon : float
    epsilon_inside : bool
    weight_decay : float
        Times the weight, it is added to g.
    """

    name = "adagrad"

    def __init__(self, rate, momentum=0.0, epsilon=1e-6, epsilon_inside=True, weight_decay=0.0):
        super().__init__(rate, weight_decay)
        self.momentum, self.epsilon, self.epsilon_inside = momentum, epsilon, epsilon_inside
        self.kinds = ["sum"] + ["velocity"] * bool(momentum)
        self.zero_changes_nothing = not (momentum or weight_decay)

    def numbers(self):
        return [self.weight_decay, self.momentum, self.epsilon, self.epsilon_inside]

    def formula(self, gradient, rate, weight, squares, velocity=None):
        gradient = self._decayed(gradient, weight)
        squares = squares + gradient * gradient
        divisor = paddle.sqrt(squares + self.epsilon) if self.epsilon_inside else paddle.sqrt(squares) + self.epsilon
        change = gradient / divisor * -rate
        if velocity is None:
            return weight + change, squares
        change += self.momentum * velocity
        return weight + change, squares, change


class RMSProp(RowOptimizer):
    """RMSProp (Hinton, Neural networks for machine learning, lecture 6e, 2012) in Paddle's form.

    s = decay * s + (1 - decay) * g^2; v = momentum * v - rate * g / sqrt(s + epsilon); weight += v.

    Parameters
    ----------
    rate, momentum, decay, epsilon, weight_decay : float
        `weight_decay` times the weight is added to g.
    """

    name = "rmsprop"

    def __init__(self, rate, momentum=0.0, decay=0.95, epsilon=1e-6, weight_decay=0.0):
        super().__init__(rate, weight_decay)
        self.momentum, self.decay, self.epsilon = momentum, decay, epsilon
        self.kinds = ["mean_square"] + ["velocity"] * bool(momentum)

    def numbers(self):
        return [self.weight_decay, self.momentum, self.decay, self.epsilon]

    def formula(self, gradient, rate, weight, square, velocity=None):
        gradient = self._decayed(gradient, weight)
        square = self.decay * square + (1 - self.decay) * gradient * gradient
        change = gradient / paddle.sqrt(square + self.epsilon) * -rate
        if velocity is None:
            return weight + change, square
        change += self.momentum * velocity
        return weight + change, square, change


class SGD(RowOptimizer):
    """Stochastic gradient descent, with the momentum of Polyak (1964) in the form of Paddle and PyTorch.

    m = momentum * m + g; weight -= rate * m.

    Parameters
    ----------
    rate, momentum, weight_decay : float
        `weight_decay` times the weight is added to g.
    """

    name = "sgd"

    def __init__(self, rate, momentum=0.0, weight_decay=0.0):
        super().__init__(rate, weight_decay)
        self.momentum = momentum
        self.kinds = ["momentum"] * bool(momentum)
        self.zero_changes_nothing = not (momentum or weight_decay)

    def numbers(self):
        return [self.weight_decay, self.momentum]

    def formula(self, gradient, rate, weight, moving=None):
        gradient = self._decayed(gradient, weight)
        if moving is None:
            return (weight - rate * gradient,)
        moving = self.momentum * moving + gradient
        return weight - rate * moving, moving


class Adam(RowOptimizer):
    """Adam (Kingma and Ba, ICLR 2015, algorithm 1), and AdamW (Loshchilov and Hutter, ICLR 2019, algorithm 2).

    m = decay * m + (1 - decay) * g; s = square_decay * s + (1 - square_decay) * g^2; after t steps in all,
    weight -= rate * m / (1 - decay^t) / (sqrt(s / (1 - square_decay^t)) + epsilon).

    Parameters
    ----------
    rate, decay, square_decay, epsilon, weight_decay : float
        `weight_decay` times the weight is added to g.
    decoupled : bool
        AdamW: instead the weight is first multiplied by 1 - rate * weight_decay, as in Paddle and PyTorch.
    """

    name, kinds, counts_steps = "adam", ("mean", "square"), True

    def __init__(self, rate, decay=0.9, square_decay=0.999, epsilon=1e-8, weight_decay=0.0, decoupled=False):
        super().__init__(rate, weight_decay)
        self.decay, self.square_decay, self.epsilon, self.decoupled = decay, square_decay, epsilon, decoupled

    def numbers(self):
        of_mean, of_gradient = self._shares()
        return [self.weight_decay, self.decoupled, self.decay, self.square_decay, self.epsilon, of_mean, of_gradient,
                1 / (1 - self.square_decay**self.steps)]

    def formula(self, gradient, rate, weight, mean, square):
        if self.decoupled:
            weight = weight * (1 - rate * self.weight_decay)
        else:
            gradient = self._decayed(gradient, weight)
        mean = self.decay * mean + (1 - self.decay) * gradient
        square = self.square_decay * square + (1 - self.square_decay) * gradient * gradient
        of_mean, of_gradient = self._shares()
        change = of_mean * mean + of_gradient * gradient if of_gradient else of_mean * mean
        divisor = paddle.sqrt(square / (1 - self.square_decay**self.steps)) + self.epsilon
        return weight - rate * change / divisor, mean, square

    def _shares(self):
        """What m and g are multiplied by in the numerator of a step."""
        return 1 / (1 - self.decay**self.steps), 0.0


class Nadam(Adam):
    """Adam with Nesterov's momentum (Dozat, ICLR 2016 workshop, algorithm 2), as in Paddle and PyTorch.

    With u_t = decay * (1 - 0.96^(0.004 t) / 2) and U_t = u_1 u_2 ... u_t, the m / (1 - decay^t) of Adam becomes
    u_(t+1) * m / (1 - U_(t+1)) + (1 - u_t) * g / (1 - U_t).
    """

    def _shares(self):
        warming = self.decay * (1 - 0.5 * 0.96 ** (0.004 * np.arange(1, min(self.steps, MOST_WARMING) + 2)))
        now, later = self.decay * (1 - 0.5 * 0.96 ** (0.004 * np.array([self.steps, self.steps + 1])))
        return float(later / (1 - warming.prod())), float((1 - now) / (1 - warming[:-1].prod()))


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
    """What a step touched of its rows, bool: all but the biases of the rows from `rows_with_bias` on; None for all."""
    if rows_with_bias is None or rows_with_bias == len(gradient):
        return None
    touched = paddle.ones(gradient.shape, "bool")
    touched[rows_with_bias:, -1] = False
    return touched


def _read(weight, rows):
    return weight.detach() if rows is None else paddle.gather(weight.detach(), rows)


def _write(weight, values, rows):
    if rows is None:
        paddle.assign(values, weight)
    else:
        paddle.scatter_(weight, rows, values)
