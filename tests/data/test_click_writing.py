"""Splits and session text of item and session ids of any text."""

import csv
import io

import pyarrow as pa
from data.test_clicks import read, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data import click_writing
from utils.data.click_files import clicks_of
from utils.data.item_ids import unescape

SPECIAL = "red shoes", 'the "best", 5\\"', "a\tb", "two\nlines", "\r", "\\{20}", "\u2028", "\ufeff"
IDS = st.one_of(st.sampled_from(SPECIAL),
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)).filter(str.strip)
ROWS = st.lists(st.tuples(IDS, IDS, st.integers(0, 9)), min_size=1, max_size=6)


def table_of(rows):
    return clicks_of(pa.table(list(map(pa.array, zip(*rows))), ["SessionId", "ItemId", "Time"]))


@given(ROWS)
@settings(max_examples=60)
def test_splits_hold_any_ids_and_the_csv_module_reads_them(tmp_path_factory, rows):
    table = table_of([("one\nsession", "an\titem", 5), *rows])
    path = tmp_path_factory.mktemp("split") / "table.txt"
    with open(path, "wb") as file:
        click_writing.write_table(table, file)
    written = csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), delimiter="\t", strict=True)
    assert list(written)[1:] == [[session, item, f"{seconds:g}"] for session, item, seconds in rows_of(table)]
    assert rows_of(read(path)) == rows_of(table)


@given(ROWS)
@settings(max_examples=60)
def test_session_text_holds_any_ids_as_words(rows):
    table, file = table_of(rows), io.BytesIO()
    click_writing.write_item_ids(table, file)
    sessions = {}
    for session, item, seconds in rows_of(table):
        sessions.setdefault(session, []).append((seconds, item))
    expected = [[item for _, item in clicks] for clicks in sorted(sessions.values(), key=lambda clicks: clicks[0][0])]
    lines = file.getvalue().decode().removesuffix("\n").split("\n")
    assert [[unescape(word) for word in line.split()] for line in lines] == expected


def test_ordinary_ids_stand_as_they_are():
    table, text, sessions = table_of([("s 1", "żółw-7", 5), ("s 1", "a,b", 6)]), io.BytesIO(), io.BytesIO()
    click_writing.write_table(table, text)
    click_writing.write_item_ids(table, sessions)
    assert text.getvalue().decode() == "SessionId\tItemId\tTime\ns 1\tżółw-7\t5\ns 1\ta,b\t6\n"
    assert sessions.getvalue().decode() == "żółw-7 a,b\n"
