import os
import socket
import stat
import subprocess
import sys

import pytest
from conftest import ROOT, files_below

from utils.files import InputError, finish, open_file, require_different, require_file, require_place, write_atomically


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with write_atomically(path) as file:
        file.write("a\n")
        assert not path.exists()
    assert files_below(tmp_path) == {"new/folder/file": b"a\n"}


def test_text_is_utf8_with_newlines_as_written_and_bytes_are_bytes(tmp_path):
    with write_atomically(tmp_path / "text") as file:
        file.write("\u00e4\r\n\n")
    with write_atomically(tmp_path / "bytes", "wb") as file:
        file.write(b"\xff\n")
    assert files_below(tmp_path) == {"text": b"\xc3\xa4\r\n\n", "bytes": b"\xff\n"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [{}, {"file": b"old"}])
def test_a_failure_leaves_the_old_file_and_no_temporary(tmp_path, error, old):
    for name, contents in old.items():
        (tmp_path / name).write_bytes(contents)
    with pytest.raises(error):
        with write_atomically(tmp_path / "file") as file:
            file.write("new")
            file.flush()
            raise error
    assert files_below(tmp_path) == old


def test_a_failure_leaves_no_folder_that_was_made_for_the_file(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError), write_atomically(tmp_path / "there/new/inner/a"), \
            write_atomically(tmp_path / "there/new/other/b"):
        raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with pytest.raises(KeyError), write_atomically(tmp_path / "new/inner/a"):
        (tmp_path / "new/mine").touch()
        raise KeyError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with write_atomically(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_block_may_finish_the_file_early(tmp_path):
    with write_atomically(tmp_path / "file") as file:
        file.write("new")
        finish(file)
        assert file.closed and not (tmp_path / "file").exists()
    assert files_below(tmp_path) == {"file": b"new"}


def test_the_file_is_as_readable_as_the_mask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "file"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_or_as_readable_as_was_asked_for(tmp_path):
    before = os.umask(0)
    try:
        with write_atomically(tmp_path / "file", permissions=0o600):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with write_atomically(tmp_path / "link") as file:
        file.write("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "new"


def test_what_is_no_place_for_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, found in [(tmp_path, "a directory"), (tmp_path / "file" / "new", "a file"),
                        (tmp_path / "file" / "folder" / "new", "a file"),
                        (tmp_path / "pipe", "a device or a"), (tmp_path / "loop", "a link that leads to itself")]:
        with pytest.raises(InputError, match=f"found {found}.*, expected"):
            with write_atomically(path):
                pass
        with pytest.raises(InputError, match=f"^--output.*found {found}"):
            require_place(path, "--output")
        with pytest.raises(InputError, match=f"^--output.*found {found}"):
            require_different([], [("--picture", tmp_path / "picture"), ("--output", path)])
    require_place(tmp_path / "new" / "new", "--output")
    (tmp_path / "pipe").unlink()
    assert files_below(tmp_path) == {"file": b"old"}


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("old")
    program = ("import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
               "sys.path.insert(0, sys.argv[1])\n"
               "from utils.files import write_atomically\n"
               "try:\n"
               "    with write_atomically(sys.argv[2]) as file: file.write(int(sys.argv[3]) * 'x')\n"
               "except OSError as error: print(error.filename)\n")
    for size in 2_000, 2_000_000:  # the first fails only when the block ends
        command = [sys.executable, "-c", program, ROOT, tmp_path / "file", str(size)]
        process = subprocess.run(command, capture_output=True, text=True)
        assert (process.stdout, process.stderr) == (f"{tmp_path / 'file'}\n", "")
    assert files_below(tmp_path) == {"file": b"old"}


def test_require_file_accepts_files_only(tmp_path):
    (tmp_path / "file").write_text("")
    assert require_file(str(tmp_path / "file"), "--input") == tmp_path / "file"
    with pytest.raises(InputError, match="--input: found the directory"):
        require_file(tmp_path, "--input")
    with pytest.raises(InputError, match="--input: found no file"):
        require_file(tmp_path / "absent", "--input")


@pytest.mark.parametrize("read", [require_file, open_file])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.path.relpath(tmp_path / "socket"))  # of an absolute path too much may be too long
    with listening:
        for name, found in [("", "the directory"), ("pipe", "the pipe"), ("endless", "the device"),
                            ("loop", "a link that leads to itself"), ("absent", "no file"), ("a\0b", "no file")]:
            with pytest.raises(InputError, match=f"^--input: found {found}.*, expected "):
                read(tmp_path / name, "--input")
        with pytest.raises((InputError, OSError)):  # a socket can't even be opened
            read(tmp_path / "socket", "--input")


def test_an_opened_file_is_read_as_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"a\r\n\xff")
    with open_file(tmp_path / "file", "--input") as file:
        assert file.read() == b"a\r\n\xff"
