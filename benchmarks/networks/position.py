"""a learned vector of the click's number in the session added to what the GRU reads; from the 20th on, the same one.

SASRec (Kang and McAuley, ICDM 2018, section 3.1) reads positions in this way.
"""

import numpy as np
import paddle
import paddle.nn.functional as F

import net
from net import parameter

PLACES = 20


class Network(net.Network):
    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__(item_count, settings, seed, rows)
        self.places = parameter(self, np.zeros([PLACES, settings.hid_size[-1] + 1]))

    def first_states(self, sessions):
        return [*super().first_states(sessions), paddle.zeros([sessions, 1])]

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        before = self.first_states(rows_per_step[0]) if before is None else before
        rows, done = F.embedding(items, self.input_weights()) if item_rows is None else item_rows, before.pop()
        numbers = paddle.concat([done[:count] + step for step, count in enumerate(rows_per_step)]).squeeze(1)
        places = F.embedding(paddle.clip(numbers, max=PLACES - 1).astype("int64"), self.places)
        states = super().hidden_states(items, rows_per_step, rows + places, before)
        before.append(done[:rows_per_step[-1]] + len(rows_per_step))
        return states
