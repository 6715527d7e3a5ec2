"""A copy of parsed sessions, kept beside the session text that they were read from, so that text is parsed only once.

The copy is a hidden file in the sessions' directory. It holds the names, sizes and times of the files it was made from;
if one of them differs, the text is read again. So it is where the copy isn't whole: its items are indices, which C++
looks up without another check. The copy may be deleted at any time, and it is skipped where it can't be written.

It is mapped, not read: the system keeps in memory what is used of it, for all processes once, and takes that back when
memory runs short.
"""

import json
import os
import zlib
from contextlib import suppress

import numpy as np

from utils.data.arrays import arrays_in, write_arrays
from utils.files import InputError, open_file, write_atomically

NAME = ".sessions.safetensors"
WORTH_KEEPING = 1 << 20  # bytes of text; less is parsed in no time
HEADER_BYTES, LARGEST_RATIO = 1 << 16, 6  # a session "1\n" takes 2 bytes as text, and 4 + 8 as an item and an offset


def describe(files, checksums):
    """A text that changes when one of the files does, or what was recorded of them, which reading the text checks."""
    stats = [(file.name, file.stat()) for file in files]
    return json.dumps([[[name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats], checksums],
                      sort_keys=True)


def load(files, description, item_count):
    """The copy: items and offsets as in Sessions, which can't be changed.

    None unless it was made from files that match the description, is as it was written, and has no item but those from
    0 to `item_count` - 1.
    """
    try:
        arrays, metadata = arrays_in(_map(files, description))
        items, offsets = arrays["items"], arrays["offsets"]
        if metadata["files"] != description or metadata["crc32"] != _checksum(items, offsets):
            return None
    except (OSError, InputError, ValueError, KeyError):  # no such file, or not written by us
        return None
    return (items, offsets) if are_sessions(items, offsets, item_count) else None


def are_sessions(items, offsets, item_count):
    """Whether these are arrays as in Sessions, of at least one session, none empty, with items below `item_count`."""
    if (items.dtype, offsets.dtype, items.ndim, offsets.ndim) != (np.int32, np.int64, 1, 1) or len(offsets) < 2:
        return False
    if offsets[0] != 0 or offsets[-1] != len(items) or not (offsets[1:] > offsets[:-1]).all():
        return False
    return items.view(np.uint32).max() < item_count  # a negative number is a large one there: one look for both ends


def store(files, checksums, description, items, offsets):
    """Keep what was read from the files, unless they have changed since `description` was made, before reading."""
    if sum(file.stat().st_size for file in files) < WORTH_KEEPING or description != describe(files, checksums):
        return
    metadata = {"files": description, "crc32": _checksum(items, offsets)}
    with suppress(OSError, InputError), write_atomically(files[0].parent / NAME, "wb") as copy:
        write_arrays(copy, {"offsets": offsets, "items": items}, metadata)


def _map(files, description):
    """The bytes of the copy as an array; ValueError where they can't be those of the files."""
    with open_file(files[0].parent / NAME, "--train_dir") as copy:
        size = os.fstat(copy.fileno()).st_size
        if size > HEADER_BYTES + 2 * len(description) + LARGEST_RATIO * sum(file.stat().st_size for file in files):
            raise ValueError("too large")
        return np.memmap(copy, np.uint8, "r")


def _checksum(items, offsets):
    """CRC-32 of the arrays, which finds what a disk spoils. Whoever could forge it could change the text as well.

    It takes a tenth of a second for what SHA-256 takes half a second for, where the processor has no help for that.
    """
    return f"{zlib.crc32(np.ascontiguousarray(offsets), zlib.crc32(np.ascontiguousarray(items))):08x}"
