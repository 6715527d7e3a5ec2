"""Sessions with what they bought, from tables of clicks and purchases to the files that train_intent.py reads."""

import hashlib
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np

from utils.data.click_writing import as_words, write_table
from utils.data.clicks import DAY, SECOND, cut_at_gaps
from utils.data.conversion import vocabulary_order
from utils.data.wording import counted, dates_of, sizes_of
from utils.files import InputError, finish, write_atomically
from utils.intent.events import join, keep, read_events
from utils.intent.preparation_flags import PARTS, intent_paths


@contextmanager
def open_intent_files(directory):
    """The binary files at `intent_paths`, which get their names when the block ends well."""
    with ExitStack() as outputs:
        yield [outputs.enter_context(write_atomically(path, "wb")) for path in intent_paths(directory)]


def prepare(click_paths, purchase_paths, columns, left_out, flags, files, say):
    """Read tables, join and split the sessions, and write them.

    Parameters
    ----------
    click_paths, purchase_paths, columns, left_out
        As for `events.read_events`.
    flags : argparse.Namespace, of preprocess.py
    files : list of binary files, of `open_intent_files`
    say : function that prints a line
    """
    events = read_events(click_paths, purchase_paths, columns, left_out=left_out)
    sessions = "users" if flags.session_gap else "sessions"
    say("read {} and purchases; {}", sizes_of(events.rows, sessions, "clicks"), dates_of(events.rows))
    if flags.session_gap:
        events = replace(events, rows=cut_at_gaps(events.rows, round(flags.session_gap * SECOND)))
        say("--session_gap {:g}: {}", flags.session_gap, sizes_of(events.rows, "sessions"))
    joined, dropped = join(events)
    say("left out {late_clicks:,} clicks at or after their session's first purchase, {sessions_without_clicks:,} "
        "sessions without a click before it", **dropped)
    if not len(joined.purchases):
        raise InputError("--input: found no click before a purchase of the same session, expected some; are the "
                         "session ids of the clicks those of the purchases?")
    parts = _split(joined, flags)
    say("writing")
    items, categories = write_intent(parts, flags.min_support, files)
    for name, part in zip(PARTS, parts):
        buying = len(part.purchases.sessions)
        say("{}/{}: {}; {}; {} with {} ({:.2%})", flags.to_intent, name, sizes_of(part.clicks, "sessions", "clicks"),
            dates_of(part.clicks), counted(sessions=buying), counted(purchases=len(part.purchases)),
            buying / len(part.clicks.sessions))
    say("{}: {:,} items, {:,} categories", flags.to_intent, items, categories)


def write_intent(parts, min_support, files):
    """Write the training, validation and test sessions, three Joined, to the files of `open_intent_files`.

    Returns the number of items and of categories in the vocabularies, which are those of `_vocabularies`.
    """
    words = _vocabularies(parts[0], min_support)
    for part, clicks, purchases in zip(parts, files[::2], files[1::2]):
        write_table(part.clicks, clicks, (part.categories, part.category_names))
        write_table(part.purchases, purchases)
    for file, of_file in zip(files[-2:], words):
        file.write("".join(f"{word}\n" for word in of_file).encode())
    for file in files:
        finish(file)
    return tuple(map(len, words))


def _split(joined, flags):
    """The training, validation and test sessions, three Joined, as --split_by says."""
    if flags.split_by == "hash":
        share = _hashed_shares(joined.session_ids())
        is_test, is_valid = share < flags.test_fraction, share < 2 * flags.test_fraction
        what = f"--test_fraction {flags.test_fraction:g}"
    else:
        ends = joined.clicks.ends()
        buyers = np.flatnonzero(joined.buys())
        ends[buyers] = np.maximum(ends[buyers], joined.purchases.ends())
        days = round(flags.test_days * DAY)
        is_test = ends >= ends.max() - days
        is_valid = ends >= np.max(ends[~is_test], initial=0) - days
        what = f"--test_days {flags.test_days:g}"
    masks = ~is_test & ~is_valid, is_valid & ~is_test, is_test
    for name, mask in zip(PARTS, masks):
        buying = np.count_nonzero(joined.buys() & mask)
        if not buying or buying == np.count_nonzero(mask):
            raise InputError(f"{what}: left {np.count_nonzero(mask):,} sessions for {name}, of which {buying:,} buy; "
                             "expected some that buy and some that don't")
    return [keep(joined, mask) for mask in masks]


def _hashed_shares(session_ids):
    """A number from 0 to below 1 for each session that depends on its id alone: float64 [sessions]."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=4).digest() for name in session_ids.to_pylist())
    return np.frombuffer(digests, "<u4") / 2**32


def _vocabularies(training, min_support):
    """The words of vocab.txt and categories.txt: items of enough training clicks, and all categories but a missing one.

    Each in the order of vocab.txt.
    """
    support = training.clicks.support()
    items = as_words(training.clicks.item_names).to_pylist()
    categories = as_words(training.category_names).to_pylist()
    clicks = np.bincount(training.categories, minlength=len(categories)).tolist()
    frequent = {word: count for word, count in zip(items, support.tolist()) if count >= min_support}
    if not frequent:
        raise InputError(f"--min_support {min_support}: left none of {np.count_nonzero(support):,} items of the "
                         "training sessions; expected some")
    return vocabulary_order(frequent), vocabulary_order(
        {word: count for word, count in zip(categories, clicks) if word and count})
