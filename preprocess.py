"""Clicks of a shop -> training, test and validation sessions.

    python preprocess.py --fetch 1                      # downloads yoochoose-data.7z if needed, splits it as RSC15
    python preprocess.py --input yoochoose-clicks.dat   # the same from the unpacked file
    python preprocess.py --input shop.csv.gz --session_column user --session_gap 3600 --drop_repeats 1 --to_text shop

Writes `<prefix>train_full.txt` and `<prefix>test.txt`. For choosing settings it splits the training sessions again in
the same way, into `<prefix>train_tr.txt` and `<prefix>train_valid.txt`. All are TSV with the header SessionId, ItemId,
Time (unix seconds), sorted by SessionId, then Time; rows with equal times keep the order of the input. With --to_text
DIR it writes training and test sessions as what the trainers read instead, DIR/train_data, DIR/test_data and
DIR/vocab.txt: the same files as convert_format.py and text2paddle.py make from `<prefix>train_full.txt` and
`<prefix>test.txt`. With --to_intent DIR it writes all sessions with what they bought, for train_intent.py.

The default rules are GRU4Rec's official ones for RSC15, each applied once, in this order: drop sessions of 1 click,
items with fewer than 5 clicks, and again sessions of 1 click. Sessions that end within a day of the last click are the
test set. From these, drop items that do not occur in training, and again sessions of 1 click.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import os
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from utils.data.archives import CLICKS_FILE, PURCHASES_FILE, fetch, unpacked
from utils.data.conversion import open_targets, text_paths
from utils.data.preprocess_flags import ARCHIVE, parse_flags
from utils.data.session_files import refuse_conversion
from utils.data.wording import counted, date, dates_of, sizes_of
from utils.files import InputError, finish, naming, require_different, require_file, write_atomically
from utils.intent.preparation_flags import intent_paths
from utils.memory import available
from utils.options import table_columns
from utils.process import run, tell

STARTED = time.perf_counter()
PARTS = "train_full", "test", "train_tr", "train_valid"
GIGABYTE = 1e9
SHARE = 0.75  # of the memory that there is
# A test with a smaller share of the predictions, or after more days without any click, is likely one of wrong dates.
FEWEST_TESTED, LONGEST_GAP = 0.001, 7


def main():
    flags = parse_flags(__doc__)
    check_paths(flags)
    if flags.fetch:
        fetch(flags.url, Path(flags.input[0]), flags.sha256, say)
    for path in flags.input:
        if not Path(path).is_dir():
            is_default = flags.input == [ARCHIVE] and not flags.fetch
            require_file(path, "--input", f"one that exists{' (--fetch 1 downloads it)' * is_default}")
    # Outputs are opened first, so that a folder that can't be written to is noticed at once.
    with ExitStack() as outputs:
        if flags.to_intent:
            write_purchases(flags, outputs)
            return
        write = outputs.enter_context((text_writer if flags.to_text else split_writer)(flags))
        bad_rows = outputs.enter_context(write_atomically(bad_rows_path(flags))) if flags.skip_bad else None
        clicks = filter_clicks(read(flags, bad_rows, outputs), flags)
        training, test = split(clicks, flags, "train_full", "test", flags.newest_fraction, flags.newest_days)
        doubts = doubts_about_dates(clicks, training, test, flags.test_days)
        write(training, test)
    if doubts:
        tell(doubts)
    say("done")


def check_paths(flags):
    """InputError if a table comes twice, or what is to be written would take its place or be read as one."""
    if len({*map(os.path.realpath, flags.input)}) < len(flags.input):
        raise InputError("--input: found the same path twice, expected every table once")
    flag, folder = next((f"--{name}", getattr(flags, name)) for name in ("to_text", "to_intent", "out_dir")
                        if getattr(flags, name) or name == "out_dir")
    if Path(folder).is_file():
        raise InputError(f"{flag}: found a file at {folder}, expected a directory or none")
    paths = {"--to_text": text_paths, "--to_intent": intent_paths}.get(flag, lambda _: split_paths(flags))(folder)
    outputs = [*paths, bad_rows_path(flags)]
    inputs = [("--input", path) for path in flags.input] + [("--buys", flags.buys)] * bool(flags.buys)
    require_different(inputs, [(flag, path) for path in outputs])
    for path in flags.input:
        if Path(path).is_dir() and any(Path(os.path.realpath(path)) in Path(os.path.realpath(output)).parents
                                       for output in outputs):
            raise InputError(f"{flag}: found a place to write to within the directory --input {path}, expected another")
    refuse_conversion(split_paths(flags)[0].parent if flag == "--out_dir" else folder, flag)
    if earlier := [str(path) for path in paths if path.exists()]:
        say("there already, will be replaced: {}", " ".join(earlier))


def split_paths(flags):
    return [Path(flags.out_dir, f"{flags.prefix}{part}.txt") for part in PARTS]


def bad_rows_path(flags):
    """Where --skip_bad lists what it left out."""
    own_folder = flags.to_text or flags.to_intent
    return Path(own_folder, "bad_rows.csv") if own_folder else Path(flags.out_dir, f"{flags.prefix}bad_rows.csv")


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
                say("{}: {}; {}", path, sizes_of(part, "sessions", "events", "items"), dates_of(part))

        yield write


@contextmanager
def text_writer(flags):
    """A function that writes training and test sessions as indices, and vocab.txt, all valid after the block."""
    no_tests = f"--test_days {flags.test_days:g}: left no session of two known items for test; expected more"
    with open_targets(flags.to_text, "--to_text", no_tests) as targets:

        def write(training, test):
            from utils.data.click_writing import write_indexed

            say("writing")
            *counts, items = write_indexed(training, test, targets, flags.to_text)
            for path, part, count in zip(text_paths(flags.to_text), (training, test), counts):
                say("{}: {}; {}; left out {} on unknown items", path,
                    counted(sessions=count["sessions"], events=count["events"]), dates_of(part),
                    counted(sessions=count["sessions_left_out"], clicks=count["clicks_left_out"]))
            say("{}: {}", text_paths(flags.to_text)[-1], counted(items=items))

        yield write


def write_purchases(flags, outputs):
    """Read clicks and purchases, split the sessions and write them, in files that the ExitStack `outputs` completes."""
    from utils.intent.preparation import open_intent_files, prepare

    files = outputs.enter_context(open_intent_files(flags.to_intent))
    bad_rows = outputs.enter_context(write_atomically(bad_rows_path(flags))) if flags.skip_bad else None
    columns, left_out = columns_and_left_out(flags)
    columns.purchases, columns.category = flags.buy_events or (), flags.category_column
    buys = [] if flags.buy_events else [flags.buys or flags.input[0]]
    with ExitStack() as archives:
        prepare(opened(flags.input, flags.to_intent, archives), opened(buys, flags.to_intent, archives, PURCHASES_FILE),
                columns, left_out, flags, files, say)
    report_left_out(flags, left_out, bad_rows)
    say("done")


def say(text, *values, **named):
    """Print one log line that begins with the seconds since the start."""
    print(f"{time.perf_counter() - STARTED:7.1f} s  " + text.format(*values, **named), flush=True)


def read(flags, bad_rows, temporary):
    """The clicks of `--input`, in memory or, if they take more than --memory, in files.

    Bad rows are listed in the text file `bad_rows` if it isn't None. The ExitStack `temporary` removes the files.
    """
    from utils.data.click_files import click_parts
    from utils.data.stored_clicks import gather

    folder = flags.to_text or flags.out_dir
    memory = flags.memory * GIGABYTE or SHARE * (available() or 4 * GIGABYTE)

    def new_folder():
        new = temporary.enter_context(TemporaryDirectory(prefix=".clicks_", dir=folder))
        say("the clicks take more than {:.1f} GB of memory: preparing them in {}", memory / GIGABYTE, new)
        return new

    columns, left_out = columns_and_left_out(flags)
    with ExitStack() as archives:
        parts = click_parts(opened(flags.input, folder, archives), columns, "--input", left_out)
        clicks = gather(parts, int(memory), new_folder)
    sessions = "users" if flags.session_gap else "sessions"
    say("read {}: {}; {}", " ".join(flags.input), sizes_of(clicks, sessions, "clicks", "items"), dates_of(clicks))
    report_left_out(flags, left_out, bad_rows)
    return clicks


def opened(paths, folder, archives, wanted=CLICKS_FILE):
    """The paths, with that of the file `wanted` for an archive, which the ExitStack `archives` removes again."""
    return [path if Path(path).is_dir() else archives.enter_context(unpacked(Path(path), folder, say, wanted))
            for path in paths]


def columns_and_left_out(flags):
    """The Columns to read, and what counts the rows that are left out."""
    from utils.data.left_out import LeftOut

    columns = table_columns(flags)
    columns.encoding, columns.event, columns.events = flags.encoding, flags.event_column, flags.events or ()
    return columns, LeftOut(flags.skip_bad, "--skip_bad")


def report_left_out(flags, left_out, bad_rows):
    """Say which rows were left out, and list the bad ones in the text file `bad_rows` if it isn't None."""
    if flags.events:
        say("--events {}: left out {}", ",".join(flags.events), counted(rows=left_out.other_events))
    if bad_rows:
        left_out.write_list(bad_rows)
        say("--skip_bad {}: left out {}, listed in {}", flags.skip_bad, counted(**{"bad rows": left_out.bad}),
            bad_rows_path(flags))


def filter_clicks(clicks, flags):
    """Cut the sessions, then drop repeats, sessions of one item, short sessions and rare items, as the flags say."""
    from utils.data.clicks import (
        SECOND,
        cut_at_gaps,
        cut_at_span,
        drop_one_item,
        drop_rare_items,
        drop_repeats,
        drop_short_sessions,
    )

    if flags.session_gap:
        clicks = cut_at_gaps(clicks, round(flags.session_gap * SECOND))
        say("--session_gap {:g}: {}", flags.session_gap, sizes_of(clicks, "sessions"))
    if flags.session_span:
        clicks = cut_at_span(clicks, round(flags.session_span * SECOND))
        say("--session_span {:g}: {}", flags.session_span, sizes_of(clicks, "sessions"))
    if flags.drop_repeats:
        clicks = report("--drop_repeats 1", clicks, drop_repeats(clicks))
    if flags.drop_one_item:
        clicks = report("--drop_one_item 1", clicks, drop_one_item(clicks))

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
    if not len(after):
        raise InputError(f"{what}: left none of {sizes_of(before, 'sessions', 'clicks')}; expected some")
    sessions, clicks, items = (old - new for old, new in zip(before.sizes(), after.sizes()))
    say("{}: removed {}", what, counted(sessions=sessions, clicks=clicks, items=items))
    return after


def split(clicks, flags, training_name, test_name, newest_fraction=1.0, newest_days=0.0):
    """Split off the sessions of the last `--test_days`, and keep the newest of the others.

    Returns
    -------
    training, test : Clicks
    """
    from utils.data.clicks import (
        DAY,
        Clicks,
        drop_short_sessions,
        keep_items_of,
        newest_sessions,
        sessions_since,
        split_by_end,
        split_by_start,
    )

    by_end = flags.split_by == "end"
    training, test = (split_by_end if by_end else split_by_start)(clicks, round(flags.test_days * DAY))
    if not by_end:
        training = drop_short_sessions(training, flags.min_session_length)
    if not len(training):
        first, last = clicks.time_range()
        raise InputError(f"--test_days {flags.test_days:g}: left no session for {training_name} of "
                         f"{(last - first) / DAY:.3g} days of clicks; expected less")
    times_of = Clicks.ends if by_end else Clicks.starts
    if newest_days:
        newest = sessions_since(training, round(newest_days * DAY), times_of)
        training = report(f"--newest_days {newest_days:g}", training, newest)
    if newest_fraction < 1:
        newest = newest_sessions(training, newest_fraction, times_of)
        training = report(f"--newest_fraction {newest_fraction:g}", training, newest)
    if by_end:
        known = drop_short_sessions(keep_items_of(test, training), flags.min_session_length)
        test = report(f"{test_name}, unknown items, then --min_session_length {flags.min_session_length}", test, known)
    if not len(test):
        raise InputError(f"--test_days {flags.test_days:g}: left no session for {test_name}; expected more")
    return training, test


def doubts_about_dates(clicks, training, test, test_days):
    """What to say where few clicks with wrong dates seem to be the newest of all, and so the test; or nothing.

    `training` and `test` are what `split` made of `clicks`.
    """
    from utils.data.clicks import DAY, around, newest_times

    last, first = around(clicks, clicks.time_range()[1] - round(test_days * DAY))
    tested, trained = (len(part) - part.sizes()[0] for part in (test, training))
    found = [f"no click from {date(last)} to {date(first)}"] * (first - last > LONGEST_GAP * DAY)
    found += [f"only {counted(predictions=tested)} of {tested + trained:,} in the test"] * (
        tested < FEWEST_TESTED * (tested + trained))
    newest = ", ".join(map(date, newest_times(clicks, 3))) if found else ""
    return found and f"--test_days {test_days:g}: found {' and '.join(found)}; are the newest dates right, {newest}?"


def save_part(clicks, file, path):
    """Write `clicks` to `file`, which will become `path`, and wait until it is on the disk.

    So all files are complete before the first of them gets its name.
    """
    from utils.data.click_writing import write_table

    with naming(path):  # four files are open
        write_table(clicks, file)
        finish(file)


if __name__ == "__main__":
    run(main)
