"""utils/memory.py: what is free, by the system and by control groups of both versions, and what is refused."""

import os

import pytest

from utils import memory
from utils.files import InputError
from utils.memory import read_bytes, readable, require_memory

GIB = 1 << 30


def write_files(directory, files):
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def groups(tmp_path, own_groups, files):
    """What `_of_groups` finds in made-up files of Linux, in GiB."""
    write_files(tmp_path, {"own_groups": own_groups, **files})
    return [found / GIB for found in memory._of_groups(tmp_path / "own_groups", tmp_path / "mounted")]


def test_something_is_free_here():
    assert memory.available() is None or memory.available() > 1 << 20


def test_the_system_counts_what_it_could_free_and_swap(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 3 kB\nMemAvailable: 40 kB\nSwapFree: 2 kB\n")
    assert memory._of_system(tmp_path / "meminfo") == 42 * 1024
    assert memory._of_system(tmp_path / "absent") is None
    (tmp_path / "meminfo").write_text("another system\n")
    assert memory._of_system(tmp_path / "meminfo") is None


def test_limits_of_groups_of_version_2_and_of_those_above(tmp_path):
    found = groups(tmp_path, "0::/jobs/one\n", {
        "mounted/jobs/one/memory.max": "max\n", "mounted/jobs/one/memory.current": f"{GIB}\n",
        "mounted/jobs/memory.max": f"{8 * GIB}\n", "mounted/jobs/memory.current": f"{5 * GIB}\n",
        "mounted/jobs/memory.stat": f"anon {3 * GIB}\nactive_file {GIB}\ninactive_file {GIB}\n"})
    assert found == [5]


def test_limits_of_groups_of_version_1_in_a_container_that_sees_only_its_own(tmp_path):
    found = groups(tmp_path, "5:cpu:/docker/abc\n4:memory:/docker/abc\n", {
        "mounted/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
        "mounted/memory/memory.usage_in_bytes": f"{3 * GIB}\n",
        "mounted/memory/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n"})
    assert found == [2]


def test_a_system_without_groups_has_no_limits(tmp_path):
    assert list(memory._of_groups(tmp_path / "absent", tmp_path)) == []
    assert groups(tmp_path, "no groups\n0::/\n", {}) == []


def test_what_is_larger_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 3 * GIB)
    require_memory(3 * GIB, "--neg_size: found 7")
    with pytest.raises(InputError) as error:
        require_memory(3 * GIB + (GIB >> 1), "--neg_size: found 7")
    assert str(error.value) == ("--neg_size: found 7, which takes at least 3.5 GiB of memory, expected at most the "
                                "3.0 GiB that are free")
    monkeypatch.setattr(memory, "available", lambda: None)
    require_memory(1 << 60, "where nothing is known, nothing is refused")


@pytest.mark.parametrize("count, text", [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (1536, "1.5 KiB"),
                                         (5 * GIB, "5.0 GiB"), (10**22, "8673.6 EiB")])
def test_numbers_of_bytes_are_readable(count, text):
    assert readable(count) == text


def test_a_file_is_read_up_to_a_size(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", "--x", most=5) == b"12345"
    with pytest.raises(InputError, match="file: found 5 bytes, expected at most 4 bytes"):
        read_bytes(tmp_path / "file", "--x", most=4)
    with pytest.raises(InputError, match="--x: found no file .*absent, expected a model"):
        read_bytes(tmp_path / "absent", "--x", "a model")
    os.truncate(tmp_path / "file", 1 << 42)
    with pytest.raises(InputError, match="file: found 4.0 TiB, which takes at least 4.0 TiB"):
        read_bytes(tmp_path / "file", "--x")
