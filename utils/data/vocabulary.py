"""vocab.txt: the item ids, one a line; an item's index is the number of its line, counted from 0.

Ids stand there as `item_ids.escape` writes them. They are given back as they were once, here.
"""

import hashlib
import re
from typing import NamedTuple

from utils.data.item_ids import unescape
from utils.files import InputError
from utils.memory import read_bytes, require_memory

ITEM_BYTES = 64  # what a network of one unit, its optimiser and the popularities keep of an item, to the least
ID_BYTES, ID_COPIES = 120, 3  # beside its characters, what Python keeps of an item id in a list and a dict


class Vocabulary(NamedTuple):
    """What vocab.txt says.

    item_ids : list of str or None, as they were before they were escaped; None if the file holds only the number of
        items, as in Paddle's old example
    item_count : int
    sha256 : str, hexadecimal digits, of the file
    """

    item_ids: list
    item_count: int
    sha256: str


def read_vocabulary(path, flag="--vocab_path"):
    """The Vocabulary in a file.

    Raises
    ------
    InputError
        The file is missing, empty or not UTF-8, or has an empty line, an id with a blank, or the same id twice; or it
        names more items than there is memory for.
    """
    data = read_bytes(path, flag)
    ids = data.count(b"\n")
    require_memory(ID_COPIES * len(data) + ID_BYTES * ids, f"{path}: found {ids} item ids")
    try:
        lines = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: found a byte that is not UTF-8 at position {error.start}, "
                         "expected one item id a line") from None
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise InputError(f"{path}: found an empty file, expected one item id a line")
    if len(lines) == 1 and re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", lines[0]):
        count = int(lines[0])
        require_memory(ITEM_BYTES * count, f"{path}: found {count} as the number of items")
        return Vocabulary(None, count, hashlib.sha256(data).hexdigest())
    first_line = {}
    item_ids = list(map(unescape, lines))
    for number, (word, item_id) in enumerate(zip(lines, item_ids), start=1):
        if not word or word.split() != [word]:
            raise InputError(f"{path}:{number}: found {word[:40]!r}, expected one item id, without blanks")
        if item_id in first_line:
            raise InputError(f"{path}:{number}: found {item_id[:40]!r} again (first in line {first_line[item_id]}), "
                             "expected every item id once")
        first_line[item_id] = number
    return Vocabulary(item_ids, len(item_ids), hashlib.sha256(data).hexdigest())


def checksum(path):
    """SHA-256 of a file as hexadecimal digits."""
    return hashlib.sha256(read_bytes(path, str(path))).hexdigest()
