"""Sessions in memory: how they are read from session text, cut into windows, and packed into batches."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils import session_cache
from utils.files import InputError

CONVERSION = "text2paddle.json"  # what text2paddle.py records beside the sessions that it wrote
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
        """Clicks that follow another of their session: what is trained on and evaluated."""
        return int(np.maximum(self.lengths - 1, 0).sum())


class Batch(NamedTuple):
    """Whole sessions packed without gaps: first every session's first click, then every second one, and so on.

    Rows are in descending order of length, so that those still running at a time step are always the first ones.

    inputs : int64 [predictions], the click seen
    targets : int64 [predictions], the click that follows it
    positions : int64 [predictions], where the target stands in Sessions.items; -1 for padding
    rows_per_step : list of int, how many rows take part in each time step; their sum is `predictions`
    """

    inputs: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    rows_per_step: list


def session_files(path, flag):
    """The files of a session directory in name order (hidden and .json files are left out), or the one file `path`."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{flag}: found nothing at {path}, expected a directory of session files")
    files = list_sessions(path)
    if not files:
        raise InputError(f"{flag}: found no session files in {path}, expected at least one")
    return files


def list_sessions(directory):
    """The files of a directory that are read as sessions, in name order."""
    return sorted(entry for entry in Path(directory).iterdir()
                  if entry.is_file() and not entry.name.startswith(".") and entry.suffix != ".json")


def read_conversion(path, vocab_sha256, flag):
    """What text2paddle.py recorded of the sessions in the directory `path`: a dict, empty where there is no record.

    For a single file it is the record of its directory, but for the counts, which are those of all files together.

    Raises InputError where the indices belong to another vocab.txt than the one with the checksum `vocab_sha256` (None for
    any).
    """
    record_path = (Path(path).parent if Path(path).is_file() else Path(path)) / CONVERSION
    if not record_path.is_file():
        return {}
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        found = str(record["vocab_sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{record_path}: found no record of a conversion, expected what text2paddle.py writes") from None
    if vocab_sha256 is not None and found != vocab_sha256:
        raise InputError(f"{flag}: found sessions in {path} that were converted with another vocab.txt (SHA-256 "
                         f"{found[:12]}...), expected {vocab_sha256[:12]}...")
    return {} if Path(path).is_file() else record


def read_sessions(path, item_count, flag):
    """Read session text: one session a line, item indices in time order separated by blanks.

    A copy beside large files saves reading them again (session_cache.py).

    Parameters
    ----------
    path : str or Path
        A directory (every file in it is read, in name order) or a file.
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
        Nothing there, no session in the files, a character that no index has, an index out of range.
    """
    files = session_files(path, flag)
    description = session_cache.describe(files)
    kept = session_cache.load(files, description)
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
    session_cache.store(files, description, *sessions)
    return sessions


def _parse_chunk(chunk, file, first_line, item_count):
    """Indices, int32 [events], and clicks a line, int64 [lines], of a chunk of whole lines."""
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
    """The error for the character at `position`: its line's number, and the word that it stands in."""
    line_start = chunk.rfind(b"\n", 0, position) + 1
    line = chunk[line_start:].split(b"\n", 1)[0]
    word = re.split(rb"[ \t\r]", line[:position - line_start])[-1] + re.split(rb"[ \t\r]", line[position - line_start:])[0]
    number = first_line + chunk.count(b"\n", 0, position)
    return InputError(f"{file}:{number}: found {word[:40].decode('utf-8', 'replace')!r}, "
                      f"expected item indices from 0 to {item_count - 1} separated by blanks")


def choose(sessions, numbers):
    """The sessions of these numbers, an int array, in that order."""
    starts, lengths = sessions.offsets[numbers], sessions.lengths[numbers]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Sessions(sessions.items[source], offsets)


def cut_windows(sessions, longest):
    """Cut sessions with more than `longest` predictions into windows of at most that many.

    A window begins with the click that the one before it ended with, so every click but a session's first is still a
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
    number = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)  # of the window in its session
    starts = np.repeat(sessions.offsets[:-1], windows) + number * longest
    ends = np.minimum(starts + longest + 1, np.repeat(sessions.offsets[1:], windows))
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
    return Sessions(sessions.items[source], offsets), cut


def pack(sessions, rows, minimum_rows=1):
    """Pack the sessions numbered `rows` into a Batch.

    Parameters
    ----------
    sessions : Sessions
    rows : int array [batch]
        Session numbers; those with fewer than two clicks bring nothing.
    minimum_rows : int
        Pad every time step to at least this many rows, with item 0 and position -1.
    """
    lengths = sessions.offsets[rows + 1] - sessions.offsets[rows]
    by_length = np.argsort(-lengths, kind="stable")
    starts, steps = sessions.offsets[rows[by_length]], np.maximum(lengths[by_length] - 1, 0)
    if len(rows) < minimum_rows:
        padding = np.zeros(minimum_rows - len(rows), np.int64)
        starts, steps = np.concatenate([starts, padding]), np.concatenate([steps, padding])
    padded_steps = steps.copy()
    padded_steps[:minimum_rows] = steps[0]
    rows_per_step = np.searchsorted(-padded_steps, -np.arange(padded_steps[0]), side="left")
    time = np.repeat(np.arange(padded_steps[0]), rows_per_step)
    row = np.arange(len(time)) - np.repeat(np.cumsum(rows_per_step) - rows_per_step, rows_per_step)
    is_real = time < steps[row]
    positions = np.where(is_real, starts[row] + time + 1, -1)
    inputs = np.where(is_real, sessions.items[positions - 1], 0).astype(np.int64)
    targets = np.where(is_real, sessions.items[positions], 0).astype(np.int64)
    return Batch(inputs, targets, positions, rows_per_step.tolist())


def training_batches(sessions, batch_size, random, shuffle=False, group=1):
    """Batches of whole sessions, each session in exactly one.

    Neighbouring sessions form groups of `group` batches; a group is sorted by length, cut into batches, and its batches come
    in random order. So a batch has fewer steps with few rows, but each batch pulls the weights towards sessions of its own
    length: without that (a group of 1) the batches keep the order of the sessions, and the network learns more.

    Parameters
    ----------
    sessions : Sessions
    batch_size : int
        Sessions a batch; the last batch of a group holds what is left.
    random : numpy.random.Generator
    shuffle : bool
        Draw the sessions' order anew instead of keeping the order of the file.

    Yields
    ------
    Batch
    """
    lengths = sessions.lengths
    order = np.flatnonzero(lengths > 1)
    if shuffle:
        random.shuffle(order)
    for start in range(0, len(order), group * batch_size):
        members = order[start:start + group * batch_size]
        members = members[np.argsort(lengths[members], kind="stable")]
        cuts = np.arange(0, len(members), batch_size)
        for cut in random.permutation(cuts):
            yield pack(sessions, members[cut:cut + batch_size])


class ParallelStep(NamedTuple):
    """One step of session-parallel training: one click of each of the running sessions.

    inputs, targets : int64 [slots], the click seen and the one that follows it
    kept : int64 [slots] or None, which slots of the step before these are; None for all of them
    restarted : bool [slots] or None, where a new session began since the step before; None for nowhere
    """

    inputs: np.ndarray
    targets: np.ndarray
    kept: np.ndarray
    restarted: np.ndarray

    @property
    def rows_per_step(self):
        """As in Batch: all slots take part in the one step."""
        return [len(self.inputs)]


def session_parallel_steps(sessions, batch_size, fewest_slots=1):
    """Steps through all sessions, `batch_size` side by side, in the order of `sessions` (Hidasi et al., ICLR 2016, fig. 2).

    A slot whose session ends takes the next one once the shortest running session has ended; where none is left the slot
    goes, so the last steps have fewer slots. It ends when fewer than `fewest_slots` are left.

    Yields
    ------
    ParallelStep
    """
    waiting = np.flatnonzero(sessions.lengths > 1)
    running, next_waiting = waiting[:batch_size], min(batch_size, len(waiting))
    positions, ends = sessions.offsets[running], sessions.offsets[running + 1]
    kept, restarted = None, np.ones(len(running), bool)
    while len(positions) >= fewest_slots:
        for _ in range(int((ends - positions).min()) - 1):
            inputs, targets = sessions.items[positions].astype(np.int64), sessions.items[positions + 1].astype(np.int64)
            yield ParallelStep(inputs, targets, kept, restarted)
            kept = restarted = None
            positions = positions + 1
        restarted = ends - positions <= 1
        slots = np.flatnonzero(restarted)
        taken = waiting[next_waiting:next_waiting + len(slots)]
        next_waiting += len(taken)
        positions[slots[:len(taken)]], ends[slots[:len(taken)]] = sessions.offsets[taken], sessions.offsets[taken + 1]
        if len(taken) < len(slots):
            kept = np.delete(np.arange(len(positions)), slots[len(taken):])
            positions, ends, restarted = positions[kept], ends[kept], restarted[kept]


def evaluation_batches(sessions, batch_size, minimum_rows=8):
    """Batches of whole sessions, longest first, each session in exactly one.

    Every time step is padded to `minimum_rows`: matrix products of one or two rows take other paths through the
    processor's libraries and round differently, and no figure may depend on the batch size.

    Yields
    ------
    Batch
    """
    lengths = sessions.lengths
    order = np.flatnonzero(lengths > 1)
    order = order[np.argsort(-lengths[order], kind="stable")]
    for start in range(0, len(order), batch_size):
        yield pack(sessions, order[start:start + batch_size], minimum_rows)
