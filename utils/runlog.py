"""What a run tells: log lines, the progress bar, and the records in metrics.jsonl."""

import json
import os
import sys
import time

from tqdm import tqdm


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


def progress(total, description, unit="predictions"):
    """A progress bar on a terminal; nothing where stderr is a file or a pipe."""
    return tqdm(total=total, desc=description, unit=f" {unit}", unit_scale=True, leave=False, disable=None)


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
            file.write(line.encode())
    except OSError as error:
        error.filename = str(path)
        raise
