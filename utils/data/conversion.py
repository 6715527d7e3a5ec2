"""How session text of indices is written, with vocab.txt and the records of `session_files`: all of it or nothing."""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from utils.data.session_files import CONVERSION, read_conversion, session_files_in
from utils.files import InputError, finish, write_atomically

COUNTS = "sessions", "events", "sessions_left_out", "clicks_left_out"


@dataclass
class Target:
    """A directory to write sessions to.

    Attributes
    ----------
    directory : str or Path
    record : text file
        What becomes text2paddle.json there.
    outdated : list of Path
        What an earlier conversion wrote there and this one won't replace.
    no_sessions : str
        The error where there is no session to write.
    """

    directory: object
    record: object
    outdated: list
    no_sessions: str


def text_paths(directory):
    """What is written to a directory of one's own: training sessions, test sessions, vocab.txt."""
    return (Path(directory, "train_data", "train.txt"), Path(directory, "test_data", "test.txt"),
            Path(directory, "vocab.txt"))


@contextlib.contextmanager
def open_targets(directory, flag, no_sessions):
    """The Targets of training and test sessions at `text_paths`, as `open_target` gives them."""
    with contextlib.ExitStack() as targets:
        yield [targets.enter_context(open_target(path.parent, [path.name], flag, no_sessions))
               for path in text_paths(directory)[:2]]


@contextlib.contextmanager
def open_target(directory, names, flag, no_sessions=""):
    """The Target for files of these `names`; its record gets its name when the block ends well."""
    outdated = outdated_files(directory, names, flag)
    with write_atomically(Path(directory, CONVERSION)) as record:
        yield Target(directory, record, outdated, no_sessions)


def outdated_files(directory, names, flag):
    """The files that an earlier conversion wrote to `directory`, except those of these `names`.

    InputError if other session files are there: they would be read as sessions of this conversion.
    """
    path = Path(directory)
    if path.exists() and not path.is_dir():
        raise InputError(f"{flag}: found a file at {path}, expected a directory or none")
    others = [file for file in session_files_in(path) if file.name not in names] if path.is_dir() else []
    earlier = read_conversion(path, None, flag).get("files", ()) if others else ()
    for file in others:
        if file.name not in earlier:
            raise InputError(f"{flag}: found {file.name} in {path}, which no conversion wrote, expected nothing "
                             "but what text2paddle.py writes")
    return others


def vocabulary_order(support):
    """The items in the order of vocab.txt, the most frequent first and equally frequent ones in string order.

    Parameters
    ----------
    support : dict of str to int
        Clicks on each item of the training sessions.

    Returns
    -------
    list of str
    """
    return sorted(support, key=lambda item: (-support[item], item))


def write_conversion(parts, vocab_path, words):
    """Write session text of indices to each Target of `parts`, and vocab.txt.

    Files get their names only when all are written, vocab.txt first, and the records last, when the blocks of
    `open_target` end. If the process is killed in between, the old records name another vocab.txt, which trainers and
    evaluations notice. Outdated files go before the records.

    Parameters
    ----------
    parts : list of (Target, texts, counts)
        texts : dict of file names to iterables of bytes, the pieces of the file's text.
        counts : dict with the numbers COUNTS, in that order, which may be counted while the pieces are made.
    vocab_path : str or Path
    words : list of str
        The words of vocab.txt, in the order of their indices.
    """
    vocabulary = "".join(f"{word}\n" for word in words).encode()
    with contextlib.ExitStack() as outputs:
        outdated = [file for target, _, _ in parts for file in target.outdated]
        outputs.push(lambda error, *_: _remove(outdated) if error is None else None)
        for target, texts, counts in parts:
            files = {}
            for name, pieces in texts.items():
                output = outputs.enter_context(write_atomically(Path(target.directory, name), "wb"))
                files[name] = _write(pieces, output)
            if not counts["sessions"]:
                raise InputError(target.no_sessions)
            json.dump({"vocab_sha256": hashlib.sha256(vocabulary).hexdigest(), "files": files, **counts},
                      target.record, indent=1)
            finish(target.record)
        vocab_file = outputs.enter_context(write_atomically(vocab_path, "wb"))
        vocab_file.write(vocabulary)
        finish(vocab_file)


def _write(pieces, file):
    """Write the `pieces` to `file`; its size and checksum for the record."""
    size, digest = 0, hashlib.sha256()
    for piece in pieces:
        file.write(piece)
        size += len(piece)
        digest.update(piece)
    finish(file)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _remove(files):
    for file in files:
        file.unlink()
