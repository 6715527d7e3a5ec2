"""What the server remembers about live sessions: their clicks, and a hidden state that saves replaying them.

The clicks are what counts. A saved state covers the first of them, for one model; the clicks after it are replayed. So
when clicks of one session arrive at the same time, at any workers, none is lost, whichever is answered first.

Both stores keep a session for `ttl` seconds after its last click. They keep at most `max_sessions` sessions (the one
that has been idle longest goes first), and the last `max_clicks` item ids of each. What can't be read is dropped.
"""

import os
import stat

from utils.files import InputError
from utils.serving.live_session import StoreError
from utils.serving.machine_store import MachineStore
from utils.serving.redis_store import RedisStore

REDIS = "redis://", "rediss://"
FIRST_BYTES = b"SQLite format 3\0"


def open_store(url, *limits, **named_limits):
    """The store at this address: `redis://...`, or the path of a `MachineStore`, whose parameters the limits are."""
    return (RedisStore if url.startswith(REDIS) else MachineStore)(url, *limits, **named_limits)


async def try_store(url, *limits):
    """InputError if the store can't be opened or doesn't answer."""
    if not url.startswith(REDIS):
        _require_database(url)
    try:
        store = open_store(url, *limits)
        try:
            await store.size()
        finally:
            await store.close()
    except (StoreError, ValueError) as error:  # ValueError: an address that Redis can't read
        raise InputError(f"--session_store: found no store that answers at {url} ({error}), expected one") from None


def _require_database(path):
    """InputError where a file is no database: while the server runs, its store would take the file's place."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                if file.read(len(FIRST_BYTES)) in (b"", FIRST_BYTES):
                    return
    except (FileNotFoundError, NotADirectoryError):  # what is missing above it, the store itself says
        return
    raise InputError(f"--session_store: found something else than an SQLite database at {path}, expected one, or "
                     "nothing")
