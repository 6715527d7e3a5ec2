"""The table of clicks: reading, filters and splits against plainly written Python."""

import gzip
from argparse import Namespace
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import preprocess
from utils.data import click_columns, click_files, click_text, click_writing, clicks
from utils.data.clicks import SECOND
from utils.data.left_out import LeftOut
from utils.files import InputError

ROWS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5), st.integers(0, 30)), min_size=1, max_size=60)


def table_of(rows):
    """Clicks of rows (session, item, seconds), all integers."""
    sessions, items, times = map(np.array, zip(*rows))
    return clicks.group_by_session(sessions.astype(np.int64), items.astype(np.int32), times.astype(np.int64) * SECOND,
                                   pa.array([str(item) for item in range(items.max() + 1)]))


def rows_of(table):
    """The rows (session, item, seconds) of Clicks, as text, text and a float."""
    names = table.session_names
    sessions = [str(session) if names is None else names[session].as_py() for session in table.sessions.tolist()]
    sessions = [session for session, length in zip(sessions, table.lengths()) for _ in range(length)]
    items = [table.item_names[item].as_py() for item in table.items.tolist()]
    return list(zip(sessions, items, (table.times / SECOND).tolist()))


def as_text(rows):
    return [(str(session), str(item), seconds) for session, item, seconds in rows]


def read(path, **columns):
    return click_files.read_clicks([path], click_columns.Columns(**columns), "--input")


def read_text(tmp_path, text, **columns):
    path = tmp_path / "table.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(path, **columns)


# The rules once more, a list of (session, item, seconds) at a time and without regard for speed.

def slow_sorted(rows):
    return sorted(rows, key=lambda row: (row[0], row[2]))


def slow_drop_short(rows, min_length):
    lengths = Counter(row[0] for row in rows)
    return [row for row in rows if lengths[row[0]] >= min_length]


def slow_drop_rare(rows, min_support):
    support = Counter(row[1] for row in rows)
    return [row for row in rows if support[row[1]] >= min_support]


def slow_drop_repeats(rows):
    return [row for before, row in zip([None] + rows, rows) if before is None or before[:2] != row[:2]]


def slow_cut_at_gaps(rows, gap):
    cut, session, before = [], 0, None
    for user, item, seconds in rows:
        session += before is None or before[0] != user or seconds - before[1] > gap
        cut.append((session, item, seconds))
        before = user, seconds
    return cut


def slow_cut_at_span(rows, span):
    cut, session, first = [], 0, None
    for before, item, seconds in rows:
        if first is None or first[0] != before or seconds - first[1] > span:
            session, first = session + 1, (before, seconds)
        cut.append((session, item, seconds))
    return cut


def slow_drop_one_item(rows):
    items = {}
    for session, item, _ in rows:
        items.setdefault(session, set()).add(item)
    return [row for row in rows if len(items[row[0]]) > 1]


def slow_filter(rows, flags):
    rows = slow_sorted(rows)
    if flags.session_gap:
        rows = slow_cut_at_gaps(rows, flags.session_gap)
    if flags.session_span:
        rows = slow_cut_at_span(rows, flags.session_span)
    if flags.drop_repeats:
        rows = slow_drop_repeats(rows)
    if flags.drop_one_item:
        rows = slow_drop_one_item(rows)
    before = None
    while before != rows:
        before = rows
        rows = slow_drop_rare(slow_drop_short(rows, flags.min_session_length), flags.min_support)
        rows = slow_drop_short(rows, flags.min_session_length)
        if not flags.until_stable:
            break
    return rows


def slow_split(rows, flags, fraction, days):
    split_time = max(row[2] for row in rows) - flags.test_days * 86_400
    first, last = {}, {}
    for session, _, seconds in rows:
        first.setdefault(session, seconds)
        last[session] = seconds
    if flags.split_by == "end":
        training = [row for row in rows if last[row[0]] < split_time]
        test = [row for row in rows if last[row[0]] >= split_time]
    else:
        training = slow_drop_short([row for row in rows if row[2] < split_time], flags.min_session_length)
        test = [row for row in rows if first[row[0]] >= split_time]
    if days:
        time = {row[0]: row[2] for row in training} if flags.split_by == "end" else first
        since = max((row[2] for row in training), default=0) - days * 86_400
        training = [row for row in training if time[row[0]] >= since]
    if fraction < 1:
        sessions = sorted({row[0] for row in training})
        time = {row[0]: row[2] for row in training} if flags.split_by == "end" else first
        oldest_first = sorted(sessions, key=time.get)
        kept = set(oldest_first[len(sessions) - int(np.ceil(fraction * len(sessions))):])
        training = [row for row in training if row[0] in kept]
    if flags.split_by == "end":
        known = {row[1] for row in training}
        test = slow_drop_short([row for row in test if row[1] in known], flags.min_session_length)
    return training, test


FLAGS = st.builds(Namespace, session_gap=st.sampled_from([0, 0, 3, 10]), drop_repeats=st.integers(0, 1),
                  min_support=st.integers(1, 4), min_session_length=st.integers(1, 3), until_stable=st.integers(0, 1),
                  split_by=st.sampled_from(["end", "start"]), test_days=st.sampled_from([0, 5 / 86_400, 12 / 86_400]),
                  newest_fraction=st.sampled_from([1.0, 0.5, 0.1]), session_span=st.sampled_from([0, 0, 2, 8]),
                  drop_one_item=st.integers(0, 1), newest_days=st.sampled_from([0, 0, 3 / 86_400, 9 / 86_400]))


@given(ROWS, FLAGS)
@settings(max_examples=400)
def test_the_whole_of_preparation_equals_plain_python(rows, flags):
    try:
        expected = slow_filter(rows, flags)
        expected = [expected, *slow_split(expected, flags, flags.newest_fraction, flags.newest_days)]
    except ValueError:  # max() of no rows
        expected = [[]]
    try:
        filtered = preprocess.filter_clicks(table_of(rows), flags)
        found = [filtered, *preprocess.split(filtered, flags, "train_full", "test", flags.newest_fraction,
                                             flags.newest_days)]
    except InputError:
        assert not all(expected)
        return
    assert [rows_of(table) for table in found] == [as_text(part) for part in expected]


@given(ROWS, st.sampled_from("\t,;|"), st.sampled_from([1, 7, 60]), st.booleans(), st.booleans())
@settings(max_examples=100)
def test_reading_equals_plain_python_however_the_file_is_cut_in_blocks(
        tmp_path_factory, rows, separator, block, words, zipped):
    def name(session):
        return f"s{session}" if words else session

    lines = [f"Time{separator}ItemId{separator}other{separator}SessionId\n"]
    lines += [f"{seconds}.5{separator}i{item}{separator}{separator}{name(session)}\n"
              for session, item, seconds in rows]
    path = tmp_path_factory.mktemp("read") / "clicks"
    path.write_bytes((gzip.compress if zipped else bytes)("".join(lines).encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_text, "BLOCK", block)
        found = rows_of(read(path))
    assert found == as_text((name(session), f"i{item}", seconds + 0.5) for session, item, seconds in slow_sorted(rows))


SOME_SESSIONS = st.sampled_from(["1", "-3", "a", "7", "07", "", "a b", "é", "\u00a0", ' 5" disk'])
SOME_ITEMS = st.sampled_from(["x", "1", "", " x", "x\u2028y", "C:\\x"])
SOME_TIMES = st.sampled_from(["5", "1.25", "1e3", "-1", "nan", "inf", "", "x", "1e300", " 5", "0x10", "1_0", "9" * 13])
LINE = st.tuples(SOME_SESSIONS, SOME_ITEMS, SOME_TIMES).map("\t".join).map(str.encode)
OTHER_LINES = st.sampled_from([b"1\tx\t5", b"", b"1\tx", b"1\tx\t5\t6", b"1\t\xff\t5", b"1\tx\t5\r", b"1\tx\ry\t5"])


@given(st.lists(st.one_of(LINE, OTHER_LINES), min_size=1, max_size=8))
@settings(max_examples=150)
def test_every_bad_line_is_named_and_all_others_are_read(tmp_path_factory, lines):
    def click(line):
        fields = line.removesuffix(b"\r").decode(errors="replace").split("\t")
        ids_are_right = all(field.strip() and not {*"\r\ufffd"} & {*field} for field in fields[:2])
        if len(fields) == 3 and ids_are_right and fields[2] in ("5", "1.25", "1e3"):
            return fields[0], fields[1], float(fields[2])

    tmp_path = tmp_path_factory.mktemp("lines")
    text = b"SessionId\tItemId\tTime\n" + b"5\tx\t5\n" + b"\n".join(lines) + b"\n"
    found = {number: click(line) for number, line in enumerate([b"5\tx\t5", *lines], start=2) if line}
    bad = [number for number in found if found[number] is None]
    left_out = LeftOut(100)
    (tmp_path / "table.txt").write_bytes(text)
    table = click_files.read_clicks([tmp_path / "table.txt"], click_columns.Columns(), "--input", left_out)
    assert [(name, line) for name, line, _ in left_out.faults] == [(str(tmp_path / "table.txt"), line) for line in bad]
    assert sorted(rows_of(table)) == sorted(row for row in found.values() if row)
    if bad:
        more = f"; {len(bad) - 1} more bad row{'s' * (len(bad) > 2)}" if len(bad) > 1 else ""
        with pytest.raises(InputError, match=f"table.txt line {bad[0]}: found.*{more}$"):
            read_text(tmp_path, text)


@given(ROWS)
def test_what_is_written_is_read_back_the_same(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("round") / "clicks"
    table = table_of([(session, item, seconds + 1_396_839_069) for session, item, seconds in rows])
    table.times += 277_000
    table.decimals = clicks.decimals_of(table.times)
    with open(path, "wb") as file:
        click_writing.write_table(table, file)
    assert rows_of(read(path)) == rows_of(table)


def test_large_tables_are_written_in_pieces_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr(click_writing, "CLICKS_WRITTEN", 4)
    table = table_of([(session, click, 10 * session + click) for session in range(5)
                      for click in range(1 + 3 * (session % 2))])
    with open(tmp_path / "table", "wb") as file:
        click_writing.write_table(table, file)
    with open(tmp_path / "text", "wb") as file:
        click_writing.write_item_ids(table, file)
    assert rows_of(read(tmp_path / "table")) == rows_of(table)
    assert (tmp_path / "text").read_text() == "0\n0 1 2 3\n0\n0 1 2 3\n0\n"


@pytest.mark.parametrize("date, seconds", [
    ("2014-04-07T10:51:09.277Z", 1396867869.277), ("2014-04-07T10:51:09.277", 1396867869.277),
    ("2014-04-07T10:51:09.277123456Z", 1396867869.277123), ("2014-04-07 10:51:09", 1396867869),
    ("2014-04-07T10:51", 1396867860),
    ("2014-04-07 10:51:09 UTC", 1396867869), ("2014-04-07T12:51:09+02:00", 1396867869), ("1396867869", 1396867869),
    ("1396867869.277", 1396867869.277), ("1.396867869277e9", 1396867869.277)])
def test_forms_of_time(tmp_path, date, seconds):
    assert rows_of(read_text(tmp_path, f"SessionId,ItemId,Time\n1,x,{date}\n")) == [("1", "x", seconds)]


def test_lines_may_mix_dates_with_and_without_zone(tmp_path):
    text = "SessionId,ItemId,Time\n1,x,2014-04-07T10:51:09Z\n1,x,2014-04-07T10:51:10\n1,x,2014-04-07T12:51:11+02:00\n"
    assert [row[2] for row in rows_of(read_text(tmp_path, text))] == [1396867869, 1396867870, 1396867871]


def test_milliseconds(tmp_path):
    text = "SessionId,ItemId,Time\n1,x,1396867869277\n"
    assert rows_of(read_text(tmp_path, text, time_unit="ms")) == [("1", "x", 1396867869.277)]
    with pytest.raises(InputError,
                       match="line 2: found '1396867869277' as Time, expected unix seconds .--time_unit ms"):
        read_text(tmp_path, text)


def test_ids_are_words_not_numbers(tmp_path):
    text = "SessionId,ItemId,Time\n7,1,1\n07,01,2\n-0,1.0,3\n99999999999999999999,1,4\n"
    assert [row[:2] for row in rows_of(read_text(tmp_path, text))] == [
        ("-0", "1.0"), ("07", "01"), ("7", "1"), ("99999999999999999999", "1")]


def test_integer_sessions_are_sorted_as_numbers_and_others_as_words(tmp_path):
    for ids, in_order in [("10 9 -2", "-2 9 10"), ("10 9 a", "10 9 a")]:
        text = "SessionId,ItemId,Time\n" + "".join(f"{session},x,1\n" for session in ids.split())
        assert [row[0] for row in rows_of(read_text(tmp_path, text))] == in_order.split()


def test_quoted_fields_windows_line_ends_and_a_byte_order_mark(tmp_path):
    text = '\ufeffSessionId,title,ItemId,Time\r\n1,"a, ""b""",x,5\r\n"1","","y",6\r\n'
    assert rows_of(read_text(tmp_path, text)) == [("1", "x", 5), ("1", "y", 6)]


def test_yoochoose_lines_need_no_header(tmp_path):
    text = "2,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.998Z,214536500,S\n"
    expected = [("1", "214536500", 1396868049.998), ("2", "214536502", 1396867869.277)]
    assert rows_of(read_text(tmp_path, text)) == expected
    without_category = text.replace(",0\n", "\n").replace(",S\n", "\n")
    assert rows_of(read_text(tmp_path, without_category)) == expected


@pytest.mark.parametrize("content, message", [
    (b"", "found an empty file"),
    (b"SessionId\tItemId\tTime\n", "found no row, expected some after the header"),
    (b"SessionId\tItemId\tTime\n\n\n", "found no row"),
    (b"\x7fELF\0\1\2\3", "found binary data"),
    (bytes(range(128, 256)) * 9, "found binary data"),
    (b"user\tItemId\tTime\n1\t2\t3\n",
     "line 1: found the columns 'user, ItemId, Time', expected one named 'SessionId' (--session_column)"),
    (b"SessionId\tItemId\tTime\tTime\n1\t2\t3\t4\n", "expected one named 'Time' (--time_column)"),
    (b"SessionId\tItemId\tTime\n1\tx\t5\n1\t\xff\t6\n", "line 3: found"),
    (b"x" * 3_000_000, "found a line of more than"),
    (b"SessionId\tItemId\tTime\n1\tx\t5\n" + b"x" * 60_000_000, "found a line of more than"),
])
def test_what_is_no_table_is_an_error(tmp_path, content, message):
    with pytest.raises(InputError) as error:
        read_text(tmp_path, content)
    assert message in str(error.value) and "table.txt" in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("damage", [
    lambda data: data[:-100], lambda data: data[:200] + bytes(100) + data[300:], lambda data: data[:5]])
def test_a_damaged_gzip_file_is_an_error(tmp_path, damage):
    random = np.random.default_rng(0)
    text = "SessionId\tItemId\tTime\n" + "".join(f"{number}\t{random.integers(10**9)}\t{number}\n"
                                                 for number in range(1000))
    with pytest.raises(InputError, match="damaged or cut off gzip file"):
        read_text(tmp_path, damage(gzip.compress(text.encode())))


# Filters and splits by hand.

def test_sorting_is_stable():
    rows = [(2, 0, 5), (1, 1, 9), (2, 2, 3), (1, 3, 9), (2, 4, 5), (1, 5, 8)]
    assert rows_of(table_of(rows)) == as_text([(1, 5, 8), (1, 1, 9), (1, 3, 9), (2, 2, 3), (2, 0, 5), (2, 4, 5)])


def test_repeats_are_those_right_after_one_another_in_a_session():
    table = clicks.drop_repeats(table_of([(1, 0, 1), (1, 0, 2), (1, 1, 3), (1, 0, 4), (2, 0, 5), (2, 0, 6)]))
    assert rows_of(table) == as_text([(1, 0, 1), (1, 1, 3), (1, 0, 4), (2, 0, 5)])


def test_a_gap_of_just_the_limit_does_not_cut():
    table = clicks.cut_at_gaps(table_of([(7, 0, 0), (7, 1, 10), (7, 2, 21), (9, 0, 0)]), 10 * SECOND)
    assert rows_of(table) == as_text([(1, 0, 0), (1, 1, 10), (2, 2, 21), (3, 0, 0)])


def test_a_click_that_comes_just_at_the_span_stays_and_a_later_one_begins_a_new_piece():
    rows = [(7, 0, 0), (7, 1, 4), (7, 2, 10), (7, 0, 11), (7, 1, 21), (7, 2, 22), (9, 0, 0)]
    table = clicks.cut_at_span(table_of(rows), 10 * SECOND)
    assert rows_of(table) == as_text([(1, 0, 0), (1, 1, 4), (1, 2, 10), (2, 0, 11), (2, 1, 21), (3, 2, 22), (4, 0, 0)])


def test_a_session_ending_just_at_the_split_is_test():
    rows = [(1, 0, 0), (1, 0, 9), (2, 0, 8), (2, 0, 10), (3, 0, 19), (3, 0, 20)]
    training, test = clicks.split_by_end(table_of(rows), 10 * SECOND)
    assert (training.sessions.tolist(), test.sessions.tolist()) == ([1], [2, 3])


def test_splitting_by_start_cuts_what_training_could_not_know():
    rows = [(1, 0, 0), (1, 1, 9), (1, 2, 10), (2, 0, 10), (2, 0, 11), (3, 0, 9), (3, 0, 20)]
    training, test = clicks.split_by_start(table_of(rows), 10 * SECOND)
    assert rows_of(training) == as_text([(1, 0, 0), (1, 1, 9), (3, 0, 9)])
    assert test.sessions.tolist() == [2]


def test_newest_sessions_round_up_and_break_ties_by_id():
    table = table_of([(1, 0, 5), (2, 0, 9), (3, 0, 5), (4, 0, 1)])
    assert clicks.newest_sessions(table, 0.3, clicks.Clicks.ends).sessions.tolist() == [2, 3]
    assert clicks.newest_sessions(table, 0.25, clicks.Clicks.ends).sessions.tolist() == [2]


def test_decimals_are_the_fewest_that_hold_every_time():
    assert [clicks.decimals_of(np.array([5 * SECOND, rest])) for rest in (0, 277_000, 500_000, 1)] == [0, 3, 3, 6]
