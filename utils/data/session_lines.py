"""Sessions as people write them: text of item ids, one session a line, from a file or a pipe."""

import sys
from contextlib import nullcontext

from utils.data.item_ids import unescape
from utils.files import InputError, require_file

READ_BYTES = 1 << 16


def read_lines(path):
    """Yield the lines of a file as they arrive, in lists of (number from 1, item ids).

    Lines from a pipe come as soon as they are written.
    """
    first = 1
    with _open_sessions(path) as stream:
        while chunk := stream.read1(READ_BYTES):
            if not chunk.endswith(b"\n"):
                chunk += stream.readline()
            text = _decode(chunk, path, first)
            lines = (text.removeprefix("\ufeff") if first == 1 else text).removesuffix("\n").split("\n")
            yield [(number, [*map(unescape, line.split())]) for number, line in enumerate(lines, start=first)]
            first += len(lines)


def _decode(chunk, path, first):
    """The text of a chunk of lines, the first of which is number `first`; InputError if it can't be item ids."""
    found, position = "a zero byte", chunk.find(b"\0")
    try:
        if position < 0:
            return chunk.decode()
    except UnicodeDecodeError as error:
        found, position = "a byte that is not UTF-8", error.start
    line = first + chunk.count(b"\n", 0, position)
    raise InputError(f"{name_of(path)}:{line}: found {found}, expected item ids separated by blanks")


def name_of(path):
    """What messages call the file of the sessions."""
    return "standard input" if path == "-" else path


def _open_sessions(path):
    """The file as a stream of bytes, or standard input for `-`."""
    if path != "-":
        return open(require_file(path, "--sessions"), "rb")
    if sys.stdin is None:
        raise InputError("--sessions: found standard input closed, expected sessions there")
    return nullcontext(sys.stdin.buffer)
