"""a learned gate between the state and the last click's vector.

g * state + (1 - g) * vector, g = sigmoid(W [state; vector] + b): the highway of SGNN-HN (Pan et al., CIKM 2020).
"""

import numpy as np
import paddle
import paddle.nn.functional as F

import net
from net import parameter


class Network(net.Network):
    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__(item_count, settings, seed, rows)
        units = settings.hid_size[-1]
        self.gate = parameter(self, np.zeros([2 * units, units]))
        self.gate_bias = parameter(self, np.full([units], 2.0))  # at first nearly all is the state

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        rows = F.embedding(items, self.input_weights()) if item_rows is None else item_rows
        states = super().hidden_states(items, rows_per_step, rows, before)
        clicked = net.dropout(rows[:, :-1], self.settings.hid_dropout, self.training, "last click")
        gate = net.sigmoid(F.linear(paddle.concat([states, clicked], axis=1), self.gate, self.gate_bias))
        return gate * states + (1 - gate) * clicked
