"""Sessions in memory: read from session text, selected, and cut into windows."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data import text_cache
from utils.files import InputError

CONVERSION = "text2paddle.json"  # the record that text2paddle.py puts beside the sessions that it writes
CHUNK_BYTES = 64 << 20
NEWLINE, BLANKS, ZERO, NINE = ord("\n"), (ord(" "), ord("\t"), ord("\r")), ord("0"), ord("9")


class Sessions(NamedTuple):
    """Sessions as one flat array.

    items : int32 [events], the clicked items' indices in vocab.txt, session after session
    offsets : int64 [sessions + 1], session i is items[offsets[i]:offsets[i + 1]]
    """

    items: np.ndarray
    offsets: np.ndarray

    @property
    def lengths(self):
        """Clicks of each session, int64 [sessions]."""
        return np.diff(self.offsets)

    @property
    def predictions(self):
        """How many clicks follow another one in their session; these are trained on and evaluated."""
        return int(np.maximum(self.lengths - 1, 0).sum())


def session_files(path, flag):
    """The files of a session directory in name order, or the one file `path`; InputError if there is none."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{flag}: found nothing at {path}, expected a directory of session files")
    files = session_files_in(path)
    if not files:
        raise InputError(f"{flag}: found no session files in {path}, expected at least one")
    return files


def session_files_in(directory):
    """The files of a directory that are read as sessions, in name order: all but hidden and .json files."""
    return sorted(entry for entry in Path(directory).iterdir()
                  if entry.is_file() and not entry.name.startswith(".") and entry.suffix != ".json")


def read_conversion(path, vocab_sha256, flag):
    """What text2paddle.py recorded about the sessions in the directory `path`: a dict, empty if there is no record.

    If `path` is a single file, its directory's record is checked, but the dict is empty: the counts in the record are
    those of all files together.

    Raises InputError if the indices belong to a vocab.txt whose checksum is not `vocab_sha256` (None: any).
    """
    record_path = (Path(path).parent if Path(path).is_file() else Path(path)) / CONVERSION
    if not record_path.is_file():
        return {}
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        found = str(record["vocab_sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{record_path}: found no record of a conversion, "
                         "expected what text2paddle.py writes") from None
    if vocab_sha256 is not None and found != vocab_sha256:
        raise InputError(f"{flag}: found sessions in {path} that were converted with another vocab.txt (SHA-256 "
                         f"{found[:12]}...), expected {vocab_sha256[:12]}...")
    return {} if Path(path).is_file() else record


def read_sessions(path, item_count, flag):
    """Read session text: one session a line, item indices in time order separated by blanks.

    A copy beside large files saves parsing them again (text_cache.py).

    Parameters
    ----------
    path : str or Path
        A directory (its `session_files` are read) or a file.
    item_count : int
        Indices from 0 to `item_count` - 1 are allowed.
    flag : str
        The flag that names `path`, for errors.

    Returns
    -------
    Sessions

    Raises
    ------
    InputError
        Nothing is there, the files hold no session or a character that can't be part of an index, or an index is too
        large.
    """
    files = session_files(path, flag)
    description = text_cache.describe(files)
    kept = text_cache.load(files, description)
    if kept and kept[0].max() < item_count:
        return Sessions(*kept)
    items, lengths = [], []
    for file in files:
        first_line = 1
        with open(file, "rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                chunk += stream.readline()
                chunk_items, chunk_lengths = _parse_chunk(chunk, file, first_line, item_count)
                items.append(chunk_items)
                lengths.append(chunk_lengths)
                first_line += chunk.count(b"\n")
    lengths = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
    lengths = lengths[lengths > 0]  # an empty line is no session
    if not len(lengths):
        raise InputError(f"{flag}: found no session in {path}, expected lines of item indices")
    sessions = Sessions(np.concatenate(items), np.concatenate([[0], np.cumsum(lengths)]))
    text_cache.store(files, description, *sessions)
    return sessions


def _parse_chunk(chunk, file, first_line, item_count):
    """The indices, int32 [events], and the number of clicks in each line, int64 [lines], of a chunk of whole lines."""
    characters = np.frombuffer(chunk, np.uint8)
    is_digit = (characters >= ZERO) & (characters <= NINE)
    line_ends = np.flatnonzero(characters == NEWLINE)
    allowed = is_digit | (characters == NEWLINE)
    for blank in BLANKS:
        allowed |= characters == blank
    if not allowed.all():
        raise _line_error(chunk, file, first_line, int(np.argmin(allowed)), item_count)
    token_starts = np.flatnonzero(is_digit & ~np.concatenate([[False], is_digit[:-1]]))
    if not len(token_starts):
        return np.empty(0, np.int32), np.empty(0, np.int64)
    indices = np.fromstring(chunk, dtype=np.int64, sep=" ")
    if indices.max() >= item_count:
        raise _line_error(chunk, file, first_line, int(token_starts[np.argmax(indices >= item_count)]), item_count)
    ends = np.searchsorted(token_starts, np.append(line_ends, len(characters)))
    return indices.astype(np.int32), np.diff(ends, prepend=0)


def _line_error(chunk, file, first_line, position, item_count):
    """The error for the character at `position`: the number of its line, and the word that it belongs to."""
    line_start = chunk.rfind(b"\n", 0, position) + 1
    line, column = chunk[line_start:].split(b"\n", 1)[0], position - line_start
    word = re.split(rb"[ \t\r]", line[:column])[-1] + re.split(rb"[ \t\r]", line[column:])[0]
    number = first_line + chunk.count(b"\n", 0, position)
    return InputError(f"{file}:{number}: found {word[:40].decode('utf-8', 'replace')!r}, "
                      f"expected item indices from 0 to {item_count - 1} separated by blanks")


def choose(sessions, numbers):
    """The sessions with these numbers, an int array, in that order."""
    starts, lengths = sessions.offsets[numbers], sessions.lengths[numbers]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Sessions(sessions.items[source], offsets)


def cut_windows(sessions, longest):
    """Cut sessions with more than `longest` predictions into windows of at most that many.

    A window begins with the last click of the window before it, so every click except a session's first is still a
    target exactly once.

    Returns
    -------
    Sessions
        In the same order, each long session replaced by its windows.
    int
        How many sessions were cut.
    """
    lengths = sessions.lengths
    cut = int((lengths > longest + 1).sum())
    if not cut:
        return sessions, 0
    windows = np.maximum(-(-(lengths - 1) // longest), 1)
    number = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)  # the window's in its session
    starts = np.repeat(sessions.offsets[:-1], windows) + number * longest
    ends = np.minimum(starts + longest + 1, np.repeat(sessions.offsets[1:], windows))
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
    return Sessions(sessions.items[source], offsets), cut
