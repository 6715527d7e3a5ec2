"""W [state; the last click's vector] in place of the state.

NARM (Li et al., CIKM 2017, equation 9) and SR-GNN (Wu et al., AAAI 2019, equation 7) end in such a product.
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
        self.join = parameter(self, np.vstack([np.eye(units), 0.1 * np.eye(units)]))

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        rows = F.embedding(items, self.input_weights()) if item_rows is None else item_rows
        states = super().hidden_states(items, rows_per_step, rows, before)
        clicked = net.dropout(rows[:, :-1], self.settings.hid_dropout, self.training, "last click")
        return paddle.matmul(paddle.concat([states, clicked], axis=1), self.join)
