"""The functions of training.cc that network.cc puts together, one by one."""

import numpy as np
import paddle

from utils.native.compiling import FLOAT, INTEGER, KEY, POINTER
from utils.native.kernels import empty

ARGUMENTS = {
    "gru_forward": [POINTER] * 5 + [INTEGER] * 3 + [FLOAT, KEY] + [POINTER] * 2,
    "gru_backward": [POINTER] * 6 + [INTEGER] * 4 + [POINTER] * 3,
    "linear_forward": [POINTER] * 3 + [INTEGER] * 3 + [POINTER],
    "linear_backward": [POINTER] * 3 + [INTEGER] * 3 + [POINTER] * 3,
}


def empty_like(shape, like):
    """Room for a result of the kind that `like` is."""
    return empty(shape) if isinstance(like, np.ndarray) else paddle.empty(shape, "float32")


class LayerKernels:
    """Of a kernels.Kernels. Takes and returns tensors or arrays, as that does."""

    def __init__(self, kernels):
        self.kernels = kernels
        for name, types in ARGUMENTS.items():
            getattr(kernels.library, name).argtypes, getattr(kernels.library, name).restype = types, None

    def gru_forward(self, gate_inputs, weight, bias, before, rows_per_step, reset_after, dropped_share=0.0, key=0):
        """All states of a GRU over packed sessions, as `net.DynamicGRU` defines them, and what `gru_backward` needs.

        Parameters
        ----------
        gate_inputs, weight, bias, before, rows_per_step
            As in `net.DynamicGRU`, `before` its `state`.
        reset_after : bool
        dropped_share, key
            Of the `dropout` of all states, which the next step then sees too.

        Returns
        -------
        float32 [clicks, units], float32 [clicks, 4 units]
        """
        clicks, units = gate_inputs.shape[0], weight.shape[0]
        if list(before.shape) != [rows_per_step[0], units] or sum(rows_per_step) != clicks:
            raise IndexError(f"states {list(before.shape)}, {clicks} clicks, rows {rows_per_step}")
        states, saved = empty_like([clicks, units], weight), empty_like([clicks, 4 * units], weight)
        rows = np.asarray(rows_per_step, np.int64)
        self.kernels.call("gru_forward", gate_inputs, weight, bias, before, rows, len(rows), units, reset_after,
                          dropped_share,
                   key % 2**64, states, saved)
        return states, saved

    def gru_backward(self, states_gradient, states, saved, weight, before, rows_per_step, reset_after,
                     through_time=True):
        """Gradients by the gates' inputs, float32 [clicks, 3 units], the weight and the bias, from that by the states.

        Without `through_time` the gradient of a step's state stops at the state before it.
        """
        clicks, units = states.shape
        gradients = [empty_like(shape, weight) for shape in ([clicks, 3 * units], [units, 3 * units], [3 * units])]
        rows = np.asarray(rows_per_step, np.int64)
        self.kernels.call("gru_backward", states_gradient, states, saved, weight, before, rows, len(rows), units,
                          reset_after,
                   through_time, *gradients)
        return gradients

    def linear_forward(self, inputs, weight, bias):
        """inputs weight + bias: float32 [rows, outputs]."""
        result = empty_like([inputs.shape[0], weight.shape[1]], weight)
        self.kernels.call("linear_forward", inputs, weight, bias, *inputs.shape, weight.shape[1], result)
        return result

    def linear_backward(self, gradient, inputs, weight):
        """Gradients by the inputs, the weight and the bias, from that by the result of `linear_forward`."""
        gradients = [empty_like(shape, weight) for shape in (inputs.shape, weight.shape, weight.shape[1:])]
        self.kernels.call("linear_backward", gradient, inputs, weight, *inputs.shape, weight.shape[1], *gradients)
        return gradients


class StepByStep:
    """In the place of a network.NativeNetwork: the same with a call for each function, and masks by `mask`.

    mask : function of a shape and of the number of the layer, 0 for the embedding; returns a float32 array
    """

    def __init__(self, native, mask):
        self.native, self.mask, self.layers = native, mask, LayerKernels(native.kernels)

    def forward(self, inputs, rows_per_step, before, key, item_rows=None):
        native, settings, kernels = self.native, self.native.settings, self.layers
        values = native.kernels.gather(native.matrix, inputs, native.width)
        values *= self.mask(values.shape, settings.emb_dropout, 0, key)
        self.rows, self.saved, states_of_layers = rows_per_step, [], []
        for number, layer in enumerate(native.layers):
            below = gates = values
            if layer.fc:
                gates = kernels.linear_forward(below, native.weights[f"{layer.fc}.weight"],
                                               native.weights[f"{layer.fc}.bias"])
            states, saved = kernels.gru_forward(gates, native.weights[f"{layer.gru}.weight"],
                                                native.weights[f"{layer.gru}.bias"], before[number], rows_per_step,
                                                settings.reset_after)
            states *= self.mask(states.shape, settings.hid_dropout, number + 1, key)
            self.saved.append((below, states, saved, before[number]))
            states_of_layers.append(states)
            values = states
        return values, states_of_layers

    def backward(self, gradient, key):
        native, settings, kernels, gradients = self.native, self.native.settings, self.layers, {}
        for number in reversed(range(len(native.layers))):
            layer, (below, states, saved, before) = native.layers[number], self.saved[number]
            gradient *= self.mask(gradient.shape, settings.hid_dropout, number + 1, key)
            gradient, gradients[f"{layer.gru}.weight"], gradients[f"{layer.gru}.bias"] = kernels.gru_backward(
                gradient, states, saved, native.weights[f"{layer.gru}.weight"], before, self.rows,
                settings.reset_after, settings.through_time)
            if layer.fc:
                gradient, gradients[f"{layer.fc}.weight"], gradients[f"{layer.fc}.bias"] = kernels.linear_backward(
                    gradient, below, native.weights[f"{layer.fc}.weight"])
        gradient *= self.mask(gradient.shape, settings.emb_dropout, 0, key)
        return gradients, gradient
