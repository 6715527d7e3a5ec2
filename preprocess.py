"""Clicks of a shop -> training, test and validation sessions.

    python preprocess.py --fetch 1                      # downloads yoochoose-data.7z if needed, splits it as RSC15
    python preprocess.py --input yoochoose-clicks.dat   # the same from the unpacked file
    python preprocess.py --input shop.csv.gz --session_column user --session_gap 3600 --drop_repeats 1 --to_text shop

Writes `<prefix>train_full.txt` and `<prefix>test.txt`. For choosing settings it splits the training sessions again in
the same way, into `<prefix>train_tr.txt` and `<prefix>train_valid.txt`. All are TSV with the header SessionId, ItemId,
Time (unix seconds), sorted by SessionId, then Time; rows with equal times keep the order of the input. With --to_text
DIR it writes training and test sessions as what the trainers read instead, DIR/train_data, DIR/test_data and
DIR/vocab.txt: the same files as convert_format.py and text2paddle.py make from `<prefix>train_full.txt` and
`<prefix>test.txt`.

The default rules are GRU4Rec's official ones for RSC15, each applied once, in this order: drop sessions of 1 click,
items with fewer than 5 clicks, and again sessions of 1 click. Sessions that end within a day of the last click are the
test set. From these, drop items that do not occur in training, and again sessions of 1 click.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import hashlib
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from utils.data.conversion import open_target
from utils.data.session_files import refuse_conversion
from utils.files import NO_SPACE, InputError, finish, require_different, require_file, write_atomically
from utils.options import COUNT, Parser, add_table_flags, number, table_columns
from utils.process import run

STARTED = time.perf_counter()
PARTS = "train_full", "test", "train_tr", "train_valid"
CLICKS_FILE = "yoochoose-clicks.dat"  # in the archive
SECONDS, DAYS = 1e10, 1e5  # more than there are from 1970 to the last time that can be read
URL = "https://s3-eu-west-1.amazonaws.com/yc-rdata/yoochoose-data.7z"


def main():
    flags = parse_flags()
    source = [("--input", flags.input)]
    if flags.to_text:
        require_different(source, [("--to_text", path) for path in text_paths(flags.to_text)])
        refuse_conversion(flags.to_text, "--to_text")
        if Path(flags.to_text).is_file():
            raise InputError(f"--to_text: found a file at {flags.to_text}, expected a directory or none")
    else:
        require_different(source, [("--out_dir, --prefix", path) for path in split_paths(flags)])
        refuse_conversion(split_paths(flags)[0].parent, "--out_dir")
    if flags.fetch:
        fetch(flags.url, Path(flags.input), flags.sha256)
    require_file(flags.input, "--input" if flags.fetch else "--input (--fetch 1 downloads YOOCHOOSE's)")
    # Outputs are opened first, so that a folder that can't be written to is noticed at once.
    with (text_writer if flags.to_text else split_writer)(flags) as write:
        write(*split(filter_clicks(read(flags), flags), flags, "train_full", "test", flags.newest_fraction))
    say("done")


def split_paths(flags):
    return [Path(flags.out_dir, f"{flags.prefix}{part}.txt") for part in PARTS]


def text_paths(folder):
    """What --to_text writes: training sessions, test sessions, vocab.txt."""
    return Path(folder, "train_data", "train.txt"), Path(folder, "test_data", "test.txt"), Path(folder, "vocab.txt")


@contextmanager
def split_writer(flags):
    """A function that splits the training sessions once more and writes all splits, which appear after the block."""
    with ExitStack() as outputs:
        files = [outputs.enter_context(write_atomically(path, "wb")) for path in split_paths(flags)]

        def write(train_full, test):
            train_tr, train_valid = split(train_full, flags, "train_tr", "train_valid")
            say("writing")
            for path, file, part in zip(split_paths(flags), files, (train_full, test, train_tr, train_valid)):
                save_part(part, file, path)
                say("{}: {:,} sessions, {:,} events, {:,} items", path, *part.sizes())

        yield write


@contextmanager
def text_writer(flags):
    """A function that writes training and test sessions as indices, and vocab.txt, all valid after the block."""
    train_path, test_path, vocab_path = text_paths(flags.to_text)
    no_tests = f"--test_days {flags.test_days:g}: left no session of two known items for test; expected more"
    with (open_target(train_path.parent, [train_path.name], "--to_text") as training,
          open_target(test_path.parent, [test_path.name], "--to_text", no_tests) as test):

        def write(train_full, test_clicks):
            from utils.data.click_writing import write_indexed

            say("writing")
            targets = (training, train_path.name), (test, test_path.name)
            *counts, items = write_indexed(train_full, test_clicks, targets, vocab_path)
            for path, count in zip((train_path, test_path), counts):
                say("{}: {sessions:,} sessions, {events:,} events; left out {sessions_left_out:,} sessions, "
                    "{clicks_left_out:,} clicks on unknown items", path, **count)
            say("{}: {:,} items", vocab_path, items)

        yield write


def parse_flags():
    parser = Parser("Turn clicks into training, test and validation sessions; by default the official RSC15 splits.")
    switch = number(int, 0, 1)
    parser.add_argument("--input", default="yoochoose-data.7z",
                        help=f"yoochoose-data.7z, its {CLICKS_FILE}, or any TSV or CSV with a header; all but the "
                        "first may be gzipped")
    parser.add_argument("--out_dir", default=".", help="the folder to write to, created if missing")
    parser.add_argument("--prefix", default="rsc15_", help="what the names of the written files start with")
    parser.add_argument("--to_text", metavar="DIR", default="",
                        help="write what the trainers read, in place of the splits: DIR/train_data, DIR/test_data and "
                        "DIR/vocab.txt; --out_dir and --prefix name none of these")
    add_table_flags(parser)
    parser.add_argument("--session_gap", type=number(float, 0, SECONDS), default=0,
                        help="seconds; above 0, --session_column names users, and their clicks are cut into "
                        "sessions at longer gaps, numbered from 1; 0: sessions as given")
    parser.add_argument("--drop_repeats", type=switch, default=0,
                        help="1: of several clicks in a row on the same item, keep only the first")
    parser.add_argument("--min_session_length", type=number(int, 1, COUNT), default=2,
                        help="clicks; shorter sessions are dropped")
    parser.add_argument("--min_support", type=number(int, 1, COUNT), default=5,
                        help="clicks; items with fewer are dropped")
    parser.add_argument("--until_stable", type=switch, default=0,
                        help="1: drop short sessions and rare items again and again until there are none; 0: drop "
                        "short sessions, rare items, and short sessions again, once each")
    parser.add_argument("--test_days", type=number(float, 0, DAYS), default=1.0,
                        help="days before the last click, may be a fraction; the sessions of that time are the "
                        "test set")
    parser.add_argument("--split_by", choices=("end", "start"), default="end",
                        help="end: a session's last click decides whether it is in the test set, and items unknown in "
                        "training are dropped from it; start: its first click decides, the clicks of training sessions "
                        "within the test time are cut off, and unknown items stay")
    parser.add_argument("--newest_fraction", type=number(float, 1e-9, 1), default=1.0,
                        help="share of the training sessions to keep, the newest ones, such as 0.015625 for 1/64; "
                        "train_tr and train_valid are split from these")
    parser.add_argument("--fetch", type=switch, default=0, help="1: download --url to --input if there is no such file")
    parser.add_argument("--url", default=URL, help="what --fetch 1 downloads")
    parser.add_argument("--sha256", default="",
                        help="SHA-256 that the file of --fetch 1 must have, 64 hexadecimal digits; empty: any")
    flags = parser.parse_args()
    unused = parser.given & {"out_dir", "prefix"}
    if flags.to_text and unused:
        raise InputError(f"--to_text: found it with --{min(unused)}, expected one of them")
    return flags


def say(text, *values, **named):
    """Print one log line that begins with the seconds since the start."""
    print(f"{time.perf_counter() - STARTED:7.1f} s  " + text.format(*values, **named), flush=True)


def read(flags):
    """The clicks of `--input`."""
    from utils.data.click_files import read_clicks

    with unpacked(Path(flags.input), flags.to_text or flags.out_dir) as path:
        clicks = read_clicks(path, table_columns(flags), "--input")
    say("read {}: {:,} sessions, {:,} clicks, {:,} items", flags.input, *clicks.sizes())
    return clicks


def filter_clicks(clicks, flags):
    """Cut the sessions at gaps, then drop repeats, short sessions and rare items, as the flags say."""
    from utils.data.clicks import SECOND, cut_at_gaps, drop_rare_items, drop_repeats, drop_short_sessions

    if flags.session_gap:
        clicks = cut_at_gaps(clicks, round(flags.session_gap * SECOND))
        say("--session_gap {:g}: {:,} sessions", flags.session_gap, len(clicks.sessions))
    if flags.drop_repeats:
        clicks = report("--drop_repeats 1", clicks, drop_repeats(clicks))

    def drop_short(clicks):
        return report(f"--min_session_length {flags.min_session_length}", clicks,
                      drop_short_sessions(clicks, flags.min_session_length))

    def drop_rare(clicks):
        return report(f"--min_support {flags.min_support}", clicks, drop_rare_items(clicks, flags.min_support))

    clicks = drop_short(clicks)
    while True:
        size = len(clicks)
        clicks = drop_short(drop_rare(clicks))
        if not flags.until_stable or len(clicks) == size:
            return clicks


def report(what, before, after):
    """Print what a filter removed and return what it left; InputError if that is nothing."""
    removed = [old - new for old, new in zip(before.sizes(), after.sizes())]
    if not len(after):
        raise InputError(f"{what}: left none of {len(before.sessions):,} sessions, {len(before):,} clicks; "
                         "expected some")
    say("{}: removed {:,} sessions, {:,} clicks, {:,} items", what, *removed)
    return after


def split(clicks, flags, training_name, test_name, newest_fraction=1.0):
    """Split off the sessions of the last `--test_days`.

    Returns
    -------
    training, test : Clicks
    """
    from utils.data.clicks import (
        DAY,
        drop_short_sessions,
        keep_items_of,
        newest_sessions,
        split_by_end,
        split_by_start,
    )

    by_end = flags.split_by == "end"
    training, test = (split_by_end if by_end else split_by_start)(clicks, round(flags.test_days * DAY))
    if not by_end:
        training = drop_short_sessions(training, flags.min_session_length)
    if not len(training):
        days = (clicks.times.max() - clicks.times.min()) / DAY
        raise InputError(f"--test_days {flags.test_days:g}: left no session for {training_name} of {days:.3g} days of "
                         "clicks; expected less")
    if newest_fraction < 1:
        newest = newest_sessions(training, newest_fraction, training.ends() if by_end else training.starts())
        training = report(f"--newest_fraction {newest_fraction:g}", training, newest)
    if by_end:
        known = drop_short_sessions(keep_items_of(test, training), flags.min_session_length)
        test = report(f"{test_name}, unknown items, then --min_session_length {flags.min_session_length}", test, known)
    if not len(test):
        raise InputError(f"--test_days {flags.test_days:g}: left no session for {test_name}; expected more")
    return training, test


def save_part(clicks, file, path):
    """Write `clicks` to `file`, which will become `path`, and wait until it is on the disk.

    So all files are complete before the first of them gets its name.
    """
    from utils.data.click_writing import write_table

    try:
        write_table(clicks, file)
        finish(file)
    except OSError as error:
        error.filename = str(path)  # four files are open, so the error must say which one it means
        raise


@contextmanager
def unpacked(path, folder):
    """Yield `path` itself, or for a 7z archive the path of its clicks, unpacked to a temporary folder in `folder`."""
    with open(path, "rb") as file:
        is_archive = file.read(6) == b"7z\xbc\xaf\x27\x1c"
    if not is_archive and path.suffix == ".7z":
        raise InputError(f"{path}: found no 7z archive (it may be cut off), expected one")
    if not is_archive:
        yield path
        return
    with TemporaryDirectory(prefix=".unpacked_", dir=folder) as unpacked_folder:
        yield unpack(path, unpacked_folder)


def unpack(path, folder):
    """Unpack only the clicks of a 7z archive to `folder` and return their path."""
    try:
        import py7zr
    except ImportError:
        raise InputError(f"{path}: found no package py7zr to unpack it with, expected one "
                         "(pip install py7zr)") from None
    try:
        with py7zr.SevenZipFile(path) as archive:
            names = archive.getnames()
            name = next((name for name in names if Path(name).name == CLICKS_FILE), None)
            if name:
                say("unpacking {} of {}", name, path)
                archive.extract(folder, targets=[name])
    except Exception as error:  # py7zr raises many kinds for a damaged archive
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise InputError(f"{folder}: {error.strerror}, expected room to unpack {path}") from None
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: found a damaged or cut off 7z archive ({what}), expected a whole one") from None
    if not name:
        raise InputError(f"{path}: found {', '.join(names)[:300] or 'nothing'} in the archive, expected {CLICKS_FILE}")
    return Path(folder, name)


def fetch(url, path, sha256):
    """Download `url` to `path` unless that file exists, and print and check its SHA-256."""
    if path.exists():
        say("{} is here already, not fetched", path)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        check_sha256(path, digest, sha256)
        return
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=60) as response, write_atomically(path, "wb") as file:
            digest = save(response, file, url)
            check_sha256(url, digest, sha256)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise
        raise InputError(f"--fetch 1: found no way to {url} ({error}); fetch it by hand and put it at "
                         f"{path.absolute()}") from None
    say("fetched {}", path)


def save(response, file, url):
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


def check_sha256(what, found, expected):
    """Print the SHA-256 `found`; InputError if another one is `expected`."""
    say("sha256 {}", found)
    if expected and found != expected.lower():
        raise InputError(f"{what}: found the SHA-256 {found}, expected {expected} (--sha256)")


if __name__ == "__main__":
    run(main)
