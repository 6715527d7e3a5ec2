import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils import memory
from utils.data.item_ids import escape
from utils.data.vocabulary import checksum, read_vocabulary
from utils.files import InputError


def written(directory, contents):
    path = directory / "vocab.txt"
    path.write_bytes(contents)
    return path


@given(ids=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=2, unique=True))
def test_what_was_written_is_read(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{escape(item_id)}\n" for item_id in ids), encoding="utf-8", newline="")
    assert read_vocabulary(path) == (ids, len(ids), checksum(path))


@pytest.mark.parametrize("contents", [b"b\na\n", b"b\na", b"b\r\na\r\n"])
def test_the_line_number_is_the_index_however_lines_end(tmp_path, contents):
    assert read_vocabulary(written(tmp_path, contents))[:2] == (["b", "a"], 2)


def test_backslashes_of_before_that_escape_nothing_stay(tmp_path):
    assert read_vocabulary(written(tmp_path, b"a\\b\n\\{xyz}\n\\\n"))[:2] == (["a\\b", "\\{xyz}", "\\"], 3)
    with pytest.raises(InputError, match=r":2: found 'a\\\\b' again .first in line 1."):
        read_vocabulary(written(tmp_path, b"a\\b\na\\\\b\n"))


@pytest.mark.parametrize("contents", [b"37\n", b"37", b" 37 \r\n"])
def test_a_lone_count_is_accepted(tmp_path, contents):
    assert read_vocabulary(written(tmp_path, contents))[:2] == (None, 37)


@pytest.mark.parametrize("contents", [b"0\n", b"item\n", b"37\n38\n"])
def test_what_is_not_a_lone_count_is_item_ids(tmp_path, contents):
    assert read_vocabulary(written(tmp_path, contents)).item_ids == contents.decode().split()


@pytest.mark.parametrize("contents, fragment", [
    (b"", ": found an empty file"),
    (b"\n", ":1: found ''"),
    (b"a\n\nb\n", ":2: found ''"),
    (b"a\nb c\n", ":2: found 'b c'"),
    (b"a\nb\t\n", r":2: found 'b\t'"),
    ("a\nb\u00a0c\n".encode(), r":2: found 'b\xa0c'"),
    (b"a\nb\nc\nb\n", ":4: found 'b' again (first in line 2)"),
    (b"a\n\xff\n", "not UTF-8 at position 2"),
    (b"1" * 5000, ""),  # more digits than Python converts
])
def test_junk_is_an_error_that_names_the_line(tmp_path, contents, fragment):
    path = written(tmp_path, contents)
    if not fragment:
        assert read_vocabulary(path)[:2] == ([contents.decode()], 1)
        return
    with pytest.raises(InputError) as raised:
        read_vocabulary(path)
    assert str(raised.value).startswith(str(path)) and fragment in str(raised.value)


def test_no_file_and_a_directory_are_errors_that_name_the_flag(tmp_path):
    with pytest.raises(InputError, match="--vocab_path: found no file .*absent"):
        read_vocabulary(tmp_path / "absent")
    with pytest.raises(InputError, match="--model_dir: found the directory"):
        read_vocabulary(tmp_path, "--model_dir")


def test_the_checksum_is_that_of_the_bytes(tmp_path):
    assert checksum(written(tmp_path, b"a\r\nb")) == hashlib.sha256(b"a\r\nb").hexdigest()


@pytest.mark.parametrize("count", ["999999999", "100000000"])
def test_more_items_than_fit_in_memory_are_refused(tmp_path, monkeypatch, count):
    monkeypatch.setattr(memory, "available", lambda: 1 << 30)
    with pytest.raises(InputError, match=f"vocab.txt: found {count} as the number of items, .* 1.0 GiB that are free"):
        read_vocabulary(written(tmp_path, count.encode()))


def test_item_ids_that_do_not_fit_in_memory_are_refused(tmp_path, monkeypatch):
    path = written(tmp_path, "".join(f"{number}\n" for number in range(200_000)).encode())
    assert read_vocabulary(path).item_count == 200_000
    monkeypatch.setattr(memory, "available", lambda: 20 << 20)  # bytes; the text alone would fit
    with pytest.raises(InputError, match="vocab.txt: found 200000 item ids, which take.* free"):
        read_vocabulary(path)


def test_a_file_larger_than_the_memory_is_refused(tmp_path):
    path = written(tmp_path, b"a\n")
    os.truncate(path, 1 << 42)
    with pytest.raises(InputError, match="vocab.txt: found 4.0 TiB, which take.* free"):
        read_vocabulary(path)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name, found in [("pipe", "the pipe"), ("endless", "the device"), ("loop", "a link that leads to itself")]:
        for read in read_vocabulary, checksum:
            with pytest.raises(InputError, match=f"found {found}.* {tmp_path}/{name}, expected a file"):
                read(tmp_path / name)
