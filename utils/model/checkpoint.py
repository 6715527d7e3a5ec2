"""The model directory: written so that a crash at any moment leaves every finished epoch usable, read without pickle.

    config.json             settings, versions and data of the run
    vocab.txt               the items that the model knows
    metrics.jsonl           one record per line, appended
    epoch_N/                model.safetensors, optimizer.safetensors, and written last state.json
    last/                   the same for the latest point within an epoch, to resume a stopped run from
    tensorboard/ visualdl/  the records for these programs, if the user asked for them
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from utils.files import InputError, sync_directory, write_atomically

FORMAT = "gru4rec-paddle-1"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
LAST, LAST_BEFORE = "last", ".last.before"  # the second exists only while the first is being replaced
LEFT_BY_A_CRASH = ".epoch_*.tmp", ".last.*.tmp", ".config.json.*.tmp", ".vocab.txt.*.tmp"
EVENT_DIRECTORIES = "tensorboard", "visualdl"


def start_run(model_dir, config, vocab_path, overwrite):
    """Make `model_dir` ready for a new run: its config.json and vocab.txt, and no epoch.

    Parameters
    ----------
    model_dir : Path
    config : dict
        Written to config.json.
    vocab_path : Path
    overwrite : bool
        Delete the run that is already there.

    Raises
    ------
    InputError
        There is a run already and `overwrite` is false; or there is something that this project did not write, which is
        never deleted.
    """
    if (model_dir / "config.json").exists():
        read_config(model_dir)
    else:
        for path in [model_dir / "vocab.txt", *sorted(model_dir.glob("epoch_*"))]:
            if path.exists():
                raise InputError(f"--model_dir: found {path.name} in {model_dir} that no training of this project put "
                                 "there, expected an empty directory, a model directory, or none")
    clean_up(model_dir)
    if holds_run(model_dir) and not overwrite:
        raise InputError(f"--model_dir: found another run in {model_dir}, expected none; name another directory, "
                         "continue that run with --resume 1, or delete it with --overwrite 1")
    for directory in [epoch_directory(model_dir, epoch) for epoch in finished_epochs(model_dir)] + [model_dir / LAST]:
        (directory / STATE).unlink(missing_ok=True)  # first, so that no crash leaves a valid mixture
    for left in [*model_dir.glob("epoch_*"), *(model_dir / name for name in (LAST, *EVENT_DIRECTORIES))]:
        if left.is_dir():
            shutil.rmtree(left)
    (model_dir / "metrics.jsonl").unlink(missing_ok=True)
    with write_atomically(model_dir / "config.json") as file:
        json.dump({"format": FORMAT, **config}, file, indent=1)
    with write_atomically(model_dir / "vocab.txt", "wb") as file:
        file.write(Path(vocab_path).read_bytes())


def read_config(model_dir):
    """config.json of a model directory, a dict; InputError if there is none that this project wrote."""
    path = Path(model_dir) / "config.json"
    config = _read_json(path, "--model_dir", "a model directory with a config.json, as train.py writes")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{path}: found another format, expected {FORMAT!r}")
    return config


def epoch_directory(model_dir, epoch):
    return Path(model_dir) / f"epoch_{epoch}"


def holds_run(model_dir):
    """Whether a run saved an epoch or last/ there."""
    return bool(finished_epochs(model_dir)) or (Path(model_dir) / LAST / STATE).exists()


def clean_up(model_dir):
    """Remove what a run left behind that was killed while writing, and restore last/ if it was being replaced."""
    for left in (path for pattern in LEFT_BY_A_CRASH for path in model_dir.glob(pattern)):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    before = model_dir / LAST_BEFORE
    if before.exists() and not (model_dir / LAST).exists():
        before.rename(model_dir / LAST)
    shutil.rmtree(before, ignore_errors=True)


def finished_epochs(model_dir):
    """The numbers of the complete epochs, ascending."""
    found = [path.parent.name.removeprefix("epoch_") for path in Path(model_dir).glob(f"epoch_*/{STATE}")]
    return sorted(int(number) for number in found if number.isdecimal())


def best_epoch(model_dir):
    """The best epoch by validation, according to the newest epoch's state.json; None without validation.

    Raises InputError if that epoch isn't there.
    """
    finished = finished_epochs(model_dir)
    best = read_state(epoch_directory(model_dir, finished[-1])).get("best") if finished else None
    if best is None:
        return None
    if not isinstance(best, dict) or best.get("epoch") not in finished:
        raise InputError(f"--model_dir: found no finished epoch in {model_dir} that is the best by validation "
                         f"according to the state.json of epoch_{finished[-1]}, expected one, or the number of another "
                         f"(epochs there: {', '.join(map(str, finished))})")
    return best["epoch"]


def keep_epochs(model_dir, newest, best):
    """Remove all epochs except the `newest` ones (how many) and the `best` one (its number or None)."""
    for epoch in finished_epochs(model_dir)[:-newest]:
        if epoch != best:
            gone = epoch_directory(model_dir, epoch)
            gone = gone.rename(gone.with_name(f".{gone.name}.gone.tmp"))  # so the epoch disappears in one step
            shutil.rmtree(gone)


def save_epoch(model_dir, epoch, weights, optimizer_state, state):
    """Write epoch_N in one step: it appears whole or not at all.

    Parameters
    ----------
    model_dir : Path
    epoch : int
    weights : dict of str to float32 arrays
    optimizer_state : dict of str to arrays
    state : dict
        Written to state.json, with the files' sizes and checksums.
    """
    _save(epoch_directory(model_dir, epoch), weights, optimizer_state, {"epoch": epoch, **state})


def save_last(model_dir, weights, optimizer_state, state):
    """Write last/ as `save_epoch` writes an epoch; at every moment the previous or the new one is there, complete."""
    _save(model_dir / LAST, weights, optimizer_state, state)


def remove_last(model_dir):
    """Remove last/, which a finished epoch has made obsolete."""
    if (model_dir / LAST).exists():
        (model_dir / LAST / STATE).unlink(missing_ok=True)
        shutil.rmtree(model_dir / LAST)


def _save(target, weights, optimizer_state, state):
    model_dir = target.parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=model_dir))
    try:
        contents = {MODEL: save(weights), OPTIMIZER: save(optimizer_state)}
        files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                 for name, data in contents.items()}
        contents[STATE] = json.dumps({**state, "files": files}, indent=1).encode()
        for name, data in contents.items():
            with write_atomically(temporary / name, "wb") as file:
                file.write(data)
        os.chmod(temporary, 0o777 & ~_umask_of(model_dir))
        if target.name == LAST and target.exists():
            target.rename(model_dir / LAST_BEFORE)
        os.rename(temporary, target)
        shutil.rmtree(model_dir / LAST_BEFORE, ignore_errors=True)
        sync_directory(model_dir)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            error.filename = str(target)  # not the temporary directory, which is gone
        raise


def load_weights(model_dir, epoch, shapes):
    """The weights of a finished epoch, checked against its state.json and against the network.

    Parameters
    ----------
    model_dir : Path
    epoch : int
    shapes : dict of str to list of int
        The shape of every weight in the network.

    Returns
    -------
    dict of str to float32 arrays

    Raises
    ------
    InputError
        A file is missing, truncated, changed, not in the safetensors format, or not for this network.
    """
    return _load_weights(epoch_directory(model_dir, epoch), shapes)


def load_checkpoint(directory, shapes):
    """What `save_epoch` or `save_last` wrote to a directory, checked as in `load_weights`.

    Returns
    -------
    weights : dict of str to float32 arrays
    optimizer_state : dict of str to arrays
    state : dict
    """
    state = read_state(directory)
    return _load_weights(directory, shapes), _load_arrays(directory, OPTIMIZER, state), state


def read_state(directory):
    """state.json in the directory of a checkpoint, a dict."""
    state = _read_json(directory / STATE, str(directory), "a finished epoch")
    if not isinstance(state, dict):
        raise InputError(f"{directory / STATE}: found no JSON object, expected what train.py writes")
    return state


def _load_weights(directory, shapes):
    weights = _load_arrays(directory, MODEL, read_state(directory))
    found = {name: (values.dtype.name, list(values.shape)) for name, values in weights.items()}
    if found != {name: ("float32", shape) for name, shape in shapes.items()}:
        raise InputError(f"{directory / MODEL}: found weights of the types and shapes {found}, "
                         f"expected float32 of the shapes {shapes} from config.json and vocab.txt")
    return weights


def _load_arrays(directory, name, state):
    """The arrays of a safetensors file by name; InputError if the file's size or checksum is not that of state.json."""
    path = directory / name
    try:
        expected = state["files"][name]
        expected_bytes, expected_sum = expected["bytes"], expected["sha256"]
    except (KeyError, TypeError):
        raise InputError(f"{directory / STATE}: found no checksum of {name}, expected one") from None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: found no file, expected the arrays of {directory.name}") from None
    if len(data) != expected_bytes or hashlib.sha256(data).hexdigest() != expected_sum:
        raise InputError(f"{path}: found {len(data)} bytes that don't match {STATE}, expected {expected_bytes} bytes "
                         f"with SHA-256 {expected_sum[:12]}...; the file was truncated or changed")
    try:
        return _arrays_in(data, path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: found no safetensors file ({error}), expected one") from None


def _arrays_in(data, path):
    """The arrays by name in `data`, the bytes of the safetensors file `path`; they share its memory and are read-only.

    The library itself would copy them, and other threads would have to wait: several seconds for gigabytes, in which a
    server that loads a new model could not answer. Here the library only reads the header. The arrays fill the end of
    the file without gaps.
    """
    with safe_open(path, framework="numpy") as file:
        headers = [(name, file.get_slice(name)) for name in file.offset_keys()]
        kinds = [(name, part.get_shape(), _dtype(part.get_dtype())) for name, part in headers]
    start = len(data) - sum(math.prod(shape) * dtype.itemsize for _, shape, dtype in kinds)
    arrays = {}
    for name, shape, dtype in kinds:
        arrays[name] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
        start += arrays[name].nbytes
    return arrays


def _dtype(name):
    """The NumPy type for a type of safetensors: F32, I64, BOOL and so on."""
    return np.dtype(bool if name == "BOOL" else f"{name[0].lower()}{int(name[1:]) // 8}")


def _read_json(path, flag, expected):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{flag}: found no file {path}, expected {expected}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: found no valid JSON, expected {expected}") from None


def _umask_of(directory):
    """The permission bits that `directory` doesn't have: an epoch is as readable as the directory that it is in."""
    return 0o777 & ~directory.stat().st_mode
