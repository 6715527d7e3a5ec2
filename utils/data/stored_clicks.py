"""Clicks that don't fit into memory: blocks of whole sessions in files, to which the rules of clicks.py apply."""

import weakref
from collections import deque
from contextlib import closing, contextmanager
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from utils.data.click_files import joined_clicks, number_names, number_sessions
from utils.data.clicks import Clicks, firsts_of_runs, group_by_session
from utils.data.spilled_sort import schema, sorted_rows
from utils.files import InputError, naming

BYTES_A_CLICK = 64  # of memory that preparation takes for each click at its peak, if all are in memory
BLOCK = 1 << 20  # clicks of a block, at least
GROUP = 1 << 20  # clicks whose items are numbered at a time, at least
LARGEST_SESSION = 1 << 26  # clicks; more would need too much memory, and are no session
CLICK = np.dtype([("item", "<i4"), ("time", "<i8")])  # as they are sorted, a few of one session at a time


class StoredClicks:
    """Clicks in files, each of which holds one block of `Clicks`; the sessions go on from block to block in order.

    When nothing refers to the object any more, its files are removed as soon as others are written.

    Attributes
    ----------
    item_names : pyarrow.StringArray
        As in `Clicks`, of all blocks.
    decimals : {0, 3, 6}
    memory : int
        Bytes that sorting them may take.
    unused : list
        Files of objects that are gone; all that are made of one another share it.
    """

    def __init__(self, folder, item_names, memory, decimals=0, unused=None):
        self.folder, self.item_names, self.memory, self.decimals = folder, item_names, memory, decimals
        self.unused = [] if unused is None else unused
        self._files, self._sessions, self._clicks, self._first, self._last = [], 0, 0, None, None
        self._support = np.zeros(len(item_names), np.int64)
        # Not removed at once: what Ctrl-C raises while an object is finalized, Python prints and forgets.
        weakref.finalize(self, self.unused.extend, self._files)

    def __len__(self):
        return self._clicks

    def support(self):
        """As `Clicks.support`; and so with all other methods that have the same names as there."""
        return self._support

    def sizes(self):
        return self._sessions, self._clicks, np.count_nonzero(self._support)

    def time_range(self):
        return self._first, self._last

    def blocks(self):
        for path, sessions, clicks in self._files:
            yield _load(path, sessions, clicks, self)

    def each(self, change):
        changed = StoredClicks(self.folder, self.item_names, self.memory, self.decimals, self.unused)
        for block in self.blocks():
            changed.add(change(block))
        return changed

    def in_order_of_starts(self, numbers_of):
        """As `Clicks.in_order_of_starts`; all that is there of the blocks are items and offsets."""
        rows = (_rows(pa.array(block.starts()), numbers_of(block), block.items, block.offsets)
                for block in self.blocks())
        with closing(sorted_rows(rows, pa.int64(), self.folder, self.memory)) as in_order:
            for batch in in_order:
                items, lengths = _values(batch["value"], np.dtype("<i4"))
                block = Clicks(None, np.append(0, np.cumsum(lengths)), items, None, self.item_names)
                yield block, np.arange(len(lengths))

    def add(self, block):
        """Store one more block, unless it is empty; its sessions come after those that are here."""
        if not len(block):
            return
        sessions, clicks = len(block.sessions), len(block)
        first, last = block.time_range()
        self._first = first if self._first is None else min(first, self._first)
        self._last = last if self._last is None else max(last, self._last)
        self._sessions += sessions
        self._clicks += clicks
        self._support += block.support()
        self.decimals = max(self.decimals, block.decimals)
        path = Path(self.folder, f"{id(self)}_{len(self._files)}")
        self._files.append((path, sessions, clicks))
        while self.unused:
            self.unused.pop()[0].unlink(missing_ok=True)
        _save(block, path)


def gather(parts, memory, new_folder):
    """The Clicks of `parts` if there is memory for them, otherwise StoredClicks.

    Parameters
    ----------
    parts : iterator of click_columns.Part
        As of `click_files.click_parts`.
    memory : int
        Bytes to take, about.
    new_folder : function
        Returns a folder for temporary files. It is called if there is no memory for the clicks.
    """
    in_memory, clicks = deque(), 0
    for part in parts:
        in_memory.append(part)
        clicks += len(part[2])
        if BYTES_A_CLICK * clicks > memory:
            taken = (in_memory.popleft() for _ in range(len(in_memory)))
            return _store(chain(taken, parts), memory, new_folder())
    return joined_clicks(in_memory)


def _store(parts, memory, folder):
    """The StoredClicks of parts of a table, sorted by session."""
    item_numbers = {}
    paths, key = _write_pieces(_pieces(parts, item_numbers), folder)
    stored = StoredClicks(folder, pa.array(item_numbers, pa.string()), memory)
    with closing(sorted_rows(_read_pieces(paths, key), key, folder, memory)) as rows:
        for sessions, values in _whole_sessions(rows):
            clicks, lengths = _values(values, CLICK)
            names = None
            if key == pa.string():
                encoded = sessions.dictionary_encode()
                sessions, names = encoded.indices, encoded.dictionary
            sessions = np.repeat(sessions.to_numpy().astype(np.int64), lengths)
            items, times = (np.ascontiguousarray(clicks[name]) for name in ("item", "time"))
            stored.add(group_by_session(sessions, items, times, stored.item_names, names))
    return stored


def _pieces(parts, item_numbers):
    """Yield the rows for the sort of the parts of a table. The dict `item_numbers` receives the items' numbers.

    Many tables hold a session in one piece. So a row is not one click, but all those in a row of one session.
    """
    first = 0
    for group in _groups(parts):
        sessions, items, times = map(list, list(zip(*group))[:3])
        sessions, session_names = number_sessions(sessions)
        items, names = number_names(items)
        numbers = [item_numbers.setdefault(name, len(item_numbers)) for name in names.to_pylist()]
        clicks = np.empty(len(items), CLICK)
        clicks["item"] = np.array(numbers, np.int32)[items]
        clicks["time"] = np.concatenate(times)
        pieces = firsts_of_runs(sessions)
        keys = pa.array(sessions[pieces])
        keys = keys if session_names is None else session_names.take(keys)
        yield _rows(keys, first + pieces, clicks, np.append(pieces, len(clicks)))
        first += len(clicks)


def _groups(parts):
    """Yield lists of parts with many clicks together, in which less time is spent on the names of items."""
    group, clicks = [], 0
    for part in parts:
        group.append(part)
        clicks += len(part[2])
        if clicks >= GROUP:
            yield group
            group, clicks = [], 0
    if clicks:
        yield group


def _write_pieces(batches, folder):
    """Write rows for the sort to files, since the type of the keys is only known after the last of them.

    Returns
    -------
    list of Path
    pyarrow.DataType
        The type of all keys: text if there is a text among them.
    """
    paths, keys = [], set()
    for kind, rows in groupby(batches, lambda batch: batch.schema):
        paths.append(Path(folder, f"pieces_{len(paths)}"))
        keys.add(kind.field("key").type)
        with _open(paths[-1]) as file, pa.ipc.new_stream(file, kind) as writer:
            for batch in rows:
                writer.write_batch(batch)
    return paths, pa.string() if pa.string() in keys else pa.int64()


def _read_pieces(paths, key):
    """Yield the rows of `_write_pieces` with keys of this type; each file is removed when it was read."""
    for path in paths:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as rows:
            for batch in rows:
                yield batch.cast(schema(key))
        path.unlink()


def _rows(keys, numbers, values, offsets):
    """Rows for the sort, whose values are `values[offsets[i]:offsets[i + 1]]`."""
    offsets = pa.py_buffer((values.itemsize * offsets).astype(np.int32))
    values = pa.Array.from_buffers(pa.binary(), len(numbers), [None, offsets, pa.py_buffer(values)])
    return pa.record_batch({"key": keys, "number": pa.array(numbers), "value": values})


def _values(values, dtype):
    """What `_rows` made of arrays of this type: all of them in a row, and how many there are in each row."""
    offsets = np.frombuffer(values.buffers()[1], np.int32)[values.offset:values.offset + len(values) + 1]
    joined = np.frombuffer(values.buffers()[2], np.uint8)[offsets[0]:offsets[-1]].view(dtype)
    return joined, np.diff(offsets) // dtype.itemsize


def _whole_sessions(rows):
    """Yield the sessions and values of sorted rows, joined to blocks of whole sessions, as two pyarrow arrays."""
    waiting, clicks = [], 0
    for batch in rows:
        waiting.append(batch)
        clicks += len(_values(batch["value"], CLICK)[0])
        if clicks < BLOCK:
            continue
        block = pa.concat_batches(waiting)
        whole = pc.index(block["key"], block["key"][-1]).as_py()  # the last session may go on
        if whole:
            yield block["key"][:whole], block["value"][:whole]
        waiting = [block[whole:]]
        clicks = len(_values(waiting[0]["value"], CLICK)[0])
        if clicks > LARGEST_SESSION:
            raise InputError(f"--session_column: found more than {LARGEST_SESSION:,} clicks in the session "
                             f"{str(block['key'][-1])[:80]!r}, expected more sessions, or more --memory")
    if clicks:
        block = pa.concat_batches(waiting)
        yield block["key"], block["value"]


def _save(block, path):
    """Write the arrays of Clicks to a file, without session names that don't occur."""
    arrays = [block.sessions, block.offsets, block.items, block.times]
    if block.session_names is not None:
        names = block.session_names.take(pa.array(block.sessions))
        arrays = [np.arange(len(names)), *arrays[1:], *names.buffers()[1:]]
    with _open(path) as file:
        for array in arrays:
            file.write(array)


def _load(path, sessions, clicks, stored):
    """The Clicks that `_save` wrote, a block of `stored`, with this number of sessions and of clicks."""
    shapes = (np.int64, sessions), (np.int64, sessions + 1), (np.int32, clicks), (np.int64, clicks)
    with open(path, "rb") as file:
        arrays = [np.fromfile(file, dtype, count) for dtype, count in shapes]
        names = [np.fromfile(file, np.int32, sessions + 1), np.fromfile(file, np.uint8)]
    names = pa.StringArray.from_buffers(sessions, *map(pa.py_buffer, names)) if len(names[0]) else None
    return Clicks(*arrays, stored.item_names, names, stored.decimals)


@contextmanager
def _open(path):
    """Open a temporary file for writing; errors name its folder."""
    with naming(path.parent), open(path, "wb") as file:
        yield file
