import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from utils import session_cache, sessions as session_module
from utils.files import InputError
from utils.sessions import (CONVERSION, Sessions, cut_windows, evaluation_batches, list_sessions, pack, read_conversion,
                            read_sessions, session_files, session_parallel_steps, training_batches)

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


def sessions_of(batch):
    """The sessions that a batch holds, as (inputs, targets, positions) of each row, padding left out."""
    rows = [[] for _ in range(batch.rows_per_step[0])]
    click = 0
    for count in batch.rows_per_step:
        for row in range(count):
            rows[row].append((batch.inputs[click], batch.targets[click], batch.positions[click]))
            click += 1
    assert click == len(batch.inputs) == len(batch.targets) == len(batch.positions)
    rows = [[step for step in row if step[2] >= 0] for row in rows]
    return [tuple(np.array(row).T.tolist()) for row in rows if row]


def expected_rows(sessions, numbers):
    """What `sessions_of` must give for the sessions `numbers`, in any order: the slow plain way."""
    lists = as_lists(sessions)
    return sorted(([*lists[number][:-1]], [*lists[number][1:]],
                   list(range(sessions.offsets[number] + 1, sessions.offsets[number + 1])))
                  for number in numbers if len(lists[number]) > 1)


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
    (tmp_path / CONVERSION).write_text("{}")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_text("junk")
    assert as_lists(read_sessions(tmp_path, 100, "--train_dir")) == [[1, 2]]
    assert list_sessions(tmp_path) == session_files(tmp_path, "--train_dir") == [tmp_path / "a.txt"]


@pytest.mark.parametrize("contents", [b"1 2\n3\n", b"1 2\n3", b"1 2\r\n3\r\n", b"\n\n1 2\n\n3\n\n", b" 1\t2 \n \n\t3",
                                      b"01  002\n3 "])
def test_blanks_empty_lines_and_line_ends_make_no_difference(tmp_path, contents):
    assert read_bytes(tmp_path, contents) == [[1, 2], [3]]


@given(lists=SESSION_LISTS, chunk_bytes=st.integers(1, 40), newline=st.sampled_from(["\n", "\r\n", "\n\n"]), last=st.booleans())
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
    assert message.startswith(f"{tmp_path / 'sessions.txt'}:{line}: found {word}, expected item indices from 0 to 99"), message
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


# The record of a conversion

def test_a_directory_without_a_record_has_none(tmp_path):
    assert read_conversion(tmp_path, "abc", "--test_dir") == {}
    (tmp_path / "a.txt").write_text("1 2\n")
    assert read_conversion(tmp_path / "a.txt", "abc", "--test_dir") == {}


def test_a_record_of_the_same_vocabulary_is_returned(tmp_path):
    record = {"vocab_sha256": "abc", "clicks_left_out": 3}
    (tmp_path / CONVERSION).write_text(json.dumps(record))
    assert read_conversion(tmp_path, "abc", "--test_dir") == record


def test_a_record_of_another_vocabulary_is_an_error(tmp_path):
    (tmp_path / CONVERSION).write_text('{"vocab_sha256": "abc"}')
    with pytest.raises(InputError, match="--test_dir: found sessions in .* converted with another vocab.txt .SHA-256 abc"):
        read_conversion(tmp_path, "abd", "--test_dir")


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"{}", b'"text"', b"7", b'{"vocab_sha256": 5}', b"\xff\xfe", b"[" * 100_000])
def test_junk_in_the_place_of_a_record_is_an_error(tmp_path, junk):
    (tmp_path / CONVERSION).write_bytes(junk)
    with pytest.raises(InputError):
        read_conversion(tmp_path, "abc", "--test_dir")


# Windows

def test_short_sessions_are_not_cut():
    sessions = as_sessions([[1], [1, 2, 3], [4, 5]])
    assert cut_windows(sessions, 2) == (sessions, 0)


def test_a_window_begins_with_the_click_that_the_one_before_ended_with():
    windows, cut = cut_windows(as_sessions([[9], [0, 1, 2, 3, 4, 5], [7, 8]]), 2)
    assert as_lists(windows) == [[9], [0, 1, 2], [2, 3, 4], [4, 5], [7, 8]]
    assert cut == 1


@given(lists=SESSION_LISTS, longest=st.integers(1, 13))
def test_windows_hold_every_prediction_once_and_none_is_too_long(lists, longest):
    lists = [[1000 * number + click for click in range(len(items))] for number, items in enumerate(lists)]  # all clicks differ
    windows, cut = cut_windows(as_sessions(lists), longest)
    pairs = [pair for items in as_lists(windows) for pair in zip(items, items[1:])]
    assert pairs == [pair for items in lists for pair in zip(items, items[1:])]
    assert windows.lengths.min() >= 1 and windows.lengths.max() <= longest + 1
    assert cut == sum(len(items) > longest + 1 for items in lists)
    assert [items for items in as_lists(windows) if len(items) == 1] == [items for items in lists if len(items) == 1]


# Packing

def test_packs_first_clicks_first_longest_session_on_top():
    batch = pack(as_sessions([[10, 11], [20, 21, 22, 23], [30], [40, 41, 42]]), np.array([0, 1, 2, 3]))
    assert batch.rows_per_step == [3, 2, 1]
    assert batch.inputs.tolist() == [20, 40, 10, 21, 41, 22]
    assert batch.targets.tolist() == [21, 41, 11, 22, 42, 23]
    assert batch.positions.tolist() == [3, 8, 1, 4, 9, 5]
    assert batch.inputs.dtype == batch.targets.dtype == batch.positions.dtype == np.int64


def test_every_step_is_padded_to_the_minimum_of_rows():
    batch = pack(as_sessions([[10, 11], [20, 21, 22]]), np.array([0, 1]), minimum_rows=3)
    assert batch.rows_per_step == [3, 3]
    assert batch.positions.tolist() == [3, 1, -1, 4, -1, -1]
    assert batch.inputs.tolist() == [20, 10, 0, 21, 0, 0]
    assert batch.targets.tolist() == [21, 11, 0, 22, 0, 0]


@given(lists=SESSION_LISTS, minimum_rows=st.integers(1, 30), data=st.data())
def test_packs_as_a_slow_plain_version_does(lists, minimum_rows, data):
    lists.append([1, 2])  # at least one session with a prediction
    sessions = as_sessions(lists)
    numbers = data.draw(st.lists(st.integers(0, len(lists) - 1), unique=True)) or [len(lists) - 1]
    if max(len(lists[number]) for number in numbers) < 2:
        numbers.append(len(lists) - 1)
    batch = pack(sessions, np.array(numbers), minimum_rows)
    assert sorted(sessions_of(batch)) == expected_rows(sessions, numbers)
    lengths = sorted((len(lists[number]) - 1 for number in numbers), reverse=True)
    assert batch.rows_per_step == [max(minimum_rows, sum(length > step for length in lengths)) for step in range(lengths[0])]


# The copy beside the text

@pytest.fixture
def session_text(tmp_path, monkeypatch):
    """A directory of two session files of which a copy is worth keeping."""
    monkeypatch.setattr(session_cache, "WORTH_KEEPING", 1)
    (tmp_path / "a.txt").write_text("1 2 3\n4 5\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("6 7\n", encoding="utf-8")
    return tmp_path


def test_sessions_are_read_once(session_text, monkeypatch):
    first = read_sessions(session_text, 9, "--train_dir")
    assert (session_text / session_cache.NAME).exists()
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
    (session_text / session_cache.NAME).write_bytes(content)
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3
    assert len((session_text / session_cache.NAME).read_bytes()) > 100


def test_where_no_copy_can_be_written_there_is_none(session_text, monkeypatch):
    (session_text / session_cache.NAME).mkdir()
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3
    def no_space(*arguments):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(session_cache, "write_atomically", no_space)
    assert len(read_sessions(session_text, 9, "--train_dir").lengths) == 3


# Batches

def flat(batches):
    return [array.tolist() for batch in batches for array in batch[:3]]


@given(lists=SESSION_LISTS, batch_size=st.integers(1, 9), group=st.integers(1, 4), shuffle=st.booleans())
def test_training_takes_every_session_exactly_once(lists, batch_size, group, shuffle):
    sessions = as_sessions(lists)
    batches = list(training_batches(sessions, batch_size, np.random.default_rng(1), shuffle, group))
    found = [row for batch in batches for row in sessions_of(batch)]
    assert sorted(found) == expected_rows(sessions, range(len(lists)))
    used = sum(len(items) > 1 for items in lists)
    assert len(batches) == -(-used // batch_size)
    assert all(batch.rows_per_step[0] <= batch_size for batch in batches)
    assert all((batch.positions >= 0).all() for batch in batches)


def test_the_last_incomplete_batch_is_trained_on():
    batches = list(training_batches(as_sessions([[1, 2]] * 7), 50, np.random.default_rng(1)))
    assert [batch.rows_per_step for batch in batches] == [[7]]


def test_a_group_of_batches_is_sorted_by_length():
    lengths = np.random.default_rng(3).integers(2, 30, 200)
    sessions = as_sessions([[1] * length for length in lengths])
    wasted = lambda group: sum(batch.rows_per_step[0] * len(batch.rows_per_step)
                               for batch in training_batches(sessions, 10, np.random.default_rng(1), group=group)) / (lengths - 1).sum()
    assert wasted(20) < 1.15 < 1.5 < wasted(1)


def test_without_groups_the_order_of_the_file_is_kept():
    sessions = as_sessions([[number, number] for number in range(100)])
    seen = [item for batch in training_batches(sessions, 7, np.random.default_rng(1)) for item in batch.inputs]
    assert seen == list(range(100))


def test_the_order_of_the_file_is_kept_but_for_a_group():
    sessions = as_sessions([[number, number] for number in range(100)])
    seen = [item for batch in training_batches(sessions, 5, np.random.default_rng(1), group=4) for item in batch.inputs]
    groups = [sorted(seen[start:start + 20]) for start in range(0, 100, 20)]
    assert groups == [list(range(start, start + 20)) for start in range(0, 100, 20)]
    assert seen != sorted(seen)  # within a group the batches come in random order


def test_the_same_seed_gives_the_same_batches_and_another_seed_others():
    sessions = as_sessions([[number, number] for number in range(100)])
    order = lambda seed, shuffle: flat(training_batches(sessions, 5, np.random.default_rng(seed), shuffle, group=4))
    for shuffle in False, True:
        assert order(1, shuffle) == order(1, shuffle) != order(2, shuffle)


def test_shuffling_mixes_sessions_from_the_whole_file():
    sessions = as_sessions([[number, number] for number in range(1000)])
    first = next(training_batches(sessions, 10, np.random.default_rng(1), shuffle=True, group=1))
    assert first.inputs.max() - first.inputs.min() > 200
    assert as_lists(sessions)[:3] == [[0, 0], [1, 1], [2, 2]]  # the sessions themselves stay as they are


@given(lists=SESSION_LISTS, batch_size=st.integers(1, 9), minimum_rows=st.integers(1, 10))
def test_evaluation_takes_every_session_exactly_once_longest_first(lists, batch_size, minimum_rows):
    sessions = as_sessions(lists)
    batches = list(evaluation_batches(sessions, batch_size, minimum_rows))
    assert sorted(row for batch in batches for row in sessions_of(batch)) == expected_rows(sessions, range(len(lists)))
    steps = [len(batch.rows_per_step) for batch in batches]
    assert steps == sorted(steps, reverse=True)
    assert all(minimum_rows <= rows <= max(minimum_rows, batch_size) for batch in batches for rows in batch.rows_per_step)


def slow_parallel_steps(lists, slots, fewest):
    """Session-parallel training spelled out on lists: (session, click) pairs of each step's slots."""
    waiting = [session for session in range(len(lists)) if len(lists[session]) > 1]
    running = [[session, 0] for session in waiting[:slots]]
    waiting = waiting[slots:]
    steps = []
    while len(running) >= fewest and running:
        for _ in range(min(len(lists[session]) - click for session, click in running) - 1):
            steps.append([(session, click) for session, click in running])
            running = [[session, click + 1] for session, click in running]
        for slot in range(len(running)):
            session, click = running[slot]
            if len(lists[session]) - click <= 1:
                running[slot] = [waiting.pop(0), 0] if waiting else None
        running = [slot for slot in running if slot]
    return steps


@given(lengths=st.lists(st.integers(1, 7), max_size=15), slots=st.integers(1, 5), fewest=st.integers(1, 2))
def test_session_parallel_steps_equal_the_spelled_out_ones(lengths, slots, fewest):
    lists = [[100 * session + click for click in range(length)] for session, length in enumerate(lengths)]
    sessions = Sessions(np.array(sum(lists, []), np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    before, found = None, []
    for step in session_parallel_steps(sessions, slots, fewest):
        pairs = [(item // 100, item % 100) for item in step.inputs.tolist()]
        assert (step.targets == step.inputs + 1).all()
        if before is not None:  # what the state is carried by
            kept = before if step.kept is None else [before[slot] for slot in step.kept]
            restarted = [False] * len(pairs) if step.restarted is None else step.restarted.tolist()
            for (session, click), (old_session, old_click), fresh in zip(pairs, kept, restarted):
                assert (click == 0) == fresh and (fresh or (session, click) == (old_session, old_click + 1))
        before = pairs
        found.append(pairs)
    assert found == slow_parallel_steps(lists, slots, fewest)
