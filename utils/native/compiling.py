"""C++ of this project as a library: compiled at first use, which takes seconds, and kept in the user's cache directory.

What is loaded runs with all rights of this process. So a library is loaded only where nobody else can have written it,
and where it is whole: its checksum stands in a file beside it. Else it is compiled again.
"""

import ctypes
import hashlib
import math
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from utils.files import InputError, open_file, write_atomically
from utils.memory import ALIGNED

POINTER, INTEGER, FLOAT, KEY = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint64
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
COMPILE = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC"]
LEVEL = "NATIVE_LEVEL"  # environment variable with one of the LEVELS, or `none`: compile for that one, whatever is here
# The instructions that a processor must have for what compilers call so, as Linux names them.
LEVELS = {"x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
          "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}}


class NotCompiled(Exception):
    """There is no such library, and why, in a few words with the path."""


def library(sources, compile_flags, link_flags=()):
    """The ctypes.CDLL of C++ files, from the cache or compiled now; NotCompiled where it can't be had."""
    try:
        return ctypes.CDLL(str(_file(sources, [*COMPILE, *compile_flags], link_flags)))
    # RuntimeError: no home directory is known
    except (InputError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise NotCompiled(_reason(error)) from error


def is_x86():
    """Whether this Python runs on x86-64; on another kind of processor compilers have no LEVELS to choose from."""
    return platform.machine() in ("x86_64", "AMD64")


def level_flags():
    """Flags to compile for this processor and all others of its level, so that they can share a library."""
    if asked := os.environ.get(LEVEL):
        return [] if asked == "none" else [f"-march={asked}"]
    known = _processor("flags") if is_x86() else []  # an emulated processor may see what Linux says of the real one
    level = next((name for name, needed in LEVELS.items() if all(needed <= set(line.split()) for line in known)), None)
    return [f"-march={level}"] if known and level else []


def address(array):
    """Where the numbers of a NumPy array lie, one after the other; None of None."""
    if array is None:
        return None
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError):  # it is empty, or not to be changed: the way that takes ten times as long
        return array.__array_interface__["data"][0]


def aligned(shape, dtype):
    """An array for results that starts at a multiple of `ALIGNED` bytes."""
    room = np.empty(math.prod(shape) * np.dtype(dtype).itemsize + ALIGNED, np.uint8)
    return np.ndarray(shape, dtype, room, -address(room) % ALIGNED)


def _file(sources, compile_flags, link_flags):
    """The library's file, compiled for these sources and flags if it isn't there yet, or isn't what was written."""
    texts = [path.read_text(encoding="utf-8") for path in (*sources, *HEADERS)]
    processor = _processor("model name", "flags") if "-march=native" in compile_flags else []
    key = hashlib.sha256("\0".join([*texts, *compile_flags, *link_flags, *processor]).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gru4rec-paddle"
    file = cache / f"{sources[0].stem}-{key[:16]}.so"
    _make_own_directory(cache)
    fault = _fault(file)
    if not fault:
        return file
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if not compiler:
        raise NotCompiled("no C++ compiler" + f", and {file} {fault}" * file.exists())
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        objects = [Path(directory) / f"{source.stem}.o" for source in sources]
        linked = Path(directory) / "linked.so"
        commands = [[compiler, *compile_flags, "-c", source, "-o", path] for source, path in zip(sources, objects)]
        for command in (*commands, [compiler, "-shared", *objects, "-o", linked, *link_flags]):
            subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)
        contents = linked.read_bytes()
    for path, data in (file, contents), (_checksum_of(file), hashlib.sha256(contents).hexdigest().encode()):
        if not path.is_file():  # a pipe, for example
            path.unlink(missing_ok=True)
        with write_atomically(path, "wb", permissions=0o600) as written:
            written.write(data)
    return file


def _make_own_directory(cache):
    """Make the directory of the libraries, closed to others; NotCompiled where another user could write there.

    One that others may read stays so: that of an image, which root made, is for any user.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not all(_is_by_us(status) for status in (cache.lstat(), cache.stat())):  # by lstat: it may be a link
        raise NotCompiled(f"{cache} belongs to another user")
    if _may_others_write(cache.stat()):
        with suppress(OSError):  # it may be root's, or on a disk that can't be written
            cache.chmod(0o700)
    if _may_others_write(cache.stat()):
        raise NotCompiled(f"{cache} may be written by other users")


def _fault(file):
    """What is wrong with a library, in a few words; None where it may be loaded."""
    contents = []
    for path in file, _checksum_of(file):
        try:
            with open_file(path, "library") as opened:
                status = os.fstat(opened.fileno())
                if not _is_by_us(status) or _may_others_write(status):
                    return "is another user's, or may be written by others"
                contents.append(opened.read())
        except (InputError, OSError):
            return "is missing, or its checksum is"
    return None if hashlib.sha256(contents[0]).hexdigest().encode() == contents[1] else "is damaged"


def _checksum_of(file):
    """The path of the file with a library's SHA-256."""
    return file.with_name(file.name + ".sha256")


def _is_by_us(status):
    """Whether a file or directory, by its status, belongs to this user or to root."""
    return not hasattr(os, "geteuid") or status.st_uid in (0, os.geteuid())


def _may_others_write(status):
    return hasattr(os, "geteuid") and bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _reason(error):
    """Why there is no library, in one line."""
    name = type(error).__name__
    if isinstance(error, subprocess.CalledProcessError):
        said = error.stderr.decode(errors="replace").strip().splitlines()
        said.sort(key=lambda line: "error:" not in line)  # first what is wrong, not which file included which
        return " ".join([f"{name}: {error.cmd[0]} with status {error.returncode}", *said[:1]])[:300]
    if isinstance(error, OSError) and error.filename:
        return f"{name}: {error.filename}"
    return f"{name}: {' '.join(str(error).split())}"[:300]


def _processor(*names):
    """The different lines of Linux's description of the processors that start with one of the names, sorted."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return []
    return sorted({line for line in lines if line.startswith(names)})
