"""Stopping a run and going on with it: how far it has come, one run a model directory, the same settings again."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from utils import checkpoint
from utils.files import InputError
from utils.options import STOPPED
from utils.runlog import warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Flags that a run may go on with otherwise: where things lie (the data's checksums are compared), what is shown and kept.
FREE = {"model_dir", "train_dir", "valid_dir", "vocab_path", "config", "overwrite", "resume", "save_seconds", "keep", "patience",
        "print_batch", "tensorboard", "visualdl", "is_local"}
DEVICE = {"use_cuda", "threads", "tune_cpu"}  # these change how sums are rounded, and which clicks dropout hits


@dataclass
class Progress:
    """How far a run has come.

    epoch : int, the epoch that runs, from 1
    num_steps, predictions : int, of it, done so far
    seconds : float, that they took
    loss_sum : float, over these predictions
    recent : list of float, losses of the steps since the last log line
    best : dict or None, of the best epoch by validation: epoch, watched, value
    """

    epoch: int = 1
    num_steps: int = 0
    predictions: int = 0
    seconds: float = 0.0
    loss_sum: float = 0.0
    recent: list = field(default_factory=list)
    best: dict = None

    as_dict = asdict


def find_checkpoint(model_dir, config):
    """The directory to resume from: last/ where it is further than the last finished epoch; None where there is neither.

    Raises InputError where `config`, the config.json of the run to be, has other data or settings.
    """
    then = checkpoint.read_config(model_dir)
    checkpoint.clean_up(model_dir)
    finished, last = checkpoint.finished_epochs(model_dir), model_dir / checkpoint.LAST
    newest = checkpoint.epoch_directory(model_dir, finished[-1]) if finished else None
    if (last / checkpoint.STATE).exists() and (not finished or read_progress(last).epoch > finished[-1]):
        newest = last
    if newest:
        require_same_run(model_dir, then, json.loads(json.dumps(config)))
    return newest


def read_progress(directory):
    """The Progress of the run whose checkpoint lies in `directory`."""
    state = checkpoint.read_state(directory)
    try:
        if directory.name == checkpoint.LAST:
            return Progress(**state["progress"])
        return Progress(epoch=int(state["epoch"]) + 1, best=state["best"])
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{directory / checkpoint.STATE}: found no state to resume from, expected what a training with --resume "
                         "writes; older runs lack it") from None


@contextmanager
def hold_directory(model_dir):
    """Make the directory where it is missing, and keep every other run out of it until the block or the process ends.

    The lock is the system's, on the directory itself: it leaves no file, and none after a crash.
    """
    if model_dir.exists() and not model_dir.is_dir():
        raise InputError(f"--model_dir: found the file {model_dir}, expected a directory or nothing")
    model_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(model_dir, os.O_RDONLY) if fcntl else None
    try:
        if fcntl:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"--model_dir: found another run at work in {model_dir}, expected none; wait for it or name "
                                 "another directory") from None
            except OSError as error:  # some network file systems have no locks
                warn(f"{model_dir}: can't be locked ({error.strerror}); see to it yourself that no other run writes there")
        yield
    finally:
        if fcntl:
            os.close(descriptor)


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

    def raise_stop(self):
        """What the signal that was held back would have done."""
        self.release()
        self.before[self.received](self.received, None)

    def _hold(self, number, frame):
        if self.received:
            self.release()
            self.before[number](number, frame)
        self.received = number


def require_same_run(model_dir, then, now):
    """Raise InputError where one config.json, `now`, has other data or settings than that of the run in `model_dir`, `then`.

    Other versions and devices get a warning: the figures may then differ from those of one uninterrupted run.
    """
    try:
        found = differences(then, now)
        elsewhere = _changed(then["versions"], now["versions"])
        elsewhere += _changed(*({name: run["options"][name] for name in DEVICE} for run in (then, now)))
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{model_dir / 'config.json'}: found no complete settings of a run, expected those of train.py") from None
    if found:
        raise InputError(f"--resume 1: found other data or settings than the run in {model_dir}: {', '.join(found)}; "
                         "expected the same")
    if elsewhere:
        warn(f"resumed where things differ ({', '.join(elsewhere)}): figures may differ from those of an uninterrupted run")


def differences(then, now):
    """What makes two runs' config.json train otherwise, a list of str that name it, its value and the earlier one."""
    if then["script"] != now["script"]:
        return [f"{now['script']} (the run: {then['script']})"]
    compared = [{f"--{name}": value for name, value in run["options"].items() if name not in FREE | DEVICE} for run in (then, now)]
    return _changed(*compared) + _changed(then["data"], now["data"])


def _changed(then, now):
    """Of two dicts, the names whose values differ, with both values: a list of str."""
    return [f"{name} {_shown(now.get(name))} (the run: {_shown(then.get(name))})"
            for name in {**then, **now} if then.get(name) != now.get(name)]


def _shown(value):
    """A value as on a command line; checksums by their first digits."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)[:12] + "..." if len(str(value)) == 64 else str(value)


def commit():
    """The repository's commit, with -dirty where files were changed since; None where there is none, or no git."""
    command = ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
