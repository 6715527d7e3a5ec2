"""Files of sessions in a directory, and the record that text2paddle.py puts beside them, text2paddle.json.

The record names the files that were written, with their sizes and checksums. So two conversions that got mixed in one
directory, or a file that changed, are found before anything is trained or measured with them.
"""

import json
import os
import re
from pathlib import Path

from utils.data.vocabulary import checksum
from utils.files import InputError
from utils.memory import read_bytes

CONVERSION = "text2paddle.json"
LARGEST_RECORD = 64 << 20  # bytes
INDICES = re.compile(rb"\s*\d[\d\s]*")


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
    record = _read_record(path, flag)
    if record and vocab_sha256 is not None and record["vocab_sha256"] != vocab_sha256:
        own = Path(path).parent / "vocab.txt"
        is_there = own.is_file() and checksum(own) == record["vocab_sha256"]
        raise InputError(f"{flag}: found sessions in {path} that were converted with another vocab.txt (SHA-256 "
                         f"{record['vocab_sha256'][:12]}...), expected {vocab_sha256[:12]}..."
                         + f"; theirs is {own}" * is_there)
    return {} if Path(path).is_file() else record


def recorded_checksums(path, flag):
    """The SHA-256 that each file must have that is read for `path`, by its name, as far as it was recorded.

    Records of older conversions have only names, or nothing.

    Raises
    ------
    InputError
        The directory `path` has other files than the record names, or lacks one, or a file has another size.
    """
    recorded = _read_record(path, flag).get("files", {})
    files = {file.name: file for file in session_files(path, flag)}
    if recorded and Path(path).is_dir():
        for name in sorted(files.keys() - set(recorded)):
            raise InputError(f"{flag}: found {name} in {path}, which is not of the conversion that {CONVERSION} there "
                             "records, expected only files that it names")
        for name in sorted(set(recorded) - files.keys()):
            raise InputError(f"{flag}: found no {name} in {path}, expected it as {CONVERSION} there names it")
    checksums = {}
    for name in files.keys() & set(recorded if isinstance(recorded, dict) else ()):
        size = files[name].stat().st_size
        if size != recorded[name]["bytes"]:
            raise _changed(files[name], f"{size} bytes", recorded[name]["bytes"], flag)
        checksums[name] = recorded[name]["sha256"]
    return checksums


def require_checksum(file, sha256, checksums, flag):
    """InputError if the contents of `file` have another SHA-256 than `recorded_checksums` says."""
    expected = checksums.get(file.name, sha256)
    if sha256 != expected:
        raise _changed(file, f"the SHA-256 {sha256[:12]}...", f"{expected[:12]}...", flag)


def refuse_conversion(directory, flag):
    """InputError if text2paddle.py wrote sessions to `directory`: what is written there, too, would be read as some."""
    if os.path.lexists(Path(directory) / CONVERSION):
        raise InputError(f"{flag}: found sessions in {directory} ({CONVERSION}), expected another directory "
                         "to write to")


def refuse_sessions(model_dir, flag):
    """InputError if a new model would be written among sessions, whether text2paddle.py wrote them or not."""
    refuse_conversion(model_dir, flag)
    directory = Path(model_dir)
    if not directory.is_dir() or (directory / "config.json").exists():
        return
    for file in session_files_in(directory):
        with open(file, "rb") as text:
            if INDICES.fullmatch(text.read(1000)):
                raise InputError(f"{flag}: found sessions in {directory} ({file.name}), expected another directory to "
                                 "write to")


def _read_record(path, flag):
    """The record of the directory `path`, or of the directory of the file `path`; an empty dict where there is none."""
    record_path = (Path(path).parent if Path(path).is_file() else Path(path)) / CONVERSION
    if not os.path.lexists(record_path):  # a pipe or a broken link is no missing record: reading it names it
        return {}
    try:
        record = json.loads(read_bytes(record_path, flag, most=LARGEST_RECORD).decode())
        if _is_record(record):
            return record
    except (ValueError, RecursionError):
        pass
    raise InputError(f"{record_path}: found no record of a conversion, expected what text2paddle.py writes")


def _is_record(record):
    """Whether this is what text2paddle.py writes, or an earlier version of it, which named the files in a list."""
    if not isinstance(record, dict) or not isinstance(record.get("vocab_sha256"), str):
        return False
    files = record.get("files", {})
    if isinstance(files, list):
        return all(isinstance(name, str) for name in files)
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("sha256"), str)
        for entry in files.values())


def _changed(file, found, expected, flag):
    return InputError(f"{flag}: found {file} with {found}, expected {expected}, as text2paddle.py wrote it; convert it "
                      "again")
