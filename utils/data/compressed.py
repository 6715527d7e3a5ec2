"""Text files that may be compressed, and in any encoding, as streams of UTF-8."""

import bz2
import errno
import gzip
import io
import lzma
import zipfile
import zlib
from contextlib import contextmanager

import pyarrow as pa

from utils.files import InputError


@contextmanager
def open_text(path, encoding="utf-8"):
    """Open a file for reading its text as UTF-8 bytes, decompressed if it is in gz, bz2, xz, zst or zip.

    Raises
    ------
    InputError
        A compressed file is damaged or cut off, a zip archive holds more than one file, or text isn't of `encoding`.
    """
    with open(path, "rb") as file:
        start = file.read(6)
    kind, opener = next(((kind, opener) for first, kind, opener in FORMS if start.startswith(first)), ("", open))
    try:
        with opener(path, "rb") as file:
            yield file if encoding == "utf-8" else Recoded(file, encoding)
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise InputError(f"{path}: found bytes that are not {encoding} ({reason}), expected the --encoding of the file"
                         ) from None
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        if not kind or isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise InputError(f"{path}: found a damaged or cut off {kind} file ({error}), expected a whole one") from None


def _open_zst(path, mode):
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path), mode), "zstd"))


@contextmanager
def _open_zip(path, mode):
    with zipfile.ZipFile(path) as archive:
        files = [entry for entry in archive.infolist()
                 if not entry.is_dir() and not entry.filename.startswith("__MACOSX/")]
        if len(files) != 1:
            names = ", ".join(entry.filename for entry in files)[:200] or "nothing"
            raise InputError(f"{path}: found {names} in the archive, expected one file")
        if files[0].flag_bits & 1:
            raise InputError(f"{path}: found {files[0].filename} encrypted, expected it without a password")
        with archive.open(files[0]) as file:
            yield file


FORMS = [(b"\x1f\x8b", "gzip", gzip.open), (b"BZh", "bzip2", bz2.open), (b"\xfd7zXZ\0", "xz", lzma.open),
         (b"\x28\xb5\x2f\xfd", "zstd", _open_zst), *((start, "zip", _open_zip) for start in (b"PK\3\4", b"PK\5\6"))]


class Recoded:
    """A stream of text in another encoding, read as UTF-8."""

    def __init__(self, file, encoding):
        self.text = io.TextIOWrapper(file, encoding, newline="")

    def read(self, size):
        return self.text.read(size).encode()

    def readline(self, size):
        return self.text.readline(size).encode()
