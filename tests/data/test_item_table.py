"""utils/data/item_table.py and item_filter.py: tables of items as shops export them, and filters on their fields."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.item_filter import MOST_VALUES, parse_filter, require_columns, require_few
from utils.data.item_table import ItemFields, read_item_table
from utils.files import InputError

IDS = ["a", "b c", "ü,;", "d", "007"]
TABLE = 'id,category,price\na,shoes,5.00\n"b c","Home, Garden",\nx,shoes,1\n"ü,;",shoes,5\n'
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=6)


@pytest.fixture
def table(tmp_path):
    """Read a table of this content, text or bytes."""
    def read(content):
        path = tmp_path / "items.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_item_table(path, "--items")
    return read


def chosen(fields, text):
    return [IDS[item] for item in np.flatnonzero(fields.select(parse_filter(text)).mask())]


def test_fields_are_text_as_it_stands_there(table):
    fields = ItemFields(table(TABLE), IDS)
    every = np.arange(len(IDS))
    assert list(fields.columns) == ["category", "price"] and (fields.unknown, fields.without_row) == (1, 2)
    assert fields.values("category", every) == ["shoes", "Home, Garden", "shoes", None, None]
    assert fields.values("price", every[::-1]) == [None, None, "5", "", "5.00"]
    assert fields.values("price", every[:0]) == []
    for items in every, every[3:], every[:0]:
        for name in fields.columns:
            assert fields.size(name, items) == sum(len(value.encode()) for value in fields.values(name, items) if value)


@pytest.mark.parametrize("text, expected", [
    ("category:shoes", ["a", "ü,;"]), ("category:shoes,price:5", ["ü,;"]), ("price:", ["b c"]),
    ('"category:Home, Garden"', ["b c"]), ("category:shoes, price:5.00", ["a"]), ("category:Shoes", []),
    ("price:5,price:5.00", ["a", "ü,;"]), ('category:shoes,"category:Home, Garden",price:,price:5', ["b c", "ü,;"]),
    ("price:unknown,price:nothing", []), ("price:unknown,price:5", ["ü,;"])])
def test_what_passes(table, text, expected):
    assert chosen(ItemFields(table(TABLE), IDS), text) == expected


@pytest.mark.parametrize("text", [
    "", "category", ":shoes", "category=shoes", '"category:shoes', "a:b,", ",", "a:b,,c:d", '"a:b"c', "a:b\nc:d",
    ",".join(["a:b"] * (MOST_VALUES + 1))])
def test_filters_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="^found .*, expected ") as error:
        parse_filter(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text):
    try:
        wanted = parse_filter(text)
    except ValueError as error:
        assert str(error).startswith("found ") and "\n" not in str(error)
    else:
        assert all(name and values for name, values in wanted.items())


@pytest.mark.parametrize("wanted", [{}, {"a": []}, {"a": ["b"], "c": []}, {"a": ["b"] * (MOST_VALUES + 1)}])
def test_filters_that_choose_by_nothing_or_too_much(wanted):
    with pytest.raises(ValueError, match="expected 1 to"):
        require_few(wanted)


def test_columns_that_are_not_there(table):
    fields = ItemFields(table(TABLE), IDS)
    require_columns(fields, ["price"])
    for act in (lambda: require_columns(fields, ["price", "id"]), lambda: fields.select({"id": ["a"]})):
        with pytest.raises(ValueError, match="found 'id', expected a column of the items: category, price"):
            act()


@given(rows=st.lists(st.tuples(TEXTS, TEXTS), max_size=12, unique_by=lambda row: row[0]),
       known=st.lists(TEXTS, min_size=1, max_size=12, unique=True), wanted=st.lists(TEXTS, min_size=1, max_size=3),
       separator=st.sampled_from(",;\t"), end=st.sampled_from(["\n", "\r\n"]))
def test_whatever_a_table_holds_is_found_by_the_plain_way(tmp_path_factory, rows, known, wanted, separator, end):
    written = io.StringIO()
    csv.writer(written, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("id", "x"), *rows])
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(written.getvalue().encode())
    fields, plain = ItemFields(read_item_table(path, "--items"), known), dict(rows)
    assert fields.values("x", np.arange(len(known))) == [plain.get(item_id) for item_id in known]
    assert fields.select({"x": wanted}).mask().tolist() == [plain.get(item_id) in wanted for item_id in known]
    assert fields.without_row == len(set(known) - set(plain)) and fields.unknown == len(set(plain) - set(known))


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbfid,price\na,5\n", "price;id\r\n5;a\r\n", "id\tprice\na\t5", "sku|price\na|5\n\n",
    "id,price\n\na,5\n\n"])
def test_forms_of_tables(table, content):
    fields = ItemFields(table(content), IDS)
    assert fields.values("price", np.array([0])) == ["5"]


def test_tables_without_rows_or_fields(table):
    for content in ("id,price\n", "id,price", "id,price\n\n"):
        fields = ItemFields(table(content), IDS)
        assert fields.without_row == len(IDS) and chosen(fields, "price:5") == []
    assert ItemFields(table("id\na\n"), IDS).columns == {}


@pytest.mark.parametrize("content, fragments", [
    ("", ["no header"]), ("\n", ["no header"]), (b"\xff\xfei\0d\0", ["no header"]),
    ("id,price,price\n", ["'price'", "3"]), ("id,,x\n", ["column 2"]), ("id,price\na,5,6\n", ["got 3"]),
    ("id,price\na\n", ["2 columns", "Expected 2 columns, got 1"]), (b"id,price\na,\xff\n", ["UTF"]),
    ("id,price\na,1\nb,2\na,3\n", ["'a' again in row 3", "first in row 1"])], ids=repr)
def test_files_that_are_no_table(table, tmp_path, content, fragments):
    with pytest.raises(InputError) as error:
        table(content)
    for fragment in [str(tmp_path / "items.csv"), *fragments]:
        assert fragment in str(error.value)
    assert "\n" not in str(error.value)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
       st.sampled_from([b"", b"id,price\n", b"id\tprice\r\n"]))
def test_whatever_a_file_holds_is_a_table_or_refused(tmp_path_factory, content, header):
    path = tmp_path_factory.getbasetemp() / "whatever.csv"
    path.write_bytes(header + content)
    try:
        fields = ItemFields(read_item_table(path, "--items"), IDS)
    except InputError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
    else:
        for name in fields.columns:
            assert len(fields.values(name, np.arange(len(IDS)))) == len(IDS)
            assert fields.select({name: [""]}).items == len(IDS)


def test_pipes_and_missing_files(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="--items"):
            read_item_table(path, "--items")
