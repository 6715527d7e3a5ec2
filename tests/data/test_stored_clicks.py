"""Clicks in files: they are prepared as those in memory are, whatever the flags and however they lie in blocks."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clicks import FLAGS, ROWS

import preprocess
from utils.data import click_writing, spilled_sort, stored_clicks
from utils.data.clicks import SECOND
from utils.files import InputError


def parts_of(rows, session_ids, part):
    """What click_files.click_parts yields for `rows` (session, item, seconds), so many rows at a time."""
    for first in range(0, len(rows), part):
        sessions, items, times = zip(*rows[first:first + part])
        ids = [session_ids(session) for session in sessions]
        ids = np.array(ids) if type(ids[0]) is int and all(type(id) is int for id in ids) else pa.chunked_array(
            [pa.array(map(str, ids)).dictionary_encode()])
        items = pa.chunked_array([pa.array([f"p{item}" for item in items]).dictionary_encode()])
        yield ids, items, np.array(times) * SECOND + 250_000


def gathered(folder, rows, session_ids, part, memory=0):
    return stored_clicks.gather(parts_of(rows, session_ids, part), memory, lambda: folder)


def prepared(clicks, flags):
    """The text of each table and each session text, or the error, that `flags` make of `clicks`."""
    texts = []
    try:
        filtered = preprocess.filter_clicks(clicks, flags)
        for part in (filtered, *preprocess.split(filtered, flags, "train_full", "test", flags.newest_fraction,
                                                 flags.newest_days)):
            for write in (click_writing.write_table, click_writing.write_item_ids):
                file = io.BytesIO()
                write(part, file)
                texts.append(file.getvalue())
    except InputError as error:
        return str(error)
    return texts


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(stored_clicks, "BLOCK", 5)
    monkeypatch.setattr(stored_clicks, "GROUP", 3)
    monkeypatch.setattr(spilled_sort, "ROWS", 2)


@pytest.mark.parametrize("session_ids", [
    lambda number: 3 - number, lambda number: f"s{number}", lambda number: number if number < 6 else "word",
], ids=["integers", "words", "both"])
@pytest.mark.usefixtures("small_blocks")
def test_clicks_in_files_are_prepared_as_in_memory(tmp_path_factory, session_ids):
    folder = tmp_path_factory.mktemp("clicks")

    @given(ROWS, FLAGS, st.sampled_from([1, 4, 60]))
    @settings(max_examples=25)
    def check(rows, flags, part):
        in_memory = gathered(folder, rows, session_ids, part, memory=1 << 30)
        in_files = gathered(folder, rows, session_ids, part)
        assert type(in_memory) is not type(in_files)
        assert in_files.sizes() == in_memory.sizes() and in_files.time_range() == in_memory.time_range()
        assert prepared(in_files, flags) == prepared(in_memory, flags)

    check()


@pytest.mark.usefixtures("small_blocks")
def test_a_session_of_more_clicks_than_a_block_stays_whole(tmp_path):
    rows = [(session % 2, session % 7, 50 - session) for session in range(50)]
    blocks = list(gathered(tmp_path, rows, int, 3).blocks())
    assert [block.sessions.tolist() for block in blocks] == [[0], [1]]
    assert blocks[1].times.tolist() == [seconds * SECOND + 250_000 for seconds in range(1, 50, 2)]


@pytest.mark.usefixtures("small_blocks")
def test_files_are_removed_when_they_are_not_used_any_more(tmp_path):
    clicks = gathered(tmp_path, [(session, 0, 0) for session in range(50)], int, 3)
    files = len(list(tmp_path.iterdir()))
    assert files > 5
    for _ in range(4):
        clicks = clicks.each(lambda block: block)
    assert len(list(tmp_path.iterdir())) == 2 * files and clicks.sizes() == (50, 50, 1)


@pytest.mark.usefixtures("small_blocks")
def test_one_session_of_all_clicks_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_clicks, "LARGEST_SESSION", 20)
    with pytest.raises(InputError, match="--session_column: found more than 20 clicks in the session 'shop'"):
        gathered(tmp_path, [(0, 0, second) for second in range(30)], lambda number: "shop", 3)


def test_what_does_not_fit_is_moved_to_files_while_it_is_read(tmp_path):
    rows, taken = [(session, 0, 0) for session in range(10)], []

    def folder():
        taken.append(True)
        return tmp_path

    clicks = stored_clicks.gather(parts_of(rows, int, 4), 8 * stored_clicks.BYTES_A_CLICK, folder)
    assert taken and clicks.sizes() == (10, 10, 1)
    assert stored_clicks.gather(parts_of(rows, int, 4), 10 * stored_clicks.BYTES_A_CLICK, None).sizes() == (10, 10, 1)


def batches(folder, sizes):
    """A hundred megabytes of rows to sort; `sizes` receives the bytes in the files in `folder` meanwhile."""
    for number in range(16):
        keys = pa.array(np.random.default_rng(number).integers(1 << 40, size=1 << 16))
        value = pa.array([b"-" * 100]).take(pa.array(np.zeros(len(keys), np.int64)))
        sizes.append(sum(file.stat().st_size for file in folder.iterdir()))
        yield pa.record_batch({"key": keys, "number": pa.array(np.arange(len(keys))), "value": value})


def test_sorting_takes_the_disk_for_what_the_memory_does_not_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(spilled_sort, "LEAST", 64 << 20)
    sizes, last, rows = [], -1, 0
    for batch in spilled_sort.sorted_rows(batches(tmp_path, sizes), pa.int64(), tmp_path, memory=1):
        keys = batch["key"].to_numpy()
        assert last <= keys[0] and (keys[1:] >= keys[:-1]).all()
        last, rows = keys[-1], rows + len(keys)
    assert rows == 16 << 16 and max(sizes) > 10 << 20
    assert not list(tmp_path.iterdir())


def test_no_room_to_sort_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(spilled_sort, "LEAST", 64 << 20)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: found no way to sort clicks there .*expected room"):
        list(spilled_sort.sorted_rows(batches(tmp_path, []), pa.int64(), tmp_path / "file", memory=1))
