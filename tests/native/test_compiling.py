"""utils/native/compiling.py: what is compiled when, and what is said where it can't be."""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from utils.memory import ALIGNED
from utils.native import compiling, kernels
from utils.native.compiling import NotCompiled, address, aligned, level_flags, library


def loaded(**environment):
    """What the log line of a fresh process says of the C++ for training."""
    program = "from utils import device\nprepared = device.prepare(threads=1)\n" \
              "print(prepared.kernels is None, prepared.line)"
    process = subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True,
                             text=True, check=True, cwd=ROOT)
    is_missing, *words = process.stdout.split()
    assert (is_missing == "True") == words[-1].startswith("native:no")
    return words[-1]


def test_it_is_compiled_once_and_not_without_compiler_or_place(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    assert loaded(**cache) == "native:yes"
    [file] = cached(tmp_path)
    written = file.stat().st_mtime_ns
    assert loaded(**cache) == "native:yes" and file.stat().st_mtime_ns == written
    empty = tmp_path / "empty"
    empty.mkdir()
    assert loaded(XDG_CACHE_HOME=str(empty), PATH=str(empty)) == "native:no(no_C++_compiler)"
    (tmp_path / "file").touch()
    place = tmp_path / "file/gru4rec-paddle"
    assert loaded(XDG_CACHE_HOME=str(tmp_path / "file")) == f"native:no(NotADirectoryError:_{place})"
    false = shutil.which("false")
    assert loaded(XDG_CACHE_HOME=str(empty), CXX="false") == f"native:no(CalledProcessError:_{false}_with_status_1)"


def test_a_paddle_without_mkl_is_named(tmp_path):
    with pytest.raises(NotCompiled, match="this Paddle has no libmklml_intel.so"):
        kernels.load(tmp_path)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Two C++ files that need each other, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, second = tmp_path / "first.cc", tmp_path / "second.cc"
    first.write_text('extern "C" int twice(int x) { return 2 * x; }', encoding="utf-8")
    second.write_text('extern "C" int twice(int x);\nextern "C" int answer() { return twice(21); }', encoding="utf-8")
    return [first, second]


def cached(tmp_path):
    """The libraries in the cache, each of which has its checksum beside it, and nothing else is there."""
    files = set((tmp_path / "cache/gru4rec-paddle").iterdir())
    libraries = sorted(path for path in files if path.suffix == ".so")
    assert files == {*libraries, *(path.with_name(path.name + ".sha256") for path in libraries)}
    return libraries


def test_sources_become_one_library_and_others_or_other_flags_another(sources, tmp_path):
    assert library(sources, []).answer() == 42 and library(sources, []).answer() == 42
    assert len(cached(tmp_path)) == 1
    assert library(sources, ["-DUNUSED"]).answer() == 42 and len(cached(tmp_path)) == 2
    assert library(sources, [], ["-lm"]).answer() == 42 and len(cached(tmp_path)) == 3
    sources[0].write_text('extern "C" int twice(int x) { return 3 * x; }', encoding="utf-8")
    assert library(sources, []).answer() == 63 and len(cached(tmp_path)) == 4


def test_headers_count_among_the_sources(sources, tmp_path, monkeypatch):
    assert {"activations.h", "shared.h"} <= {path.name for path in compiling.HEADERS}
    header = tmp_path / "some.h"
    header.touch()
    monkeypatch.setattr(compiling, "HEADERS", [header])
    library(sources, [])
    header.write_text("// another", encoding="utf-8")
    library(sources, [])
    assert len(cached(tmp_path)) == 2


def test_code_for_this_processor_is_not_used_on_another(sources, tmp_path, monkeypatch):
    library(sources, ["-march=native"]), library(sources, [])
    real = compiling._processor
    monkeypatch.setattr(compiling, "_processor", lambda *names: [*real(*names), "flags : another"])
    library(sources, [])
    assert len(cached(tmp_path)) == 2
    library(sources, ["-march=native"])
    assert len(cached(tmp_path)) == 3


def test_what_does_not_compile_leaves_nothing(sources, tmp_path):
    sources[1].write_text("this is no C++", encoding="utf-8")
    with pytest.raises(NotCompiled, match="CalledProcessError"):
        library(sources, [])
    assert cached(tmp_path) == []


# What is loaded

@pytest.fixture
def compiled(sources, tmp_path):
    """The library in the cache, not loaded yet."""
    assert fresh(sources) == "42"
    [file] = cached(tmp_path)
    return file


def fresh(sources, **environment):
    """What a process of its own gets from a library, or why it gets none: a damaged one would end this process."""
    program = ("import sys; sys.path.insert(0, sys.argv[1])\n"
               "from pathlib import Path\n"
               "from utils.native.compiling import NotCompiled, library\n"
               "try: print(library(list(map(Path, sys.argv[2:])), []).answer())\n"
               "except NotCompiled as reason: print(reason)\n")
    process = subprocess.run([sys.executable, "-c", program, ROOT, *sources], env={**os.environ, **environment},
                             capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (0, ""), process
    return process.stdout.removesuffix("\n")


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "truncated": lambda file: os.truncate(file, 4096),
    "empty": lambda file: os.truncate(file, 0),
    "a flipped bit": flip_a_bit,
    "no library at all": lambda file: file.write_bytes(b"\x7fELF" + bytes(5000)),
    "no checksum": lambda file: compiling._checksum_of(file).unlink(),
    "an empty checksum": lambda file: compiling._checksum_of(file).write_bytes(b""),
    "everyone may write it": lambda file: file.chmod(0o777),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_or_not_ones_own_is_compiled_again(sources, compiled, tmp_path, damage):
    whole = compiled.read_bytes()
    DAMAGES[damage](compiled)
    assert fresh(sources, PATH=str(tmp_path)).startswith(f"no C++ compiler, and {compiled} is ")
    assert fresh(sources) == "42"
    assert cached(tmp_path) == [compiled] and compiled.read_bytes() == whole
    assert stat.S_IMODE(compiled.stat().st_mode) == 0o600
    assert compiling._checksum_of(compiled).read_text() == hashlib.sha256(whole).hexdigest()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_library_is_not_loaded(sources, compiled, tmp_path):
    hostile, directory = tmp_path / "hostile.cc", compiled.parent
    hostile.write_text('extern "C" int answer() { return 666; }', encoding="utf-8")
    subprocess.run(["g++", "-shared", "-fPIC", hostile, "-o", compiled], check=True)
    compiled.chmod(0o777)
    compiling._checksum_of(compiled).write_text(hashlib.sha256(compiled.read_bytes()).hexdigest())
    for path in directory.iterdir():
        os.chown(path, 65534, 65534)
    assert fresh(sources) == "42" and compiled.stat().st_uid == 0
    os.chown(directory, 65534, 65534)
    assert fresh(sources) == f"{directory} belongs to another user"


def test_the_cache_is_closed_to_others_whatever_the_mask(sources, tmp_path):
    directory = tmp_path / "cache/gru4rec-paddle"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    before = os.umask(0)
    try:
        assert fresh(sources) == "42"
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()] == [0o600, 0o600]
    [file] = cached(tmp_path)
    written = file.stat().st_mtime_ns
    assert fresh(sources) == "42" and file.stat().st_mtime_ns == written


def test_a_cache_that_others_may_only_read_stays_so(sources, compiled):
    """An image has one that root made, and any user runs what is in it."""
    compiled.parent.chmod(0o755)
    assert fresh(sources) == "42" and stat.S_IMODE(compiled.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize("level, flags", [("none", []), ("x86-64-v3", ["-march=x86-64-v3"])])
def test_a_level_that_was_asked_for(monkeypatch, level, flags):
    monkeypatch.setenv(compiling.LEVEL, level)
    assert level_flags() == flags


def test_what_the_compiler_says_is_the_reason(sources):
    sources[0].write_text("this is no C++", encoding="utf-8")
    reason = fresh(sources)
    assert reason.startswith("CalledProcessError: ") and "first.cc:1:1: " in reason and "\n" not in reason
    sources[0].with_name("own.h").write_text("\nthis is no C++", encoding="utf-8")
    sources[0].write_text('#include "own.h"', encoding="utf-8")
    assert "own.h:2:1: " in fresh(sources)  # not which file includes it


V3 = "flags : avx avx2 bmi1 bmi2 f16c fma movbe"
V4 = V3 + " avx512f avx512bw avx512cd avx512dq avx512vl"


@pytest.mark.parametrize("machine, flags", [("aarch64", []), ("arm64", []), ("AMD64", ["-march=x86-64-v4"])])
def test_a_level_is_for_x86_alone(monkeypatch, machine, flags):
    """Where a processor is emulated, Linux may describe the real one."""
    monkeypatch.setattr(compiling, "_processor", lambda *names: [V4])
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert level_flags() == flags


@pytest.mark.parametrize("lines, flags", [
    ([V4], ["-march=x86-64-v4"]), ([V3], ["-march=x86-64-v3"]), ([V3, V4], ["-march=x86-64-v3"]),
    (["flags : sse2"], []), ([], []),
])
def test_the_level_is_one_that_all_processors_have(monkeypatch, lines, flags):
    monkeypatch.setattr(compiling, "_processor", lambda *names: lines)
    assert level_flags() == flags


@pytest.mark.parametrize("shape, dtype", [((3, 5), np.float32), ((0, 5), np.float32), ((7,), np.int64)])
def test_arrays_for_results_are_aligned(shape, dtype):
    for _ in range(5):
        array = aligned(shape, dtype)
        assert array.shape == shape and array.dtype == dtype and array.flags.c_contiguous
        assert address(array) % ALIGNED == 0 or not array.size
        array[...] = 1


def test_addresses_are_those_of_the_numbers():
    array = np.arange(6, dtype=np.float32)
    assert address(None) is None and address(array) == array.ctypes.data and address(array[2:]) == array.ctypes.data + 8
    array.flags.writeable = False
    assert address(array) == array.ctypes.data
