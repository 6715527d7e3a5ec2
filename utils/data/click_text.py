"""Tables of clicks as text: TSV, CSV, and yoochoose-clicks.dat without a header."""

import csv
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from utils.data.click_columns import NAMES, Columns, read_columns, unit_of_times
from utils.data.compressed import open_text
from utils.files import InputError

BLOCK = 8 << 20  # bytes parsed at a time; limits the memory
WORKERS = 2  # threads that parse
LONGEST_LINE = 100_000  # bytes; a longer line is not one of clicks
SEPARATORS = "\t,;|"
YOOCHOOSE = re.compile(r"[^,\s]+,\d{4}-\d\d-\d\dT[\d:.]+Z?,[^,\s]+(,|\s|$)")
BYTES_FOR_UNIT = 1 << 16  # that are looked at to tell numbers from dates
SURROGATE = re.compile("[\ud800-\udfff]")
QUOTE, NEWLINE, RETURN = map(ord, '"\n\r')


@dataclass
class Form:
    """Where a table's columns are: `wanted` are positions in `names`, the names of all columns."""

    names: list
    wanted: list
    separator: str
    has_header: bool
    columns: Columns
    unit: str = ""  # of the times, as for click_columns.read_columns


def parts_of_text(path, columns, most_faults):
    """Yield the click_columns.Part of each block of a table; rows are numbers of lines, from 1.

    Raises
    ------
    InputError
        The file is empty, cut off or not a table with these columns.
    """
    with open_text(path, columns.encoding) as file:
        form, first_line = _find_form(file, path, columns)
        line_number = 1 + form.has_header
        blocks = _whole_records(file, b"" if form.has_header else first_line, path, form.separator)
        for block, future in _parsed_ahead(blocks, form, most_faults):
            part = future.result()
            yield part._replace(faults=[(line_number + row, reason) for row, reason in part.faults])
            line_number += block.count(b"\n")


def _find_form(file, path, columns):
    """Find out the Form of a table from its first line; return both."""
    first_line = file.readline(LONGEST_LINE).removeprefix(b"\xef\xbb\xbf")
    if not first_line:
        raise InputError(f"{path}: found an empty file, expected a table")
    if len(first_line) >= LONGEST_LINE:
        raise InputError(f"{path}: found a line of more than {LONGEST_LINE:,} bytes, expected a table")
    try:
        text = first_line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InputError(f"{path}: found binary data, expected a table as Parquet, or as text in UTF-8, such as TSV or "
                         "CSV")
    if "\r" in text:
        raise InputError(f"{path} line 1: found a carriage return within the line, expected lines that end with a line "
                         "feed")
    if YOOCHOOSE.match(text):
        others = [f"column {position}" for position in range(4, text.count(",") + 2)]
        if columns.event:
            raise InputError(f"{path} line 1: found no header, expected one that names the column {columns.event!r} "
                             "(--event_column)")
        wanted = [0, 2, 1] + [3] * (columns.category is not None and len(others) > 0)
        return Form(["SessionId", "Timestamp", "ItemId", *others], wanted, ",", False, columns), first_line
    wanted = columns.wanted()
    headers = {separator: next(csv.reader([text], delimiter=separator), [])
               for separator in columns.separator or SEPARATORS}
    separator = max(headers, key=lambda tried: (len({*wanted.values()} & {*headers[tried]}), len(headers[tried])))
    names = headers[separator]
    for flag, name in wanted.items():
        if names.count(name) != 1:
            found = ", ".join(names) if len(text) < 300 else text[:300] + "..."
            raise InputError(f"{path} line 1: found the columns {found!r}, expected one named {name!r} ({flag})")
    return Form(names, [names.index(name) for name in wanted.values()], separator, True, columns), first_line


def _whole_records(file, start, path, separator):
    """Yield `start`, which was already read from `file`, and the rest of the file in blocks of whole records.

    A line with a quote that nothing closes is a block of its own.
    """
    rest, chunk = start, True
    while chunk:
        chunk = file.read(BLOCK)
        block = b"".join((rest, chunk))
        cut = 0
        for end in _cuts(block, separator, not chunk):
            if end > cut:
                yield block[cut:end]
            cut = end
        rest = block[cut:]
        if len(rest) > max(BLOCK, LONGEST_LINE):
            raise InputError(f"{path}: found a line of more than {LONGEST_LINE:,} bytes, expected a table")


def _cuts(block, separator, is_last):
    """Where to cut a block: behind its last whole record, and around lines with a quote that nothing closes."""
    if is_last and not block.endswith(b"\n"):
        block += b"\n"
    if b'"' not in block:
        return [block.rfind(b"\n") + 1]
    ends, unclosed = _record_ends(block, separator, is_last)
    around = [place for start in unclosed for place in (start, block.index(b"\n", start) + 1)]
    return sorted({*around, *ends[-1:].tolist()})


def _record_ends(block, separator, is_whole=True):
    """The ends of the records in a block of lines: those of the lines, except within quotes.

    Parameters
    ----------
    is_whole : bool
        Whether no record goes on behind the block.

    Returns
    -------
    ends : int64 array [records], behind each newline that ends one
    unclosed : list of int
        The starts of lines with a quote that is not closed within LONGEST_LINE bytes; they are taken as records.
    """
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == NEWLINE) + 1
    if b'"' not in block:
        return ends, []
    quotes = np.flatnonzero(text == QUOTE)
    last = np.searchsorted(quotes, ends)
    odd = np.flatnonzero(np.diff(last, prepend=0) % 2)  # lines that may end within quotes
    is_end, unclosed, done = np.ones(len(ends), bool), [], 0
    before = np.where(quotes > 0, text[quotes - 1], NEWLINE) if len(odd) else None
    field_starts = {NEWLINE, ord(separator)}
    for line in odd.tolist():
        start = int(ends[line - 1]) if line else 0
        if start < done or field_starts.isdisjoint(before[last[line - 1] if line else 0:last[line]].tolist()):
            continue  # quotes that begin no field are parts of words: 5" disk
        end = _end_of_record(block, start, separator)
        if end:
            is_end[line:np.searchsorted(ends, end)] = False
            done = end
        elif is_whole or len(block) - start > LONGEST_LINE:
            unclosed.append(start)
        else:
            is_end[line:] = False
            break
    return ends[is_end], unclosed


def _end_of_record(block, start, separator):
    """Where the record that begins at `start` ends, behind its newline; 0 if a quote stays open for LONGEST_LINE bytes.
    """
    other = rb"[^\n" + re.escape(separator.encode()) + rb"]*"
    field = re.compile(rb'(?:"[^"]*(?:""[^"]*)*"|(?!"))' + other + rb"(.)", re.DOTALL)
    limit = start + LONGEST_LINE
    while (found := field.match(block, start, limit)) and found[1] != b"\n":
        start = found.end()
    return found.end() if found else 0


def _parsed_ahead(blocks, form, most_faults):
    """Yield each block and the future result of `_parse`; meanwhile the next two blocks are parsed."""
    waiting = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for block in blocks:
            if not form.unit:
                form.unit = _unit_of_block(block, form)
            waiting.append((block, pool.submit(_parse, block, form, most_faults)))
            if len(waiting) > WORKERS:
                yield waiting.popleft()
        yield from waiting


def _unit_of_block(block, form):
    """The unit of the times in a block, from the first of them."""
    place = form.wanted[2]
    _, starts, ends = _records_of(block[:BYTES_FOR_UNIT], form)
    rows = [_fields_of(block[start:end], form) for start, end in zip(starts.tolist(), ends.tolist())]
    times = [row[place].encode(errors="replace").decode() for row in rows if len(row) > place]
    return unit_of_times(pa.chunked_array([pa.array(times, pa.string())]), form.columns.time_unit)


def _fields_of(record, form):
    """The fields of one record, a list of str in which bytes that are not UTF-8 are surrogates; empty if it is none."""
    try:
        return next(csv.reader([record.decode("utf-8", "surrogateescape")], delimiter=form.separator), [])
    except csv.Error:  # a carriage return within a line, for example
        return []


def _parse(block, form, most_faults):
    """The click_columns.Part of a block of whole records; its rows are numbers of lines, from 0."""
    try:
        table, faults = _parse_fast(block, form), []
    except pa.ArrowInvalid:
        table, lines, faults = _parse_by_record(block, form)
    part = read_columns(table, form.columns, form.unit, most_faults)
    if part.bad and not faults:
        lines = _records_of(block, form)[0]
        if len(lines) != len(table):  # Arrow ends records at a carriage return, too
            table, lines, faults = _parse_by_record(block, form)
            part = read_columns(table, form.columns, form.unit, most_faults)
    bad = [(int(lines[row]), reason) for row, reason in part.faults] + faults
    return part._replace(bad=part.bad + len(faults), faults=sorted(bad)[:most_faults])


def _parse_fast(block, form):
    """The wanted columns of a block, a pyarrow.Table of text; pyarrow.ArrowInvalid if a record is none of the table."""
    positions = [str(position) for position in range(len(form.names))]
    wanted = [positions[place] for place in form.wanted]
    types = dict.fromkeys(wanted, pa.string()) | dict.fromkeys(wanted[1:2] + wanted[3:], NAMES)
    table = arrow_csv.read_csv(
        pa.py_buffer(block),
        # We use our own threads: after an error Arrow's may outlive the interpreter, which then aborts instead of
        # ending with status 2.
        arrow_csv.ReadOptions(column_names=positions, block_size=len(block), use_threads=False),
        arrow_csv.ParseOptions(delimiter=form.separator, newlines_in_values=True),
        arrow_csv.ConvertOptions(include_columns=wanted, column_types=types))
    return table.select(wanted)


def _parse_by_record(block, form):
    """Parse a block with records that can't be parsed.

    Returns
    -------
    table : pyarrow.Table of text, the wanted columns of the other records
    lines : list of int, the line of each of its rows, from 0
    faults : list of (line, reason)
    """
    rows, lines, faults = [], [], []
    for line, start, end in zip(*map(np.ndarray.tolist, _records_of(block, form))):
        record = block[start:end]
        fields = _fields_of(record, form)
        shown = repr(record.decode(errors="replace").rstrip("\r\n")[:80])
        if len(fields) != len(form.names):
            names = ", ".join(form.names)[:200]
            faults.append((line, f"found {len(fields)} columns in {shown}, expected {len(form.names)} ({names})"))
        elif not all(SURROGATE.search(fields[place]) is None for place in form.wanted):
            faults.append((line, f"found {shown}, expected text in UTF-8 (--encoding names another)"))
        else:
            rows.append([fields[place] for place in form.wanted])
            lines.append(line)
    columns = list(zip(*rows)) or [[]] * len(form.wanted)
    columns = [pa.chunked_array([pa.array(column, pa.string())]) for column in columns]
    return pa.table(columns, list(map(str, range(len(columns))))), lines, faults


def _records_of(block, form):
    """The records of a block that are not empty: the numbers of their lines, from 0, and where they begin and end.

    Returns
    -------
    lines, starts, ends : int64 arrays [records]
    """
    if not block.endswith(b"\n"):
        block += b"\n"
    text = np.frombuffer(block, np.uint8)
    ends, _ = _record_ends(block, form.separator)
    starts = np.append(0, ends[:-1])
    lines = np.searchsorted(np.flatnonzero(text == NEWLINE), starts)
    is_empty = (ends - starts == 1) | (ends - starts == 2) & (text[starts] == RETURN)
    return lines[~is_empty], starts[~is_empty], ends[~is_empty]
