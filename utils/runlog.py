"""What a run reports: log lines, the progress bar, and the records in metrics.jsonl."""

import json
import math
import os
import sys
import threading
import time

from tqdm import tqdm

from utils.files import InputError, naming
from utils.memory import read_bytes
from utils.process import place


def log(message):
    """Print a line at once, above the progress bar if there is one. Of several processes only process 0 does."""
    if place().rank:
        return
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()


def warn(message):
    """Print a line on stderr. Of several processes only process 0 does: they all read and find the same."""
    if place().rank:
        return
    tqdm.write(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)


def line_of(figures):
    """Figures by name, such as those of `recall_and_mrr`, in the form of a log line."""
    return " ".join(f"{name}:{value:.4f}" for name, value in figures.items())


def print_table(results):
    """Print `results` as a table: a dict of row names to dicts of figures, all with the same names."""
    names = list(next(iter(results.values())))
    width = max(12, *(len(name) + 2 for name in [*names, *results]))
    log("\n" + " " * width + "".join(f"{name:>{width}}" for name in names))
    for row, figures in results.items():
        log(f"{row:<{width}}" + "".join(f"{figures[name]:>{width}.4f}" for name in names))


def progress(total, description, done=0, unit="predictions"):
    """A progress bar with speed and time left on a terminal; nothing if stderr is a file or a pipe."""
    return tqdm(total=total, desc=description, initial=done, unit=f" {unit}", unit_scale=total >= 1000, leave=False,
                disable=True if place().rank else None)


def read_records(model_dir):
    """The records of metrics.jsonl in order, a list of dicts; a line that a crash cut off is left out."""
    path, records = model_dir / "metrics.jsonl", []
    data = read_bytes(path, "--model_dir") if path.exists() else b""
    for line in data.decode("utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def append_record(model_dir, record):
    """Append `record`, a dict, and the time to metrics.jsonl, in one write so that lines never mix.

    NaN and infinities are null there, as JSON doesn't have them. If a crash cut off the last line, that stays as it is,
    and the record starts a new one.
    """
    path = model_dir / "metrics.jsonl"
    line = json.dumps(_finite({**record, "time": round(time.time(), 3)}), allow_nan=False) + "\n"
    with naming(path), open(path, "a+b", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        data = line.encode()
        written = file.write(data)
        if written < len(data):  # the disk is full; the next write raises the error that says so
            file.write(data[written:])


def _finite(value):
    """A value of a record, with None in the place of NaN and infinities."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def import_event_writers(names):
    """Functions that write the figures of epochs for the programs in `names`, "tensorboard" and "visualdl": a list.

    Each function takes the model directory, opens the event file there, and returns another function, which writes the
    numbers of an epoch's record, a dict. InputError if the program's package is missing.
    """
    loaders = {"tensorboard": _import_tensorboard, "visualdl": _import_visualdl}
    openers = []
    for name in names:
        try:
            openers.append(loaders[name]())
        except ImportError as error:
            raise InputError(f"--{name} 1: found no package {name} that works here ({error}), expected one; "
                             f"pip install {name}") from None
    return openers


def _import_tensorboard():
    from tensorboard.summary import Writer

    def open_events(model_dir):
        threading.excepthook = lambda failed: None  # the writer's own thread prints nothing; flush raises its errors
        writer = Writer(str(model_dir / "tensorboard"))

        def write(record):
            for name, value in _scalars(record):
                writer.add_scalar(name, value, record["epoch"])
            writer.flush()
        return write
    return open_events


def _import_visualdl():
    from visualdl import LogWriter

    def open_events(model_dir):
        def write(record):
            # VisualDL shows one file of a directory, so all epochs go to the same file. It is closed after each epoch,
            # so that the epoch is complete.
            with LogWriter(logdir=str(model_dir / "visualdl"), file_name="vdlrecords.training.log") as writer:
                for name, value in _scalars(record):
                    writer.add_scalar(tag=name, value=value, step=record["epoch"])
        return write
    return open_events


def _scalars(record):
    """The figures of a record as pairs of name and number; the programs don't allow @ in names."""
    return [(name.replace("@", "_at_"), value) for name, value in record.items()
            if name != "epoch" and isinstance(value, (int, float))]
