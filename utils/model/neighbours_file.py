"""neighbours.safetensors of a model directory: the sessions that its memory of neighbours searches.

    offsets        int64 [sessions + 1]
    items          int32 [events]; session i, the newest last, is items[offsets[i]:offsets[i + 1]]
    repeat_rates   float32 [items of the vocabulary]; how often each is clicked again directly

config.json says how much the neighbours count, by which version of the formula, the weights of returns.py, and the
file's size and checksum:

    "neighbours": {"weight": 0.4, "version": 1, "returns": [0.1, 0.5, 0.2, 0.7], "file": {"bytes": ..., "sha256": ...}}

All epochs of the directory answer with it. A directory without that entry has no memory, whatever files are in it.
Memories of older versions have no "returns", which is as good as four times 0.
"""

import hashlib
import io
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.arrays import arrays_in, write_arrays
from utils.data.sessions import Sessions
from utils.files import InputError, open_file, write_atomically
from utils.memory import own_room, require_memory
from utils.model import checkpoint, returns
from utils.model.checked_json import require_kinds, write_json
from utils.model.neighbours import VERSION, Neighbours, Remembered

MEMORY = "neighbours"  # the name of its entry in config.json
KINDS = {"weight": (int, float), "version": int, "returns": list, "file": dict}
LARGEST = 80  # of the weights of returns.py: b is at most 8 times as large, and exp(b) stays a number
NO_RETURNS = [0.0] * len(returns.NAMES)
ARRAYS = {"offsets": "int64 of 1 dimension", "items": "int32 of 1 dimension", "repeat_rates": "float32 of 1 dimension"}


class Memory(NamedTuple):
    """A memory that answers.

    neighbours : neighbours.Neighbours
    weight : float, 0 to 1, how much they count beside the networks
    checksum : str, SHA-256 of the file
    returns : list of four floats, the weights of returns.py
    """

    neighbours: Neighbours
    weight: float
    checksum: str
    returns: list = NO_RETURNS

    def shares_of(self, clicks, starts, ends):
        """As `Neighbours.shares_of`; None where neighbours don't count."""
        return self.neighbours.shares_of(clicks, starts, ends) if self.weight else None


def write_neighbours(model_dir, remembered, weight, returns=NO_RETURNS):
    """Give a model directory a memory: the file first, then the entry in config.json, each in one step.

    Parameters
    ----------
    model_dir : Path
        With a config.json.
    remembered : neighbours.Remembered
    weight : float
        From 0 to less than 1.
    returns : list of four floats
        The weights of returns.py.
    """
    sessions, repeat_rates = remembered
    written = io.BytesIO()
    write_arrays(written, {"offsets": sessions.offsets.astype(np.int64), "items": sessions.items.astype(np.int32),
                           "repeat_rates": repeat_rates.astype(np.float32)}, {})
    data = written.getbuffer()
    with write_atomically(model_dir / checkpoint.NEIGHBOURS, "wb") as file:
        file.write(data)
    record = {"weight": float(weight), "version": VERSION, "returns": returns,
              "file": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
    write_json(model_dir / "config.json", checkpoint.read_config(model_dir) | {MEMORY: record})


def read_weight(model_dir, config):
    """The weight of the neighbours in a config.json; 0 without them. InputError where it is no weight."""
    return _read_record(model_dir, config)[0]


def read_returns(model_dir, config):
    """The weights of returns.py in a config.json, four floats; 0 without a memory. InputError where they are none."""
    return _read_record(model_dir, config)[1]


def _read_record(model_dir, config):
    """Both of them."""
    if config.get(MEMORY) is None:
        return 0.0, NO_RETURNS
    path, record = Path(model_dir) / "config.json", {"returns": NO_RETURNS} | config[MEMORY]
    require_kinds(path, record, KINDS)
    if record.keys() != KINDS.keys() or not 0 <= record["weight"] < 1:
        raise InputError(f"{path}: found {', '.join(record) or 'nothing'} with the weight {record.get('weight')} for "
                         f"{MEMORY!r}, expected {', '.join(KINDS)} with a weight from 0 to less than 1")
    found = record["returns"]
    if len(found) != len(NO_RETURNS) or not all(type(each) in KINDS["weight"] and abs(each) <= LARGEST
                                                for each in found):
        raise InputError(f"{path}: found {str(found)[:80]} for the returns of {MEMORY!r}, expected {len(NO_RETURNS)} "
                         f"numbers from -{LARGEST} to {LARGEST}")
    return float(record["weight"]), found


def read_remembered(model_dir, config, item_count, room=own_room):
    """The Remembered of a memory; arguments and errors of `read_memory`."""
    record, path = config[MEMORY], Path(model_dir) / "config.json"
    read_weight(model_dir, config)
    if record["version"] != VERSION:
        raise InputError(f"{path}: found version {record['version']} of the formula of neighbours, expected {VERSION}, "
                         "which this code has")
    require_kinds(path, record["file"], checkpoint.FILE_KINDS)
    path = Path(model_dir) / checkpoint.NEIGHBOURS
    return _remembered_in(path, _read(path, record["file"], room), item_count)


def read_memory(model_dir, config, item_count, room=own_room):
    """The Memory of a model directory, or None where config.json has none.

    `room` is where its large arrays will lie, a function as `memory.own_room`.

    Raises
    ------
    InputError
        The file is missing, truncated, changed, or doesn't hold sessions of so many items.
    """
    if config.get(MEMORY) is None:
        return None
    remembered, checksum = read_remembered(model_dir, config, item_count, room), config[MEMORY]["file"]["sha256"]
    neighbours = Neighbours(remembered, partial(room, f"{checksum} {item_count} index"))
    return Memory(neighbours, read_weight(model_dir, config), checksum, read_returns(model_dir, config))


def _read(path, expected, room):
    """The bytes of the file; InputError unless they are those that config.json expects."""
    with open_file(path, "--model_dir", "the sessions of the neighbours that config.json names") as file:
        size = os.fstat(file.fileno()).st_size
        changed = InputError(f"{path}: found {size} bytes that don't match config.json, expected "
                             f"{expected.get('bytes')} bytes with SHA-256 {str(expected.get('sha256'))[:12]}...; the "
                             "file was truncated or changed")
        if not size or size != expected.get("bytes"):
            raise changed

        def fill(data):
            require_memory(2 * size, f"{path}: found {size} bytes")  # the index takes as much again, or more
            if file.readinto(data) != size or hashlib.sha256(data).hexdigest() != expected.get("sha256"):
                raise changed
        return room(str(expected.get("sha256")), size, fill, f"{path}: found {size} bytes")


def _remembered_in(path, data, item_count):
    """The Remembered in the bytes of the file."""
    try:
        arrays = arrays_in(data)[0]
    except ValueError as error:
        raise InputError(f"{path}: found no safetensors file ({error}), expected one") from None
    found = {name: f"{values.dtype} of {values.ndim} dimension" for name, values in arrays.items()}
    if found != ARRAYS:
        raise InputError(f"{path}: found the arrays {found}, expected {ARRAYS}")
    items, offsets, rates = (arrays[name] for name in ("items", "offsets", "repeat_rates"))
    if not (len(items) and len(offsets) > 1 and offsets[0] == 0 and offsets[-1] == len(items)
            and (np.diff(offsets) > 0).all()):
        raise InputError(f"{path}: found offsets that don't cut {len(items)} clicks into sessions, expected 0 to "
                         f"{len(items)}, ascending")
    if items.min() < 0 or items.max() >= item_count:
        raise InputError(f"{path}: found items from {items.min()} to {items.max()}, expected indices from 0 to "
                         f"{item_count - 1}")
    if len(rates) != item_count or not ((rates >= 0) & (rates <= 1)).all():
        raise InputError(f"{path}: found {len(rates)} rates from {rates.min(initial=np.inf):g} to "
                         f"{rates.max(initial=-np.inf):g}, expected {item_count} from 0 to 1")
    return Remembered(Sessions(items, offsets), rates)
