"""What a model directory says about its run: settings, figures of the epochs, and how it differs from other runs."""

import os
from dataclasses import dataclass
from pathlib import Path

from utils.files import InputError
from utils.model import checkpoint
from utils.model.directory import is_known, named_by
from utils.runlog import read_records

NO_SETTINGS = {"model_dir", "overwrite", "resume", "config"}  # flags that don't affect how a run trains

FULL_LOSS = "cross-entropy over all items"
CHECKSUM_DIGITS = 64  # of SHA-256; the first twelve are shown


@dataclass
class Run:
    """A run, as its model directory describes it.

    name : str, the name of the directory
    model_dir : Path
    config : dict, the contents of config.json
    epochs : list of dict, the records of its epochs in order, each once; `seconds` is the training time up to its end
    tests : dict of int to dict, for each epoch the last figures that infer.py recorded among all items
    best : int or None, the best epoch by validation
    """

    name: str
    model_dir: Path
    config: dict
    epochs: list
    tests: dict
    best: int

    @property
    def loss_name(self):
        """What the run's training loss is: two runs of different names can't be compared by it."""
        options, is_old = self.config.get("options", {}), "loss" not in self.config
        name = options.get("loss", "ce") if is_old else self.config["loss"]
        is_sampled = "neg_size" in options if is_old else self.config["loss_is_sampled"]
        return f"{name} over samples" if is_sampled else FULL_LOSS


def read_runs(paths):
    """The Runs in model directories, a list; if names are equal, the directories above are added to them."""
    depth, parts = 1, [Path(os.path.realpath(path)).parts[1:] for path in paths]
    while len({part[-depth:] for part in parts}) < len(parts):
        depth += 1
    with named_by("MODEL_DIR"):
        return [_read_run(path, "/".join(part[-depth:])) for path, part in zip(paths, parts)]


def _read_run(path, name):
    """The Run in a model directory; InputError if there is none, or it has no epoch."""
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
        raise InputError(f"{model_dir / 'metrics.jsonl'}: found no record of an epoch, "
                         "expected at least one of train.py")
    seconds, records = 0.0, []
    for epoch in sorted(epochs):
        seconds += epochs[epoch]["time_cost"]
        records.append({**epochs[epoch], "seconds": seconds})
    return Run(name, model_dir, config, records, tests, checkpoint.best_epoch(model_dir))


def settings(run):
    """A run's flags, data and versions: a dict of names to values as text."""
    sections = [("--", "options"), ("data ", "data"), ("", "versions")]
    net = str(run.config.get("net_sha256", "-"))[:12]
    found = {"script": run.config.get("script", ""), "net.py": net if is_known(run.config) else f"{net}, edited"}
    for prefix, section in sections:
        found |= {f"{prefix}{name}": value for name, value in run.config.get(section, {}).items()
                  if name not in NO_SETTINGS}
    return {name: _as_text(value) for name, value in found.items()}


def setting_differences(runs):
    """The settings in which the runs differ: a dict of names to one text per run, "-" for a run without it."""
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
