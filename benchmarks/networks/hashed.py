"""an item's vector is the sum of two rows of a table with half as many rows as items.

Two functions drawn at random say which (hash embeddings, Svenstrup et al., NIPS 2017, without the weights). An item
keeps a bias of its own. It needs a shared matrix: there, the first two columns hold the numbers of an item's rows.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

import net
from net import glorot_uniform, parameter

SHARE = 0.5  # rows of the table for each item


class Network(net.Network):
    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__(item_count, settings, seed, rows)
        draw, units = np.random.default_rng([seed, 1]), settings.hid_size[-1]
        count = max(1, round(SHARE * item_count))
        self.table = parameter(self, glorot_uniform(draw, [count, units]), settings.emb_lr_x)
        columns = np.zeros([item_count, units + 1])
        columns[:, :2] = draw.integers(0, count, [item_count, 2])
        self.item_matrix.set_value(columns[rows].astype(np.float32))

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        rows = F.embedding(items, self.input_weights()) if item_rows is None else item_rows
        return super().hidden_states(items, rows_per_step, self.summed(rows), before)

    def scores(self, states, item_rows):
        return super().scores(states, self.summed(item_rows))

    def summed(self, item_rows):
        """The items' vectors and biases, float32 tensor [..., units + 1], of their rows of the item matrix."""
        numbers = paddle.abs(item_rows[..., :2].detach()).astype("int64") % self.table.shape[0]
        return paddle.concat([F.embedding(numbers, self.table).sum(axis=-2), item_rows[..., -1:]], axis=-1)
