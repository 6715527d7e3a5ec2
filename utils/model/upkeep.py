"""The upkeep of a model directory: a run begins in it and keeps others out, and what nobody needs any more goes."""

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.files import InputError, write_atomically
from utils.memory import read_bytes
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.directory import NET
from utils.model.popular import POPULAR
from utils.runlog import warn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LEFT_BY_A_CRASH = (".epoch_*.tmp", ".last.*.tmp", ".config.json.*.tmp", ".vocab.txt.*.tmp", ".popular.json.*.tmp",
                   f".{NET.name}.*.tmp", f".{checkpoint.NEIGHBOURS}.*.tmp")
EVENT_DIRECTORIES = "tensorboard", "visualdl"


def require_room(model_dir, overwrite):
    """Raise InputError where a new run may not begin in `model_dir`, as `start_run` does."""
    if (model_dir / "config.json").exists():
        checkpoint.read_config(model_dir)
    else:
        for path in [model_dir / "vocab.txt", model_dir / NET.name, *sorted(model_dir.glob("epoch_*"))]:
            if path.exists():
                raise InputError(f"--model_dir: found {path.name} in {model_dir} that no training of this project put "
                                 "there, expected an empty directory, a model directory, or none")
    if model_dir.resolve() == NET.parent:
        raise InputError(f"--model_dir: found {model_dir}, where net.py is, expected another directory")
    clean_up(model_dir)
    require_no_run(model_dir, overwrite)


def require_no_run(model_dir, overwrite):
    """Raise InputError where `model_dir` holds a run, unless that may be overwritten."""
    if holds_run(model_dir) and not overwrite:
        raise InputError(f"--model_dir: found another run in {model_dir}, expected none; name another directory, "
                         "continue that run with --resume 1, or delete it with --overwrite 1")


def start_run(model_dir, config, vocab_path, overwrite, popular=None, net=None):
    """Make `model_dir` ready for a new run: its config.json, vocab.txt, popular.json and net.py, and no epoch.

    Parameters
    ----------
    model_dir : Path
    config : dict
        Written to config.json.
    vocab_path : Path
    overwrite : bool
        Delete the run that is already there.
    popular : dict, optional
        Written to popular.json.
    net : Path, optional
        The net.py to keep a copy of.

    Raises
    ------
    InputError
        There is a run already and `overwrite` is false; or there is something that this project did not write, which is
        never deleted.
    """
    require_room(model_dir, overwrite)
    _remove_checkpoints(model_dir)
    for name in ("metrics.jsonl", POPULAR, checkpoint.NEIGHBOURS, NET.name):
        (model_dir / name).unlink(missing_ok=True)
    write_json(model_dir / "config.json", {"format": checkpoint.FORMAT, **config})
    with write_atomically(model_dir / "vocab.txt", "wb") as file:
        file.write(read_bytes(vocab_path, "--vocab_path"))
    if popular:
        write_json(model_dir / POPULAR, popular)
    if net:
        with write_atomically(model_dir / NET.name, "wb") as file:
            file.write(net.read_bytes())


def discard_run(model_dir):
    """Remove what a run wrote that came to no checkpoint, and the directory unless other files are in it."""
    clean_up(model_dir)
    _remove_checkpoints(model_dir)
    for name in ("metrics.jsonl", POPULAR, checkpoint.NEIGHBOURS, NET.name, "vocab.txt", "config.json"):
        (model_dir / name).unlink(missing_ok=True)
    if not any(model_dir.iterdir()):
        model_dir.rmdir()


def _remove_checkpoints(model_dir):
    """Remove all epochs, last/ and event files. At every moment, what is left of the run is whole."""
    for path in [*model_dir.glob("epoch_*"), model_dir / checkpoint.LAST]:
        if os.path.lexists(path):
            _remove(path)
    for path in (model_dir / name for name in EVENT_DIRECTORIES):
        if path.is_dir():
            shutil.rmtree(path)


def _remove(path):
    """Remove an epoch or last/, which disappears in one step."""
    _delete(path.rename(path.with_name(f".{path.name}.gone.tmp")))


def _delete(path):
    """Remove a directory with all that is in it, or a file or a link."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def holds_run(model_dir):
    """Whether a run saved an epoch or last/ there, be it damaged."""
    return bool(_epoch_directories(model_dir)) or (Path(model_dir) / checkpoint.LAST).exists()


def unreadable(model_dir):
    """The epochs, and last/, that have no state.json: a list of paths. No training leaves any, even if it is killed."""
    last = model_dir / checkpoint.LAST
    return [path for path in [*sorted(_epoch_directories(model_dir)), *[last] * last.exists()]
            if not (path / checkpoint.STATE).is_file()]


def _epoch_directories(model_dir):
    return [path for path in Path(model_dir).glob("epoch_*")
            if path.is_dir() and path.name.removeprefix("epoch_").isdecimal()]


def clean_up(model_dir):
    """Remove what a run left behind that was killed while writing, and restore last/ if it was being replaced.

    So last/ goes too where the epoch that made it obsolete is there.
    """
    for left in (path for pattern in LEFT_BY_A_CRASH for path in model_dir.glob(pattern)):
        _delete(left)
    before = model_dir / checkpoint.LAST_BEFORE
    if before.exists() and not (model_dir / checkpoint.LAST).exists():
        before.rename(model_dir / checkpoint.LAST)
    shutil.rmtree(before, ignore_errors=True)
    finished = checkpoint.finished_epochs(model_dir)
    if finished and (model_dir / checkpoint.LAST).exists():
        with suppress(InputError, KeyError):  # what can't be read is left to whoever wants to read it
            if 0 < checkpoint.read_state(model_dir / checkpoint.LAST)["progress"]["epoch"] <= finished[-1]:
                remove_last(model_dir)


def keep_epochs(model_dir, newest, best):
    """Remove all epochs except the `newest` ones (how many) and the `best` one (its number or None)."""
    for epoch in checkpoint.finished_epochs(model_dir)[:-newest]:
        if epoch != best:
            _remove(checkpoint.epoch_directory(model_dir, epoch))


def remove_last(model_dir):
    """Remove last/, which a finished epoch has made obsolete."""
    if os.path.lexists(model_dir / checkpoint.LAST):
        _remove(model_dir / checkpoint.LAST)


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
            if is_new and not holds_run(model_dir):
                discard_run(model_dir)
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
