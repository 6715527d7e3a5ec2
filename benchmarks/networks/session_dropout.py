"""dropout of .2 on the state where it meets the recurrent weights, one mask a session.

Gal and Ghahramani, NIPS 2016. The masks are carried from click to click; zeros stand for one that is still to be drawn.
"""

import paddle
import paddle.nn.functional as F

import net

SHARE = 0.2


class Network(net.Network):
    def first_states(self, sessions):
        return [paddle.zeros([sessions, 2 * units]) for units in self.settings.hid_size]


class DynamicGRU(net.DynamicGRU):
    """What it carries is the state and the mask, side by side."""

    def forward(self, gate_inputs, rows_per_step, carried):
        states, settings = [], self.settings
        for inputs in paddle.split(gate_inputs, rows_per_step):
            state, mask = paddle.split(carried[:len(inputs)], 2, axis=1)
            if self.training:
                fresh = net.dropout(paddle.ones_like(mask), SHARE, True, "recurrence")
                mask = paddle.where((mask == 0).all(axis=1, keepdim=True), fresh, mask)
            state = self.step(inputs, state if settings.through_time else state.detach(), mask)
            carried = paddle.concat([state, mask], axis=1)
            states.append(net.dropout(state, settings.hid_dropout, self.training, self.place))
        return paddle.concat(states), carried.detach()

    def step(self, inputs, before, mask):
        gates, candidate = 2 * self.units, slice(2 * self.units, None)
        products = F.linear(before * mask if self.training else before, self.weight, self.bias)
        reset, update = paddle.split(net.sigmoid(inputs[:, :gates] + products[:, :gates]), 2, axis=1)
        new = paddle.tanh(inputs[:, candidate] + reset * products[:, candidate])
        return new + update * (before - new)
