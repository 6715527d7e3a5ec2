"""Item vectors made equally long, as a network with a `score_scale` has them, for what answers without net.py."""

from dataclasses import replace

import numpy as np

from utils.model.layout import ITEM_MATRIX, LAST_CLICK, LEAST_SQUARE, has_unit_inputs, layers, scored_length


def fold_lengths(settings, weights):
    """Make the weights of a network with a `score_scale` those of one without, which gives the same scores.

    So what computes in evaluation alone, as the scorers do, need not know of the scale. Item vectors get the length
    that they are scored with. A shared embedding has them with length 1: the weights that read it are divided by the
    other length.

    Parameters
    ----------
    settings : layout.NetworkSettings
    weights : dict of str to float32 arrays
        By their names in net.Network. Changed in place where there is a scale; the arrays are not.

    Returns
    -------
    layout.NetworkSettings
        Without a scale.
    """
    length = scored_length(settings)
    if not length:
        return settings
    weights[ITEM_MATRIX] = with_length(length, weights[ITEM_MATRIX])
    if has_unit_inputs(settings):
        first = f"{layers(settings)[0].fc}.weight"
        weights[first] = weights[first] / np.float32(length)
        if settings.last_click:
            weights[LAST_CLICK] = weights[LAST_CLICK] / np.float32(length)
    return without_scale(settings)


def without_scale(settings):
    """The layout.NetworkSettings of what `fold_lengths` makes."""
    return replace(settings, score_scale=0.0)


def with_length(length, item_matrix):
    """An item matrix, float32 array [items, units + 1], with vectors as long as `length`, as net.of_length makes them.
    """
    vectors = item_matrix[:, :-1]
    factors = np.float32(length) / np.sqrt(np.square(vectors).sum(axis=1, keepdims=True) + np.float32(LEAST_SQUARE))
    return np.hstack([vectors * factors, item_matrix[:, -1:]])
