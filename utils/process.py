"""How a script starts and ends: one-line messages for what a user can cause, signals, exit statuses."""

import os
import signal
import sys
from pathlib import Path

from utils.files import InputError

# The message and the exit status for each signal: 128 + its number, as in a shell.
STOPPED = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


def run(main):
    """Run a script's `main()` and end the process as a command line user expects.

    After a user's mistake, a file error or a lack of memory it prints one line on stderr and exits with status 2. After
    Ctrl-C the status is 130, after SIGTERM 143. If the reader of our output closes it early (`| head`), it exits
    silently with 141.
    """
    stopped_by = _raise_when_stopped()
    name = Path(sys.argv[0]).name
    if sys.stdout is None:  # the parent process closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # a file name may not fit the terminal's encoding
    try:
        main()
        if stopped_by:  # main() went on: in a destructor, for example, Python only prints the exception
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if stopped_by:  # libraries may have turned the KeyboardInterrupt into another error: Paddle makes it an OSError
            sys.exit(_fail(name, *STOPPED[stopped_by[0]]))
        if isinstance(error, BrokenPipeError):
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        message = _message(error)
        if message is None:
            raise
        sys.exit(_fail(name, message, 2))


def _raise_when_stopped():
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt; returns a list to which the signal's number is then added."""
    received = []

    def stop(number, frame):
        received.append(number)
        raise KeyboardInterrupt

    for number in STOPPED:
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell lets background jobs ignore Ctrl-C
            signal.signal(number, stop)
    return received


def _message(error):
    """The message for an error that a user can cause; None for any other exception."""
    if isinstance(error, InputError):
        return str(error)
    # Paddle turns any exception in a PyLayer into an OSError with this beginning.
    if isinstance(error, OSError) and not str(error).startswith("(External)"):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if isinstance(error, MemoryError):
        return f"found too little memory ({error}), expected room for what the flags and the data ask for"
    return None


def _fail(name, message, status):
    try:
        sys.stdout.flush()
    except OSError:  # the disk is full, or the reader is gone
        _discard_output()
    print(f"{name}: " + " ".join(message.splitlines()), file=sys.stderr)
    return status


def _discard_output():
    """Throw away what stdout still holds, so that Python's own flush at exit stays silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
