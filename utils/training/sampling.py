"""Negatives: items that a step scores beside the targets."""

import numpy as np

DRAWN_AT_ONCE = 1 << 20  # ids; drawing many at a time costs a fraction of drawing a few


class PopularitySampler:
    """Items drawn with replacement, P(item) proportional to support^alpha.

    Hidasi and Karatzoglou, CIKM 2018, section 3.1.

    Parameters
    ----------
    support : int array [items]
        Training clicks of each item.
    alpha : float
        0 draws all items alike, 1 by their popularity.
    size : int
        Items in one draw.
    random : numpy.random.Generator
    kernels : kernels.Kernels or None
        Finds the same items faster.
    """

    def __init__(self, support, alpha, size, random, kernels=None):
        self.kernels = kernels
        cumulative = np.cumsum(np.asarray(support, np.float64) ** alpha)
        self.cumulative, self.size, self.random = cumulative / cumulative[-1], size, random
        self.start = np.searchsorted(self.cumulative, np.arange(len(cumulative)) / len(cumulative), side="right")
        self.drawn, self.used = np.empty((0, size), np.int64), 0

    def draw(self):
        """The next draw: int64 array [size]."""
        if self.used == len(self.drawn):
            shape = max(1, DRAWN_AT_ONCE // max(1, self.size)), self.size
            self.drawn, self.used = self._items(self.random.random(shape)), 0
        self.used += 1
        return self.drawn[self.used - 1]

    def _items(self, numbers):
        """The first item whose cumulated probability is above each of the numbers from 0 to 1."""
        if self.kernels:
            return self.kernels.search(self.cumulative, self.start, numbers)
        return np.searchsorted(self.cumulative, numbers, side="right")


def tiled_negatives(targets, size, random):
    """Negatives of each position drawn from the targets of the batch, as the reference does: tiled, then shuffled.

    A negative that equals its own position's target is drawn again until it differs; where the batch has one item only,
    there is nothing else to draw, and it stays.

    Parameters
    ----------
    targets : int64 array [positions]
    size : int
        Negatives a position.
    random : numpy.random.Generator

    Returns
    -------
    int64 array [positions, size]
    """
    negatives = random.permutation(np.tile(targets, size)).reshape(len(targets), size)
    if len(np.unique(targets)) > 1:
        while (same := negatives == targets[:, None]).any():
            negatives[same] = random.choice(targets, same.sum())
    return negatives


def distinct(items, place_of_item, kernels=None):
    """The distinct ones of an int64 array in the order in which they come, and where among them each of `items` is.

    `place_of_item`, an int64 array with a place for each item there is, is room to work in.
    """
    if kernels:
        return kernels.distinct(items, place_of_item)
    count = np.arange(len(items))
    place_of_item[items[::-1]] = count[::-1]  # of several values for one place NumPy keeps the last
    first = place_of_item[items]
    is_first = first == count
    return items[is_first], (np.cumsum(is_first) - 1)[first]
