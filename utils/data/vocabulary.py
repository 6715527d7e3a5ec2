"""vocab.txt: the item ids, one a line; an item's index is the number of its line, counted from 0."""

import hashlib
import re
from pathlib import Path

from utils.files import InputError, require_file


def read_vocabulary(path, flag="--vocab_path"):
    """Read vocab.txt.

    Returns
    -------
    item_ids : list of str, or None
        None if the file holds only the number of items, as in Paddle's old example.
    item_count : int

    Raises
    ------
    InputError
        The file is missing, empty or not UTF-8, or has an empty line, an id with a blank, or the same id twice.
    """
    path = require_file(path, flag)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found a byte that is not UTF-8 at position {error.start}, "
                         "expected one item id a line") from None
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError(f"{path}: found an empty file, expected one item id a line")
    if len(lines) == 1 and re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", lines[0]):
        return None, int(lines[0])
    first_line = {}
    for number, item_id in enumerate(lines, start=1):
        if not item_id or item_id.split() != [item_id]:
            raise InputError(f"{path}:{number}: found {item_id[:40]!r}, expected one item id without blanks")
        if item_id in first_line:
            raise InputError(f"{path}:{number}: found {item_id[:40]!r} again (first in line {first_line[item_id]}), "
                             "expected every item id once")
        first_line[item_id] = number
    return lines, len(lines)


def checksum(path):
    """SHA-256 of a file as hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
