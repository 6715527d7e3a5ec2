"""With this folder in PYTHONPATH, Python has nothing that Linux has and macOS lacks, from its start on.

It shows what a script does where these are missing, not what macOS has in their place.
"""

import errno
import fcntl
import os
import socket
import sys
import sysconfig

LINUX = "/proc", "/sys", "/dev/shm"


def without(function):
    """A function of `os` that finds none of Linux's own files."""
    def call(path, *arguments, **more):
        refuse(path)
        return function(path, *arguments, **more)
    return call


def refuse(path):
    if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(LINUX):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))


def audit(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir") and arguments[0] is not None:
        refuse(arguments[0])


def access(path, mode, call=os.access):
    return os.path.exists(path) and call(path, mode)


def shutdown(self, how, call=socket.socket.shutdown):
    if self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # it listens
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return call(self, how)


os.environ.setdefault("_PYTHON_SYSCONFIGDATA_NAME", sysconfig._get_sysconfigdata_name())  # of this Python, by platform
sys.platform = "another"  # by "darwin", Python would look for what macOS has
for name in ("sched_getaffinity", "sched_setscheduler", "sched_param", "memfd_create", "posix_fallocate",
             *(name for name in dir(os) if name.startswith(("MFD_", "SCHED_")))):
    delattr(os, name)
for name in dir(fcntl):
    if "SEAL" in name:
        delattr(fcntl, name)
os.stat, os.lstat, os.access = without(os.stat), without(os.lstat), access
socket.socket.shutdown = shutdown
sys.addaudithook(audit)
