"""Memory that the workers of a server use together: the large arrays of a model are there once, whatever their number.

Linux calls it a memfd: memory with a descriptor, but without a file. It is gone with the last process that has it,
however that ends, so nothing is ever left behind, and it needs no room in /dev/shm. Whoever fills it seals it then:
nobody can write to it any more, or make it shorter. In the server's shared directory, each process that has it leaves a
link to its own descriptor, by which the others find it.
"""

import fcntl
import hashlib
import logging
import mmap
import os
import time
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from utils.memory import own_room, require_memory
from utils.serving.shared_directory import restore

PREFIX = "model_"
PATIENCE = 600  # seconds for another worker to fill what this one waits for
PAUSE = 0.02  # seconds between two looks

logger = logging.getLogger("gru4rec")


class SharedMemory:
    """Rooms for bytes, found by their keys.

    Parameters
    ----------
    directory : str or Path
        The shared directory. It may be deleted and made again at any moment.
    """

    def __init__(self, directory):
        self.directory = Path(directory)

    def room(self, key, size, fill, what):
        """As `memory.own_room`, but shared with all processes that ask for the same key and size.

        Where that isn't possible, it is this process's own, and the log says why.
        """
        name = PREFIX + hashlib.sha256(f"{key} {size}".encode()).hexdigest()[:32]
        try:
            restore(self.directory)
            with self._alone(name):
                descriptor = self._found(name, size)
                if descriptor is None:
                    descriptor = _filled(name, size, fill, what)
                return self._mapped(name, descriptor, size)
        except (OSError, AttributeError) as error:  # AttributeError: a system without memfd
            logger.warning("model in this worker's own memory", extra={"bytes": size, "reason": str(error)})
        return own_room(key, size, fill, what)

    @contextmanager
    def _alone(self, name):
        """Only one process at a time is in such a block. The system lets the next one in where it is killed there."""
        deadline = time.monotonic() + PATIENCE
        with open(self.directory / f"{name}.lock", "ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"another worker took more than {PATIENCE} seconds to load it") from None
                    time.sleep(PAUSE)
            yield

    def _found(self, name, size):
        """A descriptor of our own for what another process has; None if none has it."""
        found = None
        for link in self.directory.glob(f"{name}.fd*"):
            try:
                descriptor = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            except OSError:  # that process is gone
                link.unlink(missing_ok=True)
                continue
            if found is None and _is_sealed(descriptor, name, size):
                found = descriptor
            else:
                os.close(descriptor)
        return found

    def _mapped(self, name, descriptor, size):
        """The bytes, a uint8 array. When the last array of them is gone, so are the descriptor and the link to it."""
        link = self.directory / f"{name}.fd{os.getpid()}_{descriptor}"
        try:
            mapped = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
            weakref.finalize(mapped, _release, descriptor, link)
        except OSError:
            os.close(descriptor)
            raise
        link.unlink(missing_ok=True)  # of an earlier process of our number
        link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        return np.frombuffer(mapped, np.uint8)


def _seals():
    return fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def _filled(name, size, fill, what):
    """A descriptor of new memory, filled and sealed."""
    require_memory(size, what)
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fill(np.frombuffer(mmap.mmap(descriptor, size), np.uint8))  # unmapped with the array, or it can't be sealed
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _seals())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_sealed(descriptor, name, size):
    """Whether it is memory of this name and size that was filled by a process of this user."""
    try:
        status, seals = os.fstat(descriptor), fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:  # no memfd
        return False
    return (status.st_size == size and status.st_uid == os.geteuid() and seals & _seals() == _seals()
            and target.startswith(f"/memfd:{name} "))


def _release(descriptor, link):
    os.close(descriptor)
    with suppress(OSError):
        link.unlink()
