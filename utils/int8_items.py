"""The best items in two steps: candidates by an item matrix of 8 bits a weight, then their exact scores.

Reading the item matrix is what answering costs. Rounded to 8 bits it is a quarter as large, and processors multiply such
numbers faster. The candidates' scores are those of the whole matrix, so all that can get lost is an item that the rounded
scores put behind `CANDIDATES_PER_ITEM` times as many as asked for (benchmarks/int8_recall.py counts them).
"""

import numpy as np

from utils.files import InputError
from utils.scorer import GROUPS

CANDIDATES_PER_ITEM, FEWEST_CANDIDATES = 4, 100
LARGEST = 127
LOWEST = np.finfo(np.float32).min  # that isn't -inf, as excluded items are


class Int8Items:
    """The item matrix in 8 bits: each item's vector, and each state, as integers from -127 to 127 with a factor of its own.

    Parameters
    ----------
    item_matrix : float32 array [items, hid_size[-1] + 1]
        The biases in the last column; they aren't rounded.
    """

    def __init__(self, item_matrix):
        try:
            import numkong
        except ImportError:
            raise InputError("--item_matrix int8: found no numkong, expected it (requirements-serve.txt)") from None
        self.dots_packed = numkong.dots_packed
        integers, self.factors = to_int8(item_matrix[:, :-1])
        self.packed, self.biases = numkong.dots_pack(integers), np.ascontiguousarray(item_matrix[:, -1])

    def best(self, scorer, states, k, excluded):
        """The best items after states of the last layer, float32 [rows, hid_size[-1]]; otherwise as `top_k_of_rows`."""
        integers, factors = to_int8(states)
        rough = np.asarray(self.dots_packed(integers, self.packed)).astype(np.float32)
        rough *= self.factors
        rough *= factors[:, None]
        rough += self.biases
        for scores, items in zip(rough, excluded):
            if len(items):
                scores[items] = -np.inf
        best = []
        for state, candidates in zip(states, candidates_of_rows(rough, k * CANDIDATES_PER_ITEM + FEWEST_CANDIDATES)):
            scores = scorer.scores(state[None], candidates)[0]
            order = np.argsort(-scores, kind="stable")[:k]
            best.append((candidates[order], scores[order]))
        return best


def candidates_of_rows(scores, wanted):
    """For each row of scores [rows, items] at least `wanted` of its best items, where it has as many above -inf, ascending.

    The way of `top_k_of_rows`, for scores that lie row after row in memory.
    """
    groups = GROUPS if wanted <= GROUPS <= scores.shape[1] else scores.shape[1]
    size = scores.shape[1] // groups
    maxima = scores[:, :size * groups].reshape(len(scores), size, groups).max(axis=1)
    kth = max(groups - wanted, 0)
    reached = np.maximum(np.partition(maxima, kth, axis=1)[:, kth], LOWEST)
    return [np.flatnonzero(row >= lowest) for row, lowest in zip(scores, reached)]


def to_int8(rows):
    """Rows of floats as int8 [rows, n] and float32 factors [rows], whose product is nearly the rows."""
    factors = np.maximum(np.abs(rows).max(axis=1), np.float32(1e-30)) / np.float32(LARGEST)
    return np.round(rows / factors[:, None]).astype(np.int8), factors.astype(np.float32)
