"""an item's score is state W vector, with a learned matrix W.

NARM's decoder (Li et al., CIKM 2017, equation 10).
"""

import numpy as np
import paddle

import net
from net import parameter


class Network(net.Network):
    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__(item_count, settings, seed, rows)
        self.bilinear = parameter(self, np.eye(settings.hid_size[-1]))

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        return paddle.matmul(super().hidden_states(items, rows_per_step, item_rows, before), self.bilinear)
