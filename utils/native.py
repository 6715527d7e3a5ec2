"""The hot parts of a training step in C++ (utils/native.cc), for tensors in the processor's memory.

The library is compiled at first use, which takes two seconds, and kept in the user's cache directory. It needs a C++
compiler and the MKL that Paddle's packages for Linux on x86 bring. Where either is missing, and on a GPU, the same is
computed by Paddle's own operations: `takes` says which.
"""

from pathlib import Path

import numpy as np

from utils.compiled import FLOAT, INTEGER, KEY, POINTER, NotCompiled, address, aligned, library

SOURCE = Path(__file__).with_name("native.cc")
COMPILE = ["-march=native", "-mprefer-vector-width=512", "-fopenmp"]
LIBRARIES = ["libmklml_intel.so", "libiomp5.so"]  # Paddle's own, which it has loaded by then
ARGUMENTS = {
    "gru_forward": [POINTER] * 5 + [INTEGER] * 3 + [FLOAT, KEY] + [POINTER] * 2,
    "gru_backward": [POINTER] * 6 + [INTEGER] * 4 + [POINTER] * 3,
    "softmax_cross_entropy": [POINTER] * 5 + [INTEGER] * 4 + [FLOAT] + [POINTER] * 3,
    "adagrad": [POINTER] * 5 + [INTEGER] * 3 + [FLOAT] * 3 + [INTEGER],
    "gather": [POINTER, INTEGER, POINTER, INTEGER, INTEGER, POINTER],
    "add_rows": [POINTER, INTEGER, POINTER, INTEGER, POINTER, INTEGER],
    "linear_forward": [POINTER] * 3 + [INTEGER] * 3 + [POINTER],
    "linear_backward": [POINTER] * 3 + [INTEGER] * 3 + [POINTER] * 3,
    "dropout": [POINTER, INTEGER, FLOAT, KEY],
    "search": [POINTER, POINTER, INTEGER, POINTER, INTEGER, POINTER],
    "distinct": [POINTER, INTEGER] + [POINTER] * 3,
}

_library = None


def load():
    """Compile the library where that hasn't been done, and load it; the words for the log line that say what came of it."""
    global _library
    import paddle
    libraries = Path(paddle.__file__).parent / "libs"
    missing = [name for name in LIBRARIES if not (libraries / name).is_file()]
    try:
        if missing:
            raise NotCompiled(f"this Paddle has no {missing[0]}")
        # Linked by itself, lest a second OpenMP come in, or code that changes how the whole process rounds.
        link = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", *(f"-l:{name}" for name in LIBRARIES)]
        _library = library(SOURCE, COMPILE, link)
    except NotCompiled as reason:
        return f"native:no({reason})".replace(" ", "_")
    for name, types in ARGUMENTS.items():
        getattr(_library, name).argtypes = types
        getattr(_library, name).restype = INTEGER if name == "distinct" else None
    return "native:yes"


def is_loaded():
    """Whether the functions below can be called."""
    return _library is not None


def takes(*tensors):
    """Whether the functions below can be called for these Paddle tensors: float32, in the processor's memory."""
    return is_loaded() and all(tensor.place.is_cpu_place() and tensor.dtype == _paddle().float32 for tensor in tensors)


def gru_forward(gate_inputs, weight, bias, before, rows_per_step, reset_after, dropped_share=0.0, key=0):
    """All states of a GRU over packed sessions, as `net.DynamicGRU` defines them, and what `gru_backward` needs.

    Like every function here it takes Paddle tensors or NumPy arrays, float32 unless said otherwise, and returns the kind
    that it was given.

    Parameters
    ----------
    gate_inputs, weight, bias, before, rows_per_step
        As for `net.DynamicGRU.forward`.
    reset_after : bool
    dropped_share, key
        Of the `dropout` of all states, which the next step then sees too.

    Returns
    -------
    float32 [clicks, units], float32 [clicks, 4 units]
    """
    clicks, units = gate_inputs.shape[0], weight.shape[0]
    states, saved = _empty([clicks, units], weight), _empty([clicks, 4 * units], weight)
    rows = np.asarray(rows_per_step, np.int64)
    _call("gru_forward", gate_inputs, weight, bias, before, rows, len(rows), units, reset_after, dropped_share, key % 2**64, states,
          saved)
    return states, saved


def gru_backward(states_gradient, states, saved, weight, before, rows_per_step, reset_after, through_time=True):
    """Gradients by the gates' inputs, float32 [clicks, 3 units], the weight and the bias, from that by the states.

    Without `through_time` the gradient of a step's state stops at the state before it.
    """
    clicks, units = states.shape
    gradients = [_empty(shape, weight) for shape in ([clicks, 3 * units], [units, 3 * units], [3 * units])]
    rows = np.asarray(rows_per_step, np.int64)
    _call("gru_backward", states_gradient, states, saved, weight, before, rows, len(rows), units, reset_after, through_time,
          *gradients)
    return gradients


def linear_forward(inputs, weight, bias):
    """inputs weight + bias: float32 [rows, outputs]."""
    result = _empty([inputs.shape[0], weight.shape[1]], weight)
    _call("linear_forward", inputs, weight, bias, *inputs.shape, weight.shape[1], result)
    return result


def linear_backward(gradient, inputs, weight):
    """Gradients by the inputs, the weight and the bias, from that by the result of `linear_forward`."""
    gradients = [_empty(shape, weight) for shape in (inputs.shape, weight.shape, weight.shape[1:])]
    _call("linear_backward", gradient, inputs, weight, *inputs.shape, weight.shape[1], *gradients)
    return gradients


def softmax_cross_entropy(hidden, item_matrix, targets, smoothing, shift, chunk, own_shift=None):
    """As `losses.FullSoftmaxCrossEntropy`, by `chunk` rows at a time.

    With `own_shift`, float32 [rows], each row has its target with this shift as one more candidate, which no other row has.

    Returns
    -------
    float32 [rows]
        The losses.
    float32 [rows, units], float32 [items, units + 1]
        The gradients of their mean.
    """
    results = [_empty(shape, hidden) for shape in (hidden.shape[:1], hidden.shape, item_matrix.shape)]
    _call("softmax_cross_entropy", hidden, item_matrix, shift, targets, own_shift, *hidden.shape, item_matrix.shape[0], chunk,
          smoothing, *results)
    return results


def adagrad(weight, sums, velocity, gradient, rows, rows_with_bias, rate, momentum, epsilon, epsilon_inside):
    """One step of `optimizers.Adagrad` in place. `velocity` and `rows` may be None."""
    width = gradient.shape[-1] if gradient.ndim > 1 else 1
    count = gradient.size // width
    _call("adagrad", weight, sums, velocity, gradient, rows, count, count if rows_with_bias is None else rows_with_bias, width, rate,
          momentum, epsilon, epsilon_inside)


def gather(matrix, numbers, columns):
    """The rows of `matrix` with the int64 `numbers`, their first `columns` columns."""
    rows = _empty([len(numbers), columns], matrix)
    _call("gather", matrix, matrix.shape[1], numbers, len(numbers), columns, rows)
    return rows


def add_rows(target, source, numbers):
    """target[numbers[i], :columns of source] += source[i], in place, for int64 numbers."""
    _call("add_rows", target, target.shape[1], source, source.shape[1], numbers, source.shape[0])


def dropout(values, share, key):
    """Zero a random share of `values`, and scale the others by 1 / (1 - share), in place; the key, an integer, says which."""
    _call("dropout", values, values.size, share, key % 2**64)


def search(cumulative, start, numbers):
    """numpy.searchsorted(cumulative, numbers, side="right") for numbers from 0 to below cumulative[-1].

    `start`, int64, is that of 0, 1 / size, 2 / size and so on for the size of the float64 array `cumulative`.
    """
    found = np.empty(numbers.shape, np.int64)
    _call("search", cumulative, start, len(cumulative), numbers, numbers.size, found)
    return found


def distinct(items, place_of_item):
    """As `sampled_training.distinct`."""
    found, places = np.empty(len(items), np.int64), np.empty(len(items), np.int64)
    count = _call("distinct", items, len(items), place_of_item, found, places)
    return found[:count], places


def _call(name, *arguments):
    """Call a function of the library; tensors and arrays become the addresses of their numbers."""
    arguments = [argument if argument is None or isinstance(argument, (int, float)) else _contiguous(argument)
                 for argument in arguments]  # this list also keeps alive what had to be copied
    return getattr(_library, name)(*(_address(argument) for argument in arguments))


def _contiguous(values):
    if isinstance(values, np.ndarray):
        return values if values.flags.c_contiguous else np.ascontiguousarray(values)
    return values if values.is_contiguous() else values.contiguous()


def _address(argument):
    if isinstance(argument, np.ndarray):
        return address(argument)
    return argument if argument is None or isinstance(argument, (int, float)) else argument.data_ptr()


def empty(shape):
    """A float32 array for a result, aligned: MKL rounds by where numbers lie, and a run must be the same when it is repeated."""
    return aligned(shape, np.float32)


def _empty(shape, like):
    return empty(shape) if isinstance(like, np.ndarray) else _paddle().empty(shape, "float32")


def _paddle():
    import paddle
    return paddle
