"""layer normalisation of the state (Ba et al., 2016)."""

from paddle import nn

import net


class Network(net.Network):
    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__(item_count, settings, seed, rows)
        self.norm = nn.LayerNorm(settings.hid_size[-1])

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        return self.norm(super().hidden_states(items, rows_per_step, item_rows, before))
