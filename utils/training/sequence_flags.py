"""The trainers' flags for which sessions are trained on, and what a prediction sees of its session. No Paddle here."""

import os

from utils.files import InputError
from utils.options import COUNT, ONE_ITEM, number


def add_sequence_flags(parser):
    """Add the flags to a trainer's parser."""
    sequences = parser.group("sessions to train on")
    sequences.add_argument("--max_length", type=number(int, 1, COUNT), default=1000,
                           help="most predictions in a session; longer sessions are cut into windows")
    sequences.add_argument("--window_overlap", type=number(int, 0, COUNT), default=0,
                           help="sliding windows: predictions that a window repeats from the end of the one before, "
                           "for their clicks alone, since each is trained once; below --max_length")
    sequences.add_argument("--look_back", type=number(int, 0, COUNT), default=0,
                           help="clicks that a prediction sees at most, the last ones before it; a session that has "
                           "more takes up to so many times as long; 0: as many as --max_length allows")
    sequences.add_argument("--drop_one_item", type=number(int, 0, 1), default=0, help=ONE_ITEM)
    sequences.add_argument("--newest_sessions", type=number(int, 0, COUNT), default=0,
                           help="train on so many sessions, the newest (the last); 0: on all")
    sequences.add_argument("--recency_half_life", type=number(float, 0, COUNT), default=0.0,
                           help="sessions; one with so many newer ones takes part in half of the epochs, as it is "
                           "drawn, and so counts half; 0: all take part in all")


def check_sequence_flags(options):
    """Refuse values that don't go together, and what --train_dir can't name."""
    train_paths(options.train_dir)
    if options.window_overlap >= options.max_length:
        raise InputError(f"--window_overlap: found {options.window_overlap} with --max_length {options.max_length}, "
                         "expected less")
    if options.look_back and options.window_overlap:
        raise InputError(f"--window_overlap: found {options.window_overlap} with --look_back, expected one of them")
    if 0 < options.recency_half_life < 1:
        raise InputError(f"--recency_half_life: found {options.recency_half_life:g}, expected 0, or at least 1")
    if options.look_back > options.max_length:
        raise InputError(f"--look_back: found {options.look_back} with --max_length {options.max_length}, expected at "
                         "most that")


def window_sizes(options):
    """The longest window, and how many of its predictions are those of the window before: two int."""
    if options.look_back:
        return options.look_back, options.look_back - 1
    return options.max_length, options.window_overlap


def train_paths(train_dir):
    """The paths that --train_dir names, the oldest first: a list of str."""
    paths = [train_dir] if os.path.exists(train_dir) else train_dir.split(",")  # a comma may be part of a name
    if "" in paths:
        raise InputError(f"--train_dir: found {train_dir!r}, expected directories of sessions separated by commas")
    if len(paths) > 1 and len({*map(os.path.realpath, paths)}) < len(paths):
        raise InputError(f"--train_dir: found the same path twice in {train_dir}, expected every one once")
    return paths
