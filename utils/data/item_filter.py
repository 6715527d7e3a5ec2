"""Filters of items by their fields: `category:shoes,in_stock:1` are those with category `shoes` and in_stock `1`.

A filter is a dict of column to list of values, which are alternatives. Its mistakes are ValueErrors in the words of a
message.
"""

import csv

MOST_VALUES = 20  # in a filter


def require_columns(fields, names):
    """ValueError, in the words of an error message, where an ItemFields has no column of one of these names."""
    for name in names:
        if name not in fields.columns:
            there = ", ".join(fields.columns)
            raise ValueError(f"found {name[:40]!r}, expected a column of the items: {there[:300]}")


def parse_filter(text):
    """`category:shoes,in_stock:1` as a dict of column to list of values; several values of a column are alternatives.

    A part with a comma in it stands between double quotes, as in a CSV file. ValueError where that can't be read.
    """
    wanted = {}
    for part in words(text):
        name, colon, value = part.partition(":")
        if not (name and colon):
            raise ValueError(f"found {part[:40]!r}, expected COLUMN:VALUE, several of them separated by commas")
        wanted.setdefault(name, []).append(value)
    return require_few(wanted)


def require_few(wanted):
    """A filter, a dict of column to list of values; ValueError where it has none, or too many."""
    count = sum(map(len, wanted.values()))
    if not 1 <= count <= MOST_VALUES or not all(wanted.values()):
        raise ValueError(f"found {count} values in a filter, expected 1 to {MOST_VALUES}, and one for each column")
    return wanted


def words(text):
    """The parts of a text that commas separate, as in a line of a CSV file; ValueError where it is none."""
    try:
        return next(csv.reader([text], strict=True, skipinitialspace=True), [])
    except csv.Error as error:
        raise ValueError(f"found {text[:40]!r} ({error}), expected parts separated by commas") from None
