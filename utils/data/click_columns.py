"""The columns of a table of clicks: sessions, items and times in any form that Arrow has, and which rows are bad."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from utils.data.clicks import SECOND
from utils.files import InputError

# The year 2255: larger seconds must be milliseconds, and up to there a float holds microseconds exactly.
LATEST = 9 * 10**9 * SECOND
NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
DATE = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(UTC|GMT|[zZ]|[-+]\d\d(:?\d\d)?))?)?$"
# A date's time of day from the T or blank on, up to 6 decimals, and any more of them.
CLOCK = r"([T ]\d\d:\d\d(?::\d\d)?)(?:(\.\d{1,6})\d*)?"
# What of a date Arrow doesn't read, and what it reads in its place.
FORMS_OF_DATES = [(r"^(\d{4}-\d\d-\d\d)$", r"\1T00:00Z"), (CLOCK + " ?(?:UTC|GMT|[zZ])?$", r"\1\2Z"),
                  (CLOCK + r" ?([-+]\d\d(?::?\d\d)?)$", r"\1\2\3")]
EXPECTED_TIME = {"iso": "a date such as 2014-04-07T10:51:09.277Z or, in all lines, unix seconds",
                 "s": "unix seconds (--time_unit ms reads milliseconds)", "ms": "unix milliseconds"}
NAMES = pa.dictionary(pa.int32(), pa.string())
OPTIONAL = "--event_column", "--category_column"


@dataclass
class Columns:
    """What to look for in a table.

    session, item, time : str, names of the columns
    time_unit : str, of times that are numbers: s or ms
    separator : str, of the columns of text, one character; empty: found out from the header line
    encoding : str, of text
    event : str, name of the column of events; empty: every row is a click
    events : tuple of str, those that are clicks
    purchases : tuple of str, those that are purchases
    category : str, name of the column of categories; empty: only YOOCHOOSE's clicks have one; None: none is read
    """

    session: str = "SessionId"
    item: str = "ItemId"
    time: str = "Time"
    time_unit: str = "s"
    separator: str = ""
    encoding: str = "utf-8"
    event: str = ""
    events: tuple = ()
    purchases: tuple = ()
    category: str | None = None

    def wanted(self):
        """The names of the columns to read, by the flags that give them; InputError if two name the same."""
        flags = {"--session_column": self.session, "--item_column": self.item, "--time_column": self.time,
                 "--event_column": self.event, "--category_column": self.category}
        flags = {flag: name for flag, name in flags.items() if name or flag not in OPTIONAL}
        if self.category and self.category == self.event:  # what happened may be a click's category
            del flags["--category_column"]
        taken = {}
        for flag, name in flags.items():
            if name in taken:
                raise InputError(f"{flag}: found {name!r}, which {taken[name]} names, too; expected another column")
            taken[name] = flag
        return flags


class Part(NamedTuple):
    """The clicks of some rows.

    sessions : int64 array or pyarrow.ChunkedArray of dictionaries [clicks]
        Integers if all ids are.
    items : pyarrow.ChunkedArray of dictionaries [clicks]
    times : int64 array [clicks], microseconds
    bad : int, rows that were left out because something is wrong in them
    faults : list of (row, reason), the first of these
    other_events : int, rows that were left out because their event is none of those to read
    categories : pyarrow.ChunkedArray of dictionaries [clicks], or None where they are not read
        Missing ones are empty.
    is_purchase : bool array [clicks]
    """

    sessions: object
    items: object
    times: np.ndarray
    bad: int
    faults: list
    other_events: int
    categories: object = None
    is_purchase: object = None


def read_columns(table, columns, unit, most_faults=1):
    """The clicks of a table.

    Parameters
    ----------
    table : pyarrow.Table
        Its columns are sessions, items, times and, if there are any, events and categories: text, numbers or
        timestamps.
    columns : Columns
    unit : str
        Of times that are no timestamps: iso, s or ms; from `unit_of_times`.
    most_faults : int
        How many bad rows to describe.

    Returns
    -------
    Part
    """
    rows, everything = np.arange(len(table)), len(table)
    if columns.event:
        wanted = pa.array(columns.events + columns.purchases, pa.string())
        is_wanted = pc.is_in(_as_text(table.column(3)), value_set=wanted)
        table, rows = table.filter(is_wanted), rows[is_wanted.to_numpy()]
    other_events = everything - len(table)
    try:
        return Part(*_convert(table, unit), 0, [], other_events, *_attributes(table, columns))
    except pa.ArrowInvalid:
        pass
    is_bad = [_bad_ids(table.column(0)), _bad_ids(table.column(1)), _bad_times(table.column(2), unit)]
    bad = np.logical_or.reduce(is_bad)
    names = list(columns.wanted().values())
    expected = "an id", "an id", EXPECTED_TIME[unit]
    faults = []
    for row in np.flatnonzero(bad)[:most_faults]:
        place = next(place for place in range(3) if is_bad[place][row])
        value = table.column(place)[row].as_py()
        found = "no value" if value is None else repr(value if isinstance(value, str) else str(value))[:80]
        faults.append((int(rows[row]), f"found {found} as {names[place]}, expected {expected[place]}"))
    table = table.filter(pa.array(~bad))
    return Part(*_convert(table, unit), int(bad.sum()), faults, other_events, *_attributes(table, columns))


def _convert(table, unit):
    """Sessions, items and times of a table without bad rows, as in Part; pyarrow.ArrowInvalid if there is one."""
    sessions, items, times = table.columns[:3]
    return _as_sessions(sessions), _as_names(items), _as_times(times, unit)


def _attributes(table, columns):
    """Categories and purchases of a table as in Part."""
    is_purchase = np.zeros(len(table), bool)
    if columns.purchases:
        is_purchase = pc.is_in(_as_text(table.column(3)), value_set=pa.array(columns.purchases, pa.string())).to_numpy()
    if columns.category is None:
        return None, is_purchase
    place = 3 + bool(columns.event and columns.category != columns.event)
    if place == len(table.columns):  # of a table without categories
        return pa.chunked_array([pa.repeat("", len(table)).dictionary_encode()]), is_purchase
    return pc.fill_null(_as_text(table.column(place)), "").dictionary_encode(), is_purchase


def _as_sessions(column):
    """Session ids as int64 if none of them loses anything by it (007 is not 7), otherwise as checked dictionaries."""
    if pa.types.is_integer(column.type) and not column.null_count and column.type != pa.uint64():
        return pc.cast(column, pa.int64()).to_numpy()
    text = _as_text(column)
    numbers = as_integers(text)
    return _as_names(text) if numbers is None else numbers


def as_integers(ids):
    """The ids as int64 if none of them loses anything by it, otherwise None."""
    first = ids[0].as_py() if len(ids) else "0"
    if first is None or not re.fullmatch(r"-?\d+", first):  # a look first, since a cast that fails takes long
        return None
    try:
        numbers = pc.cast(ids, pa.int64())
    except pa.ArrowInvalid:
        return None
    if numbers.null_count or pc.any(pc.match_substring_regex(ids, "^(0.|-0)")).as_py():
        return None
    return numbers.to_numpy()


def _as_names(column):
    """The column as dictionaries; pyarrow.ArrowInvalid if a value is missing or nothing but blanks."""
    names = column if column.type == NAMES else _as_text(column).dictionary_encode()
    for chunk in names.chunks:
        blank = _is_blank(chunk.dictionary)  # that is of rows which were left out, too
        if chunk.null_count or pc.any(blank).as_py() and pc.any(blank.take(chunk.indices)).as_py():
            raise pa.ArrowInvalid("no id")
    return names


def _as_text(column):
    """The ids of a column as a pyarrow.ChunkedArray of strings."""
    if pa.types.is_floating(column.type):  # what pandas makes of integers where one is missing
        whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), 2.0**53))
        if pc.all(whole).as_py() is not False:
            column = pc.cast(column, pa.int64())
    return pc.cast(column, pa.string())


def _is_blank(text):
    """Where an array of strings has none, or nothing but blanks."""
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(text), ""), True)


def _bad_ids(column):
    """Where a column of ids has none: bool array [rows]."""
    return _is_blank(_as_text(column)).to_numpy()


def unit_of_times(column, unit_of_numbers):
    """The unit of times that are text: `unit_of_numbers` if the first that is a number or a date is one, else iso."""
    if column.type != pa.string():
        return unit_of_numbers
    numbers = pc.fill_null(pc.match_substring_regex(column, NUMBER), False)
    dates = pc.fill_null(pc.match_substring_regex(column, DATE), False)
    first_number, first_date = pc.index(numbers, True).as_py(), pc.index(dates, True).as_py()
    return unit_of_numbers if first_number >= 0 and not 0 <= first_date < first_number else "iso"


def _as_times(column, unit):
    """Times as microseconds since 1970, UTC: int64 [clicks]; pyarrow.ArrowInvalid if one is missing or impossible."""
    times = _microseconds(column, unit)
    if not np.all(_is_possible(times)):
        raise pa.ArrowInvalid("time out of range")
    return times if times.dtype == np.int64 else np.rint(times).astype(np.int64)


def _bad_times(column, unit):
    """Where `_as_times` finds a wrong time: bool array [rows]."""
    times = np.full(len(column), np.nan)
    looks_right = pc.is_valid(column)
    if column.type == pa.string():
        looks_right = pc.fill_null(pc.match_substring_regex(column, DATE if unit == "iso" else NUMBER), False)
    for rows, found in _convertible(column, np.flatnonzero(looks_right.to_numpy()), unit):
        times[rows] = found
    return ~_is_possible(times)


def _convertible(column, rows, unit):
    """Yield `rows` (int64) and their `_microseconds`, in pieces, without those that no time can be read from."""
    try:
        yield rows, _microseconds(column.take(pa.array(rows)), unit)
    except pa.ArrowInvalid:
        if len(rows) > 1:
            yield from _convertible(column, rows[:len(rows) // 2], unit)
            yield from _convertible(column, rows[len(rows) // 2:], unit)


def _is_possible(times):
    return (times >= 0) & (times < LATEST)  # false for NaN too


def _microseconds(column, unit):
    """Timestamps, ISO 8601 dates, or numbers of the `unit` s or ms, as microseconds: int64 or float64 [clicks]."""
    if column.null_count:
        raise pa.ArrowInvalid("no time")
    if column.type == pa.string() and unit == "iso":
        return _parse_dates(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        zone = getattr(column.type, "tz", None)
        times = pc.cast(column, pa.timestamp("us", zone), safe=False)
        return pc.cast(times, pa.int64()).to_numpy()
    return pc.cast(column, pa.float64()).to_numpy() * (SECOND if unit == "s" else SECOND // 1_000)


def _parse_dates(text):
    """Turn ISO 8601 dates into microseconds since 1970, UTC: int64 [clicks].

    A date without a time zone is in UTC. Decimals after the sixth are cut off.
    """
    longest = pc.max(pc.binary_length(text)).as_py() or 0
    if longest > len("2014-04-07T10:51:09.277123Z") or not pc.all(pc.ends_with(text, "Z")).as_py():
        for found, read in FORMS_OF_DATES:
            text = pc.replace_substring_regex(text, found, read)
    return pc.cast(pc.cast(text, pa.timestamp("us", "UTC")), pa.int64()).to_numpy()
