"""Masks of dropout that two ways through the network have in common, so that they can be compared while it trains."""

from contextlib import contextmanager

import numpy as np
import paddle

import net
from utils.model.layout import LAST_CLICK


class NativeMasks:
    """In the place of `net.dropout`: the masks that C++ draws with a key, so that both ways drop the same.

    Parameters
    ----------
    kernels : kernels.Kernels
    key : int
    number_of_layers : int
    """

    def __init__(self, kernels, key, number_of_layers):
        self.kernels, self.key, self.done = kernels, key, {}
        self.place_of = {"embedding": 0, "candidates": 0}
        self.place_of |= {f"layer {layer}": layer + 1 for layer in range(number_of_layers)}
        self.place_of[LAST_CLICK] = number_of_layers + 1

    def __call__(self, values, share, training, place):
        if not (training and share):
            return values
        if place not in self.place_of:
            return paddle.nn.functional.dropout(values, share)  # of an edit; it will not agree
        count, done = int(np.prod(values.shape)), self.done.get(place, 0)  # the numbers of the steps before count on
        mask = np.ones(done + count, np.float32)
        self.kernels.dropout(mask, share, self.key + self.place_of[place])
        self.done[place] = done + count
        return values * paddle.to_tensor(mask[done:].reshape(values.shape))


class DrawnMasks:
    """In the place of `net.dropout`: masks that are the same however the clicks of a layer are divided among calls."""

    def __init__(self):
        self.draw_of = {}

    def __call__(self, values, share, training, place):
        if not (training and share):
            return values
        draw = self.draw_of.setdefault(place, np.random.default_rng(list(place.encode())))
        mask = (draw.random(values.shape) >= share) / (1 - share)
        return values * paddle.to_tensor(mask.astype(np.float32))


@contextmanager
def dropout_by(masks):
    """Within the block `masks` stands in the place of `net.dropout`."""
    before = net.dropout
    net.dropout = masks
    try:
        yield
    finally:
        net.dropout = before
