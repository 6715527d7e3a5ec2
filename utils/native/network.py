"""The network's way forward and back in C++ (network.cc), with memory that is kept from step to step.

One call into C++ goes through all layers: a step of the official settings takes half a millisecond, and each call would
add a hundredth of it.
"""

import numpy as np

from utils.model.layout import GATES, LAST_CLICK, has_unit_inputs, input_matrix, input_width, layers
from utils.native.compiling import address
from utils.native.kernels import copied, empty, require_rows, zeros

FIELDS = ("below", "units", "fc_weight", "fc_bias", "gru_weight", "gru_bias", "before", "gates", "states", "saved",
          "result", "gates_gradient", "below_gradient", "fc_weight_gradient", "fc_bias_gradient", "gru_weight_gradient",
          "gru_bias_gradient")
LAYER = np.dtype([(name, np.int64) for name in FIELDS])  # network.cc's Layer


class NativeNetwork:
    """The network that net.py comes with.

    What the methods return is overwritten by their next call.

    Parameters
    ----------
    settings : layout.NetworkSettings
    weights : dict of str to float32 arrays
        The network's, by name, which stay where they are in memory.
    kernels : kernels.Kernels
    """

    def __init__(self, settings, weights, kernels):
        self.settings, self.weights, self.kernels = settings, weights, kernels
        self.layers, self.width, self.room = layers(settings), input_width(settings), 0
        self.matrix = weights[input_matrix(settings)]
        self.table = np.zeros(len(self.layers), LAYER)
        self.gradients, self.zeros = {}, zeros((0, 1))
        for row, layer in zip(self.table, self.layers):
            row["below"], row["units"] = layer.inputs if layer.fc else self.width, layer.units
            for kind, name in ("fc", layer.fc), ("gru", layer.gru):
                for part in ("weight", "bias") if name else ():
                    weight = weights[f"{name}.{part}"]
                    gradient = self.gradients[f"{name}.{part}"] = empty(weight.shape)
                    row[f"{kind}_{part}"], row[f"{kind}_{part}_gradient"] = address(weight), address(gradient)
        self.last_click = weights.get(LAST_CLICK)
        if self.last_click is not None:
            self.gradients[LAST_CLICK] = empty(self.last_click.shape)

    def forward(self, inputs, rows_per_step, before, key, item_rows=None):
        """The hidden states of a batch, and each layer's states.

        Parameters
        ----------
        inputs : int64 array [clicks]
        rows_per_step : list of int
        before : list of float32 arrays [rows of the first step, units], or None
            Each layer's states that it begins with; None for zeros.
        key : int
            Of the dropout; that of `backward`.
        item_rows : float32 array [clicks, >= input width], optional
            Instead of the inputs' rows of the input matrix.

        Returns
        -------
        float32 array [clicks, units of the last layer]
        list of float32 arrays [clicks, units]
        """
        clicks, before = len(inputs), before or self._no_states(rows_per_step[0])
        self._require(clicks, rows_per_step, before)
        if clicks > self.room:
            self._make_room(clicks)
        if has_unit_inputs(self.settings):
            rows = self.kernels.gather(self.matrix, inputs, self.width) if item_rows is None else item_rows
            item_rows, self.factors = self.kernels.set_lengths(copied(rows[:, :self.width]), self.width, 1)
            self.unit_rows = item_rows
        if item_rows is None:
            require_rows(inputs, len(self.matrix))
        else:
            self.values[:clicks] = item_rows[:, :self.width]
        self.before = [states if states.flags.c_contiguous else copied(states) for states in before]
        for row, states in zip(self.table, self.before):
            row["before"] = address(states)
        self.rows, self.clicks, settings = np.array(rows_per_step, np.int64), clicks, self.settings
        self.kernels.call(
            "network_forward", self.table, len(self.table), self.matrix, self.matrix.shape[1],
            inputs if item_rows is None else None, clicks, self.rows, len(self.rows), settings.reset_after,
            settings.emb_dropout, settings.hid_dropout, settings.carry_dropped, address(self.last_click),
            address(self.clicked), key % 2**64, self.values)
        return self.results[-1][:clicks], [states[:clicks] for states in self.states]

    def backward(self, gradient, key):
        """From the gradient by what `forward` returned to those by the weights, and by the inputs' rows.

        Parameters
        ----------
        gradient : float32 array [clicks, units of the last layer]
            It is changed.
        key : int

        Returns
        -------
        dict of str to float32 arrays
        float32 array [clicks, input width]
        """
        clicks, settings = len(gradient), self.settings
        if gradient.shape != (self.clicks, self.layers[-1].units):
            raise IndexError(f"a gradient {list(gradient.shape)} for {self.clicks} clicks")
        self.kernels.call(
            "network_backward", self.table, len(self.table), self.values, clicks, self.rows, len(self.rows),
            settings.reset_after, settings.through_time, settings.emb_dropout, settings.hid_dropout,
            address(self.last_click), address(self.clicked), address(self.gradients.get(LAST_CLICK)), key % 2**64,
            gradient)
        by_inputs = self.inputs_gradient[:clicks]
        if has_unit_inputs(settings):
            self.kernels.lengths_gradient(by_inputs, self.unit_rows, self.factors, self.width, 1)
        return dict(self.gradients), by_inputs

    def _require(self, clicks, rows_per_step, before):
        """IndexError unless the sizes fit together: C++ would read elsewhere."""
        rows = rows_per_step[0]
        if (sum(rows_per_step) != clicks or min(rows_per_step) < 1 or max(rows_per_step) != rows
                or [states.shape for states in before] != [(rows, layer.units) for layer in self.layers]):
            raise IndexError(f"{clicks} clicks, rows {rows_per_step}, states {[states.shape for states in before]}")

    def _no_states(self, rows):
        if len(self.zeros) < rows:
            self.zeros = zeros((rows, max(layer.units for layer in self.layers)))
        return [self.zeros.reshape(-1)[:rows * layer.units].reshape(rows, layer.units) for layer in self.layers]

    def _make_room(self, clicks):
        """Memory for batches of up to so many clicks."""
        self.room = clicks + clicks // 4
        has_own_result = (self.settings.hid_dropout and not self.settings.carry_dropped) or self.settings.last_click
        self.clicked = empty((self.room, self.width)) if self.settings.last_click else None
        self.values, self.states, self.results, self.kept = empty((self.room, self.width)), [], [], []
        for row, layer in zip(self.table, self.layers):
            rooms = {"gates": GATES * layer.units, "saved": 4 * layer.units, "gates_gradient": GATES * layer.units,
                     "below_gradient": int(row["below"]), "states": layer.units, "result": layer.units}
            if not layer.fc:
                del rooms["gates"], rooms["below_gradient"]
            if not has_own_result:
                del rooms["result"]
            arrays = {name: empty((self.room, width)) for name, width in rooms.items()}
            for name, array in arrays.items():
                row[name] = address(array)
            self.states.append(arrays["states"])
            self.results.append(arrays.get("result", arrays["states"]))
            row["result"] = address(self.results[-1])
            self.kept.append(arrays)
        self.inputs_gradient = self.kept[0].get("below_gradient", self.kept[0]["gates_gradient"])
