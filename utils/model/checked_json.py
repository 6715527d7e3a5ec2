"""JSON files that carry a checksum of their own, and whose values have the types that they should have."""

import hashlib
import json

from utils.files import InputError, write_atomically
from utils.memory import read_bytes

CHECKSUM = "sha256"  # the name in the object, of all else that is in it
LARGEST = 64 << 20  # bytes; most files have some thousands
KIND_NAMES = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "an integer",
              float: "a number", type(None): "null"}


def write_json(path, record):
    """Write a dict as a JSON object with its checksum."""
    with write_atomically(path) as file:
        file.write(json_text(record))


def json_text(record):
    """What `write_json` writes."""
    record = json.loads(json.dumps(record))  # as it will be read: a tuple is a list by then
    return json.dumps({**record, CHECKSUM: _checksum(record)}, indent=1)


def read_json(path, flag, expected):
    """What a JSON file holds, without the checksum.

    Parameters
    ----------
    path : Path
    flag : str
        What names the file, for errors.
    expected : str
        What to expect there, for errors.

    Raises
    ------
    InputError
        There is no such file, it holds no JSON, or it isn't as it was written. Files of older versions have no checksum
        and are taken as they are.
    """
    try:
        found = json.loads(read_bytes(path, flag, expected, LARGEST).decode())
    except (ValueError, RecursionError):
        raise InputError(f"{path}: found no valid JSON, expected {expected}") from None
    then = found.pop(CHECKSUM, None) if isinstance(found, dict) else None
    if then is not None and then != _checksum(found):
        raise InputError(f"{path}: found contents that don't match the {CHECKSUM} in it, expected what was written; it "
                         f"was damaged or changed (whoever changes it on purpose deletes its {CHECKSUM})")
    return found


def require_kinds(path, found, kinds):
    """InputError where a value in a dict that was read from `path` has another type than `kinds` says.

    Parameters
    ----------
    path : Path
    found : dict
    kinds : dict of str to type or tuple of types
        Of the names that may be there; those of other names are not looked at.
    """
    for name, kind in kinds.items():
        allowed = kind if isinstance(kind, tuple) else (kind,)
        if name in found and type(found[name]) not in allowed:
            wanted = " or ".join(KIND_NAMES[each] for each in allowed)
            raise InputError(f"{path}: found {json.dumps(found[name])[:40]} for {name!r}, expected {wanted}")


def _checksum(record):
    """SHA-256 of a JSON object without its checksum, however it is laid out."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
