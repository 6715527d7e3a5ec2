"""Arrays in a safetensors file, read from its bytes and written to it: nothing is copied, and only those bytes count.

The library itself would copy them, and other threads would have to wait: several seconds for gigabytes, in which a
server that loads a new model could not answer. It would also open the file once more, which may be another one by then.
"""

import json
import math
import re

import numpy as np

LENGTH = 8  # bytes of the number in front, little-endian: the header's length
NUMBER_TYPE = re.compile("[IUFC](8|16|32|64)")


def arrays_in(data):
    """The arrays in the bytes of a safetensors file, and its metadata.

    Parameters
    ----------
    data : bytes, or uint8 array
        The whole file. The arrays share its memory, and can be changed where it can.

    Returns
    -------
    dict of str to arrays
        In the order in which they lie in the file.
    dict of str to str

    Raises
    ------
    ValueError
        They are no such file: the header is not what the format asks for, or the arrays don't fill the rest of the file
        without gaps.
    """
    header_bytes = int.from_bytes(bytes(data[:LENGTH]), "little")
    first = LENGTH + header_bytes
    if not LENGTH < first <= len(data):
        raise ValueError(f"{len(data)} bytes with a header of {header_bytes}")
    header = _header(bytes(data[LENGTH:first]))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise ValueError("metadata that are no object")
    arrays, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, size, start = _dtype(entry["dtype"]), math.prod(entry["shape"]), end
        end += size * dtype.itemsize
        if entry["data_offsets"] != [start, end] or first + end > len(data):
            raise ValueError(f"{name} at {entry['data_offsets']}, expected [{start}, {end}]")
        arrays[name] = np.frombuffer(data, dtype, size, first + start).reshape(entry["shape"])
    if first + end != len(data):
        raise ValueError(f"{len(data)} bytes, of which {first + end} are used")
    return arrays, metadata


def write_arrays(file, arrays, metadata):
    """Write a safetensors file of a dict of `arrays` and a dict of str to the binary `file`.

    So that no number lies across its own size, the arrays with the largest numbers come first in the dict.
    """
    header, end = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        dtype = {"i": "I", "u": "U", "f": "F"}[array.dtype.kind] + str(8 * array.dtype.itemsize)
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [end, end := end + array.nbytes]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % LENGTH)
    file.write(len(text).to_bytes(LENGTH, "little") + text)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array))


def _header(text):
    """The header, a dict; ValueError unless each array has a type, a shape and two ends, of the right kinds."""
    try:
        header = json.loads(text)
    except RecursionError:
        raise ValueError("a header that is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("a header that is no object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"a header without type, shape and place of {name}")
        if not (isinstance(entry["dtype"], str) and _are_sizes(entry["shape"]) and _are_sizes(entry["data_offsets"])):
            raise ValueError(f"type, shape or place of {name}")
    return header


def _are_sizes(values):
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**62 for value in values)


def _dtype(name):
    """The NumPy type for a type of safetensors: F32, I64, BOOL and so on."""
    if name == "BOOL":
        return np.dtype(bool)
    if not NUMBER_TYPE.fullmatch(name):
        raise ValueError(f"numbers of the type {name[:20]!r}")
    try:
        return np.dtype(f"{name[0].lower()}{int(name[1:]) // 8}")
    except TypeError:
        raise ValueError(f"numbers of the type {name}") from None
