"""Command lines: the flags that several scripts share, written once, and how a script starts and ends."""

import argparse
import math
import os
import signal
import sys
from pathlib import Path

from utils.files import InputError

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as a shell reports them


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Every default shown, and the script's docstring as it is written."""


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and whose help shows every default."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)

    def error(self, message):
        raise InputError(message.replace("\n", " ") + f" ({self.prog} -h lists the flags)")


def number(kind, low=-math.inf, high=math.inf, below=math.inf):
    """A type for argparse: a finite `kind` (int or float, of 64 bits) with low <= value <= high and value < below."""
    limits = [f">= {low}"] * (low > -math.inf) + [f"<= {high}"] * (high < math.inf) + [f"< {below}"] * (below < math.inf)
    wanted = " ".join(["an integer" if kind is int else "a number"] + [" and ".join(limits)] * bool(limits))

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if kind is int and abs(value) >= 2**63:
            raise argparse.ArgumentTypeError(f"found {text[:40]!r}, expected {wanted} of at most 64 bits")
        if not (math.isfinite(value) and low <= value <= high and value < below):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {wanted}")
        return value

    return parse


def sizes(text):
    """A type for argparse: `100` or `100,50` as a list of positive integers."""
    try:
        return [number(int, 1)(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected integers >= 1 separated by commas, such as 5,20") from None


def cutoffs(text):
    """A type for argparse: `20` or `1,5,20` as an ascending list of distinct positive integers."""
    return sorted(set(sizes(text)))


def separator(text):
    """A type for argparse: one character, or `tab`, or nothing."""
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) > 1 or text and text in '"\r\n' or not text.isascii():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected one ASCII character or tab")
    return text


def add_table_flags(parser):
    """Flags of every script that reads a table of clicks."""
    parser.add_argument("--session_column", default="SessionId", help="name of the column of session ids, any words")
    parser.add_argument("--item_column", default="ItemId", help="name of the column of item ids, any words")
    parser.add_argument("--time_column", default="Time", help="name of the column of times: ISO 8601 dates (UTC where they name no "
                        "zone) or numbers")
    parser.add_argument("--time_unit", choices=("s", "ms"), default="s", help="unit of times that are numbers, since 1970: seconds "
                        "or milliseconds")
    parser.add_argument("--separator", type=separator, default="", help="what separates the columns, one character or tab; empty: "
                        "found out from the header line")


def add_device_flags(parser):
    """Flags of every script that computes with Paddle."""
    parser.add_argument("--use_cuda", type=number(int, 0, 1), default=0, help="1: compute on the GPU, 0: on the processor")
    parser.add_argument("--threads", type=number(int, 0), default=0, help="processor threads; 0: all that this process may use")
    parser.add_argument("--tune_cpu", type=number(int, 0, 1), default=1,
                        help="1: prepare MKL and malloc for speed (one log line says what was done), 0: leave them alone")


def run(main):
    """Run a script's `main()` and end the process as a command line user expects.

    A user's mistake, a failing file or a lack of memory ends with one line on stderr and status 2, Ctrl-C with 130,
    SIGTERM with 143, and a reader that closes our output early (`| head`) silently with 141.
    """
    signal.signal(signal.SIGTERM, _raise_exit)
    name = Path(sys.argv[0]).name
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what this terminal's encoding lacks
    try:
        main()
        sys.stdout.flush()
    except InputError as error:
        sys.exit(_fail(name, str(error), 2))
    except BrokenPipeError:
        _discard_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        sys.exit(_fail(name, what, 2))
    except MemoryError as error:
        sys.exit(_fail(name, f"found too little memory ({error}), expected room for what the flags and the data ask for", 2))
    except KeyboardInterrupt:
        sys.exit(_fail(name, "interrupted", INTERRUPTED))


def _raise_exit(signal_number, frame):
    raise SystemExit(_fail(Path(sys.argv[0]).name, "terminated", TERMINATED))


def _fail(name, message, status):
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or nobody reads it any more
        _discard_output()
    print(f"{name}: " + " ".join(message.splitlines()), file=sys.stderr)
    return status


def _discard_output():
    """Send what stdout still holds to nowhere, so that Python's own flush at exit stays silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
