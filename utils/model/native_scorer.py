"""The network of scorer.py in C++ (SOURCES): the same answers, several times faster.

It needs a C++ compiler the first time. Scoring all items takes as long as reading the item matrix, so a copy of it with
4 bits per weight is read instead. With a bound on the rounding errors, the copy tells which items may be among the
best, and only these few are scored with the exact matrix. The best items are always found, with their exact scores.
"""

import math
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from utils.data.selection import Selection
from utils.memory import ALIGNED, own_room
from utils.model.scorer import Scorer
from utils.native.compiling import INTEGER, POINTER, NotCompiled, address, aligned, level_flags, library

SOURCES = [Path(__file__).parent.parent / "native" / name for name in ("scoring.cc", "all_scores.cc", "gru_layer.cc")]
LANES = 16  # kLanes of gru_layer.cc and packed_products.h
GROUP = 8  # kGroup of packed_products.h
ARGUMENTS = {
    "pack_items": [POINTER, INTEGER, INTEGER] + [POINTER] * 4,
    "best_items": [POINTER, INTEGER, INTEGER] + [POINTER] * 5 + [INTEGER] + [POINTER] * 4 + [INTEGER] + [POINTER] * 3,
    "score_all": [POINTER, INTEGER, INTEGER, POINTER, INTEGER, POINTER],
    "log_sums": [POINTER, INTEGER, INTEGER, POINTER],
    "score_items": [POINTER, INTEGER, POINTER, POINTER, INTEGER, POINTER],
    "gru_layer": [POINTER, INTEGER, INTEGER] + [POINTER] * 6 + [INTEGER, INTEGER] + [POINTER, INTEGER] * 2 + [POINTER],
}


@lru_cache(maxsize=1)
def native_library():
    """The compiled SOURCES or None, and the words for a log line that say which."""
    try:
        found = library(SOURCES, [*level_flags(), "-fopenmp-simd"])
    except NotCompiled as reason:
        return None, f"native:no({reason})"
    for name, types in ARGUMENTS.items():
        getattr(found, name).argtypes, getattr(found, name).restype = types, None
    return found, "native:yes"


class NativeScorer(Scorer):
    """A `Scorer` with the same parameters, which needs a seventh more memory.

    `click`, and `scores` of all items, are still computed by NumPy. `room` is where the further memory lies, a
    function as `memory.own_room` with a key.
    """

    def __init__(self, settings, weights, room=lambda *how: own_room("", *how)):
        super().__init__(settings, weights)
        self.library, _ = native_library()
        self.item_matrix = np.ascontiguousarray(self.item_matrix)
        self.resets_after = settings.reset_after
        vectors = self.input_vectors
        self.input_layout = address(vectors), vectors.strides[0] // 4, vectors.shape[1]
        self.layers = [(fc and _padded(fc[0]), fc and np.ascontiguousarray(fc[1]), _padded(weight[:, :2 * units]),
                        _padded(weight[:, 2 * units:]), np.ascontiguousarray(bias))
                       for fc, (weight, bias), units in zip(self.fc, self.gru, self.hid_size)]
        self.layer_addresses = [tuple(map(address, layer)) for layer in self.layers]
        items, units = len(self.item_matrix), self.item_matrix.shape[1] - 1
        self.packed = self._pack(items, units, room)
        self.matrix_and_sizes = address(self.item_matrix), items, units
        self.packed_addresses = [address(part) for part in self.packed]

    def _pack(self, items, units, room):
        """What `pack_items` makes: weights of 4 bits, factors, biases and bounds, one after another in a room."""
        blocks, groups = -(-items // LANES), -(-units // GROUP)
        parts = [((blocks, groups, LANES, GROUP // 2), np.uint8), ((blocks, LANES), np.float32),
                 ((blocks, LANES), np.float32), ((blocks, 3), np.float32)]
        ends = list(accumulate(-(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNED) * ALIGNED
                               for shape, dtype in parts))
        place = lambda data: [np.ndarray(shape, dtype, data, start)
                              for (shape, dtype), start in zip(parts, [0, *ends])]

        def fill(data):
            data[:] = 0  # for the units and items that only fill up
            self.library.pack_items(address(self.item_matrix), items, units, *map(address, place(data)))
        return place(room(ends[-1], fill, f"--model_dir: found a model of {items} items"))

    def replay(self, sessions, before):
        after = np.array(before, np.float32, order="C")
        items, ends = np.ascontiguousarray(sessions.items, np.int32), np.ascontiguousarray(sessions.offsets[1:])
        ends_address, states = address(ends), address(after)
        # What a layer reads: the address of its rows, the distance between two rows, the numbers in a row; and the row
        # of each click, or None if click i has row i.
        below, rows, outputs = self.input_layout, address(items), []
        for layer, units in enumerate(self.hid_size):
            outputs.append(np.empty((len(items), units), np.float32) if layer + 1 < len(self.hid_size) else None)
            self.library.gru_layer(*below, rows, *self.layer_addresses[layer], units, self.resets_after, ends_address,
                                   len(ends), states, after.shape[1], address(outputs[-1]))
            below, rows = (address(outputs[-1]), units, units), None
            states += 4 * units
        if self.last_click is not None:
            has_clicks, units = sessions.lengths > 0, self.hid_size[-1]
            last = items[sessions.offsets[1:][has_clicks] - 1]
            after[has_clicks, -units:] = (after[has_clicks, -2 * units:-units]
                                          + self.last_click * self.input_vectors[last])
        return after

    def scores(self, states, candidates=None):
        if candidates is None:
            return super().scores(states)
        rows, candidates = np.ascontiguousarray(np.atleast_2d(states)), np.ascontiguousarray(candidates, np.int64)
        found = np.empty((len(rows), len(candidates)), np.float32)
        matrix, _, units = self.matrix_and_sizes
        for state, scores in zip(rows, found):
            self.library.score_items(matrix, units, address(state), address(candidates), len(candidates),
                                     address(scores))
        return found.reshape(*states.shape[:-1], -1)

    def scores_alone(self, states):
        states = np.ascontiguousarray(states)
        scores = np.empty((len(states), len(self.item_matrix)), np.float32)
        self.library.score_all(*self.matrix_and_sizes, address(states), len(states), address(scores))
        return scores

    def log_sums(self, scores):
        sums = np.empty(len(scores))
        self.library.log_sums(address(scores), *scores.shape, address(sums))
        return sums

    def _is_scored_alone(self, allowed):
        return super()._is_scored_alone(allowed) or isinstance(allowed, Selection) and allowed.few is not None

    def best_of_all(self, states, ks, excluded, allowed):
        rows, width = len(states), min(max(ks), len(self.item_matrix))
        states = np.ascontiguousarray(states)
        left_out = [sorted(map(int, items)) for items in excluded]
        # with one more in front, since an empty array has no address
        flat = np.array([0] + [item for items in left_out for item in items], np.int64)
        offsets = np.array(list(accumulate(map(len, left_out), initial=1)), np.int64)
        bits = np.array([0 if selection is None else address(selection.bits) for selection in allowed], np.int64)
        ks, found = np.minimum(ks, width), np.empty(rows, np.int64)
        best, scores = np.empty((rows, width), np.int64), np.empty((rows, width), np.float32)
        self.library.best_items(*self.matrix_and_sizes, *self.packed_addresses, address(states), rows, address(ks),
                                address(flat), address(offsets), address(bits), width, address(best), address(scores),
                                address(found))
        return [(best[row, :count], scores[row, :count]) for row, count in enumerate(found.tolist())]


def _padded(weight):
    """A weight with columns of zeros added, so that their number is a multiple of LANES."""
    result = aligned((len(weight), -(-weight.shape[1] // LANES) * LANES), np.float32)
    result[:, :weight.shape[1]], result[:, weight.shape[1]:] = weight, 0
    return result
