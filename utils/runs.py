"""What a model directory tells of its run: settings, the figures of its epochs, and what sets it apart from others."""

from dataclasses import dataclass
from pathlib import Path

from utils import checkpoint
from utils.files import InputError
from utils.runlog import read_records

NO_SETTINGS = {"model_dir", "overwrite", "resume", "config"}  # flags that say nothing of how a run trains

CHECKSUM_DIGITS = 64  # of SHA-256; the first twelve tell


@dataclass
class Run:
    """A run as its model directory tells it.

    name : str, of the directory
    model_dir : Path
    config : dict, config.json
    epochs : list of dict, the records of its epochs in order, each once; `seconds` is the time of training up to its end
    tests : dict of int to dict, by epoch the last figures that infer.py recorded among all items
    best : int or None, the epoch that validation found best
    """

    name: str
    model_dir: Path
    config: dict
    epochs: list
    tests: dict
    best: int


def read_runs(paths):
    """The Runs in model directories, a list; those of the same name are named with the directories above them."""
    depth, parts = 1, [Path(path).resolve().parts[1:] for path in paths]
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    return [read_run(path, "/".join(part[-depth:])) for path, part in zip(paths, parts)]


def read_run(path, name):
    """The Run in a model directory; InputError where there is none, or none with an epoch."""
    model_dir = Path(path)
    config, epochs, tests = checkpoint.read_config(model_dir), {}, {}
    for record in read_records(model_dir):
        if not isinstance(record.get("epoch"), int):
            continue
        if record.get("event") == "epoch" and isinstance(record.get("time_cost"), (int, float)):
            epochs[record["epoch"]] = record
        elif record.get("event") == "test" and not record.get("sampled"):
            tests[record["epoch"]] = record
    if not epochs:
        raise InputError(f"{model_dir / 'metrics.jsonl'}: found no record of an epoch, expected at least one of train.py")
    seconds, records = 0.0, []
    for epoch in sorted(epochs):
        seconds += epochs[epoch]["time_cost"]
        records.append({**epochs[epoch], "seconds": seconds})
    return Run(name, model_dir, config, records, tests, checkpoint.best_epoch(model_dir))


def settings(run):
    """What a run was made with, by name: flags, data, versions; values as text."""
    sections = [("--", "options"), ("data ", "data"), ("", "versions")]
    found = {"script": run.config.get("script", "")}
    for prefix, section in sections:
        found |= {f"{prefix}{name}": value for name, value in run.config.get(section, {}).items() if name not in NO_SETTINGS}
    return {name: _as_text(value) for name, value in found.items()}


def setting_differences(runs):
    """The settings in which the runs differ: a dict of names to lists of texts, one a run, "-" where a run lacks it."""
    found = [settings(run) for run in runs]
    names = list(dict.fromkeys(name for of_run in found for name in of_run))
    table = {name: [of_run.get(name, "-") for of_run in found] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


def _as_text(value):
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, str) and len(value) == CHECKSUM_DIGITS:
        return f"{value[:12]}..."
    return "-" if value is None else str(value)
