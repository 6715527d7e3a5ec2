"""utils/data/arrays.py: it takes what the library takes, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import load, save

from utils.data.arrays import arrays_in

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(5), "c": np.zeros((0, 4), np.float16),
          "d": np.array([True, False]), "e": np.array([1 + 2j], np.complex64), "f": np.arange(3, dtype=np.uint8)}
DATA = save(ARRAYS, metadata={"who": "we"})


def file_of(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(dtype="F32", shape=(2,), ends=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": ends}


def assert_same_arrays(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(found[name], values)


def test_what_was_saved_comes_back_in_the_same_memory():
    found, metadata = arrays_in(DATA)
    assert_same_arrays(found, ARRAYS)
    assert metadata == {"who": "we"} and not any(values.flags.writeable for values in found.values())
    room = np.frombuffer(DATA, np.uint8).copy()
    found, _ = arrays_in(room)
    assert_same_arrays(found, ARRAYS)
    assert all(np.shares_memory(values, room) for values in found.values() if values.size)


def test_a_flipped_bit_is_taken_where_the_library_takes_it():
    for bit in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            expected = load(bytes(damaged))
        except (SafetensorError, KeyError):  # KeyError: a type that NumPy lacks
            with pytest.raises(ValueError):
                arrays_in(bytes(damaged))
        else:
            assert_same_arrays(arrays_in(bytes(damaged))[0], expected)


@given(length=st.integers(0, len(DATA) - 1))
def test_what_is_truncated_is_refused(length):
    with pytest.raises(ValueError):
        arrays_in(DATA[:length])


@pytest.mark.parametrize("data", [
    b"", b"\0" * 8, b"\xff" * 16, DATA + b"\0", file_of([]), file_of(b"{"), file_of(b"[" * 100_000), file_of(7),
    file_of({"x": 1}), file_of({"x": {}}), file_of({"x": entry()}, bytes(7)), file_of({"x": entry()}, bytes(9)),
    file_of({"x": entry(shape=[-2])}, bytes(8)), file_of({"x": entry(shape=[2.0])}, bytes(8)),
    file_of({"x": entry(shape="2")}, bytes(8)), file_of({"x": entry(shape=[2**70, 0], ends=[0, 0])}),
    file_of({"x": entry(shape=[2**61], ends=[0, 2**63])}), file_of({"x": entry(ends=[8, 16])}, bytes(16)),
    file_of({"x": entry(ends=[0])}, bytes(8)), file_of({"x": entry(), "y": entry()}, bytes(8)),
    file_of({"x": entry("F8_E4M3", [8])}, bytes(8)), file_of({"x": entry("BF16", [4])}, bytes(8)),
    file_of({"x": entry("O64")}, bytes(8)), file_of({"x": entry("I64 ", [1])}, bytes(8)),
    file_of({"x": entry(3)}, bytes(8)), file_of({"__metadata__": 5, "x": entry()}, bytes(8))],
    ids=lambda data: data[:70])
def test_what_no_library_wrote_is_refused(data):
    with pytest.raises(ValueError):
        arrays_in(data)


def test_a_file_without_arrays():
    assert arrays_in(save({})) == ({}, {})
