"""the last 8 clicks' vectors, each times its attention, added to the state.

The attention is sigmoid(state W vector / sqrt(units) + b), not a softmax, as in STAMP (Liu et al., KDD 2018, section
3.4), with a bias b for each place. Gradients reach the newest vector alone.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

import net
from net import parameter

CLICKS = 8


class Network(net.Network):
    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__(item_count, settings, seed, rows)
        units = settings.hid_size[-1]
        self.query = parameter(self, np.random.default_rng(seed).normal(0, 0.01, [units, units]))
        self.places = parameter(self, np.full([CLICKS], -2.0))

    def first_states(self, sessions):
        units = self.settings.hid_size[-1]
        return [*super().first_states(sessions), paddle.zeros([sessions, CLICKS, units])]

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        before = self.first_states(rows_per_step[0]) if before is None else before
        rows, vectors = F.embedding(items, self.input_weights()) if item_rows is None else item_rows, before.pop()
        states, found = super().hidden_states(items, rows_per_step, rows, before), []
        for state, clicked in zip(paddle.split(states, rows_per_step), paddle.split(rows[:, :-1], rows_per_step)):
            vectors = paddle.concat([clicked.unsqueeze(1), vectors[:len(clicked), :-1]], axis=1)
            query = paddle.matmul(state, self.query).unsqueeze(2) / state.shape[1] ** 0.5
            attention = net.sigmoid(paddle.matmul(vectors, query).squeeze(2) + self.places)
            added = paddle.matmul(attention.unsqueeze(1), vectors).squeeze(1)
            found.append(state + net.dropout(added, self.settings.hid_dropout, self.training, "attention"))
            vectors = vectors.detach()
        before.append(vectors)
        return paddle.concat(found)
