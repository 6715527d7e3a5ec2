"""How a script starts and ends: one-line messages for what a user can cause, signals, exit statuses.

A script's first lines call `begin` and its last line calls `run`. In between, its imports load, which takes up to a
second. So this module itself imports nothing that Python hasn't loaded already.
"""

import _signal as signal  # its functions alone: `signal` adds enums, which load for as long as Python starts
import os
import sys

# The message and the exit status for each signal: 128 + its number, as in a shell.
STOPPED = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}
LOST = 75  # the exit status of one of several processes that lost the others: what ended them is for these to say


class Place:
    """Which of the processes of a run this one is, and how many there are."""

    def __init__(self, rank, count):
        self.rank, self.count = rank, count


def place():
    """The Place that Paddle's launcher or utils/launch.py gave this process by its environment, or that of one alone.
    """
    rank, count = os.environ.get("PADDLE_TRAINER_ID", ""), os.environ.get("PADDLE_TRAINERS_NUM", "")
    known = rank.isdecimal() and count.isdecimal() and int(rank) < int(count)
    return Place(int(rank), int(count)) if known else Place(0, 1)


def processors():
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin():
    """Let Ctrl-C, SIGTERM or a missing package end the script with one line while its imports load.

    Ctrl-C ends the process at once, since there is nothing to clean up yet. SIGTERM waits for `run`.
    """
    sys.excepthook = _report_and_exit
    _catch_signals(_end_at_once)
    hold_back_sigterm(True)


def run(main):
    """Run a script's `main()` and end the process as a command line user expects.

    After a user's mistake, a file error, a missing package or a lack of memory it prints one line on stderr and exits
    with status 2. After Ctrl-C the status is 130, after SIGTERM 143. If the reader of our output closes it early
    (`| head`), it exits silently with 141.
    """
    stopped_by = []

    def stop(number, frame):
        stopped_by.append(number)
        raise KeyboardInterrupt

    try:
        _catch_signals(stop)
        sys.excepthook = sys.__excepthook__
        if sys.stdout is None:  # the parent process closed it
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may not fit the terminal's encoding
        hold_back_sigterm(False)
        _require_environment()
        main()
        if stopped_by:  # main() went on: in a destructor, for example, Python only prints the exception
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        _leave_signals(stop)
        if stopped_by:  # libraries may have turned the KeyboardInterrupt into another error: Paddle makes it an OSError
            word, status = STOPPED[stopped_by[0]]
            sys.exit(status if place().rank else fail(word, status))
        if isinstance(error, BrokenPipeError):
            _discard_output()
            sys.exit(141)  # 128 + SIGPIPE
        message = _message(error)
        if message is None:
            raise
        sys.exit(fail(message, 2))
    _leave_signals(stop)  # nothing would catch what they raise from here on


def hold_back_sigterm(is_held):
    """Hold SIGTERM back, or let it through again, with one that came in between.

    While Paddle loads, its own handler would end the process with a C++ stack, and any thread can get the signal.
    Threads take over what is held back when they start, so that it has to begin before libraries start some.
    """
    _hold_back(is_held, [signal.SIGTERM])


def import_undisturbed(name):
    """The module `name`. Ctrl-C and SIGTERM wait until it is loaded: some modules in C++ abort when interrupted."""
    from importlib import import_module
    _hold_back(True, STOPPED)
    try:
        return import_module(name)
    finally:
        _hold_back(False, STOPPED)


def _hold_back(is_held, signals):
    if hasattr(signal, "pthread_sigmask"):  # Windows lacks it
        signal.pthread_sigmask(signal.SIG_BLOCK if is_held else signal.SIG_UNBLOCK, signals)


def _catch_signals(handler):
    """Let Ctrl-C and SIGTERM call `handler`, except where they are ignored: a shell lets background jobs ignore Ctrl-C.
    """
    for number in STOPPED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _leave_signals(handler):
    """Where `handler` still takes Ctrl-C and SIGTERM, let them end the process as the system does."""
    for number in STOPPED:
        if signal.getsignal(number) is handler:
            signal.signal(number, signal.SIG_DFL)


def _end_at_once(number, frame):
    """A signal handler that ends the process without a way back through the modules that are being loaded."""
    word, status = STOPPED[number]
    try:
        if not place().rank:
            os.write(2, f"{_script()}: {word}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(status)


def _report_and_exit(kind, error, trace):
    """An excepthook for the time until `run`."""
    message = _message(error)
    if message is None:
        sys.__excepthook__(kind, error, trace)
    else:
        sys.exit(fail(message, 2))


def _require_environment():
    """ModuleNotFoundError where NumPy is missing: then everything is, and a script shouldn't find out half-way."""
    if "numpy" not in sys.modules:
        from importlib.util import find_spec
        if find_spec("numpy") is None:
            raise ModuleNotFoundError(name="numpy")


def _message(error):
    """The message for an error that a user can cause; None for any other exception."""
    files = sys.modules.get("utils.files")  # not imported above, since it takes long to load
    if files and isinstance(error, files.InputError):
        return str(error)
    # Paddle turns any exception in a PyLayer into an OSError with this beginning.
    if isinstance(error, OSError) and not str(error).startswith("(External)"):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if isinstance(error, MemoryError):
        return f"found too little memory ({error}), expected room for what the flags and the data ask for"
    if isinstance(error, ModuleNotFoundError) and _is_package(error.name):
        return (f"found no Python package {error.name}, expected an environment that has it: set one up with "
                "`bash setup.sh .venv requirements.txt` and activate it with `source .venv/bin/activate`")
    return None


def _is_package(name):
    """Whether the module `name` would come from a package to install, not from Python or from this project."""
    return bool(name) and name.partition(".")[0] not in {"utils", *sys.stdlib_module_names}


def _script():
    """The script's name, with which every message begins, and the number of a process that has others beside it."""
    rank = place().rank
    return os.path.basename(sys.argv[0]) + f", process {rank}" * bool(rank)


def tell(message):
    """Print a line on stderr. Beside a progress bar, `runlog.warn` does that."""
    print(f"{_script()}: {message}", file=sys.stderr)


def fail(message, status):
    """Print the one line with which a script ends; the exit status that was given."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:  # the disk is full, or the reader is gone
        _discard_output()
    print(f"{_script()}: " + " ".join(message.splitlines()), file=sys.stderr)
    return status


def _discard_output():
    """Throw away what stdout still holds, so that Python's own flush at exit stays silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
