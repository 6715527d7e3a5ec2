"""Two ways through the network in a training step: net.py by Paddle's operations, and the same in C++.

An engine goes forward, from a batch to hidden states, and back, from the gradient by those to the gradients by the
weights. It keeps the states that running sessions carry from step to step. An objective (objectives.py) stands between
the two ways. fused.py has a third one, for GPUs.
"""

import numpy as np
import paddle

from utils.files import InputError
from utils.model.layout import layers
from utils.native import kernels as native
from utils.native.network import NativeNetwork
from utils.tensors import as_float32, as_tensor, host_array

RUNNING = "running."  # how the names of what a step leaves to the next one begin
KEY = f"{RUNNING}key"  # of the dropout that C++ draws


class PaddleEngine:
    """net.py's network, whatever it is, and Paddle's autograd.

    Parameters
    ----------
    network : net.Network
    """

    name = "paddle"

    def __init__(self, network):
        self.network, self.states = network, None

    def start_epoch(self, random):
        """Begin an epoch with no state carried into it."""
        self.states = None

    def carry_states(self, batch):
        """Bring the layers' states from the slots of the step before to those of a batches.SideBySideStep."""
        if self.states is None:
            self.states = self.network.first_states(len(batch.inputs))
            return
        if batch.kept is not None:
            kept = as_tensor(batch.kept)
            self.states = [paddle.gather(state, kept) for state in self.states]
        if batch.restarted is not None and batch.restarted.any():
            restarted = as_tensor(np.flatnonzero(batch.restarted))
            for number, first in enumerate(self.network.first_states(len(restarted))):
                self.states[number] = paddle.scatter(self.states[number], restarted, first)

    def rows(self, name, numbers=None):
        """Rows of a weight, float32 [numbers, ...], all of them by default."""
        weight = getattr(self.network, name).detach()
        return weight if numbers is None else paddle.gather(weight, as_tensor(numbers))

    def forward(self, inputs, rows_per_step, item_rows=None):
        """The hidden states of a batch.

        Parameters
        ----------
        inputs : int64 array [clicks]
        rows_per_step : list of int
            Both as in batches.Batch.
        item_rows : float32 [clicks, ...], optional
            Rows of the input matrix to use instead of those of the items clicked.

        Returns
        -------
        float32 tensor [clicks, hid_size[-1]]
        """
        inputs = as_tensor(inputs)
        if item_rows is None:
            item_rows = paddle.gather(self.network.input_weights().detach(), inputs)
        self.item_rows = as_tensor(item_rows).detach()
        self.item_rows.stop_gradient = False
        self.hidden = as_float32(self.hidden_states(inputs, rows_per_step))
        return self.hidden.detach()

    def hidden_states(self, inputs, rows_per_step):
        """As Network.hidden_states, of `item_rows` and `states`."""
        return self.network.hidden_states(inputs, rows_per_step, self.item_rows, self.states)

    def trained_weights(self):
        """What the gradients of a step are taken by, by name."""
        return trainable(self.network)

    def backward(self, hidden_gradient):
        """From the gradient by what `forward` returned to those by the weights.

        Returns
        -------
        dict of str to float32
            The gradient of every weight that has one, by its name. What the rows looked up for the inputs and the
            scored rows bring is not in it.
        float32 [clicks, ...]
            The gradient by the inputs' rows of the input matrix.
        """
        parameters = self.trained_weights()
        weights = [self.item_rows, *parameters.values()]
        inputs_gradient, *gradients = gradients_of(self.hidden, weights, as_tensor(hidden_gradient))
        if inputs_gradient is None:
            inputs_gradient = paddle.zeros_like(self.item_rows)
        self.hidden = None  # and with it all that was kept for the way back
        return {name: values for name, values in zip(parameters, gradients) if values is not None}, inputs_gradient

    def state_arrays(self):
        """What a step leaves to the next one of its epoch, as arrays."""
        return {f"{RUNNING}{number}": state.numpy() for number, state in enumerate(self.states or [])}

    def restore(self, arrays):
        """Put back what `state_arrays` returned."""
        states = running_states(arrays)
        self.states = [paddle.to_tensor(state) for state in states] or None


class NativeEngine:
    """The network that net.py defines as it comes, in C++ (utils/native/network.cc). It draws its own dropout masks.

    It computes what `PaddleEngine` does, from the same weights, in a third of the time: there each of a hundred
    operations costs more to call than to compute. Methods as there, with arrays for tensors. What `forward` and
    `backward` return lasts until they are called again.

    Parameters
    ----------
    network : net.Network
    kernels : kernels.Kernels
    """

    name = "native"

    def __init__(self, network, kernels):
        self.network, self.layers, self.kernels = network, layers(network.settings), kernels
        self.weights = {name: host_array(weight) for name, weight in network.named_parameters()}  # the same memory
        self.native = NativeNetwork(network.settings, self.weights, kernels)
        self.key, self.states = 0, None

    def start_epoch(self, random):
        """Begin an epoch: no state is carried into it, and its dropout follows from the seed of a numpy Generator.

        It draws nothing, so that what is drawn for the rest is the same with and without this.
        """
        self.key, self.states = int(random.bit_generator.seed_seq.generate_state(1, np.uint64)[0]), None

    def carry_states(self, batch):
        if self.states is None:
            self.states = [native.zeros((len(batch.inputs), layer.units)) for layer in self.layers]
            return
        if batch.kept is not None:
            self.states = [native.copied(state[batch.kept]) for state in self.states]
        if batch.restarted is not None:
            for state in self.states:
                state[batch.restarted] = 0

    def rows(self, name, numbers=None):
        weight = self.weights[name]
        return weight if numbers is None else self.kernels.gather(weight, numbers, weight.shape[1])

    def forward(self, inputs, rows_per_step, item_rows=None):
        hidden, states = self.native.forward(inputs, rows_per_step, self.states, self.key, item_rows)
        if self.states:
            self.states = [native.copied(values[-rows_per_step[-1]:]) for values in states]
        return hidden

    def backward(self, hidden_gradient):
        if not isinstance(hidden_gradient, np.ndarray):
            hidden_gradient = native.copied(host_array(hidden_gradient))
        gradients = self.native.backward(hidden_gradient, self.key)
        self.key += len(self.layers) + 1 + self.network.settings.last_click
        return gradients

    def state_arrays(self):
        states = {f"{RUNNING}{number}": np.array(state) for number, state in enumerate(self.states or [])}
        return states | {KEY: np.array([self.key % 2**64], np.uint64)}

    def restore(self, arrays):
        if KEY in arrays:  # a PaddleEngine has none
            self.key = int(arrays[KEY][0])
        self.states = [native.copied(state) for state in running_states(arrays)] or None


def input_matrix_name(network):
    """The name of the weight that the network's `input_weights` returns; InputError where it is none."""
    inputs = network.input_weights()
    names = [name for name, weight in network.named_parameters() if weight is inputs]
    if not names:
        raise InputError("net.py: found input_weights that returns none of the network's weights, expected one of "
                         "them; what is computed from its rows belongs in hidden_states")
    return names[0]


def trainable(network):
    """The weights of a net.Network that take a gradient, by name."""
    return {name: weight for name, weight in network.named_parameters() if not weight.stop_gradient}


def gradients_of(result, weights, upward=None):
    """The gradients by a list of tensors, None for those that `result` doesn't depend on.

    `upward` is the gradient by `result`; by default that is a number, and its gradient 1.
    """
    if result.stop_gradient:
        return [None] * len(weights)
    return paddle.grad([result], weights, None if upward is None else [upward], allow_unused=True)


def running_states(arrays):
    """The layers' states among what an engine's `state_arrays` returned, the lowest first: a list of arrays."""
    return [arrays[f"{RUNNING}{number}"] for number in range(len(arrays)) if f"{RUNNING}{number}" in arrays]
