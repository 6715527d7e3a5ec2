"""Memory: how much this process may still take, and a refusal in one line of what is larger, before it is allocated.

Otherwise Linux kills the process without a word, or another one in its place.
"""

import os
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

from utils.files import InputError, open_file

ALIGNED = 64  # bytes: what a processor loads at once
WORTH_ASKING = 16 << 20  # bytes; less is always there, or the system is lost anyway
RECLAIMABLE = "active_file", "inactive_file"  # counted as a control group's, but Linux gives it up for the asking
UNITS = "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"


def available():
    """Bytes that this process may still take, by the system and by its control groups; None where that is unknown."""
    found = [_of_system(Path("/proc/meminfo")), *_of_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return min((number for number in found if number is not None), default=None)


def peak_memory():
    """The process's largest resident memory so far in MiB, or None where the system doesn't tell."""
    if not resource:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


def resident_memory():
    """The bytes of memory that this process takes now; 0 where the system doesn't tell."""
    found = _lines(Path("/proc/self/statm"))
    return int(found[0].split()[1]) * os.sysconf("SC_PAGE_SIZE") if found else 0


def require_memory(needed, what):
    """InputError if `needed` bytes are more than there are.

    Parameters
    ----------
    needed : int
        Rather too few than too many: what would have worked must not be refused.
    what : str
        The file or flag and what was found there, such as "--neg_size: found 2000000000".
    """
    if needed < WORTH_ASKING:
        return
    there = available()
    if there is not None and needed > there:
        raise InputError(f"{what}, which takes at least {readable(needed)} of memory, expected at most the "
                         f"{readable(there)} that are free")


def read_bytes(path, flag, expected="one that exists", most=None):
    """The contents of a regular file.

    Parameters
    ----------
    path : str or Path
    flag : str
        What names the file, for errors.
    expected : str
        What to expect there, for errors.
    most : int, optional
        The most bytes that it can have.

    Raises
    ------
    InputError
        There is no such file, or a pipe, a device or a directory; or it is too large.
    """
    with open_file(path, flag, expected) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise InputError(f"{path}: found {readable(size)}, expected at most {readable(most)}")
        require_memory(size, f"{path}: found {readable(size)}")
        return file.read()


def own_room(key, size, fill, what):
    """Memory for large arrays, in this process alone.

    Parameters
    ----------
    key : str
        What is in it, for those who share it with other processes, as shared_memory.py does.
    size : int
        Bytes.
    fill : function
        Called with a uint8 array [size] to write to. It must keep no part of it. It isn't called where another process
        has filled what has this key.
    what : str
        As in `require_memory`.

    Returns
    -------
    uint8 array [size]
        It can't be written to, and starts at a multiple of ALIGNED bytes.
    """
    require_memory(size, what)
    import numpy as np
    whole = np.empty(size + ALIGNED, np.uint8)
    start = -whole.ctypes.data % ALIGNED
    room = whole[start:start + size]
    fill(room)
    room.flags.writeable = False
    return room


def readable(count):
    """A number of bytes in the unit that suits it."""
    unit = min(max(int(count).bit_length() - 1, 0) // 10, len(UNITS) - 1)
    return f"{count / 1024**unit:.{int(unit > 0)}f} {UNITS[unit]}"


def _of_system(meminfo):
    """What Linux could give without harm to others, and its swap space."""
    numbers = _numbers(meminfo)
    if "MemAvailable:" not in numbers:  # another system
        return None
    return 1024 * (numbers["MemAvailable:"] + numbers.get("SwapFree:", 0))


def _of_groups(own_groups, mounted):
    """What each memory limit leaves that a control group of this process has, or one above it."""
    for line in _lines(own_groups):
        _, _, names = line.partition(":")
        controllers, _, group = names.partition(":")
        if not controllers:  # version 2
            top, limit, used, prefix = mounted, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, limit, used, prefix = mounted / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        place = top / group.strip("/")  # in a container, the path may be that outside: then only the top is there
        for directory in [place, *(above for above in place.parents if above.is_relative_to(top))]:
            most, taken = (_number(directory / name) for name in (limit, used))
            if most is not None and taken is not None:
                numbers = _numbers(directory / "memory.stat")
                yield max(0, most - taken + sum(numbers.get(prefix + name, 0) for name in RECLAIMABLE))


def _lines(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no such file: another system, or no such limit
        return []


def _number(path):
    """The number in a file; None where there is none, as in "max"."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _numbers(path):
    """A file's lines of name and number as a dict."""
    words = (line.split() for line in _lines(path))
    return {word[0]: int(word[1]) for word in words if len(word) > 1 and word[1].isdecimal()}
