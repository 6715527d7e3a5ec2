"""Tables of clicks as text: quotes, encodings, compression, events; against Python's csv module."""

import bz2
import csv
import gzip
import io
import lzma
import zipfile

import pyarrow as pa
import pytest
from data.test_clicks import read, read_text, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.data import click_columns, click_files, click_text
from utils.data.left_out import LeftOut
from utils.files import InputError

IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1, max_size=5).filter(
    lambda text: text.strip() and not text.startswith("\ufeff"))
PLAIN = "SessionId,ItemId,Time\n1,red shoes,5\n1,\"a, b\",6\n"
PLAIN_ROWS = [("1", "red shoes", 5), ("1", "a, b", 6)]


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6), st.sampled_from("\t,;"), st.sampled_from([1, 9, 50]),
       st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@settings(max_examples=50)
def test_any_text_that_csv_writes_is_read(tmp_path_factory, pairs, separator, block, quoting):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator="\n")
        writer.writerows([("SessionId", "ItemId", "Time"), *((*pair, number) for number, pair in enumerate(pairs))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_text, "BLOCK", block)
        found = rows_of(read(path))
    assert sorted(found) == sorted((session, item, number) for number, (session, item) in enumerate(pairs))


def test_lines_are_counted_as_an_editor_does_it(tmp_path):
    text = 'SessionId,ItemId,Time\n1,"two\nlines",5\n\n1,5" disk,6\n1,x,noon\n1,"two\nlines",7\n1,,8\n'
    left_out = LeftOut(5)
    (tmp_path / "table.csv").write_text(text)
    table = click_files.read_clicks([tmp_path / "table.csv"], click_columns.Columns(), "--input", left_out)
    assert rows_of(table) == [("1", "two\nlines", 5), ("1", '5" disk', 6), ("1", "two\nlines", 7)]
    assert [line for _, line, _ in left_out.faults] == [6, 9]


@pytest.mark.parametrize("block", [1, 30, click_text.BLOCK])
def test_a_quote_that_nothing_closes_costs_its_line_alone(tmp_path, block, monkeypatch):
    monkeypatch.setattr(click_text, "BLOCK", block)
    monkeypatch.setattr(click_text, "LONGEST_LINE", 60)
    lines = ["SessionId,ItemId,Time", *(f"1,i{number},{number}" for number in range(10)), '1,"open,5',
             *(f"1,i{number},{number}" for number in range(10, 20)), '1,"open,5']
    left_out = LeftOut(5)
    (tmp_path / "table.csv").write_text("\n".join(lines))
    table = click_files.read_clicks([tmp_path / "table.csv"], click_columns.Columns(), "--input", left_out)
    assert rows_of(table) == [("1", f"i{number}", number) for number in range(20)]
    assert [(line, reason[:15]) for _, line, reason in left_out.faults] == [(12, "found 2 columns"),
                                                                            (23, "found 2 columns")]


def zipped(data, names=("clicks.csv",)):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)
    return file.getvalue()


COMPRESSIONS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zip": zipped,
                "zstd": lambda data: pa.compress(data, "zstd", asbytes=True)}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_compressed_tables(tmp_path, name):
    compress = COMPRESSIONS[name]
    assert rows_of(read_text(tmp_path, compress(PLAIN.encode()))) == PLAIN_ROWS
    if name != "zip":  # files put one after another are one file
        assert rows_of(read_text(tmp_path, compress(PLAIN.encode()) + compress(b"2,x,7\n"))) == [*PLAIN_ROWS,
                                                                                                ("2", "x", 7)]
    whole = compress(b"SessionId,ItemId,Time\n" + b"".join(f"{hash(number)},x,{number}\n".encode()
                                                          for number in range(9999)))
    for damaged in (whole[:-30], whole[:len(whole) // 2], whole[:60] + b"?" * 99 + whole[160:]):
        with pytest.raises(InputError, match=f"damaged or cut off {name} file|Parquet|binary"):
            read_text(tmp_path, damaged)


def test_archives_of_several_files_or_none_are_refused(tmp_path):
    assert rows_of(read_text(tmp_path, zipped(PLAIN, ["clicks.csv", "__MACOSX/._clicks.csv"]))) == PLAIN_ROWS
    for names, found in [(("a.csv", "b.csv"), "a.csv, b.csv"), ((), "nothing")]:
        with pytest.raises(InputError, match=f"found {found} in the archive, expected one file"):
            read_text(tmp_path, zipped(PLAIN, names))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "cp1252", "gb18030"])
def test_encodings(tmp_path, encoding):
    text = "SessionId,ItemId,Time\r\n1,größe,5\r\n"
    assert rows_of(read_text(tmp_path, text.encode(encoding), encoding=encoding)) == [("1", "größe", 5)]
    assert rows_of(read_text(tmp_path, gzip.compress(text.encode(encoding)), encoding=encoding)) == [("1", "größe", 5)]


def test_a_wrong_encoding_is_an_error(tmp_path):
    with pytest.raises(InputError, match="found bytes that are not utf-16 .*expected the --encoding of the file"):
        read_text(tmp_path, PLAIN.encode() + b"x", encoding="utf-16")
    with pytest.raises(InputError, match="line 2: found .*expected text in UTF-8 .--encoding names another"):
        read_text(tmp_path, "SessionId,ItemId,Time\n1,größe,5\n".encode("latin-1"))
    with pytest.raises(InputError, match="binary data, expected .*text in UTF-8"):
        read_text(tmp_path, PLAIN.encode("utf-16"))


def test_only_the_events_that_are_clicks_are_read_and_others_may_be_anything(tmp_path):
    text = "type,SessionId,ItemId,Time\nview,1,x,5\nlogin,,,\naddtocart,1,y,6\n,1,z,7\nview,1,,8\n"
    left_out = LeftOut(1)
    (tmp_path / "table.csv").write_text(text)
    columns = click_columns.Columns(event="type", events=("view", "addtocart"))
    table = click_files.read_clicks([tmp_path / "table.csv"], columns, "--input", left_out)
    assert rows_of(table) == [("1", "x", 5), ("1", "y", 6)]
    assert (left_out.other_events, left_out.faults[0][1:]) == (2, (6, "found '' as ItemId, expected an id"))
    with pytest.raises(InputError, match="found 5 rows, none with the event 'buy' .--events"):
        read_text(tmp_path, text, event="type", events=("buy",))
    with pytest.raises(InputError, match="expected one named 'kind' .--event_column"):
        read_text(tmp_path, text, event="kind", events=("buy",))


@pytest.mark.parametrize("date, seconds", [
    ("2014-04-07T12:51:09+0200", 1396867869), ("2014-04-07 12:51:09.2771239+02", 1396867869.277123),
    ("2014-04-07 05:51:09 -0500", 1396867869), ("2014-04-07 10:51:09 GMT", 1396867869), ("2014-04-07", 1396828800),
    ("2014-04-07T10:51:09z", 1396867869)])
def test_more_forms_of_time_which_may_be_mixed(tmp_path, date, seconds):
    text = f"SessionId,ItemId,Time\n1,x,2014-04-07T00:00:00Z\n1,y,{date}\n1,z,2014-04-08\n"
    assert [row[2] for row in rows_of(read_text(tmp_path, text))] == [1396828800, seconds, 1396915200]


def test_the_first_time_that_is_one_says_whether_times_are_numbers(tmp_path):
    for times, kept in [(["", "n/a", "5", "6"], [5, 6]), (["?", "2014-04-07", "5"], [1396828800])]:
        left_out = LeftOut(9)
        (tmp_path / "table.csv").write_text("SessionId,ItemId,Time\n" + "".join(f"1,x,{time}\n" for time in times))
        table = click_files.read_clicks([tmp_path / "table.csv"], click_columns.Columns(), "--input", left_out)
        assert [row[2] for row in rows_of(table)] == kept


def test_many_bad_rows_are_counted_fast_and_the_first_is_described(tmp_path):
    lines = "".join(f"1,x,{number}000000000000\n" for number in range(1, 50_001))
    with pytest.raises(InputError, match=r"line 2: .*--time_unit ms reads milliseconds.*; 49,999 more bad rows$"):
        read_text(tmp_path, "SessionId,ItemId,Time\n" + lines)
