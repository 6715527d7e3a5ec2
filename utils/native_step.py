"""A training step of the cross-entropy by utils/native.py: the network's forward and backward pass written out.

It computes what the same step by Paddle's autograd does, from the same weights, in a third of the time: there each of a
hundred operations costs more to call than to compute. Only the masks of the dropout are others.
"""

import numpy as np

from utils import native
from utils.device import host_array
from utils.optimizers import Adagrad, learning_rate_multiplier


class NativeStep:
    """Forward and backward pass of a network, and the update of what is no matrix of items.

    Parameters
    ----------
    network : net.Network
    optimizer : optimizers.Adagrad
    """

    def __init__(self, network, optimizer):
        self.settings, self.optimizer = network.settings, optimizer
        self.parameters = dict(network.named_parameters())
        self.weights = {name: host_array(weight) for name, weight in self.parameters.items()}  # the same memory
        self.embedding = "item_matrix" if network.settings.embedding == "shared" else "embedding"
        self.key, self.states = 0, None

    @staticmethod
    def can_run(network, optimizer):
        """Whether there is a library for the network's device, and the optimiser is one that it has."""
        return isinstance(optimizer, Adagrad) and native.takes(*network.parameters())

    def start_epoch(self, random):
        """Begin an epoch whose dropout follows from the seed of a numpy.random.Generator, with no state carried into it.

        It draws nothing, so that what is drawn for the rest is the same with and without this.
        """
        self.key, self.states = int(random.bit_generator.seed_seq.generate_state(1, np.uint64)[0]), None

    def restore(self, key, states):
        """Go on within an epoch, with the `key` and the `states`, a list of arrays, empty for none, that another NativeStep had."""
        self.key, self.states = key, [_copied(state) for state in states] or None

    def carry_states(self, batch):
        """Bring the layers' states from the slots of the step before to those of a sessions.ParallelStep."""
        if self.states is None:
            self.states = [_zeros((len(batch.inputs), units)) for units in self.settings.hid_size]
            return
        if batch.kept is not None:
            self.states = [_copied(state[batch.kept]) for state in self.states]
        if batch.restarted is not None:
            for state in self.states:
                state[batch.restarted] = 0

    def forward(self, inputs, rows_per_step):
        """As `net.Network.hidden_states` in training: float32 array [clicks, hid_size[-1]]."""
        settings, weights = self.settings, self.weights
        matrix = weights[self.embedding]
        values = native.gather(matrix, inputs, matrix.shape[1] - (settings.embedding == "shared"))
        self._drop(values, settings.emb_dropout, 0)
        self.rows_per_step, self.saved = rows_per_step, []
        for layer, units in enumerate(settings.hid_size):
            layer_inputs, fc = values, self._fc(layer)
            gates = values if fc is None else native.linear_forward(values, weights[f"{fc}.weight"], weights[f"{fc}.bias"])
            before = self.states[layer] if self.states else _zeros((rows_per_step[0], units))
            carried_share = settings.hid_dropout if settings.carry_dropped else 0.0
            states, saved = native.gru_forward(gates, weights[f"gru.{layer}.weight"], weights[f"gru.{layer}.bias"], before,
                                               rows_per_step, settings.reset_after, carried_share, self.key + layer + 1)
            self.saved.append((layer_inputs, states, saved, before))
            values = states
            if settings.hid_dropout and not settings.carry_dropped:
                values = _copied(states)
                self._drop(values, settings.hid_dropout, layer + 1)
            if self.states:
                self.states[layer] = _copied(states[-rows_per_step[-1]:])
        return values

    def backward(self, gradient):
        """Gradients, by parameter, of FC and GRU, and that by the inputs' rows, from that by what `forward` returned."""
        settings, weights, gradients = self.settings, self.weights, {}
        for layer in reversed(range(len(settings.hid_size))):
            layer_inputs, states, saved, before = self.saved[layer]
            self._drop(gradient, settings.hid_dropout, layer + 1)
            name, fc = f"gru.{layer}", self._fc(layer)
            gradient, gradients[f"{name}.weight"], gradients[f"{name}.bias"] = native.gru_backward(
                gradient, states, saved, weights[f"{name}.weight"], before, self.rows_per_step, settings.reset_after,
                settings.through_time)
            if fc is not None:
                gradient, gradients[f"{fc}.weight"], gradients[f"{fc}.bias"] = native.linear_backward(
                    gradient, layer_inputs, weights[f"{fc}.weight"])
        self._drop(gradient, settings.emb_dropout, 0)
        return gradients, gradient

    def update(self, gradients, items=None, rows_with_bias=None):
        """One step of the optimiser for the arrays `gradients`, by parameter; `items`, by parameter, are the rows that they are of."""
        self.optimizer.start_step()
        for name, gradient in gradients.items():
            rows = items.get(name) if items else None
            self.optimizer.update(name, self.parameters[name], gradient, rows, rows_with_bias if name == "item_matrix" else None)
        self.key += len(self.settings.hid_size) + 1

    def _fc(self, layer):
        """The name of the layer's FC, None where the embedding's rows are the gates' inputs."""
        if self.settings.embedding != "none":
            return f"fc.{layer}"
        return f"fc.{layer - 1}" if layer else None

    def _drop(self, values, share, place):
        if share:
            native.dropout(values, share, self.key + place)


def _copied(values):
    copy = native.empty(values.shape)
    copy[...] = values
    return copy


def _zeros(shape):
    zeros = native.empty(shape)
    zeros.fill(0)
    return zeros
