"""utils/data/sessions.py: session text is read, refused and cut as by a slow plain parser; text_cache.py keeps it."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data import sessions as session_module
from utils.data import text_cache
from utils.data.session_files import CONVERSION, session_files, session_files_in
from utils.data.sessions import Sessions, cut_blocks, cut_windows, joined, read_sessions
from utils.files import InputError

SESSION_LISTS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=25)


def as_sessions(lists):
    return Sessions(np.array([item for items in lists for item in items], np.int32),
                    np.cumsum([0, *map(len, lists)], dtype=np.int64))


def as_lists(sessions):
    return [sessions.items[start:end].tolist() for start, end in zip(sessions.offsets, sessions.offsets[1:])]


def read_bytes(directory, contents, item_count=100):
    """read_sessions of one file with `contents`, as lists."""
    file = directory / "sessions.txt"
    file.write_bytes(contents)
    return as_lists(read_sessions(file, item_count, "--train_dir"))


def read_error(directory, contents, item_count=100):
    with pytest.raises(InputError) as raised:
        read_bytes(directory, contents, item_count)
    return str(raised.value)


# Reading

def test_reads_a_line_as_a_session(tmp_path):
    (tmp_path / "a").write_text("3 1 2\n7\n5 5\n")
    sessions = read_sessions(tmp_path / "a", 8, "--train_dir")
    assert sessions.items.tolist() == [3, 1, 2, 7, 5, 5] and sessions.items.dtype == np.int32
    assert sessions.offsets.tolist() == [0, 3, 4, 6] and sessions.offsets.dtype == np.int64
    assert sessions.lengths.tolist() == [3, 1, 2]
    assert sessions.predictions == 3


def test_reads_all_files_of_a_directory_in_name_order(tmp_path):
    (tmp_path / "b.txt").write_text("3 4\n")
    (tmp_path / "a.txt").write_text("1 2")  # no newline at the end: the next file must not continue the line
    (tmp_path / "c").write_text("5\n")
    assert as_lists(read_sessions(tmp_path, 100, "--train_dir")) == [[1, 2], [3, 4], [5]]


def test_leaves_out_hidden_files_json_files_and_directories(tmp_path):
    (tmp_path / "a.txt").write_text("1 2\n")
    (tmp_path / ".a.txt.swp").write_text("junk")
    (tmp_path / CONVERSION).write_text('{"vocab_sha256": "abc"}')
    (tmp_path / "other.json").write_text("junk")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_text("junk")
    assert as_lists(read_sessions(tmp_path, 100, "--train_dir")) == [[1, 2]]
    assert session_files_in(tmp_path) == session_files(tmp_path, "--train_dir") == [tmp_path / "a.txt"]


@pytest.mark.parametrize("contents", [b"1 2\n3\n", b"1 2\n3", b"1 2\r\n3\r\n", b"\n\n1 2\n\n3\n\n", b" 1\t2 \n \n\t3",
                                      b"01  002\n3 "])
def test_blanks_empty_lines_and_line_ends_make_no_difference(tmp_path, contents):
    assert read_bytes(tmp_path, contents) == [[1, 2], [3]]


@given(lists=SESSION_LISTS, chunk_bytes=st.integers(1, 40), newline=st.sampled_from(["\n", "\r\n", "\n\n"]),
       last=st.booleans())
def test_reads_the_same_wherever_chunks_end(tmp_path_factory, lists, chunk_bytes, newline, last):
    text = newline.join(" ".join(map(str, items)) for items in lists) + newline * last
    directory = tmp_path_factory.mktemp("chunks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "CHUNK_BYTES", chunk_bytes)
        assert read_bytes(directory, text.encode()) == lists


@given(text=st.text("0123456789 \t\r\n", max_size=60), chunk_bytes=st.integers(1, 20))
def test_reads_as_a_slow_plain_parser_does(tmp_path_factory, text, chunk_bytes):
    plain = [[int(word) for word in line.split()] for line in text.split("\n")]
    plain = [items for items in plain if items]
    directory = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "CHUNK_BYTES", chunk_bytes)
        if plain and max(map(max, plain)) < 100:
            assert read_bytes(directory, text.encode()) == plain
        else:
            read_error(directory, text.encode())


@pytest.mark.parametrize("chunk_bytes", [1, 5, 1000])
@pytest.mark.parametrize("contents, line, word", [
    (b"1 2\n3 100 4\n", 2, "'100'"),
    (b"1 2\n\n3 99999999999999999999999\n", 3, "'99999999999999999999999'"),
    (b"1 2\n3 -4\n", 2, "'-4'"),
    (b"1 2\n3 4.5 6\n", 2, "'4.5'"),
    (b"1\tcamera\t2\r\n", 1, "'camera'"),
    (b"1 2\n3\n4 5\nitem_7 1", 4, "'item_7'"),
    (b"1,2\n", 1, "'1,2'"),
    ("1 2\n3 \u00e4\u00f6 4\n".encode(), 2, "'\u00e4\u00f6'"),
    (b"1 2\n\xff\xfe\n", 2, "'\ufffd\ufffd'"),
    (b"1 2\n3 \x00\x01 4\n", 2, r"'\x00\x01'"),
    (b"1 \xc2\xa02\n", 1, r"'\xa02'"),
])
def test_an_error_names_the_line_and_the_word(tmp_path, monkeypatch, contents, line, word, chunk_bytes):
    monkeypatch.setattr(session_module, "CHUNK_BYTES", chunk_bytes)
    message = read_error(tmp_path, contents)
    expected = f"{tmp_path / 'sessions.txt'}:{line}: found {word}, expected item indices from 0 to 99"
    assert message.startswith(expected), message
    assert "\n" not in message


def test_the_highest_index_is_one_less_than_the_number_of_items(tmp_path):
    assert read_bytes(tmp_path, b"0 4\n", item_count=5) == [[0, 4]]
    assert ":1: found '5'" in read_error(tmp_path, b"0 5\n", item_count=5)


def test_a_long_word_of_junk_is_cut_in_the_message(tmp_path):
    assert len(read_error(tmp_path, b"x" * 100_000)) < 300


def test_nothing_to_read_is_an_error_that_names_the_flag(tmp_path):
    with pytest.raises(InputError, match="--test_dir: found nothing at .*absent"):
        read_sessions(tmp_path / "absent", 5, "--test_dir")
    with pytest.raises(InputError, match="--test_dir: found no session files"):
        read_sessions(tmp_path, 5, "--test_dir")
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(InputError, match="--test_dir: found no session in"):
        read_sessions(tmp_path, 5, "--test_dir")


# Windows

def test_short_sessions_are_not_cut():
    sessions = as_sessions([[1], [1, 2, 3], [4, 5]])
    assert cut_windows(sessions, 2) == cut_windows(sessions, 2, 1) == (sessions, None)


def test_a_window_begins_with_the_click_that_the_one_before_ended_with():
    windows, context = cut_windows(as_sessions([[9], [0, 1, 2, 3, 4, 5], [7, 8]]), 2)
    assert as_lists(windows) == [[9], [0, 1, 2], [2, 3, 4], [4, 5], [7, 8]]
    assert context is None


def test_windows_that_overlap_give_every_prediction_clicks_before_it():
    windows, context = cut_windows(as_sessions([[9], [0, 1, 2, 3, 4, 5], [7, 8]]), 3, 2)
    assert as_lists(windows) == [[9], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [7, 8]]
    assert context.tolist() == [0, 0, 2, 2, 0]


@given(lists=SESSION_LISTS, longest=st.integers(1, 13), overlap=st.integers(0, 12))
def test_windows_hold_every_prediction_once_and_none_is_too_long(lists, longest, overlap):
    overlap = min(overlap, longest - 1)
    # all clicks differ
    lists = [[1000 * number + click for click in range(len(items))] for number, items in enumerate(lists)]
    windows, context = cut_windows(as_sessions(lists), longest, overlap)
    before = [0] * len(windows.lengths) if context is None else context.tolist()
    pairs = [pair for items, skipped in zip(as_lists(windows), before) for pair in [*zip(items, items[1:])][skipped:]]
    assert pairs == [pair for items in lists for pair in zip(items, items[1:])]
    assert windows.lengths.min() >= 1 and windows.lengths.max() <= longest + 1
    for items, skipped in zip(as_lists(windows), before):
        assert skipped == (overlap if items[0] % 1000 else 0)  # of all windows but a session's first
    assert [items for items in as_lists(windows) if len(items) == 1] == [items for items in lists if len(items) == 1]


def test_a_session_without_clicks_or_with_one_has_no_prediction():
    assert as_sessions([[], [1, 2], [], [3], [4, 5, 6]]).predictions == 3


def test_sessions_are_joined_in_order():
    parts = [as_sessions([[1, 2], [3]]), as_sessions([[4]]), as_sessions([[5, 6, 7], [8]])]
    assert as_lists(joined(parts)) == [[1, 2], [3], [4], [5, 6, 7], [8]]
    assert joined(parts).offsets.dtype == np.int64 and joined(parts).items.dtype == np.int32


# The copy beside the text

@pytest.fixture
def session_text(tmp_path, monkeypatch):
    """A directory of two session files of which a copy is worth keeping."""
    monkeypatch.setattr(text_cache, "WORTH_KEEPING", 1)
    (tmp_path / "a.txt").write_text("1 2 3\n4 5\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("6 7\n", encoding="utf-8")
    return tmp_path


def test_sessions_are_read_once(session_text, monkeypatch):
    first = read_sessions(session_text, 9, "--train_dir")
    assert (session_text / text_cache.NAME).exists()
    monkeypatch.setattr(session_module, "_parse_chunk", lambda *arguments: pytest.fail("the text was read again"))
    again = read_sessions(session_text, 9, "--train_dir")
    assert as_lists(again) == as_lists(first) == [[1, 2, 3], [4, 5], [6, 7]]
    assert again.items.dtype == first.items.dtype and again.offsets.dtype == first.offsets.dtype


def test_changed_text_counts_and_not_its_copy(session_text):
    read_sessions(session_text, 9, "--train_dir")
    (session_text / "b.txt").write_text("7 6\n", encoding="utf-8")
    assert as_lists(read_sessions(session_text, 9, "--train_dir"))[-1] == [7, 6]
    (session_text / "b.txt").unlink()
    assert as_lists(read_sessions(session_text, 9, "--train_dir")) == [[1, 2, 3], [4, 5]]
    assert as_lists(read_sessions(session_text / "a.txt", 9, "--train_dir")) == [[1, 2, 3], [4, 5]]


def test_a_copy_with_items_that_the_vocabulary_lacks_is_no_excuse(session_text):
    read_sessions(session_text, 9, "--train_dir")
    with pytest.raises(InputError, match="b.txt:1: found '7', expected item indices from 0 to 6"):
        read_sessions(session_text, 7, "--train_dir")


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_broken_copy_is_made_anew(session_text, content):
    (session_text / text_cache.NAME).write_bytes(content)
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3
    assert len((session_text / text_cache.NAME).read_bytes()) > 100


def test_where_no_copy_can_be_written_there_is_none(session_text, monkeypatch):
    (session_text / text_cache.NAME).mkdir()
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3
    def no_space(*arguments):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(text_cache, "write_atomically", no_space)
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3


def test_every_flipped_bit_of_the_copy_is_found(session_text):
    """Items are indices that C++ looks up: one that a disk spoiled would be any place in memory."""
    expected = as_lists(read_sessions(session_text, 9, "--train_dir"))
    path = session_text / text_cache.NAME
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert as_lists(read_sessions(session_text, 9, "--train_dir")) == expected, bit
        assert len(path.read_bytes()) == len(whole), "it is made anew"


@pytest.mark.parametrize("items, offsets", [
    ([1, 2, -3, 4, 5, 6, 7], [0, 3, 5, 7]), ([1, 2, 9, 4, 5, 6, 7], [0, 3, 5, 7]),
    ([1, 2, 3, 4, 5, 6, 7], [0, 3, 5, 8]), ([1, 2, 3, 4, 5, 6, 7], [1, 3, 5, 7]),
    ([1, 2, 3, 4, 5, 6, 7], [0, 5, 3, 7]), ([1, 2, 3, 4, 5, 6, 7], [0, 3, 3, 7]),
    ([1, 2, 3, 4, 5, 6, 7], [0, -3, 5, 7]), ([1, 2, 3, 4, 5, 6, 7], [0]), ([], [0, 0])], ids=str)
@pytest.mark.parametrize("types", [(np.int32, np.int64), (np.uint32, np.int64), (np.int64, np.int64)], ids=str)
def test_a_copy_that_is_no_sessions_is_made_anew_whatever_its_checksum(session_text, items, offsets, types):
    expected = as_lists(read_sessions(session_text, 9, "--train_dir"))
    files = session_files(session_text, "--train_dir")
    description = text_cache.describe(files, {})
    text_cache.store(files, {}, description, np.array(items).astype(types[0]), np.array(offsets).astype(types[1]))
    assert text_cache.load(files, description, 9) is None
    assert as_lists(read_sessions(session_text, 9, "--train_dir")) == expected
    assert text_cache.load(files, description, 9) is not None


def test_a_pipe_and_an_endless_or_huge_file_are_no_copy(session_text):
    path = session_text / text_cache.NAME
    os.mkfifo(path)
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3
    path.unlink(), path.symlink_to("/dev/zero")
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3
    path.unlink(), path.touch(), os.truncate(path, 1 << 40)  # of holes: it takes no space
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3


def test_session_text_larger_than_the_memory_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("1 2\n")
    os.truncate(tmp_path / "a.txt", 1 << 42)
    with pytest.raises(InputError, match="--train_dir: found 4.0 TiB of session text, which takes at least .* free"):
        read_sessions(tmp_path, 9, "--train_dir")


@pytest.mark.parametrize("predictions", [1, 3, 10**6])
def test_blocks_have_every_session_once(predictions):
    lengths = np.array([1, 1, 5, 2, 1, 9, 2, 2, 1])
    whole = Sessions(np.arange(lengths.sum(), dtype=np.int32), np.concatenate([[0], np.cumsum(lengths)]))
    blocks = list(cut_blocks(whole, predictions))
    assert np.concatenate([block.items for _, block in blocks]).tolist() == whole.items.tolist()
    assert np.concatenate([block.lengths for _, block in blocks]).tolist() == lengths.tolist()
    firsts = np.cumsum([0] + [len(block.lengths) for _, block in blocks])[:-1]
    assert [first for first, _ in blocks] == firsts.tolist()
    assert all(block.predictions <= predictions or len(block.lengths) == 1 for _, block in blocks)
