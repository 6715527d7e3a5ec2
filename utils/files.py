"""Files that are written completely or not at all, and the one kind of error that a user's input can raise."""

import errno
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

NO_SPACE = errno.ENOSPC, errno.EDQUOT, errno.EFBIG


class InputError(Exception):
    """A mistake in the user's input: a file, a line or a flag.

    Its text is one line that names the file, line or flag, what was found and what was expected. `process.run` prints
    it and exits with status 2.
    """


@contextmanager
def write_atomically(path, mode="w"):
    """Open a temporary file beside `path` and rename it to `path` when the block ends well.

    Readers see the old file or the complete new one, never a part. If the block raises, the temporary file is removed
    and the old file stays. The data is on the disk before the new name is. The block may close the file with `finish`,
    for example to complete several files before any of them is renamed.

    Parameters
    ----------
    path : str or Path
        The file to write; its folder is created if missing. If it is a link, the file that it points to is written.
    mode : {"w", "wb"}
        Text (UTF-8, newlines as written) or bytes.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: found a directory, expected a file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: found a device or a pipe, expected a file to write")
    if path.is_symlink():
        path = path.resolve()
    if path.parent.is_file():
        raise InputError(f"{path.parent}: found a file, expected a directory to write {path.name} in")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # what the user knows, not the temporary name
        raise
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            if not file.closed:
                finish(file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_SPACE and not error.filename:
            error.filename = str(path)  # the system doesn't name the file when a write fails
        raise
    sync_directory(path.parent)


def finish(file):
    """Close `file`, with all that was written to it on the disk."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def sync_directory(directory):
    """Make the names in `directory` survive a power cut, if the system can."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def require_file(path, flag):
    """The `path` as a Path; InputError if it is a directory or doesn't exist."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{flag}: found the directory {path}, expected a file")
    if not path.exists():
        raise InputError(f"{flag}: found no file {path}, expected one that exists")
    return path


def _umask():
    """The process's file mode creation mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
