"""Archives of clicks: fetched from where they are published, and unpacked."""

import hashlib
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from utils.files import NO_SPACE, InputError, write_atomically

CLICKS_FILE, PURCHASES_FILE = "yoochoose-clicks.dat", "yoochoose-buys.dat"  # in the archive


@contextmanager
def unpacked(path, folder, say, wanted=CLICKS_FILE):
    """Yield `path` itself, or for a 7z archive the path of its clicks, unpacked to a temporary folder in `folder`.

    `say` prints a line. `wanted` names the file in the archive.
    """
    with open(path, "rb") as file:
        is_archive = file.read(6) == b"7z\xbc\xaf\x27\x1c"
    if not is_archive and path.suffix == ".7z":
        raise InputError(f"{path}: found no 7z archive (it may be cut off), expected one")
    if not is_archive:
        yield path
        return
    with TemporaryDirectory(prefix=".unpacked_", dir=folder) as unpacked_folder:
        yield _unpack(path, unpacked_folder, say, wanted)


def _unpack(path, folder, say, wanted):
    """Unpack only the file `wanted` of a 7z archive to `folder` and return its path."""
    try:
        import py7zr
    except ImportError:
        raise InputError(f"{path}: found no package py7zr to unpack it with, expected one "
                         "(pip install py7zr)") from None
    try:
        with py7zr.SevenZipFile(path) as archive:
            names = archive.getnames()
            name = next((name for name in names if Path(name).name == wanted), None)
            if name:
                say("unpacking {} of {}", name, path)
                archive.extract(folder, targets=[name])
    except Exception as error:  # py7zr raises many kinds for a damaged archive
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise InputError(f"{folder}: {error.strerror}, expected room to unpack {path}") from None
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: found a damaged or cut off 7z archive ({what}), expected a whole one") from None
    if not name:
        raise InputError(f"{path}: found {', '.join(names)[:300] or 'nothing'} in the archive, expected {wanted}")
    return Path(folder, name)


def fetch(url, path, sha256, say):
    """Download `url` to `path` unless that file exists, and print and check its SHA-256; `say` prints a line."""
    if path.exists():
        say("{} is here already, not fetched", path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _check_sha256(path, digest, sha256, say)
        return
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=60) as response, write_atomically(path, "wb") as file:
            digest = _save(response, file, url, say)
            _check_sha256(url, digest, sha256, say)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise InputError(f"--fetch 1: found no way to {url} ({error}); fetch it by hand and put it at "
                         f"{path.absolute()}") from None
    say("fetched {}", path)


def _save(response, file, url, say):
    """Copy an HTTP response to `file`, show the progress, and return the SHA-256."""
    size, done, shown, digest = int(response.headers.get("Content-Length") or 0), 0, 0, hashlib.sha256()
    while piece := response.read(1 << 20):
        file.write(piece)
        digest.update(piece)
        done += len(piece)
        percent = 100 * done // size if size else 0
        if sys.stdout.isatty():
            print(f"\r[{'#' * (percent // 4):25}] {done / 1e6:.0f} MB, {percent} % ", end="", flush=True)
        elif percent >= shown + 10:
            shown = percent
            say("{} % of {:.1f} MB", percent, size / 1e6)
    if sys.stdout.isatty():
        print()
    if size and done != size:
        raise InputError(f"{url}: found {done:,} bytes, expected {size:,} as the server announced; try again")
    return digest.hexdigest()


def _check_sha256(what, found, expected, say):
    """Print the SHA-256 `found`; InputError if another one is `expected`."""
    say("sha256 {}", found)
    if expected and found != expected.lower():
        raise InputError(f"{what}: found the SHA-256 {found}, expected {expected} (--sha256)")
