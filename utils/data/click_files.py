"""Read the click tables of any shop: TSV, CSV, and yoochoose-clicks.dat without a header, gzipped or not."""

import csv
import gzip
import re
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from utils.data.clicks import SECOND, group_by_session
from utils.files import InputError, require_file

BLOCK = 8 << 20  # bytes parsed at a time; limits the memory, and how much has to be searched for a wrong line
WORKERS = 2  # threads that parse
LONGEST_LINE = 100_000  # bytes; a longer line is not one of clicks
# The year 2255: larger seconds must be milliseconds, and up to there a float holds microseconds exactly.
LATEST = 9 * 10**9 * SECOND
SEPARATORS = "\t,;|"
YOOCHOOSE = re.compile(r"[^,\s]+,\d{4}-\d\d-\d\dT[\d:.]+Z?,[^,\s]+(,|\s|$)")
# The end of a date, from the T or blank on: the time, up to 6 decimals, any more of them, then no zone, UTC or Z.
ENDS_WITHOUT_ZONE = r"([T ]\d\d:\d\d(?::\d\d)?)(?:(\.\d{1,6})\d*)?(?: ?UTC|Z)?$"


@dataclass
class Columns:
    """What to look for in a table with a header.

    session, item, time : str, names of the columns
    time_unit : str, of times that are numbers: s or ms
    separator : str, of the columns, one character; empty: found out from the header line
    """

    session: str = "SessionId"
    item: str = "ItemId"
    time: str = "Time"
    time_unit: str = "s"
    separator: str = ""


@dataclass
class Form:
    """Where a table's columns are: `session`, `item` and `time` are positions in `names`, the names of all columns."""

    names: list
    session: int
    item: int
    time: int
    separator: str
    has_header: bool
    time_unit: str = "iso"  # or s, ms


def read_clicks(path, columns, flag):
    """Read a click table.

    Parameters
    ----------
    path : str or Path
        TSV or CSV with a header line, or lines `SessionId,2014-04-07T10:51:09.277Z,ItemId,Category` without one;
        gzipped or not.
    columns : Columns
    flag : str
        The flag that names `path`, for messages.

    Returns
    -------
    Clicks

    Raises
    ------
    InputError
        The file is missing, empty, cut off or not a table, or one of its lines is wrong; the message names the line.
    """
    path = require_file(path, flag)
    sessions, items, times = [], [], []
    with open_table(path) as file:
        form, first_line = find_form(file, path, columns)
        line_number = 1 + form.has_header
        blocks = whole_lines(file, b"" if form.has_header else first_line, path)
        for block, future in parsed_ahead(blocks, form, columns.time_unit):
            try:
                parsed = future.result()
            except pa.ArrowInvalid as error:
                raise InputError(describe_fault(path, block, line_number, form, error)) from None
            for column, part in zip((sessions, items, times), parsed):
                column.append(part)
            line_number += block.count(b"\n")
    if not sum(map(len, times)):
        raise InputError(f"{path}: found no line of clicks, expected some" + " after the header" * form.has_header)
    sessions, session_names = number_sessions(sessions)
    items, item_names = number_names(items)
    times = concatenate(times)
    pa.default_memory_pool().release_unused()  # otherwise Arrow keeps gigabytes
    return group_by_session(sessions, items, times, item_names, session_names)


@contextmanager
def open_table(path):
    """Open a file for reading bytes, unzipped if it is gzipped; InputError if it is damaged."""
    with open(path, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    try:
        with (gzip.open if gzipped else open)(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: found a damaged or cut off gzip file ({error}), expected a whole one") from None


def whole_lines(file, start, path):
    """Yield `start`, which was already read from `file`, and the rest of the file in blocks of whole lines."""
    rest = start
    while chunk := file.read(BLOCK):
        lines, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield b"".join((rest, lines, newline))
            rest = tail
        else:
            rest += chunk
        if len(rest) > max(BLOCK, LONGEST_LINE):
            raise InputError(f"{path}: found a line of more than {LONGEST_LINE:,} bytes, expected a table of clicks")
    if rest:
        yield rest


def find_form(file, path, columns):
    """Find out the Form of a table from its first line; return both."""
    first_line = file.readline(LONGEST_LINE).removeprefix(b"\xef\xbb\xbf")
    if not first_line:
        raise InputError(f"{path}: found an empty file, expected a table of clicks")
    if len(first_line) >= LONGEST_LINE:
        raise InputError(f"{path}: found a line of more than {LONGEST_LINE:,} bytes, expected a table of clicks")
    try:
        text = first_line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}: found binary data, expected a table of clicks as text, such as TSV or CSV")
    if YOOCHOOSE.match(text):
        others = [f"column {position}" for position in range(4, text.count(",") + 2)]
        return Form(["SessionId", "Timestamp", "ItemId", *others], 0, 2, 1, ",", has_header=False), first_line
    wanted = columns.session, columns.item, columns.time
    headers = {separator: next(csv.reader([text], delimiter=separator), [])
               for separator in columns.separator or SEPARATORS}
    separator = max(headers, key=lambda tried: (len(set(wanted) & set(headers[tried])), len(headers[tried])))
    names = headers[separator]
    for name, column_flag in zip(wanted, ("--session_column", "--item_column", "--time_column")):
        if names.count(name) != 1:
            found = ", ".join(names) if len(text) < 300 else text[:300] + "..."
            raise InputError(f"{path} line 1: found the columns {found!r}, expected one named {name!r} ({column_flag})")
    return Form(names, *map(names.index, wanted), separator, has_header=True), first_line


def parsed_ahead(blocks, form, unit_of_numbers):
    """Yield each block and the future result of `parse`; meanwhile the next two blocks are parsed."""
    waiting = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for number, block in enumerate(blocks):
            if number == 0:
                form.time_unit = unit_of_times(block, form, unit_of_numbers)
            waiting.append((block, pool.submit(parse, block, form)))
            if len(waiting) > WORKERS:
                yield waiting.popleft()
        yield from waiting


def unit_of_times(block, form, unit_of_numbers):
    """The unit of the first time in `block`: "iso" for a date, `unit_of_numbers` for a number."""
    first = next((line for line in block.splitlines() if line), b"")
    time = fields_of(first, form)[form.time:][:1]
    return unit_of_numbers if time and re.fullmatch(r"[-+.\deE]+", time[0]) else "iso"


def parse(block, form):
    """Parse lines of a table.

    Parameters
    ----------
    block : bytes
        Whole lines, without the header.

    Returns
    -------
    sessions : int64 array or pyarrow.ChunkedArray of dictionaries [clicks]
        Integers if all ids in the block are.
    items : pyarrow.ChunkedArray of dictionaries [clicks]
    times : int64 array [clicks], microseconds

    Raises
    ------
    pyarrow.ArrowInvalid
        A line is wrong.
    """
    positions = [str(position) for position in range(len(form.names))]
    session, item, time = (positions[position] for position in (form.session, form.item, form.time))
    names = pa.dictionary(pa.int32(), pa.string())
    table = arrow_csv.read_csv(
        pa.py_buffer(block),
        # We use our own threads: after an error Arrow's may outlive the interpreter, which then aborts instead of
        # ending with status 2.
        arrow_csv.ReadOptions(column_names=positions, block_size=len(block), use_threads=False),
        arrow_csv.ParseOptions(delimiter=form.separator),
        arrow_csv.ConvertOptions(include_columns=[session, item, time],
                                 column_types={session: pa.string(), item: names, time: pa.string()}))
    return parse_sessions(table[session]), require_names(table[item]), parse_times(table[time], form.time_unit)


def parse_sessions(text):
    """Session ids as int64 if `as_integers` takes them, otherwise as checked dictionaries."""
    numbers = as_integers(text)
    return require_names(text.dictionary_encode()) if numbers is None else numbers


def as_integers(ids):
    """The ids as int64 if none of them loses anything by it (007 is not 7), otherwise None."""
    first = ids[0].as_py() if len(ids) else "0"
    if not re.fullmatch(r"-?\d+", first):  # a look first, since a cast that fails takes long
        return None
    try:
        numbers = pc.cast(ids, pa.int64())
    except pa.ArrowInvalid:
        return None
    return None if pc.any(pc.match_substring_regex(ids, "^(0.|-0)")).as_py() else numbers.to_numpy()


def require_names(column):
    """The column of dictionaries itself; pyarrow.ArrowInvalid if an id in it is not one word without quotes."""
    for chunk in column.chunks:
        for name in chunk.dictionary.to_pylist():
            if name.split() != [name] or '"' in name:
                raise pa.ArrowInvalid(f"id {name!r}")
    return column


def parse_times(text, unit):
    """Turn ISO 8601 dates, or numbers of the `unit` s or ms, into microseconds since 1970, UTC: int64 [clicks]."""
    if unit == "iso":
        times = parse_dates(text)
    else:
        numbers = pc.cast(text, pa.float64()).to_numpy()
        times = numbers * (SECOND if unit == "s" else SECOND // 1_000)
    if not np.all((times >= 0) & (times < LATEST)):  # false for NaN too
        raise pa.ArrowInvalid("time out of range")
    return times if unit == "iso" else np.rint(times).astype(np.int64)


def parse_dates(text):
    """Turn ISO 8601 dates into microseconds since 1970, UTC: int64 [clicks].

    A date without a time zone is in UTC. Decimals after the sixth are cut off.
    """
    longest = pc.max(pc.binary_length(text)).as_py() or 0
    if longest > len("2014-04-07T10:51:09.277123Z") or not pc.all(pc.ends_with(text, "Z")).as_py():
        text = pc.replace_substring_regex(text, ENDS_WITHOUT_ZONE, r"\1\2Z")
    return pc.cast(pc.cast(text, pa.timestamp("us", "UTC")), pa.int64()).to_numpy()


def describe_fault(path, block, line_number, form, error):
    """The message about the first wrong line of a block that `parse` refused with `error`.

    `line_number` is the number of the block's first line in the file.
    """
    lines = block.splitlines(keepends=True)
    low, high = 0, len(lines)  # the first wrong line is among lines[low:high]
    while high - low > 1:
        middle = (low + high) // 2
        if can_parse(b"".join(lines[low:middle]), form):
            low = middle
        else:
            high = middle
    where = f"{path} line {line_number + low}"
    fields = fields_of(lines[low], form)
    if len(fields) != len(form.names):
        line = lines[low].decode(errors="replace").rstrip("\r\n")
        names = ", ".join(form.names)[:200]
        return f"{where}: found {len(fields)} columns in {line[:80]!r}, expected {len(form.names)} ({names})"
    for position in (form.session, form.item):
        if fields[position].split() != [fields[position]] or '"' in fields[position]:
            return (f"{where}: found {fields[position][:80]!r} as {form.names[position]}, "
                    "expected an id without blanks or quotes")
    expected = {"iso": "a date such as 2014-04-07T10:51:09.277Z or, in all lines, unix seconds",
                "s": "unix seconds (--time_unit ms reads milliseconds)", "ms": "unix milliseconds"}[form.time_unit]
    try:
        parse_times(pa.chunked_array([[fields[form.time]]]), form.time_unit)
    except pa.ArrowInvalid:
        return f"{where}: found {fields[form.time][:80]!r} as {form.names[form.time]}, expected {expected}"
    return f"{where}: found {lines[low][:80]!r}, expected clicks as UTF-8 text ({str(error).splitlines()[0][:200]})"


def can_parse(block, form):
    try:
        parse(block, form)
    except pa.ArrowInvalid:
        return False
    return True


def fields_of(line, form):
    """The fields of one line as text, for messages."""
    text = line[:LONGEST_LINE].decode(errors="replace").rstrip("\r\n")
    return next(csv.reader([text], delimiter=form.separator), [])


def number_sessions(parts):
    """Join the sessions of all blocks: int64 [clicks], and their sorted names, or None if all are integers."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return concatenate(parts), None
    for index, part in enumerate(parts):
        if isinstance(part, np.ndarray):
            parts[index] = pa.chunked_array([pc.cast(pa.array(part), pa.string())]).dictionary_encode()
    codes, names = number_names(parts)
    order = pc.array_sort_indices(names)
    ranks = np.empty(len(order), np.int64)
    ranks[order.to_numpy()] = np.arange(len(order))
    return ranks[codes], names.take(order)


def number_names(parts):
    """Join the dictionaries of all blocks: int32 [clicks], and the names, a pyarrow.StringArray."""
    joined = pa.chunked_array([chunk for part in parts for chunk in part.chunks]).unify_dictionaries()
    parts.clear()
    names = joined.chunk(0).dictionary
    return concatenate([chunk.indices.to_numpy() for chunk in joined.chunks]), names


def concatenate(parts):
    """np.concatenate that also empties the list `parts`, so that the caller's list doesn't keep their memory."""
    joined = np.concatenate(parts)
    parts.clear()
    return joined
