"""A copy of parsed sessions, kept beside the session text that they were read from, so that text is parsed only once.

The copy is a hidden file in the sessions' directory. It holds the names, sizes and times of the files it was made from;
if one of them differs, the text is read again. The copy may be deleted at any time, and it is skipped where it can't be
written.
"""

import json
from contextlib import suppress

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from utils.files import InputError, write_atomically

NAME = ".sessions.safetensors"
WORTH_KEEPING = 1 << 20  # bytes of text; less is parsed in no time


def describe(files):
    """A text that changes when one of the files does."""
    stats = [(file.name, file.stat()) for file in files]
    return json.dumps([[name, stat.st_size, stat.st_mtime_ns, stat.st_ino] for name, stat in stats])


def load(files, description):
    """The copy, if it was made from files that match the description: items and offsets as in Sessions; else None."""
    try:
        with safe_open(files[0].parent / NAME, "numpy") as copy:
            if copy.metadata()["files"] == description:
                return copy.get_tensor("items"), copy.get_tensor("offsets")
    except (OSError, SafetensorError, KeyError, TypeError):  # no such file, or not written by us
        pass
    return None


def store(files, description, items, offsets):
    """Keep what was read from the files, unless they have changed since `description` was made, before reading."""
    if sum(file.stat().st_size for file in files) < WORTH_KEEPING or description != describe(files):
        return
    with suppress(OSError, InputError), write_atomically(files[0].parent / NAME, "wb") as copy:
        copy.write(save({"items": items, "offsets": offsets}, metadata={"files": description}))
