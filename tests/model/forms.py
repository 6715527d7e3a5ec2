"""Every form of the network, small and with random weights, for the tests of what answers with it."""

import numpy as np

from utils.data.sessions import Sessions
from utils.model.layout import NetworkSettings, weight_shapes

EVERY_FORM = [(embedding, hid_size, reset_after) for embedding in ("shared", "separate", "none")
              for hid_size in ([6], [5, 7], [4, 6, 5]) for reset_after in (True, False)]


def settings_of(embedding, hid_size, reset_after, **training):
    """The NetworkSettings of a form."""
    emb_size = {"shared": hid_size[-1], "separate": 9, "none": 0}[embedding]
    return NetworkSettings(hid_size, emb_size, embedding, reset_after, **training)


def draw_weights(settings, items, seed=0):
    """Random weights, far from those of a fresh network.

    Larger layers get smaller ones, so that states aren't chaotic and rounding doesn't grow from click to click.
    """
    random = np.random.default_rng(seed)
    scale = lambda name, rows: min(0.7, 1.5 / np.sqrt(rows)) if "gru" in name else 0.7
    return {name: random.normal(0, scale(name, shape[0]), shape).astype(np.float32)
            for name, shape in weight_shapes(settings, items).items()}


def sessions_of(lists):
    """Sessions of lists of items."""
    return Sessions(np.array(sum(lists, []), np.int32), np.cumsum([0] + [len(items) for items in lists]))
