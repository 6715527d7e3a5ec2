"""Command lines: the flags that several scripts share, written once, and how a script starts and ends."""

import argparse
import math
import os
import signal
import sys
from pathlib import Path

from utils.files import InputError

STOPPED = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}  # status 128 + the signal, as in a shell


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
    parser.add_argument("--time_column", default="Time", help="name of the column of times: ISO 8601 dates (UTC where they name "
                        "no zone) or numbers")
    parser.add_argument("--time_unit", choices=("s", "ms"), default="s", help="unit of times that are numbers, since 1970: "
                        "seconds or milliseconds")
    parser.add_argument("--separator", type=separator, default="", help="what separates the columns, one character or tab; "
                        "empty: found out from the header line")


def add_device_flags(parser):
    """Flags of every script that computes with Paddle."""
    parser.add_argument("--use_cuda", type=number(int, 0, 1), default=0, help="1: compute on the GPU, 0: on the processor")
    parser.add_argument("--threads", type=number(int, 0, 1024), default=0,
                        help="processor threads; 0: all that this process may use")
    parser.add_argument("--tune_cpu", type=number(int, 0, 1), default=1,
                        help="1: prepare MKL and malloc for speed (one log line says what was done), 0: leave them alone")


def run(main):
    """Run a script's `main()` and end the process as a command line user expects.

    A user's mistake, a failing file or a lack of memory ends with one line on stderr and status 2, Ctrl-C with 130,
    SIGTERM with 143, and a reader that closes our output early (`| head`) silently with 141.
    """
    stopped_by = _raise_when_stopped()
    name = Path(sys.argv[0]).name
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what this terminal's encoding lacks
    try:
        main()
        if stopped_by:  # where Python can only print an exception, as in a destructor, it goes on
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if stopped_by:  # whatever the libraries on the way made of the KeyboardInterrupt: Paddle makes it an OSError
            sys.exit(_fail(name, *STOPPED[stopped_by[0]]))
        if isinstance(error, BrokenPipeError):
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        message = _message(error)
        if message is None:
            raise
        sys.exit(_fail(name, message, 2))


def _raise_when_stopped():
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt; a list that then holds the signal's number."""
    received = []

    def stop(number, frame):
        received.append(number)
        raise KeyboardInterrupt

    for number in STOPPED:
        if signal.getsignal(number) != signal.SIG_IGN:  # as for a job that a shell started in the background
            signal.signal(number, stop)
    return received


def _message(error):
    """The line for what a user can cause, None for any other exception."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and not str(error).startswith("(External)"):  # Paddle's, for any exception in a PyLayer
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if isinstance(error, MemoryError):
        return f"found too little memory ({error}), expected room for what the flags and the data ask for"
    return None


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
