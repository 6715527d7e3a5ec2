"""Resuming a run: how far it has come, what it goes on from, and that its settings are the same."""

import json
import math
from dataclasses import asdict, dataclass, field
from itertools import chain

from utils.files import InputError
from utils.model import checkpoint, upkeep
from utils.runlog import warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Flags that may differ when a run is resumed: where files are (the data's checksums are compared), what is shown, and
# what is kept.
FREE = {"model_dir", "init_from", "train_dir", "valid_dir", "vocab_path", "config", "overwrite", "resume",
        "save_seconds", "keep", "patience", "print_batch", "tensorboard", "visualdl", "is_local", "parallel",
        "num_devices", "split_items", "fit"}
# flags that came later, and what runs from before did
LATER = {"exchange_steps": 1, "amp": None, "neighbours": 0, "score_scale": 0.0, "last_click": 0,
         "lr_schedule": "linear", "warmup": 0.0, "optimizer": "adagrad", "momentum": 0.0, "weight_decay": 0.0,
         "grad_cap": 0.0, "window_overlap": 0, "look_back": 0, "drop_one_item": 0, "newest_sessions": 0,
         "recency_half_life": 0.0}
DEFINED_IN = {"engine": "net.py's network", "loss": "the loss's source", "optimizer": "the optimiser's source"}
DEVICE = {"use_cuda", "threads", "tune_cpu"}  # these change how sums are rounded, and what dropout drops


@dataclass
class Progress:
    """How far a run has come.

    epoch : int, the current epoch, from 1
    num_steps, predictions : int, how many of this epoch are done
    seconds : float, the time that they took
    loss_sum : float, the sum of the loss over these predictions
    recent : list of float, losses of the steps since the last log line
    best : dict or None, the best epoch by validation: epoch, watched, value
    processes : int, how many train; a step is of so many times --batch_size sessions
    """

    epoch: int = 1
    num_steps: int = 0
    predictions: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    recent: list = field(default_factory=list)
    best: dict = None
    processes: int = 1

    as_dict = asdict


def find_checkpoint(model_dir, config):
    """The directory to resume from: last/ if it is ahead of the last finished epoch, else the epoch's; or None.

    Raises InputError if `config`, the config.json of the new run, has other data or settings, or where something was
    saved that can't be read: the run would begin anew, over what is left of it.
    """
    then = checkpoint.read_config(model_dir)
    upkeep.clean_up(model_dir)
    if unreadable := upkeep.unreadable(model_dir):
        names = ", ".join(path.name for path in unreadable)
        raise InputError(f"--resume 1: found {names} in {model_dir} without a {checkpoint.STATE}, expected checkpoints "
                         "that can be read; remove what is damaged, or the whole run with --overwrite 1")
    finished, last = checkpoint.finished_epochs(model_dir), model_dir / checkpoint.LAST
    newest = checkpoint.epoch_directory(model_dir, finished[-1]) if finished else None
    if (last / checkpoint.STATE).exists() and (not finished or read_progress(last).epoch > finished[-1]):
        newest = last
    if newest:
        require_same_run(model_dir, then, json.loads(json.dumps(config)))
    return newest


def read_progress(directory):
    """The Progress of the run whose checkpoint is in `directory`."""
    state = checkpoint.read_state(directory)
    try:
        if directory.name != checkpoint.LAST:
            return Progress(epoch=state["epoch"] + 1, best=state["best"])
        progress = Progress(**state["progress"])
        counts = [progress.epoch - 1, progress.num_steps, progress.predictions, progress.seconds,
                  progress.processes - 1]
        if not (min(counts) >= 0 and all(map(math.isfinite, [*counts, progress.loss_sum, *progress.recent]))):
            raise ValueError
        return progress
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{directory / checkpoint.STATE}: found no state to resume from, expected what a training "
                         "with --resume writes; older runs lack it") from None


def batches_after(batches, progress, skip):
    """Those of `batches` that hold predictions after as many as `progress` counts, which then counts the others."""
    done, skipped, steps = progress.predictions, 0, 0
    for batch in batches:
        if skipped + len(batch.targets) > done:
            batches = chain([batch], batches)
            break
        skip(batch)
        skipped, steps = skipped + len(batch.targets), steps + 1
    progress.loss_sum *= skipped / done
    progress.num_steps, progress.predictions, progress.recent = steps, skipped, []
    return batches


def require_same_run(model_dir, then, now):
    """Raise InputError if the config.json `now` has other data or settings than `then`, that of the run in `model_dir`.

    For other versions and devices there is a warning: the figures may then differ from those of an uninterrupted run.
    """
    try:
        found = differences(then, now)
        elsewhere = _changed(then["versions"], now["versions"])
        elsewhere += _changed(*({name: run["options"][name] for name in DEVICE} for run in (then, now)))
        elsewhere += _changed({"processes": then.get("processes", 1)}, {"processes": now.get("processes", 1)})
        elsewhere += _changed({"net.py": then.get("net_sha256", now["net_sha256"])}, {"net.py": now["net_sha256"]})
        elsewhere += _changed(then.get("computed_by", now.get("computed_by")) or {}, now.get("computed_by") or {})
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{model_dir / 'config.json'}: found no complete settings of a run, "
                         "expected those of train.py") from None
    if found:
        raise InputError(f"--resume 1: found other data or settings than the run in {model_dir}: {', '.join(found)}; "
                         "expected the same")
    if elsewhere:
        warn(f"resumed where things differ ({', '.join(elsewhere)}): figures may differ from those of an uninterrupted "
             "run")


def differences(then, now):
    """The settings and data that make two runs' config.json train differently: a list of str, as `_changed` returns."""
    if then["script"] != now["script"]:
        return [f"{now['script']} (the run: {then['script']})"]
    options = [LATER | run["options"] for run in (then, now)]
    compared = [{f"--{name}": value for name, value in of_run.items() if name not in FREE | DEVICE}
                for of_run in options]
    models = ({"--init_from": (run.get("init_from") or {}).get("weights_sha256")} for run in (then, now))
    networks = ({"net.py": "as it comes" if run.get("network_is_known", True) else "edited"} for run in (then, now))
    definitions = [{DEFINED_IN[part]: value for part, value in run["definitions"].items()}
                   for run in (then, now) if "definitions" in run]  # older runs lack them
    found = _changed(*networks)
    if not found and len(definitions) == 2:
        found = _changed(*definitions)
    return found + _changed(*models) + _changed(*compared) + _changed(then["data"], now["data"])


def _changed(then, now):
    """The names whose values differ in two dicts, with both values: a list of str."""
    return [f"{name} {_shown(now.get(name))} (the run: {_shown(then.get(name))})"
            for name in {**then, **now} if then.get(name) != now.get(name)]


def _shown(value):
    """A value as on a command line; only the first digits of checksums."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)[:12] + "..." if len(str(value)) == 64 else str(value)
