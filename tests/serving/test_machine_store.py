"""utils/serving/machine_store.py: whatever happens to its file, the next clicks are remembered, by all workers."""

import asyncio
import logging
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from utils.files import InputError
from utils.serving import machine_store as module
from utils.serving.live_session import LiveSession, StoreError
from utils.serving.machine_store import MachineStore
from utils.serving.session_store import try_store
from utils.serving.shared_directory import PREFIX, restore

MANY = 1000


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The path of a store in a directory of its own, which may be deleted."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    directory = tmp_path / f"{PREFIX}test"
    directory.mkdir(mode=0o700)
    return directory / "sessions.sqlite"


def store_at(path, **limits):
    return MachineStore(str(path), **{"ttl": 60, "max_sessions": MANY, "max_clicks": 1000} | limits)


def run(coroutine):
    """What it returns; this store waits for nothing, so that no event loop is needed."""
    with pytest.raises(StopIteration) as end:
        coroutine.send(None)
    return end.value.value


def click(store, session_id="s", item_id="a", attempts=1):
    """A LiveSession; after so many attempts the StoreError is raised."""
    for left in reversed(range(attempts)):
        try:
            return run(store.click(session_id, item_id))
        except StoreError:
            if not left:
                raise


def close(*stores):
    for store in stores:
        run(store.close())


def overwrite(path, part=slice(None)):
    """Random bytes in the place of those in `part` of a file, which stays the same file."""
    data = bytearray(path.read_bytes())
    data[part] = random.Random(1).randbytes(len(data[part]))
    with open(path, "r+b") as file:
        file.write(data)


def replace_by_text(path):
    other = path.with_name("other")
    other.write_text("no database\n" * MANY)
    os.replace(other, path)


DAMAGES = {
    "its first bytes": lambda path: overwrite(path, slice(0, 100)),
    "all bytes": lambda path: [overwrite(found) for found in sorted(path.parent.iterdir())],
    "all but the first bytes": lambda path: overwrite(path, slice(100, None)),
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "changes not yet merged": lambda path: overwrite(Path(os.path.realpath(path) + "-wal")),
    "path deleted": lambda path: path.unlink(),
    "file deleted": lambda path: Path(os.path.realpath(path)).unlink(),
    "other file": replace_by_text,
    "all files deleted": lambda path: [found.unlink() for found in path.parent.iterdir()],
    "directory deleted": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "not merged"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_after_damage_all_workers_share_a_file_again(path, damage, merged):
    workers = [store_at(path) for _ in range(3)]
    for number in range(300):
        click(workers[number % 3], str(number))
    if merged:
        workers[0].execute("PRAGMA wal_checkpoint(TRUNCATE)")
        click(workers[1], "1")
    DAMAGES[damage](path)
    for _ in range(2):
        for number in range(0, 300, 7):
            for worker in workers:
                click(worker, str(number), attempts=3)
    counts = [click(worker, "new").count for worker in workers]
    assert counts == [1, 2, 3]
    workers.append(store_at(path))
    assert click(workers[3], "new").count == 4
    ours = {path.name, *(os.path.basename(os.path.realpath(path)) + ending for ending in ("", "-wal", "-shm"))}
    assert set(os.listdir(path.parent)) - {"other"} == ours
    close(*workers)


def test_the_log_says_once_that_the_file_was_replaced(path, caplog):
    workers = [store_at(path) for _ in range(3)]
    click(workers[0])
    overwrite(path, slice(0, 100))
    for _ in range(3):
        for worker in workers:
            click(worker, attempts=3)
    record, = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "session store replaced" in record.message and record.path == str(path) and "not a database" in record.reason
    close(*workers)


def test_workers_that_find_damage_at_the_same_time(path):
    workers = [store_at(path) for _ in range(4)]
    for number in range(200):
        click(workers[0], str(number))
    stop, failures = threading.Event(), []

    def work(store):
        try:
            while not stop.is_set():
                click(store, str(random.randrange(200)), attempts=100)
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for _ in range(10):
        time.sleep(0.05)
        overwrite(path, slice(0, 100))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    for worker in workers:
        click(worker, attempts=3)
    before = click(workers[0], "last").count
    assert [click(worker, "last").count - before for worker in workers] == [1, 2, 3, 4]
    close(*workers)


def test_a_directory_that_is_not_ours_is_not_made_again(tmp_path):
    path = tmp_path / "data" / "sessions.sqlite"
    path.parent.mkdir()
    store = store_at(path)
    click(store)
    shutil.rmtree(path.parent)
    for _ in range(2):
        with pytest.raises(StoreError, match="session store"):
            click(store)
    assert not path.parent.exists()


def test_a_directory_that_another_user_made_meanwhile(tmp_path, monkeypatch):
    directory = tmp_path / f"{PREFIX}test"
    restore(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    restore(directory)
    monkeypatch.setattr(os, "geteuid", lambda: directory.stat().st_uid + 1)
    with pytest.raises(PermissionError):
        restore(directory)
    directory.rmdir()
    directory.symlink_to(tmp_path)
    monkeypatch.undo()
    with pytest.raises(PermissionError):
        restore(directory)


def test_a_store_that_cannot_be_opened_is_tried_again_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.2)
    path = tmp_path / "data" / "sessions.sqlite"
    store, opened = store_at(path), []
    monkeypatch.setattr(store, "_open", lambda: (opened.append(1), MachineStore._open(store)))
    for attempts in (0, 1):
        for _ in range(20):
            with pytest.raises(StoreError, match="No such file"):
                click(store)
        assert len(opened) == len(caplog.records) == attempts
        time.sleep(0.2)
    path.parent.mkdir()
    assert click(store) == LiveSession(["a"], 1) and len(opened) == 2
    close(store)


@pytest.mark.parametrize("column, value", [
    ("clicks", b"\xff"), ("clicks", b'{"a": 1}'), ("clicks", b"[1]"), ("clicks", None), ("clicks", "[]x"),
    ("touched", "now"), ("count", "many"), ("count", -1), ("covered", 7), ("covered", None), ("state", 3)])
def test_a_session_that_cannot_be_read_begins_anew(path, column, value):
    store = store_at(path)
    click(store)
    click(store, "other")
    store.execute(f"UPDATE sessions SET {column} = ? WHERE id = 's'", (value,))
    assert click(store, item_id="b") == LiveSession(["b"], 1)
    assert click(store, item_id="c") == LiveSession(["b", "c"], 2) and click(store, "other").count == 2
    assert run(store.size()) == 2
    close(store)


@pytest.mark.parametrize("length, clicks, sessions, most", [(10, 5, 3000, 256 << 10), (250, 200, 60, 1 << 20)])
def test_sessions_take_no_more_bytes_than_they_may(path, length, clicks, sessions, most):
    """The oldest go first, and as few as need be."""
    store = store_at(path, max_bytes=most, max_sessions=10**6, max_clicks=200)
    item_ids = [f"{number:0{length}}" for number in range(clicks)]
    for start in range(0, sessions, 5):
        for item_id in item_ids:
            for number in range(start, start + 5):
                click(store, str(number), item_id)
    stored = {int(name): count for name, count in store.execute("SELECT id, count FROM sessions")}
    assert set(stored) == set(range(sessions - len(stored), sessions)) and stored[sessions - 1] == clicks
    used = sum(found.stat().st_size for found in path.parent.iterdir() if not found.is_symlink())
    assert used < most + (8 << 20) and os.stat(path).st_size <= most + 8192
    assert len(stored) * clicks * (length + 3) > most / 4 and run(store.size()) == len(stored) < sessions
    close(store)


def test_a_session_larger_than_the_bound_stays(path):
    store = store_at(path, max_bytes=1, max_sessions=10)
    assert [click(store, item_id="x" * 5000).count for _ in range(5)] == [1, 2, 3, 4, 5]
    assert click(store, "t").count == 1 and run(store.size()) == 1
    close(store)


# What a user names

def test_a_file_that_is_no_database_is_not_touched(tmp_path):
    path = tmp_path / "notes.sqlite"
    path.write_text("not a database, but dear to me\n")
    with pytest.raises(InputError, match="--session_store.*notes.sqlite"):
        asyncio.run(try_store(str(path), 60, 10, 10))
    assert path.read_text() == "not a database, but dear to me\n"
    for make in (Path.mkdir, os.mkfifo):
        path.unlink() if path.is_file() else path.rmdir()
        make(path)
        with pytest.raises(InputError, match="--session_store.*notes.sqlite"):
            asyncio.run(try_store(str(path), 60, 10, 10))


def test_the_database_of_another_program_is_refused(tmp_path):
    import sqlite3
    path = tmp_path / "cookies.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE sessions (name TEXT)")
        database.execute("INSERT INTO sessions VALUES ('dear')")
    database.close()
    with pytest.raises(InputError, match="--session_store.*cookies.sqlite"):
        asyncio.run(try_store(str(path), 60, 10, 10))
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert database.execute("SELECT * FROM sessions").fetchall() == [("dear",)]
    assert len(database.execute("SELECT * FROM sqlite_master").fetchall()) == 1
    database.close()


@pytest.mark.parametrize("content", [None, b""], ids=["none", "empty"])
def test_sessions_outlive_the_server_in_a_file_of_the_users(tmp_path, content):
    path = tmp_path / "own.sqlite"
    if content is not None:
        path.write_bytes(content)
    for count in (1, 2):
        asyncio.run(try_store(str(path), 60, 10, 10))
        store = store_at(path)
        assert click(store).count == count
        close(store)
    assert os.stat(path).st_size > 0


@pytest.mark.parametrize("damage", ["all bytes", "path deleted", "emptied"])
def test_a_file_of_the_users_behind_a_linked_directory(tmp_path, monkeypatch, damage):
    import sqlite3
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    path = tmp_path / "link" / "own.sqlite"
    sqlite3.connect(path).close()
    path.touch()  # a regular file, no link
    workers = [store_at(path) for _ in range(3)]
    for worker in workers:
        click(worker)
    workers[0].execute("PRAGMA wal_checkpoint(TRUNCATE)")
    DAMAGES[damage](path)
    for _ in range(2):
        for worker in workers:
            click(worker, attempts=3)
    assert [click(worker, "new").count for worker in workers] == [1, 2, 3] and path.is_symlink()
    assert len(list(path.parent.iterdir())) == 4
    close(*workers)


def test_only_its_user_may_read_it(path):
    store = store_at(path)
    click(store)
    assert {found.stat().st_mode & 0o077 for found in path.parent.iterdir()} == {0}
    close(store)
