"""Stopping and resuming a run: its progress, the lock on its directory, and the check that settings are the same."""

import json
import math
import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from utils.files import InputError
from utils.model import checkpoint
from utils.process import STOPPED
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
    checkpoint.clean_up(model_dir)
    if unreadable := checkpoint.unreadable(model_dir):
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


@contextmanager
def hold_directory(model_dir, flag="--model_dir"):
    """Create the directory if it is missing, and keep other runs out of it until the block or the process ends.

    The system locks the directory itself, so no lock file is left behind, not even after a crash. A directory that was
    created here goes again where the block raises before anything of use was saved in it.
    """
    if os.path.lexists(model_dir) and not model_dir.is_dir():
        raise InputError(f"{flag}: found the file {model_dir}, expected a directory or nothing")
    is_new = not model_dir.exists()
    descriptor = _locked(model_dir, flag)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            if is_new and not checkpoint.holds_run(model_dir):
                checkpoint.discard_run(model_dir)
        raise
    finally:
        if fcntl:
            os.close(descriptor)


def _locked(model_dir, flag):
    """A descriptor that locks the directory, which is created where it is missing; None where there are no locks."""
    model_dir.mkdir(parents=True, exist_ok=True)
    if not fcntl:
        return None
    descriptor = os.open(model_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_same = model_dir.exists() and os.path.samestat(os.fstat(descriptor), model_dir.stat())
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"{flag}: found another run at work in {model_dir}, expected none; wait for it or name "
                         "another directory") from None
    except OSError as error:  # some network file systems have no locks
        warn(f"{model_dir}: can't be locked ({error.strerror}); make sure yourself that no other run writes there")
        return descriptor
    if is_same:
        return descriptor
    os.close(descriptor)  # of a directory that another run removed as it ended
    return _locked(model_dir, flag)


class HeldSignals:
    """Within the block, Ctrl-C and SIGTERM wait until `raise_stop` is called; a second one comes through at once."""

    def __enter__(self):
        self.received, self.before = None, {}
        for number in STOPPED:
            if callable(signal.getsignal(number)):
                self.before[number] = signal.signal(number, self._hold)
        return self

    def __exit__(self, *_):
        self.release()

    def release(self):
        """Let signals through from now on."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hold(self):
        """Hold them back again after `release`."""
        for number in self.before:
            signal.signal(number, self._hold)

    def raise_stop(self, number=None):
        """Do now what the signal that was held back would have done, or one that another process received."""
        self.release()
        number = number or self.received
        if number in self.before:
            self.before[number](number, None)
        raise KeyboardInterrupt  # a background job ignores Ctrl-C; another process didn't

    def _hold(self, number, frame):
        if self.received:
            self.release()
            self.before[number](number, frame)
        self.received = number


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
    return _changed(*networks) + _changed(*models) + _changed(*compared) + _changed(then["data"], now["data"])


def _changed(then, now):
    """The names whose values differ in two dicts, with both values: a list of str."""
    return [f"{name} {_shown(now.get(name))} (the run: {_shown(then.get(name))})"
            for name in {**then, **now} if then.get(name) != now.get(name)]


def _shown(value):
    """A value as on a command line; only the first digits of checksums."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)[:12] + "..." if len(str(value)) == 64 else str(value)


def commit():
    """The repository's commit, with -dirty if files have changed since; None without a repository or git."""
    command = ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
