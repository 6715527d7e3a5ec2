"""The flags with which preprocess.py writes sessions with what they bought, and where it writes them."""

import os
from pathlib import Path

from utils.files import InputError, require_file
from utils.options import names, number

PARTS = "train", "valid", "test"
CLICKS, PURCHASES, ITEMS, CATEGORIES = "clicks.tsv", "buys.tsv", "vocab.txt", "categories.txt"
# What changes the sessions that the trainers of next clicks read, and --memory, which such sessions don't know.
UNUSED = ("to_text", "out_dir", "prefix", "session_span", "drop_repeats", "drop_one_item", "min_session_length",
          "until_stable", "newest_fraction", "newest_days", "memory")
INTENT = "buys", "buy_events", "category_column", "test_fraction"


def add_intent_flags(group):
    """Add them to a group of the parser's."""
    group.add_argument("--to_intent", metavar="DIR", default="",
                       help="write what train_intent.py reads, in place of the splits: DIR/train, DIR/valid, DIR/test, "
                       "DIR/vocab.txt and DIR/categories.txt; rare items stay, as unknown ones, and so do short "
                       "sessions (docs/intent.md)")
    group.add_argument("--buys", metavar="FILE", default="",
                       help="yoochoose-buys.dat, or a table of purchases with the columns of the clicks; empty: that "
                       "of the archive --input, or --buy_events")
    group.add_argument("--buy_events", type=names, default="",
                       help="what in --event_column is a purchase, separated by commas, such as transaction")
    group.add_argument("--category_column", default="",
                       help="name of a column with categories of the items or clicks, such as --event_column's; empty: "
                       "only YOOCHOOSE's clicks have some")
    group.add_argument("--test_fraction", type=number(float, 0.001, 0.4), default=0.1,
                       help="with --split_by hash: share of the sessions in DIR/test, and also in DIR/valid")


def check_intent_flags(flags, given):
    """Refuse combinations that can't work; `given` has the names of the flags on the command line."""
    if "to_intent" in given and not flags.to_intent:
        raise InputError("--to_intent: found an empty name, expected a directory to write to")
    if not flags.to_intent:
        for name in INTENT:
            if name in given:
                raise InputError(f"--{name}: found it without --to_intent, expected both")
        if flags.split_by == "hash":
            raise InputError("--split_by hash: found it without --to_intent, expected both, or end or start")
        return
    for name in UNUSED:
        if name in given:
            raise InputError(f"--to_intent: found it with --{name}, expected one of them")
    if flags.split_by == "start":
        raise InputError("--split_by start: found it with --to_intent, expected end or hash")
    other = {"hash": "test_days", "end": "test_fraction"}[flags.split_by]
    if other in given:
        raise InputError(f"--{other}: found it with --split_by {flags.split_by}, which doesn't use it")
    if flags.buys and flags.buy_events:
        raise InputError("--buys: found it with --buy_events, expected one of them")
    both = sorted(set(flags.buy_events) & set(flags.events))
    if both:
        raise InputError(f"--buy_events: found {both[0]!r}, which is in --events, too; expected other events")
    if flags.buy_events and not flags.event_column:
        raise InputError("--buy_events: found it without --event_column and --events, expected all three")
    if flags.buys:
        require_file(flags.buys, "--buys")
        buys = Path(os.path.realpath(flags.buys))
        if not {buys, *buys.parents}.isdisjoint(Path(os.path.realpath(path)) for path in flags.input):
            raise InputError("--buys: found a file that --input reads as clicks, expected that of the purchases")
    elif not flags.buy_events and not (len(flags.input) == 1 and flags.input[0].endswith(".7z")):
        raise InputError("--to_intent: found no purchases, expected --buys FILE, or --event_column and --buy_events")


def intent_paths(directory):
    """The files that are written to a directory: clicks and purchases of each part, vocab.txt, categories.txt."""
    return [*(Path(directory, part, name) for part in PARTS for name in (CLICKS, PURCHASES)),
            Path(directory, ITEMS), Path(directory, CATEGORIES)]
