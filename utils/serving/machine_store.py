"""Live sessions in a file that all workers of this machine share, an SQLite database.

The file may be damaged, deleted or replaced while the server runs. Whoever finds it damaged or missing puts a new one
in its place, in one step: the store's path becomes a link to a file of a new name. SQLite names the files that it keeps
beside a database after it, so no two databases ever share them. The others see from the path that it leads to another
file. Until there is one that can be used, `StoreError` is the answer, and the server does without live sessions.
"""

import fcntl
import logging
import math
import os
import sqlite3
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import msgspec

from utils.serving.live_session import LiveSession, StoreError
from utils.serving.shared_directory import restore

BUSY_SECONDS = 2.0
RETRY_SECONDS = 1.0  # between two attempts to open a file that can't be opened
LOCK_SECONDS = 0.2
DAMAGED = sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB
USABLE = sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL  # errors after which the file is still open

logger = logging.getLogger("gru4rec")
decode_clicks = msgspec.json.Decoder(list[str]).decode


class MachineStore:
    """Sessions in an SQLite database.

    Parameters
    ----------
    path : str
        Of the file, or of the link to it. If there is none, it is made.
    ttl : float
        Seconds.
    max_sessions, max_clicks : int
    max_bytes : int
        The most that the file's used pages take; the session that has been idle longest goes first. SQLite takes a few
        MiB more for changes that it has yet to merge into the file.
    """

    def __init__(self, path, ttl, max_sessions, max_clicks, max_bytes=1 << 30):
        self.path = Path(path)
        self.ttl, self.max_sessions, self.max_clicks, self.max_bytes = ttl, max_sessions, max_clicks, max_bytes
        self.database = self.file = self.name = None  # None: not open
        self.failure = self.logged_failure = None
        self.retry_at = 0.0
        with suppress(StoreError):  # as questions will find, too
            self._make_ready(logs=False)

    async def click(self, session_id, item_id):
        """Add a click, and return the LiveSession with it."""
        with self._transaction():
            now = time.time()
            row = self.execute("SELECT touched, clicks, count, covered, model, state FROM sessions WHERE id = ?",
                               (session_id,)).fetchone()
            before = _session_in(row, now - self.ttl)
            session = before._replace(clicks=[*before.clicks, item_id][-self.max_clicks:], count=before.count + 1)
            self.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)",
                         (session_id, now, msgspec.json.encode(session.clicks), *session[1:]))
            if not row:
                self.execute("UPDATE size SET sessions = sessions + 1")
            if not row or self._excess():
                self._make_room(now)
        return session

    async def save(self, session_id, covered, model, state):
        """Keep a state that covers the first `covered` clicks, unless the model already has one that covers more."""
        with self._transaction():
            self.execute("UPDATE sessions SET covered = ?1, model = ?2, state = ?3 WHERE id = ?4 AND count >= ?1 "
                         "AND (model != ?2 OR covered < ?1)", (covered, model, state, session_id))

    async def forget(self, session_id):
        """Delete all that is known about a session."""
        with self._asking():
            is_there = self.execute("SELECT 1 FROM sessions WHERE id = ?", (session_id,)).fetchone()
        if is_there:
            with self._transaction():
                self._delete("id = ?", session_id)

    async def size(self):
        """The number of sessions that have not expired."""
        with self._transaction():
            return self._make_room(time.time())

    async def close(self):
        self._close()

    # How much is kept

    def _make_room(self, now):
        """Delete the expired sessions, and the oldest if there are too many; returns how many are left."""
        self._delete("touched <= ?", now - self.ttl)
        sessions, = self.execute("SELECT sessions FROM size").fetchone()
        if sessions > self.max_sessions:
            self._delete_oldest(sessions - self.max_sessions)
            sessions = self.max_sessions
        surplus = 0
        while sessions > 1 and (excess := self._excess()):  # the newest session stays in any case
            surplus = min(max(math.ceil(sessions * excess), 2 * surplus), sessions - 1)
            self._delete_oldest(surplus)  # which need not free a page, so that more and more are deleted
            sessions -= surplus
        return sessions

    def _excess(self):
        """Which share of the pages in use goes beyond `max_bytes`; 0 where none does."""
        pages, = self.execute("PRAGMA page_count").fetchone()
        if pages > self.max_pages:
            pages -= self.execute("PRAGMA freelist_count").fetchone()[0]
        return max(1 - self.max_pages / pages, 0)

    def _delete_oldest(self, count):
        self._delete("id IN (SELECT id FROM sessions ORDER BY touched LIMIT ?)", count)

    def _delete(self, which, value):
        deleted = self.execute(f"DELETE FROM sessions WHERE {which}", (value,)).rowcount
        if deleted:
            self.execute("UPDATE size SET sessions = sessions - ?", (deleted,))

    # The database, and what to do where it fails

    @contextmanager
    def _transaction(self):
        """Make all of the block's changes or none; other workers wait meanwhile."""
        with self._asking():
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with suppress(sqlite3.Error):  # of a damaged file; what was raised before says more
                    self.execute("ROLLBACK")
                raise
            self.execute("COMMIT")

    @contextmanager
    def _asking(self):
        """Make SQLite's errors in the block StoreErrors; after those that show damage, there is a new file."""
        self._make_ready()
        try:
            yield
        except sqlite3.Error as error:
            code, found = _code(error), self.file
            if code is not None and code not in USABLE:
                self._close()
            if code in DAMAGED:
                with suppress(OSError, sqlite3.Error):  # as the next question will find
                    self._replace(found, str(error))
            raise StoreError(f"session store: {error}") from error

    def _make_ready(self, logs=True):
        """See to it that the database is open that the path leads to; StoreError where it can't be."""
        if self.database and self.file == _identity(self.path):
            return
        if time.monotonic() < self.retry_at:
            raise StoreError(self.failure)
        left = self.name
        self._close()
        if left and left != os.path.realpath(self.path):
            self._delete_files(left)  # no path leads there
        try:
            self._open()
        except (OSError, sqlite3.Error) as error:
            self.failure, self.retry_at = f"session store: {error}", time.monotonic() + RETRY_SECONDS
            if logs and self.failure != self.logged_failure:
                self.logged_failure = self.failure
                logger.error("session store fails", extra={"path": str(self.path), "reason": str(error)})
            raise StoreError(self.failure) from error
        self.failure = self.logged_failure = None

    def _open(self):
        """Open the database that the path leads to, a new one if there is none or it is damaged."""
        found = _identity(self.path)
        if found is None:
            self._replace(None, "found no file")
        try:
            self._open_found()
        except sqlite3.DatabaseError as error:
            if _code(error) not in DAMAGED:
                raise
            self._replace(found, str(error))
            self._open_found()

    def _open_found(self):
        file = os.path.realpath(self.path)
        database = _connect(file)
        self.file = _identity(file)
        if self.file != _identity(self.path):
            database.close()
            raise OSError("found another file there than a moment before")
        self.database, self.execute, self.name = database, database.execute, file
        size, = self.execute("PRAGMA page_size").fetchone()
        self.max_pages = max(self.max_bytes // size, 1)

    def _close(self):
        if self.database:
            with suppress(sqlite3.Error):
                self.database.close()
        self.database = self.file = self.name = None

    def _replace(self, found, reason):
        """Put an empty database in the place of the file with the identity `found`, unless another worker has.

        Its sessions are lost. What is left of the file is deleted.
        """
        restore(self.path.parent)
        with _locked(self.path.parent):
            if _identity(self.path) != found:
                return
            left = os.path.realpath(self.path)
            descriptor, new = tempfile.mkstemp(prefix=f"{self.path.name}.", dir=self.path.parent)
            os.close(descriptor)
            link = f"{new}.link"
            try:
                _connect(new).close()
                os.symlink(Path(new).name, link)
                os.replace(link, self.path)
            except BaseException:
                for name in (link, new):
                    Path(name).unlink(missing_ok=True)
                raise
            if found:
                logger.error("session store replaced, its live sessions are lost",
                             extra={"path": str(self.path), "reason": reason})
            self._delete_files(left)

    def _delete_files(self, name):
        """Delete what is left of a database, but not what has taken its place."""
        here = os.path.join(os.path.realpath(self.path.parent), self.path.name)
        for file in (name, f"{name}-wal", f"{name}-shm"):
            if file != here:
                with suppress(OSError):
                    os.unlink(file)


def _session_in(row, expired):
    """The LiveSession in a row of `sessions`; an empty one if there is none, it expired, or it can't be read."""
    try:
        if row and row[0] > expired:
            session = LiveSession(decode_clicks(row[1]), *row[2:])
            if 0 <= session.covered <= session.count and isinstance(session.state, bytes):
                return session
    except (TypeError, ValueError, msgspec.MsgspecError):  # damage that left the database as such intact
        pass
    return LiveSession([])


def _connect(file):
    """An open connection to the database in a file that exists, with our tables; sqlite3.Error if it can't be used."""
    database = sqlite3.connect(f"file:{quote(file)}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
                               check_same_thread=False)
    try:
        database.text_factory = lambda data: data.decode(errors="replace")
        execute = database.execute
        execute("PRAGMA synchronous = OFF")  # it needn't outlive the machine
        execute("BEGIN IMMEDIATE")
        execute("CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, touched REAL, clicks BLOB, "
                "count INTEGER, covered INTEGER, model TEXT, state BLOB) WITHOUT ROWID")
        execute("CREATE INDEX IF NOT EXISTS by_touched ON sessions (touched)")
        execute("CREATE TABLE IF NOT EXISTS size (sessions INTEGER)")  # counting a million rows takes 20 ms
        execute("INSERT INTO size SELECT 0 WHERE NOT EXISTS (SELECT * FROM size)")
        execute("COMMIT")
        execute("PRAGMA journal_mode = WAL")  # only now: the database of another program has failed before
    except BaseException:
        database.close()
        raise
    return database


def _identity(path):
    """What tells the file that a path leads to from all others; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _code(error):
    """SQLite's primary code for an sqlite3.Error; None where the error is Python's own."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xff


@contextmanager
def _locked(directory):
    """Keep other workers from changing which file is the store's; BlockingIOError where one takes long."""
    descriptor, deadline = os.open(directory, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + LOCK_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)
