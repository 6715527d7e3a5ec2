"""C++ of this project as a library: compiled at first use, which takes seconds, and kept in the user's cache directory.
"""

import ctypes
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

POINTER, INTEGER, FLOAT, KEY = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_uint64
ALIGNED = 64  # bytes: what a processor loads at once
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
COMPILE = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fPIC"]
# The instructions that a processor must have for what compilers call so, as Linux names them.
LEVELS = {"x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
          "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"}}


class NotCompiled(Exception):
    """There is no such library, and why, in a word or two."""


def library(sources, compile_flags, link_flags=()):
    """The ctypes.CDLL of C++ files, from the cache or compiled now; NotCompiled where it can't be had."""
    try:
        return ctypes.CDLL(str(_file(sources, [*COMPILE, *compile_flags], link_flags)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # RuntimeError: no home directory is known
        raise NotCompiled(type(error).__name__) from error


def level_flags():
    """Flags to compile for this processor and all others of its level, so that they can share a library."""
    known = _processor("flags")
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
    bytes_needed = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(bytes_needed + ALIGNED, np.uint8)
    start = -address(room) % ALIGNED
    return room[start:start + bytes_needed].view(dtype).reshape(shape)


def _file(sources, compile_flags, link_flags):
    """The library's file, compiled for these sources and flags if it isn't there yet."""
    texts = [path.read_text(encoding="utf-8") for path in (*sources, *HEADERS)]
    processor = _processor("model name", "flags") if "-march=native" in compile_flags else []
    key = hashlib.sha256("\0".join([*texts, *compile_flags, *link_flags, *processor]).encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gru4rec-paddle"
    file = cache / f"{sources[0].stem}-{key[:16]}.so"
    if not file.is_file():
        compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
        if not compiler:
            raise NotCompiled("no C++ compiler")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            objects = [Path(directory) / f"{source.stem}.o" for source in sources]
            linked = Path(directory) / "linked.so"
            commands = [[compiler, *compile_flags, "-c", source, "-o", file] for source, file in zip(sources, objects)]
            for command in (*commands, [compiler, "-shared", *objects, "-o", linked, *link_flags]):
                subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)
            os.replace(linked, file)
    return file


def _processor(*names):
    """The different lines of Linux's description of the processors that start with one of the names, sorted."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return []
    return sorted({line for line in lines if line.startswith(names)})
