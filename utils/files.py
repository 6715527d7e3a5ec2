"""Files that are written completely or not at all, files to read, and the one error that a user's input can raise."""

import errno
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

NO_SPACE = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
KINDS = {stat.S_IFDIR: "the directory", stat.S_IFIFO: "the pipe", stat.S_IFSOCK: "the socket",
         stat.S_IFCHR: "the device", stat.S_IFBLK: "the device"}


class InputError(Exception):
    """A mistake in the user's input: a file, a line or a flag.

    Its text is one line that names the file, line or flag, what was found and what was expected. `process.run` prints
    it and exits with status 2.
    """


@contextmanager
def write_atomically(path, mode="w", permissions=None):
    """Open a temporary file beside `path` and rename it to `path` when the block ends well.

    Readers see the old file or the complete new one, never a part. If the block raises, the temporary file and the
    folders that were made for it are removed, and the old file stays. The data is on the disk before the new name is.
    The block may close the file with `finish`, for example to complete several files before any of them is renamed.

    Parameters
    ----------
    path : str or Path
        The file to write; its folder is created if missing. If it is a link, the file that it points to is written.
    mode : {"w", "wb"}
        Text (UTF-8, newlines as written) or bytes.
    permissions : int, optional
        Who may read and write the file; by default what the process's mask leaves.
    """
    path = Path(path)
    require_place(path)
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    new = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # what the user knows, not the temporary name
        _remove_empty(new)
        raise
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        with os.fdopen(descriptor, mode, **text) as file:
            yield file
            if not file.closed:
                finish(file)
        os.chmod(temporary, 0o666 & ~_umask() if permissions is None else permissions)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        _remove_empty(new)
        if isinstance(error, OSError) and error.errno in NO_SPACE and not error.filename:
            error.filename = str(path)  # the system doesn't name the file when a write fails
        raise
    sync_directory(path.parent)


@contextmanager
def naming(path):
    """Within the block, what goes wrong is said of `path`: the system doesn't name the file when a write fails."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def require_place(path, flag=""):
    """InputError where no file can be written: something else is there, or in the place of its folder.

    `flag` names the path for errors. `write_atomically` asks the same; scripts ask first, before they work for long.
    """
    path, named = Path(path), f"{flag} {path}".lstrip()
    if path.is_dir():
        raise InputError(f"{named}: found a directory, expected a file to write")
    if path.exists() and not path.is_file():
        raise InputError(f"{named}: found a device or a pipe, expected a file to write")
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise _loop(f"{flag or path}", real)
    folder = next(folder for folder in (real if path.is_symlink() else path).parents if folder.exists())
    if not folder.is_dir():
        raise InputError(f"{flag or path}: found a file at {folder}, expected a directory to write in")


def _remove_empty(folders):
    """Remove those of the folders that are empty, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


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


def require_file(path, flag, expected="one that exists"):
    """The `path` as a Path; InputError unless it is a regular file: pipes keep a reader waiting, devices never end."""
    path = Path(path)
    try:
        _require_regular(path.stat().st_mode, path, flag)
    except (OSError, ValueError) as error:
        raise _unreadable(error, path, flag, expected) from None
    return path


def require_different(inputs, outputs):
    """InputError if a script would write a file that it reads, the same file twice, or where it can't.

    inputs, outputs : lists of (flag, path), where the flag names the path for errors
    """
    taken = {Path(os.path.realpath(path)): f"where {flag} would be overwritten" for flag, path in inputs}
    for flag, path in outputs:
        require_place(path, flag)
        place = Path(os.path.realpath(path))
        if place in taken:
            raise InputError(f"{flag}: found {path}, {taken[place]}; expected another file")
        taken[place] = f"which {flag} writes, too"


def open_file(path, flag, expected="one that exists"):
    """A regular file, open for reading bytes; InputError as of `require_file`. Never waits.

    What was opened is looked at, not what the path leads to a moment before.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        raise _unreadable(error, path, flag, expected) from None
    try:
        _require_regular(os.fstat(descriptor).st_mode, path, flag)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_regular(mode, path, flag):
    if not stat.S_ISREG(mode):
        raise InputError(f"{flag}: found {KINDS.get(stat.S_IFMT(mode), 'no regular file')} {path}, expected a file")


def _unreadable(error, path, flag, expected):
    """What to raise for an error while a file was looked for or opened."""
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return _loop(flag, path)
    if isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError)):  # ValueError: a zero character
        return InputError(f"{flag}: found no file {path}, expected {expected}")
    return error


def _loop(flag, path):
    return InputError(f"{flag}: found a link that leads to itself, {path}, expected a file")


def _umask():
    """The process's file mode creation mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
