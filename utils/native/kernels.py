"""The hot parts of a training step in C++ (the .cc files of `SOURCES`), for numbers in the processor's memory.

The library is compiled at first use, which takes seconds, and kept in the user's cache directory. It needs a C++
compiler and the MKL that Paddle's packages for Linux on x86 bring.
"""

import struct
from pathlib import Path

import numpy as np

from utils.model.layout import LEAST_SQUARE
from utils.native.compiling import FLOAT, INTEGER, KEY, POINTER, NotCompiled, address, aligned, library

SOURCES = [Path(__file__).with_name(name) for name in ("training.cc", "network.cc", "losses.cc", "optimizers.cc")]
COMPILE = ["-march=native", "-mprefer-vector-width=512", "-fopenmp"]
LIBRARIES = ["libmklml_intel.so", "libiomp5.so"]  # Paddle's own, which it has loaded by then
LOSSES = "ce", "bpr", "bpr-max", "top1", "top1-max"  # by their numbers in prediction.h
PARAMETERS = {"smoothing": 0.0, "elu": 0.0, "regularisation": 1.0}  # of these losses, with their defaults
LOSS = [INTEGER] + [FLOAT] * 3
UPDATE = "8qd"  # optimizers.cc's Update, as of the module struct
ARGUMENTS = {
    "network_forward": [POINTER, INTEGER] * 4 + [INTEGER] + [FLOAT] * 2
    + [INTEGER, POINTER, POINTER, KEY, POINTER],
    "network_backward": [POINTER, INTEGER] * 3 + [INTEGER] * 2 + [FLOAT] * 2 + [POINTER] * 3 + [KEY, POINTER],
    "softmax_cross_entropy": [POINTER] * 5 + [INTEGER] * 4 + [FLOAT] + [POINTER] * 3,
    "shared_loss": [POINTER] * 6 + [INTEGER] * 5 + LOSS + [POINTER] * 3,
    "tiled_loss": [POINTER] * 3 + [INTEGER] * 4 + [FLOAT, KEY] + LOSS + [POINTER] * 3,
    "adagrad": [POINTER, INTEGER] + [FLOAT] * 3 + [INTEGER],
    "rmsprop": [POINTER, INTEGER] + [FLOAT] * 4,
    "sgd": [POINTER, INTEGER] + [FLOAT] * 2,
    "adam": [POINTER, INTEGER, FLOAT, INTEGER] + [FLOAT] * 6,
    "gather": [POINTER, INTEGER, POINTER, INTEGER, INTEGER, POINTER],
    "add_rows": [POINTER, INTEGER, POINTER, INTEGER, POINTER, INTEGER],
    "set_lengths": [POINTER] + [INTEGER] * 3 + [FLOAT] * 2 + [POINTER] * 2,
    "lengths_gradient": [POINTER] * 2 + [INTEGER] * 3 + [FLOAT, POINTER],
    "dropout": [POINTER, INTEGER, FLOAT, KEY],
    "search": [POINTER, POINTER, INTEGER, POINTER, INTEGER, POINTER],
    "distinct": [POINTER, INTEGER] + [POINTER] * 3,
    "count_above": [POINTER] * 3 + [INTEGER] * 5 + [POINTER] * 3,
    "set_threads": [INTEGER],
}


def load(paddle_directory):
    """The Kernels, compiled where that hasn't been done.

    Parameters
    ----------
    paddle_directory : Path
        Where Paddle is installed.

    Raises
    ------
    NotCompiled
        They can't be had here; it says why in a few words.
    """
    libraries = paddle_directory / "libs"
    missing = [name for name in LIBRARIES if not (libraries / name).is_file()]
    if missing:
        raise NotCompiled(f"this Paddle has no {missing[0]}")
    # Linked by itself, so that no second OpenMP comes in, nor code that changes how the whole process rounds.
    link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", *(f"-l:{name}" for name in LIBRARIES)]
    return Kernels(library(SOURCES, COMPILE, link))


class Kernels:
    """The library's functions.

    Each takes Paddle tensors in the processor's memory or NumPy arrays, float32 unless said otherwise, and returns the
    kind that it was given.
    """

    def __init__(self, found):
        self.library = found
        for name, types in ARGUMENTS.items():
            getattr(found, name).argtypes = types
            getattr(found, name).restype = INTEGER if name == "distinct" else None

    def softmax_cross_entropy(self, hidden, item_rows, targets, smoothing, shift, chunk, own_shift=None):
        """`losses.cross_entropy` over all of `item_rows`, by `chunk` rows of `hidden` at a time.

        Parameters
        ----------
        hidden : float32 [rows, units]
        item_rows : float32 [items, units + 1]
        targets : int64 [rows]
        smoothing : float
            Share of each target's probability that is spread over all items.
        shift : float32 [items] or None
            Added to the scores.
        chunk : int
        own_shift : float32 [rows] or None
            With it, each row has its target with this shift as one more candidate, which no other row has.

        Returns
        -------
        float32 [rows]
            The losses.
        float32 [rows, units], float32 [items, units + 1]
            The gradients of their mean.
        """
        require_rows(targets, item_rows.shape[0])
        results = _results(hidden, item_rows)
        self.call("softmax_cross_entropy", hidden, item_rows, shift, targets, own_shift, *hidden.shape,
                   item_rows.shape[0], chunk, smoothing, *results)
        return results

    def shared_loss(self, loss, hidden, item_rows, weights, targets, targets_are_candidates, shift, own_shift, chunk):
        """A loss over candidates that all rows share.

        Parameters
        ----------
        loss : losses.Loss
        hidden, item_rows, targets, chunk, shift
            As for `softmax_cross_entropy`.
        weights : float32 [items]
            How often each item is a candidate.
        targets_are_candidates : bool
            Whether one of the candidates of each row is its own target; else that comes to them.
        own_shift : float32 [rows] or None
            Added to the scores of targets that are no candidates.

        Returns
        -------
        As `softmax_cross_entropy`.
        """
        require_rows(targets, item_rows.shape[0])
        results = _results(hidden, item_rows)
        self.call("shared_loss", hidden, item_rows, shift, weights, targets, own_shift, *hidden.shape,
                   item_rows.shape[0], chunk, targets_are_candidates, *_numbers(loss), *results)
        return results

    def tiled_loss(self, loss, hidden, item_rows, candidates, dropped_share=0.0, key=0):
        """A loss over each row's own candidates, int64 [rows, candidates], the target first; biases don't count.

        `dropped_share` and `key` are those of the `dropout` on the candidates' vectors, float32 [rows, candidates,
        units]. Returns as `softmax_cross_entropy`.
        """
        require_rows(candidates, item_rows.shape[0])
        results = _results(hidden, item_rows)
        self.call("tiled_loss", hidden, item_rows, candidates, *hidden.shape, item_rows.shape[0], candidates.shape[1],
                   dropped_share, key % 2**64, *_numbers(loss), *results)
        return results

    def update_weights(self, name, updates, numbers):
        """One step of an optimiser of `optimizers.py` in place.

        Parameters
        ----------
        name : str
            The optimiser's.
        updates : list of tuples
            Weight, list of what the optimiser keeps of it, gradient, rows or None, rows_with_bias or None, and rate,
            for each weight.
        numbers : list
            What else the formula needs, as the optimiser's `numbers()` returns it.
        """
        table, kept = [], []
        for weight, state, gradient, rows, rows_with_bias, rate in updates:
            width = gradient.shape[-1] if gradient.ndim > 1 else 1
            count = gradient.size // width
            if rows is not None:
                require_rows(rows, weight.shape[0])
            first, second = [*state, None, None][:2]
            table += [*[_argument(values, kept) or 0 for values in (weight, first, second, gradient, rows)],
                      count, count if rows_with_bias is None else rows_with_bias, width, rate]
        self.call(name, struct.pack(UPDATE * len(updates), *table), len(updates), *numbers)

    def gather(self, matrix, numbers, columns):
        """The rows of `matrix` with the int64 `numbers`, their first `columns` columns."""
        require_rows(numbers, matrix.shape[0])
        rows = _empty([len(numbers), columns], matrix)
        self.call("gather", matrix, matrix.shape[1], numbers, len(numbers), columns, rows)
        return rows

    def add_rows(self, target, source, numbers):
        """target[numbers[i], :columns of source] += source[i], in place, for int64 numbers."""
        require_rows(numbers, target.shape[0])
        self.call("add_rows", target, target.shape[1], source, source.shape[1], numbers, source.shape[0])

    def set_lengths(self, vectors, units, length):
        """`net.of_length` of the first `units` columns, and what each row was multiplied by, float32 [rows]."""
        result, factors = _empty(vectors.shape, vectors), _empty(vectors.shape[:1], vectors)
        self.call("set_lengths", vectors, *vectors.shape, units, length, LEAST_SQUARE, result, factors)
        return result, factors

    def lengths_gradient(self, gradient, result, factors, units, length):
        """From the gradient by what `set_lengths` returned to that by the vectors before, in place."""
        self.call("lengths_gradient", result, factors, *result.shape, units, length, gradient)
        return gradient

    def dropout(self, values, share, key):
        """Zero a random share of `values` in place and scale the others by 1 / (1 - share), as the key says."""
        self.call("dropout", values, values.size, share, key % 2**64)

    def search(self, cumulative, start, numbers):
        """numpy.searchsorted(cumulative, numbers, side="right") for numbers from 0 to below cumulative[-1].

        `start`, int64, is that of 0, 1 / size, 2 / size and so on for the size of the float64 array `cumulative`.
        """
        found = np.empty(numbers.shape, np.int64)
        self.call("search", cumulative, start, len(cumulative), numbers, numbers.size, found)
        return found

    def distinct(self, items, place_of_item):
        """As `sampling.distinct`."""
        require_rows(items, len(place_of_item))
        found, places = np.empty(len(items), np.int64), np.empty(len(items), np.int64)
        count = self.call("distinct", items, len(items), place_of_item, found, places)
        return found[:count], places

    def count_above(self, hidden, items_by_unit, targets, chunk, k=0):
        """How many of all scores `hidden items_by_unit` are above that of each row's target, and the `k` best items.

        Parameters
        ----------
        hidden : float32 array [rows, width]
        items_by_unit : float32 array [width, items]
        targets : int64 array [rows]
        chunk : int
            Rows whose scores a thread holds at once.
        k : int
            From 0 to the number of items.

        Returns
        -------
        int64 [rows], int64 [rows]
            Those above, and those at least as large, the target's own among them.
        int32 [rows, k]
            The best first; among equal scores the lower item comes first.
        """
        items = items_by_unit.shape[1]
        require_rows(targets, items)
        _require_width(hidden, len(items_by_unit))
        above, at_least = np.empty(len(hidden), np.int64), np.empty(len(hidden), np.int64)
        best = np.empty((len(hidden), min(k, items)), np.int32)
        self.call("count_above", hidden, items_by_unit, targets, *hidden.shape, items, chunk, best.shape[1], above,
                  at_least, best if k else None)
        return above, at_least, best

    def set_threads(self, count):
        """Let this thread's calls, and Paddle's, take so many threads from now on. No result depends on it."""
        self.call("set_threads", count)

    def call(self, name, *arguments):
        """Call a function of the library; tensors and arrays become the addresses of their numbers."""
        kept = []  # alive until the function has ended, as what had to be copied is nobody else's
        return getattr(self.library, name)(*[_argument(argument, kept) for argument in arguments])


def empty(shape):
    """A float32 array for a result, aligned: MKL's rounding depends on where numbers lie, and runs must repeat."""
    return aligned(shape, np.float32)


def zeros(shape):
    """The same, filled with 0."""
    result = empty(shape)
    result.fill(0)
    return result


def copied(values):
    """The same, filled with `values`."""
    copy = empty(values.shape)
    copy[...] = values
    return copy


def _results(hidden, item_rows):
    _require_width(hidden, item_rows.shape[1] - 1)
    return [_empty(shape, hidden) for shape in (hidden.shape[:1], hidden.shape, item_rows.shape)]


def _require_width(hidden, expected):
    """ValueError unless states have as many numbers as scores take: C++ would read and write elsewhere."""
    if hidden.shape[1] != expected:
        raise ValueError(f"hidden states of {hidden.shape[1]} numbers, expected {expected}")


def require_rows(numbers, count):
    """IndexError unless all numbers of an int64 array are rows of `count`: C++ would read and write elsewhere.

    It takes a microsecond: as numbers without a sign, negative ones are too large as well.
    """
    if numbers.size and int(np.asarray(numbers).view(np.uint64).max()) >= count:
        raise IndexError(f"rows from {numbers.min()} to {numbers.max()}, expected 0 to {count - 1}")


def _numbers(loss):
    return LOSSES.index(loss.name), *(loss.parameters.get(name, default) for name, default in PARAMETERS.items())


def _argument(value, kept):
    """A number or bytes as they are, and the address of the numbers of an array or a tensor.

    What has gaps is copied to `kept`.
    """
    if value is None or isinstance(value, (int, float, bytes)):
        return value
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            kept.append(value := np.ascontiguousarray(value))
        return address(value)
    if not value.is_contiguous():
        kept.append(value := value.contiguous())
    return value.data_ptr()


def _empty(shape, like):
    if isinstance(like, np.ndarray):
        return empty(shape)
    import paddle
    return paddle.empty(shape, "float32")
