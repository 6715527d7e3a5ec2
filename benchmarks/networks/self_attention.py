"""a block of self-attention over the last 20 clicks in place of the GRU.

One block of SASRec (Kang and McAuley, ICDM 2018), with one head, normalisation first, and a learned vector of how many
clicks ago each click was. The losses stay those of train_sample_neg.py. Gradients reach the newest click's vector
alone.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

import net
from net import glorot_uniform, parameter

CLICKS, EMPTY = 20, -1e9


class Network(net.Network):
    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__(item_count, settings, seed, rows)
        units, draw = settings.hid_size[-1], np.random.default_rng(seed)
        weight = lambda columns: parameter(self, glorot_uniform(draw, [units, columns]))
        self.query, self.keys, self.mix = weight(units), weight(2 * units), weight(units)
        self.up, self.down, self.places = weight(units), weight(units), parameter(self, np.zeros([CLICKS, units]))
        self.norms = nn.LayerList([nn.LayerNorm(units) for _ in range(3)])

    def first_states(self, sessions):
        return [paddle.zeros([sessions, CLICKS, self.settings.hid_size[-1]])]

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        before = self.first_states(rows_per_step[0]) if before is None else before
        rows, found = F.embedding(items, self.input_weights()) if item_rows is None else item_rows, []
        for clicked in paddle.split(rows[:, :-1], rows_per_step):
            vectors = paddle.concat([clicked.unsqueeze(1), before[0][:len(clicked), :-1]], axis=1)
            found.append(self.block(vectors))
            before[0] = vectors.detach()
        return paddle.concat(found)

    def block(self, vectors):
        """The state, float32 [rows, units], after clicks of these vectors, [rows, CLICKS, units], the newest first."""
        drop = lambda values: net.dropout(values, self.settings.hid_dropout, self.training, "attention")
        is_empty = (vectors == 0).all(axis=2).astype("float32")
        inputs = self.norms[0](vectors + self.places)
        keys, values = paddle.split(paddle.matmul(inputs, self.keys), 2, axis=2)
        query = paddle.matmul(inputs[:, 0], self.query).unsqueeze(2) / vectors.shape[2] ** 0.5
        attention = F.softmax(paddle.matmul(keys, query).squeeze(2) + EMPTY * is_empty, axis=1).unsqueeze(1)
        state = vectors[:, 0] + paddle.matmul(paddle.matmul(attention, values).squeeze(1), self.mix)
        state = state + paddle.matmul(F.relu(paddle.matmul(self.norms[1](state), self.up)), self.down)
        return drop(self.norms[2](state))
