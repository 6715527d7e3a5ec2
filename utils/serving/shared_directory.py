"""The directory of what the workers of one server share: live sessions and metrics.

It is in memory, where it can vanish under a running server: systemd, for example, empties /dev/shm when the last shell
of a user ends. So whoever needs the directory makes it again.
"""

import errno
import fcntl
import logging
import multiprocessing
import os
import shutil
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.files import InputError

MEMORY = Path("/dev/shm")
PREFIX = "gru4rec_serve_"
OWNER = "owner"  # a file that is locked as long as the directory's server lives
BESIDE_SESSIONS = 32 << 20  # bytes; for metrics, and for changes that SQLite has yet to merge into its file

logger = logging.getLogger("gru4rec")


@contextmanager
def shared_directory(session_bytes):
    """The Path of a new directory for live sessions of this many bytes; it is deleted after the block.

    It is in memory if there is room, else where temporary files are; InputError where neither is to be had. Those of
    servers that were killed with all of their workers are deleted first.
    """
    _delete_left()
    needed = session_bytes + BESIDE_SESSIONS
    has_room = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= needed
    if not has_room:
        try:
            tempfile.gettempdir()
        except FileNotFoundError:  # a file system that can't be written
            raise InputError(f"--session_memory: found no room for {needed >> 20} MiB in {MEMORY}, and no directory "
                             "for temporary files, expected one of them") from None
    directory, process = Path(tempfile.mkdtemp(prefix=PREFIX, dir=MEMORY if has_room else None)), os.getpid()
    try:
        with open(directory / f"{OWNER}.new", "wb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            os.rename(owner.name, directory / OWNER)  # nobody finds it unlocked
            yield directory
    finally:
        if os.getpid() == process:  # and not a worker that gunicorn has forked
            shutil.rmtree(directory, ignore_errors=True)


def _delete_left():
    """Delete directories in memory that are ours and have no living owner."""
    for directory in MEMORY.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it has no such file, or is not ours, or its owner lives (BlockingIOError)
            with open(directory / OWNER, "rb") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(owner.fileno()).st_uid == os.geteuid():
                    shutil.rmtree(directory)


def restore(directory):
    """Make a shared directory again if it was deleted; does nothing for directories that aren't `shared_directory`'s.

    Raises
    ------
    OSError
        It can't be made, or somebody else has made one of that name meanwhile.
    """
    directory = Path(directory)
    parent = multiprocessing.parent_process()
    if not directory.name.startswith(PREFIX) or (parent and not parent.is_alive()):  # then it was deleted for good
        return
    try:
        directory.mkdir(mode=0o700)
        logger.error("shared directory made again", extra={"path": str(directory), "reason": "it was deleted"})
    except FileExistsError:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "found what another user made, expected our directory",
                                  str(directory)) from None


def machine_store(directory):
    """The address of the `MachineStore` in a directory."""
    return str(directory / "sessions.sqlite")
