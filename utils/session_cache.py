"""Sessions as they are in memory, kept beside the session text that they were read from, so that it is read once.

The copy is a hidden file of the sessions' directory, and holds the names, sizes and times of the files it was made from:
where one differs, the text counts. It may be deleted at any time, and isn't written where that is impossible.
"""

import json
from contextlib import suppress

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from utils.files import InputError, write_atomically

NAME = ".sessions.safetensors"
WORTH_KEEPING = 1 << 20  # bytes of text; less is read in no time


def describe(files):
    """What changes when one of the files does, as text."""
    return json.dumps([[file.name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for file in files for stat in [file.stat()]])


def load(files, description):
    """Items, int32 [events], and offsets, int64 [sessions + 1], of session files that are as described, or None."""
    try:
        with safe_open(files[0].parent / NAME, "numpy") as copy:
            if copy.metadata()["files"] == description:
                return copy.get_tensor("items"), copy.get_tensor("offsets")
    except (OSError, SafetensorError, KeyError, TypeError):  # none there, or none of ours
        pass
    return None


def store(files, description, items, offsets):
    """Keep what was read from files that were as described when reading began, where they still are."""
    if sum(file.stat().st_size for file in files) < WORTH_KEEPING or description != describe(files):
        return
    with suppress(OSError, InputError), write_atomically(files[0].parent / NAME, "wb") as copy:
        copy.write(save({"items": items, "offsets": offsets}, metadata={"files": description}))
