"""Made-up sessions, and sessions written as the session text that the trainers read."""

import numpy as np

from utils.data.sessions import Sessions
from utils.files import write_atomically

RSC15_ITEMS = 37_483  # of the full training data
SESSIONS_AT_ONCE = 100_000


def random_sessions(item_count, count):
    """`count` sessions with RSC15's mean length of four clicks; the first items are the most popular ones."""
    random = np.random.default_rng(1)
    lengths = np.minimum(1 + random.geometric(1 / 3, count), 200)
    items = (item_count * random.random(lengths.sum()) ** 3).astype(np.int32)
    return Sessions(items, np.concatenate([[0], np.cumsum(lengths)]))


def write_sessions(path, sessions):
    """Write a sessions.Sessions to the file `path`, one session a line. Sessions without clicks are left out."""
    offsets = np.unique(sessions.offsets)
    with write_atomically(path) as file:
        for start in range(0, len(offsets) - 1, SESSIONS_AT_ONCE):
            part = offsets[start:start + SESSIONS_AT_ONCE + 1]
            items = sessions.items[part[0]:part[-1]].tolist()
            ends = (part - part[0]).tolist()
            file.write("".join(" ".join(map(str, items[begin:end])) + "\n" for begin, end in zip(ends, ends[1:])))
