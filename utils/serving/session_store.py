"""What the server remembers about live sessions: their clicks, and a hidden state that saves replaying them.

The clicks are what counts. A saved state covers the first of them, for one model; the clicks after it are replayed. So
when clicks of one session arrive at the same time, at any workers, none is lost, whichever is answered first.

Both stores keep a session for `ttl` seconds after its last click. They keep at most `max_sessions` sessions (the one
that has been idle longest goes first), and the last `max_clicks` item ids of each.
"""

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from utils.files import InputError

SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 30
BUSY_SECONDS = 2.0
REDIS_SECONDS = 1.0


class LiveSession(NamedTuple):
    """What is known about a session.

    clicks : list of str, the item ids of its last clicks in time order
    count : int, the number of all its clicks, including those that are no longer kept
    covered : int, how many of its clicks `state` covers
    model : str, checksum of the model that `state` belongs to; empty without a state
    state : bytes, as in micro_batches.Answer
    """

    clicks: list
    count: int = 0
    covered: int = 0
    model: str = ""
    state: bytes = b""

    @property
    def covered_of_kept(self):
        """How many of `clicks` the state covers; negative if clicks between it and them are lost."""
        return len(self.clicks) - (self.count - self.covered)


class StoreError(Exception):
    """The store can't be reached, or it doesn't answer in time."""


def open_store(url, ttl, max_sessions, max_clicks):
    """The store at this address: `redis://...`, or the path of a `MachineStore`."""
    kind = RedisStore if url.startswith(("redis://", "rediss://", "unix://")) else MachineStore
    return kind(url, ttl, max_sessions, max_clicks)


async def try_store(url, *limits):
    """InputError if the store can't be opened or doesn't answer."""
    try:
        store = open_store(url, *limits)
        await store.size()
        await store.close()
    except (StoreError, ValueError) as error:  # ValueError: an address that Redis can't read
        raise InputError(f"--session_store: found no store that answers at {url} ({error}), expected one") from None


@contextmanager
def shared_directory():
    """The Path of a directory for what the workers on this machine share; it is deleted after the block.

    It is in memory if there is room.
    """
    in_memory = os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free >= ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="gru4rec_serve_", dir=SHARED_MEMORY if in_memory else None,
                                     ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def machine_store(directory):
    """The address of the `MachineStore` in a directory."""
    return str(directory / "sessions.sqlite")


class MachineStore:
    """Sessions in a file that all workers of this machine share, an SQLite database.

    Parameters
    ----------
    path : str
    ttl : float
        Seconds.
    max_sessions, max_clicks : int
    """

    def __init__(self, path, ttl, max_sessions, max_clicks):
        self.ttl, self.max_sessions, self.max_clicks = ttl, max_sessions, max_clicks
        with _as_store_error():
            self.database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self.execute = self.database.execute
            self.execute("PRAGMA journal_mode = WAL")
            self.execute("PRAGMA synchronous = OFF")  # it needn't outlive the machine
        with self._transaction():
            self.execute("CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, touched REAL, clicks BLOB, "
                         "count INTEGER, covered INTEGER, model TEXT, state BLOB) WITHOUT ROWID")
            self.execute("CREATE INDEX IF NOT EXISTS by_touched ON sessions (touched)")
            self.execute("CREATE TABLE IF NOT EXISTS size (sessions INTEGER)")  # counting a million rows takes 20 ms
            self.execute("INSERT INTO size SELECT 0 WHERE NOT EXISTS (SELECT * FROM size)")

    async def click(self, session_id, item_id):
        """Add a click, and return the LiveSession with it."""
        with self._transaction():
            now = time.time()
            row = self.execute("SELECT touched, clicks, count, covered, model, state FROM sessions WHERE id = ?",
                               (session_id,)).fetchone()
            before = LiveSession([])
            if row and row[0] > now - self.ttl:
                before = LiveSession(msgspec.json.decode(row[1]), *row[2:])
            session = before._replace(clicks=[*before.clicks, item_id][-self.max_clicks:], count=before.count + 1)
            self.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)",
                         (session_id, now, msgspec.json.encode(session.clicks), *session[1:]))
            if not row:
                self.execute("UPDATE size SET sessions = sessions + 1")
                self._make_room(now)
        return session

    async def save(self, session_id, covered, model, state):
        """Keep a state that covers the first `covered` clicks, unless the model already has one that covers more."""
        with self._transaction():
            self.execute("UPDATE sessions SET covered = ?1, model = ?2, state = ?3 WHERE id = ?4 AND count >= ?1 "
                         "AND (model != ?2 OR covered < ?1)", (covered, model, state, session_id))

    async def forget(self, session_id):
        """Delete all that is known about a session."""
        with _as_store_error():
            is_there = self.execute("SELECT 1 FROM sessions WHERE id = ?", (session_id,)).fetchone()
        if is_there:
            with self._transaction():
                self._delete("id = ?", session_id)

    async def size(self):
        """The number of sessions that have not expired."""
        with self._transaction():
            return self._make_room(time.time())

    async def close(self):
        self.database.close()

    def _make_room(self, now):
        """Delete the expired sessions, and the oldest if there are too many; returns how many are left."""
        self._delete("touched <= ?", now - self.ttl)
        sessions, = self.execute("SELECT sessions FROM size").fetchone()
        if sessions > self.max_sessions:
            self._delete("id IN (SELECT id FROM sessions ORDER BY touched LIMIT ?)", sessions - self.max_sessions)
        return min(sessions, self.max_sessions)

    def _delete(self, which, value):
        deleted = self.execute(f"DELETE FROM sessions WHERE {which}", (value,)).rowcount
        if deleted:
            self.execute("UPDATE size SET sessions = sessions - ?", (deleted,))

    @contextmanager
    def _transaction(self):
        """Make all of the block's changes or none; other workers wait meanwhile."""
        with _as_store_error():
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.execute("ROLLBACK")
                raise
            self.execute("COMMIT")


@contextmanager
def _as_store_error():
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"session store: {error}") from error


# Changes all keys of a session, and the index of sessions by the time of their last click, in one step. KEYS holds the
# names of the index, of the session's clicks, and of the hash with its counts and state. The script itself makes the
# names for the oldest session, with the prefix in ARGV[7].
CLICK = """
local now, ttl, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
redis.call('RPUSH', KEYS[2], ARGV[2])
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[6]), -1)
redis.call('HINCRBY', KEYS[3], 'count', 1)
redis.call('PEXPIRE', KEYS[2], math.ceil(ttl * 1000))
redis.call('PEXPIRE', KEYS[3], math.ceil(ttl * 1000))
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ttl)
while redis.call('ZCARD', KEYS[1]) > most do
  local oldest = redis.call('ZPOPMIN', KEYS[1])[1]
  redis.call('DEL', ARGV[7] .. 'clicks:' .. oldest, ARGV[7] .. 'state:' .. oldest)
end
return {redis.call('LRANGE', KEYS[2], 0, -1), redis.call('HMGET', KEYS[3], 'count', 'covered', 'model', 'state')}
"""
SAVE = """
local known = redis.call('HMGET', KEYS[1], 'count', 'covered', 'model')
if known[1] and tonumber(known[1]) >= tonumber(ARGV[1])
    and (known[3] ~= ARGV[2] or tonumber(known[2]) < tonumber(ARGV[1])) then
  redis.call('HSET', KEYS[1], 'covered', ARGV[1], 'model', ARGV[2], 'state', ARGV[3])
end
"""


class RedisStore:
    """Sessions in a Redis server, for workers on any number of machines.

    The parameters are those of `MachineStore`, but with a URL instead of the path.
    """

    PREFIX = "gru4rec:"
    INDEX = PREFIX + "sessions"

    def __init__(self, url, ttl, max_sessions, max_clicks):
        import redis.asyncio as redis  # only this store needs it
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
        # A connection that Redis has closed is tried again. A click that times out is not: Redis may have counted it.
        retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self.errors = (redis.RedisError, OSError, TimeoutError)
        self.limits = (ttl, max_sessions, max_clicks, self.PREFIX)
        self.redis = redis.Redis.from_url(url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS,
                                          retry=retry)
        self.click_script, self.save_script = map(self.redis.register_script, (CLICK, SAVE))

    async def click(self, session_id, item_id):
        keys = [self.INDEX, f"{self.PREFIX}clicks:{session_id}", f"{self.PREFIX}state:{session_id}"]
        clicks, (count, covered, model, state) = await self._ask(
            self.click_script(keys, [session_id, item_id, time.time(), *self.limits]))
        return LiveSession([item.decode() for item in clicks], int(count), int(covered or 0), (model or b"").decode(),
                           state or b"")

    async def save(self, session_id, covered, model, state):
        await self._ask(self.save_script([f"{self.PREFIX}state:{session_id}"], [covered, model, state]))

    async def forget(self, session_id):
        pipeline = self.redis.pipeline()
        pipeline.zrem(self.INDEX, session_id)
        pipeline.delete(f"{self.PREFIX}clicks:{session_id}", f"{self.PREFIX}state:{session_id}")
        await self._ask(pipeline.execute())

    async def size(self):
        return await self._ask(self.redis.zcount(self.INDEX, time.time() - self.limits[0], "+inf"))

    async def close(self):
        await self.redis.aclose()

    async def _ask(self, command):
        try:
            return await command
        except self.errors as error:
            raise StoreError(f"session store: {type(error).__name__}: {error}") from error
