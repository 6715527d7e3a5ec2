"""Read tables of clicks: files of Parquet, TSV or CSV, yoochoose-clicks.dat without a header, and DataFrames."""

from collections import deque
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from utils.data.click_columns import Columns, read_columns, unit_of_times
from utils.data.click_text import parts_of_text
from utils.data.clicks import group_by_session
from utils.data.left_out import LeftOut
from utils.files import InputError, require_file

ROWS = 1 << 18  # of Parquet, read at a time
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # in names of directories


def read_clicks(paths, columns, flag, left_out=None):
    """The Clicks of tables; parameters and errors are those of `click_parts`."""
    return joined_clicks(deque(click_parts(paths, columns, flag, left_out or LeftOut())))


def click_parts(paths, columns, flag, left_out):
    """Read tables of clicks, some megabytes at a time.

    Parameters
    ----------
    paths : list of str or Path
        Files, and directories whose files are read in the order of their names, except those that begin with `.` or
        `_`. A file is Parquet, or text: TSV or CSV with a header line, or lines
        `SessionId,2014-04-07T10:51:09.277Z,ItemId,Category` without one; compressed or not. Names of directories like
        `date=2014-04-07` give Parquet one more column.
    columns : Columns
    flag : str
        The flag that names `paths`, for messages.
    left_out : LeftOut
        How many bad rows may be left out, and what was.

    Yields
    ------
    click_columns.Part

    Raises
    ------
    InputError
        A file is missing, empty, cut off or not a table, or more rows are bad than may be left out; the message names
        the row.
    """
    parts = (found for path in paths for file in _table_files(path, flag)
             for found in _parts_of_file(file, columns, left_out.limit + 1))
    return _good_parts(parts, columns, left_out, paths[0])


def clicks_of(table, columns=None, left_out=None):
    """The clicks of a table in memory.

    Parameters
    ----------
    table : pandas.DataFrame or pyarrow.Table
        Times are timestamps, dates as text, or numbers.
    columns, left_out
        As for `read_clicks`.

    Returns
    -------
    Clicks

    Raises
    ------
    InputError
        A column is missing or has values of different types, or a row is bad.
    """
    columns, left_out = columns or Columns(), left_out or LeftOut()
    is_arrow = isinstance(table, pa.Table)
    names = list(columns.wanted().values())
    _require_columns(list(table.column_names if is_arrow else table.columns), columns, "the table")
    try:
        table = table if is_arrow else pa.table(table[names])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"the table: found a column with values of different types ({' '.join(error.args)[:200]}), "
                         "expected one type, such as text") from None
    pieces = (table.slice(first, ROWS) for first in range(0, len(table), ROWS))
    parts = _parts_of_tables(pieces, columns, left_out.limit + 1, "the table")
    return joined_clicks(deque(_good_parts(parts, columns, left_out, "the table")))


def _table_files(path, flag):
    """The file `path` itself, or all files below the directory `path`, in name order; InputError if there is none."""
    path = Path(path)
    if not path.is_dir():
        return [require_file(path, flag)]
    files = sorted(file for file in path.rglob("*") if file.is_file() and not any(
        part.startswith((".", "_")) for part in file.relative_to(path).parts))
    if not files:
        raise InputError(f"{flag}: found no files in the directory {path}, expected tables of clicks")
    return files


def _parts_of_file(path, columns, most_faults):
    """Yield the click_columns.Part of each piece of a file, as `_good_parts` takes them."""
    with open(path, "rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if not is_parquet:
        for part in parts_of_text(path, columns, most_faults):
            yield path, "line", part
        return
    try:
        with pq.ParquetFile(path) as file:
            yield from _parts_of_tables(_tables_of_parquet(file, path, columns), columns, most_faults, path)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(f"{path}: found a Parquet file that can't be read ({' '.join(str(error).split())[:200]}), "
                         "expected a whole one") from None


def _tables_of_parquet(file, path, columns):
    """Yield the wanted columns of a Parquet file, some rows at a time."""
    partitions = dict(part.split("=", 1) for part in path.parent.parts if "=" in part)
    names = file.schema_arrow.names
    _require_columns(names + sorted(partitions.keys() - set(names)), columns, path)
    wanted = list(columns.wanted().values())
    for batch in file.iter_batches(ROWS, columns=[name for name in wanted if name in names], use_threads=False):
        table = pa.Table.from_batches([batch])
        for name in wanted:
            if name not in names:
                value = None if partitions[name] == NO_VALUE else unquote(partitions[name])
                table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(table)))
        yield table


def _parts_of_tables(tables, columns, most_faults, source):
    """Yield the click_columns.Part of each pyarrow.Table, as `_good_parts` takes them; rows are counted from 1."""
    unit, first_row = "", 1
    for table in tables:
        names = list(columns.wanted().values())
        table = pa.table([_plain(table[name], name, source, is_time=place == 2) for place, name in enumerate(names)],
                         list(map(str, range(len(names)))))
        unit = unit or unit_of_times(table.column(2), columns.time_unit)
        part = read_columns(table, columns, unit, most_faults)
        yield source, "row", part._replace(faults=[(first_row + row, reason) for row, reason in part.faults])
        first_row += len(table)


def _plain(column, name, source, is_time):
    """A column as text, numbers or timestamps; InputError for types that can't be ids or times."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    is_text = types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if is_text or types.is_binary(kind) or types.is_large_binary(kind):
        return pc.cast(column, pa.string())
    is_date = types.is_timestamp(kind) or types.is_date(kind) or types.is_decimal(kind)
    if not (types.is_integer(kind) or types.is_floating(kind) or is_date and is_time):
        expected = "timestamps, numbers or text" if is_time else "text or integers"
        raise InputError(f"{source}: found a column {name} of {kind}, expected {expected}")
    return pc.cast(column, kind)


def _require_columns(names, columns, source):
    """InputError unless each wanted column is exactly once among the `names` of a table."""
    for flag, name in columns.wanted().items():
        if names.count(name) != 1:
            found = ", ".join(map(str, names))[:300]
            raise InputError(f"{source}: found the columns {found!r}, expected one named {name!r} ({flag})")


def _good_parts(parts, columns, left_out, source):
    """Yield those of the `parts` that have clicks, and count in `left_out` what is missing.

    Parameters
    ----------
    parts : iterable of (file, what it calls its rows, click_columns.Part)
    source : str or Path, what messages call the whole
    """
    clicks = 0
    for file, row_name, part in parts:
        clicks += len(part.times)
        may_go_on = left_out.add(file, row_name, part)  # else the rest is only read to count what is bad
        if may_go_on and len(part.times):
            yield part
    left_out.check()
    if clicks:
        return
    if left_out.other_events:
        raise InputError(f"{source}: found {left_out.other_events:,} rows, none with the event "
                         f"{' or '.join(columns.events + columns.purchases)!r} (--events), expected some")
    if left_out.bad:
        raise InputError(f"{source}: found nothing but bad rows, {left_out.bad:,} of them, expected others; the first: "
                         f"{left_out.first}")
    raise InputError(f"{source}: found no row, expected some after the header")


def joined_clicks(parts):
    """The Clicks of all `parts`, a deque of what `click_parts` yields, which is emptied meanwhile."""
    sessions, items, times = [], [], []
    while parts:
        for column, part in zip((sessions, items, times), parts.popleft()):
            column.append(part)
    sessions, session_names = number_sessions(sessions)
    items, item_names = number_names(items)
    times = concatenate(times)
    pa.default_memory_pool().release_unused()  # otherwise Arrow keeps gigabytes
    return group_by_session(sessions, items, times, item_names, session_names)


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
