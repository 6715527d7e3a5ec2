"""What a run tells: log lines, the progress bar, and the records in metrics.jsonl."""

import json
import os
import sys
import time

from tqdm import tqdm

from utils.files import InputError


def log(message):
    """Print a line at once, above the progress bar where there is one."""
    tqdm.write(message, file=sys.stdout)
    sys.stdout.flush()


def warn(message):
    """Print a line on stderr."""
    tqdm.write(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)


def line_of(figures):
    """Figures by name, such as recall_and_mrr's, as they stand in a log line."""
    return " ".join(f"{name}:{value:.4f}" for name, value in figures.items())


def print_table(results):
    """Print a table of `results`, a dict of rows' names to their figures by name: the same names in every row."""
    names = list(next(iter(results.values())))
    log("\n" + " " * 12 + "".join(f"{name:>12}" for name in names))
    for row, figures in results.items():
        log(f"{row:<12}" + "".join(f"{figures[name]:>12.4f}" for name in names))


def progress(total, description, done=0, unit="predictions"):
    """A progress bar with speed and time left on a terminal; nothing where stderr is a file or a pipe."""
    return tqdm(total=total, desc=description, initial=done, unit=f" {unit}", unit_scale=True, leave=False, disable=None)


def read_records(model_dir):
    """The records of metrics.jsonl in their order, a list of dicts; a line that a crash cut off is left out."""
    path, records = model_dir / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def append_record(model_dir, record):
    """Append `record`, a dict, and the time to metrics.jsonl, in one write so that lines never mix.

    A line that a crash cut off stays as it is, and the record starts a new one.
    """
    path = model_dir / "metrics.jsonl"
    line = json.dumps({**record, "time": round(time.time(), 3)}) + "\n"
    try:
        with open(path, "a+b", buffering=0) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = "\n" + line
            data = line.encode()
            written = file.write(data)
            if written < len(data):  # the disk is full: this one then says so
                file.write(data[written:])
    except OSError as error:
        error.filename = str(path)
        raise


def open_event_writers(model_dir, options):
    """What --tensorboard and --visualdl ask for: a list of functions that take a record of an epoch and write its numbers.

    Raises InputError where the package is missing.
    """
    writers = []
    if options.tensorboard:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise _missing_package("tensorboard", error) from None
        board = Writer(str(model_dir / "tensorboard"))
        writers.append(lambda record: (_write_scalars(board.add_scalar, record), board.flush()))
    if options.visualdl:
        try:
            from visualdl import LogWriter
        except ImportError as error:
            raise _missing_package("visualdl", error) from None
        visual = LogWriter(logdir=str(model_dir / "visualdl"))
        add = lambda name, value, epoch: visual.add_scalar(tag=name, value=value, step=epoch)
        writers.append(lambda record: (_write_scalars(add, record), visual._get_file_writer().flush()))
    return writers


def _write_scalars(add, record):
    for name, value in record.items():
        if name not in ("epoch", "time") and isinstance(value, (int, float)):
            add(name.replace("@", "_at_"), value, record["epoch"])


def _missing_package(name, error):
    return InputError(f"--{name} 1: found no package {name} ({error}), expected it; pip install {name}")
