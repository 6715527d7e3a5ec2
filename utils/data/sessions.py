"""Sessions in memory: read from session text, selected, cut into windows or blocks, and written."""

import hashlib
import re
from typing import NamedTuple

import numpy as np

from utils.data import text_cache
from utils.data.session_files import recorded_checksums, require_checksum, session_files
from utils.files import InputError, open_file, write_atomically
from utils.memory import readable, require_memory

CHUNK_BYTES = 16 << 20
ITEM_BYTES = 4
SESSIONS_AT_ONCE = 100_000
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
        large; or the files are not those that text2paddle.py wrote there, by its record.
    """
    files = session_files(path, flag)
    checksums = recorded_checksums(path, flag)
    description = text_cache.describe(files, checksums)
    kept = text_cache.load(files, description, item_count)
    if kept:
        return Sessions(*kept)
    size = sum(file.stat().st_size for file in files)
    require_memory(ITEM_BYTES * size // (len(str(item_count)) + 1), f"{flag}: found {readable(size)} of session text")
    # Room for all digits: what is not used of it takes no memory, and nothing has to be joined at the end.
    items, lengths, clicks = np.empty(size // 2 + len(files), np.int32), [], 0
    for file in files:
        first_line, digest = 1, hashlib.sha256()
        with open_file(file, flag) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                chunk += stream.readline()
                digest.update(chunk)
                chunk_items, chunk_lengths = _parse_chunk(chunk, file, first_line, item_count)
                if clicks + len(chunk_items) > len(items):
                    raise InputError(f"{flag}: found {file} larger than before while it was read, expected a file that "
                                     "nothing writes to")
                items[clicks:clicks + len(chunk_items)] = chunk_items
                clicks += len(chunk_items)
                lengths.append(chunk_lengths[chunk_lengths > 0].astype(np.int32))  # an empty line is no session
                first_line += chunk.count(b"\n")
        require_checksum(file, digest.hexdigest(), checksums, flag)
    if not clicks:
        raise InputError(f"{flag}: found no session in {path}, expected lines of item indices")
    lengths = np.concatenate(lengths)
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    sessions = Sessions(items[:clicks], offsets)
    text_cache.store(files, checksums, description, *sessions)
    kept = text_cache.load(files, description, item_count)  # mapped, so that the memory is free again
    return Sessions(*kept) if kept else sessions


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


def joined(parts):
    """Several Sessions as one, in their order."""
    if len(parts) == 1:
        return parts[0]
    firsts = np.cumsum([0] + [len(part.items) for part in parts])
    offsets = [part.offsets[1:] + first for part, first in zip(parts, firsts)]
    return Sessions(np.concatenate([part.items for part in parts]), np.concatenate([[0], *offsets]))


def choose(sessions, numbers):
    """The sessions with these numbers, an int array, in that order."""
    starts, lengths = sessions.offsets[numbers], sessions.lengths[numbers]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Sessions(sessions.items[source], offsets)


def cut_windows(sessions, longest, overlap=0):
    """Cut sessions with more than `longest` predictions into windows of at most that many.

    Of a window's predictions, the first `overlap` < `longest` are the last ones of the window before it. They are there
    for their clicks alone, so every click except a session's first is still a target exactly once.

    Returns
    -------
    Sessions
        In the same order, each long session replaced by its windows.
    int64 [windows] or None
        How many of each window's predictions, the first ones, belong to the window before; None: none of any.
    """
    predictions, step = sessions.lengths - 1, longest - overlap
    if not (predictions > longest).any():
        return sessions, None
    windows = window_counts(predictions, longest, overlap)
    number = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)  # the window's in its session
    starts = np.repeat(sessions.offsets[:-1], windows) + number * step
    ends = np.minimum(starts + longest + 1, np.repeat(sessions.offsets[1:], windows))
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
    return Sessions(sessions.items[source], offsets), np.where(number > 0, overlap, 0) if overlap else None


def window_counts(predictions, longest, overlap):
    """How many windows `cut_windows` cuts sessions of so many predictions into, int64 arrays; all but the last full."""
    return 1 + np.maximum(-(-(predictions - longest) // (longest - overlap)), 0)


def cut_blocks(sessions, predictions):
    """Cut sessions into blocks of neighbours that have about so many `predictions`, at least one session each.

    Yields
    ------
    int
        The number of the block's first session.
    Sessions
    """
    ends, first = np.cumsum(np.maximum(sessions.lengths - 1, 0)), 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + predictions, side="right")))
        offsets = sessions.offsets[first:last + 1]
        yield first, Sessions(sessions.items[offsets[0]:offsets[-1]], offsets - offsets[0])
        first = last


def write_sessions(path, sessions):
    """Write a sessions.Sessions to the file `path`, one session a line. Sessions without clicks are left out."""
    offsets = np.unique(sessions.offsets)
    with write_atomically(path) as file:
        for start in range(0, len(offsets) - 1, SESSIONS_AT_ONCE):
            part = offsets[start:start + SESSIONS_AT_ONCE + 1]
            items = sessions.items[part[0]:part[-1]].tolist()
            ends = (part - part[0]).tolist()
            file.write("".join(" ".join(map(str, items[begin:end])) + "\n" for begin, end in zip(ends, ends[1:])))
