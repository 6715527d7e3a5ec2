"""Fields of items, such as category and price: read from a table, chosen by, and shown in answers.

All fields are text, as it stands in the table.
"""

import csv
from bisect import bisect_left
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from utils.data.item_filter import require_columns
from utils.data.selection import Selection
from utils.files import InputError
from utils.memory import read_bytes, readable, require_memory

SEPARATORS = "\t,;|"
BOM = b"\xef\xbb\xbf"
LARGEST = (2 << 30) - 1  # bytes of a file, and of a column of Arrow
COPIES = 3  # of the file, that are in memory while it is read, to the least
REMEMBERED = 32  # selections


class Column:
    """One field of all items.

    values : pyarrow.StringArray, the different ones, ascending
    codes : int32 array [items], the place of each item's value among these; -1: the item has no row
    """

    def __init__(self, values, codes):
        self.values, self.codes = values, codes

    def code(self, value):
        """The place of a value, or None."""
        place = bisect_left(self.values, value, key=pa.StringScalar.as_py)
        return place if place < len(self.values) and self.values[place].as_py() == value else None

    def mask(self, values):
        """Which items have one of some values, a bool array."""
        codes = [code for code in map(self.code, values) if code is not None]
        if len(codes) == 1:
            return self.codes == codes[0]
        is_wanted = np.zeros(len(self.values) + 1, bool)  # with one more at the end, for the code -1
        is_wanted[codes] = True
        return is_wanted[self.codes]


class ItemTable:
    """The rows of a file, whether or not a model knows their items.

    Attributes
    ----------
    ids : pyarrow.StringArray
    columns : dict of str to Column
        With the rows in place of items.
    """

    def __init__(self, ids, columns):
        self.ids, self.columns = ids, columns


class ItemFields:
    """The fields of the items that a model knows, by their indices. It is never changed.

    Parameters
    ----------
    table : ItemTable
    item_ids : list of str
        The model's, by index.

    Attributes
    ----------
    columns : dict of str to Column
    unknown : int
        Rows of items that the model doesn't know.
    without_row : int
        Items that have no row. They pass no filter, and their fields are None.
    """

    def __init__(self, table, item_ids):
        rows = pc.fill_null(pc.index_in(pa.array(item_ids, pa.string()), table.ids), -1).to_numpy()
        self.without_row = int(np.count_nonzero(rows < 0))
        self.unknown = len(table.ids) - (len(rows) - self.without_row)
        self.columns = {name: Column(column.values, np.append(column.codes, np.int32(-1))[rows])
                        for name, column in table.columns.items()}
        self._select = lru_cache(REMEMBERED)(self._selection)

    def select(self, wanted):
        """The selection.Selection of the items that pass a filter, as `item_filter.parse_filter` returns it.

        ValueError as of `item_filter.require_columns`.
        """
        require_columns(self, wanted)
        return self._select(tuple(sorted((name, tuple(sorted(set(values)))) for name, values in wanted.items())))

    def _selection(self, wanted):
        mask = None
        for name, values in wanted:
            passes = self.columns[name].mask(values)
            mask = passes if mask is None else mask & passes
        return Selection(mask)

    def values(self, name, items):
        """The field `name` of an int array of items, a list of str or None."""
        column = self.columns[name]
        codes = column.codes[items]
        return column.values.take(pa.array(codes, mask=codes < 0)).to_pylist()

    def size(self, name, items):
        """How many bytes of text `values` returns."""
        column = self.columns[name]
        codes = column.codes[items]
        ends = np.frombuffer(column.values.buffers()[1], np.int32) if len(column.values) else np.zeros(1, np.int32)
        known = codes[codes >= 0]
        return int((ends[known + 1].astype(np.int64) - ends[known]).sum())


def read_item_table(path, flag):
    """Read a CSV or TSV file of items.

    Parameters
    ----------
    path : str or Path
        UTF-8, with a header. The column `id` has the item ids, or the first one if none is called so.
    flag : str
        What names the file, for errors.

    Returns
    -------
    ItemTable

    Raises
    ------
    InputError
        The file is missing or no such table, has a column or an item twice, or is too large for the memory.
    """
    data = read_bytes(path, flag, most=LARGEST).removeprefix(BOM)
    require_memory(COPIES * len(data), f"{path}: found {readable(len(data))}")
    header, _, rows = data.partition(b"\n")
    names, separator = _header(header, path)
    places = [str(place) for place in range(len(names))]
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(rows),
            # After an error, threads of Arrow may outlive the interpreter, which then aborts.
            arrow_csv.ReadOptions(column_names=places, block_size=max(len(rows), 1), use_threads=False),
            arrow_csv.ParseOptions(delimiter=separator),
            arrow_csv.ConvertOptions(column_types={place: pa.string() for place in places}, strings_can_be_null=False)
        ) if rows.strip() else pa.table({place: pa.array([], pa.string()) for place in places})
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: found no table below its header ({' '.join(str(error).split())[:200]}), expected "
                         f"rows of {len(names)} columns, as UTF-8 text") from None
    columns = {name: table[place].combine_chunks() for name, place in zip(names, places)}
    ids = columns.pop("id" if "id" in columns else names[0])
    _require_distinct(ids, path)
    found = ItemTable(ids, {name: _column(column) for name, column in columns.items()})
    pa.default_memory_pool().release_unused()  # otherwise Arrow keeps it
    return found


def _header(line, path):
    """The names of the columns and what separates them; InputError unless all have names of their own."""
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = "\0"
    if not text.strip() or "\0" in text:
        raise InputError(f"{path}: found no header, expected the names of the columns in the first line, as UTF-8 text")
    separator = max(SEPARATORS, key=lambda tried: len(_fields(text, tried)))
    names = _fields(text, separator)
    for place, name in enumerate(names):
        if not name or name in names[:place]:
            raise InputError(f"{path} line 1: found {name[:40]!r} as the name of column {place + 1}, expected a name "
                             "of its own for each")
    return names, separator


def _fields(text, separator):
    try:
        return next(csv.reader([text], delimiter=separator), [])
    except csv.Error:
        return []


def _require_distinct(ids, path):
    """InputError where an item has two rows."""
    encoded = ids.dictionary_encode()
    if len(encoded.dictionary) < len(ids):
        codes = encoded.indices.to_numpy()
        first = np.unique(codes, return_index=True)[1]
        again = np.flatnonzero(np.bincount(first, minlength=len(codes)) == 0)[0]
        raise InputError(f"{path}: found {ids[again].as_py()[:40]!r} again in row {again + 1} below the header (first "
                         f"in row {first[codes[again]] + 1}), expected every item once")


def _column(texts):
    """A Column of the rows."""
    encoded = texts.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order), dtype=np.int32)
    return Column(encoded.dictionary.take(pa.array(order)), ranks[encoded.indices.to_numpy()])
