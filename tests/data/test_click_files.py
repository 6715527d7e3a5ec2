"""Tables of clicks as Parquet, in directories, and in memory: they give what the same table as text gives."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.test_clicks import read, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data import click_files
from utils.data.click_columns import Columns
from utils.data.left_out import LeftOut
from utils.files import InputError

ROWS = [("s 1", "red shoes", 5), ("s 1", 'a "b", c', 6.25), ("s2", "żółw", 7)]
TABLE = pa.table({"other": [[1], [2], [3]], "SessionId": ["s2", "s 1", "s 1"],
                  "ItemId": ["żółw", "red shoes", 'a "b", c'], "Time": [7.0, 5.0, 6.25]})


def with_column(name, values):
    return TABLE.set_column(TABLE.column_names.index(name), name, values)


@pytest.fixture
def parquet(tmp_path):
    def write(table, name="clicks.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, tmp_path / name)
        return tmp_path / name
    return write


FORMS = {
    "as it is": TABLE, "dictionaries": with_column("ItemId", TABLE["ItemId"].dictionary_encode()),
    "large text": with_column("ItemId", TABLE["ItemId"].cast(pa.large_string())),
    "bytes": with_column("SessionId", TABLE["SessionId"].cast(pa.binary())),
    "timestamps": with_column("Time", [pa.array([7_000, 5_000, 6_250], pa.timestamp("ms"))]),
    "nanoseconds elsewhere": with_column("Time", [pa.array([7 * 10**9, 5 * 10**9, 6_250_000_001],
                                                           pa.timestamp("ns", "Asia/Tokyo"))]),
    "decimals": with_column("Time", [pa.array(map(decimal.Decimal, ("7.00", "5.00", "6.25")))]),
    "dates as text": with_column("Time", [["1970-01-01 00:00:07", "1970-01-01T01:00:05+01:00",
                                             "1970-01-01T00:00:06.25Z"]]),
    "numbers as text": with_column("Time", [["7", "5.0", "6.25"]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_types_of_columns(parquet, form):
    assert rows_of(read(parquet(FORMS[form]))) == ROWS
    assert rows_of(click_files.clicks_of(FORMS[form])) == ROWS


def test_integers_are_sorted_as_numbers_and_stay_what_they_are(parquet):
    ids = pa.table({"SessionId": [10, 9, 8], "ItemId": [1, 2, 3], "Time": [1, 2, 3]})
    for kind, sessions in [(pa.int64(), [10, 9, -2]), (pa.uint64(), [10, 9, 2**64 - 1]), (pa.float64(), [10, 9, -2])]:
        table = ids.set_column(0, "SessionId", [pa.array(sessions, kind)])
        found = [row[0] for row in rows_of(read(parquet(table)))]
        in_order = sorted(sessions, key=str if kind == pa.uint64() else int)
        assert found == list(map(str, in_order))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b c", "ä"]), st.integers(0, 9)), min_size=1),
       st.integers(1, 5))
@settings(max_examples=25)
def test_parquet_and_frames_give_what_text_gives(tmp_path_factory, rows, rows_at_once):
    tmp_path = tmp_path_factory.mktemp("parquet")
    frame = pd.DataFrame(rows, columns=["SessionId", "ItemId", "Time"])
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    frame.to_parquet(tmp_path / "clicks.parquet", row_group_size=rows_at_once)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_files, "ROWS", rows_at_once)
        expected = rows_of(read(tmp_path / "clicks.csv"))
        assert rows_of(read(tmp_path / "clicks.parquet")) == expected
        assert rows_of(click_files.clicks_of(frame)) == expected


def test_bad_rows_are_named_by_their_numbers(parquet, monkeypatch):
    monkeypatch.setattr(click_files, "ROWS", 2)
    table = pa.table({"SessionId": [1, None, 3, 4, 5], "ItemId": ["a", "b", " ", None, "e"],
                      "Time": [1.0, 2.0, None, 4.0, -5.0]})
    left_out = LeftOut(9)
    path = parquet(table)
    assert rows_of(click_files.read_clicks([path], Columns(), "--input", left_out)) == [("1", "a", 1)]
    assert left_out.faults == [
        (str(path), 2, "found no value as SessionId, expected an id"),
        (str(path), 3, "found ' ' as ItemId, expected an id"),
        (str(path), 4, "found no value as ItemId, expected an id"),
        (str(path), 5, "found '-5.0' as Time, expected unix seconds (--time_unit ms reads milliseconds)")]
    with pytest.raises(InputError, match="clicks.parquet row 2: found no value as SessionId.*; 3 more bad rows$"):
        read(path)
    with pytest.raises(InputError, match="the table row 2: found no value as SessionId.*; 3 more bad rows$"):
        click_files.clicks_of(table)


def test_what_pandas_makes_of_missing_values(parquet):
    frame = pd.DataFrame({"SessionId": [7, 8, None], "ItemId": [1.0, np.nan, 2.0], "Time": pd.to_datetime(
        ["1970-01-01 00:00:05", None, "1970-01-01 00:00:00"], utc=True)})
    left_out = LeftOut(2)
    assert rows_of(click_files.clicks_of(frame, left_out=left_out)) == [("7", "1", 5)]
    assert [row for _, row, _ in left_out.faults] == [2, 3]
    frame["SessionId"] = [7, "a", 8]
    with pytest.raises(InputError, match="the table: found a column with values of different types"):
        click_files.clicks_of(frame)
    with pytest.raises(InputError, match="the table: found the columns 'SessionId, Time', expected one named 'ItemId'"):
        click_files.clicks_of(frame[["SessionId", "Time"]])


@pytest.mark.parametrize("column, values, expected", [
    ("ItemId", [[1], [2], [3]], "a column ItemId of list"), ("Time", [[1], [2], [3]], "a column Time of list"),
    ("SessionId", [datetime.date(2020, 1, 1)] * 3, "a column SessionId of date32.day., expected text or integers")])
def test_columns_that_can_be_no_ids_or_times(parquet, column, values, expected):
    with pytest.raises(InputError, match=f"clicks.parquet: found {expected}"):
        read(parquet(with_column(column, [pa.array(values)])))


def test_damaged_parquet_is_an_error(parquet):
    path = parquet(TABLE.drop_columns(["other"]))
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:8], whole[:4] + b"\xff" * 60 + whole[64:], whole[:-40] + b"\0" * 40):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="clicks.parquet: found a Parquet file that can't be read"):
            read(path)


def test_directories_are_read_in_order_of_names_with_columns_from_these(parquet, tmp_path):
    for day in (2, 1):
        for kind in ("view", "buy%20it", "__HIVE_DEFAULT_PARTITION__"):
            table = pa.table({"SessionId": [day], "ItemId": [kind], "Time": [3]})
            parquet(table, f"clicks/date=1970-01-0{day}/type={kind}/part-0.parquet")
    (tmp_path / "clicks/_SUCCESS").write_text("")
    (tmp_path / "clicks/date=1970-01-01/.part-0.parquet.crc").write_text("")
    (tmp_path / "clicks/more.csv").write_text("date,type,SessionId,ItemId,Time\n1970-01-03,view,3,x,3\n")
    found = rows_of(read(tmp_path / "clicks", time="date", event="type", events=("view", "buy it")))
    assert found == [("1", "buy%20it", 0), ("1", "view", 0), ("2", "buy%20it", 86400), ("2", "view", 86400),
                     ("3", "x", 172800)]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="--input: found no files in the directory"):
        read(tmp_path / "empty")


def test_several_tables_of_several_forms_are_one(parquet, tmp_path):
    path = parquet(pa.table({"SessionId": [2, 1], "ItemId": ["b", "c"], "Time": [6, 6]}))
    (tmp_path / "words.csv").write_text("SessionId,Time,ItemId\n1,1970-01-01T00:00:06Z,a\n")
    table = click_files.read_clicks([tmp_path / "words.csv", path], Columns(), "--input")
    assert rows_of(table) == [("1", "a", 6), ("1", "c", 6), ("2", "b", 6)]
    table = click_files.read_clicks([path, tmp_path / "words.csv"], Columns(), "--input")
    assert rows_of(table) == [("1", "c", 6), ("1", "a", 6), ("2", "b", 6)]
