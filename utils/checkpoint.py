"""The model directory: written so that a crash at any moment leaves every finished epoch usable, read without pickle.

    config.json             settings, versions and data of the run
    vocab.txt               the items that the model knows
    metrics.jsonl           one record a line, appended
    epoch_N/                model.safetensors, optimizer.safetensors, and last of all state.json
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load, save

from utils.files import InputError, sync_directory, write_atomically

FORMAT = "gru4rec-paddle-1"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def start_run(model_dir, config, vocab_path, overwrite):
    """Make `model_dir` ready for a new run: its config.json and vocab.txt, and no epoch.

    Parameters
    ----------
    model_dir : Path
    config : dict
        Goes to config.json.
    vocab_path : Path
    overwrite : bool
        Delete the run that is there.

    Raises
    ------
    InputError
        There is a run already and `overwrite` is false, or what is there is no run of ours: that is never deleted.
    """
    if model_dir.exists() and not model_dir.is_dir():
        raise InputError(f"--model_dir: found the file {model_dir}, expected a directory or nothing")
    if (model_dir / "config.json").exists():
        read_config(model_dir)
    else:
        for path in [model_dir / "vocab.txt", *sorted(model_dir.glob("epoch_*"))]:
            if path.exists():
                raise InputError(f"--model_dir: found {path.name} in {model_dir} that no training of this project put there, "
                                 "expected an empty directory, a model directory, or none")
    if finished_epochs(model_dir) and not overwrite:
        raise InputError(f"--model_dir: found the epochs of another run in {model_dir}, expected none; "
                         "name another directory, or delete that run with --overwrite 1")
    for epoch in finished_epochs(model_dir):  # first what makes an epoch count, so that a crash leaves no mixture
        (epoch_directory(model_dir, epoch) / STATE).unlink()
    for left in [*model_dir.glob("epoch_*"), *model_dir.glob(".epoch_*.tmp")]:
        shutil.rmtree(left)
    (model_dir / "metrics.jsonl").unlink(missing_ok=True)
    with write_atomically(model_dir / "config.json") as file:
        json.dump({"format": FORMAT, **config}, file, indent=1)
    with write_atomically(model_dir / "vocab.txt", "wb") as file:
        file.write(Path(vocab_path).read_bytes())


def read_config(model_dir):
    """config.json of a model directory, or an InputError where there is none of ours."""
    path = Path(model_dir) / "config.json"
    config = _read_json(path, "--model_dir", "a model directory with a config.json, as train.py writes")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{path}: found another format, expected {FORMAT!r}")
    return config


def epoch_directory(model_dir, epoch):
    return Path(model_dir) / f"epoch_{epoch}"


def finished_epochs(model_dir):
    """Numbers of the epochs that are there whole, ascending."""
    found = [path.parent.name.removeprefix("epoch_") for path in Path(model_dir).glob(f"epoch_*/{STATE}")]
    return sorted(int(number) for number in found if number.isdecimal())


def save_epoch(model_dir, epoch, weights, optimizer_state, state):
    """Write epoch_N in one step: it appears whole or not at all.

    Parameters
    ----------
    model_dir : Path
    epoch : int
    weights, optimizer_state : dict of str to float32 arrays
    state : dict
        Goes to state.json, beside the files' sizes and checksums.
    """
    target = epoch_directory(model_dir, epoch)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=model_dir))
    try:
        contents = {MODEL: save(weights), OPTIMIZER: save(optimizer_state)}
        files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
        contents[STATE] = json.dumps({"epoch": epoch, **state, "files": files}, indent=1).encode()
        for name, data in contents.items():
            with write_atomically(temporary / name, "wb") as file:
                file.write(data)
        os.chmod(temporary, 0o777 & ~_umask_of(model_dir))
        os.rename(temporary, target)
        sync_directory(model_dir)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            error.filename = str(target)  # not the temporary directory, which nobody will find
        raise


def load_weights(model_dir, epoch, shapes):
    """The weights of a finished epoch, checked against its state.json and against the network.

    Parameters
    ----------
    model_dir : Path
    epoch : int
    shapes : dict of str to list of int
        Of every weight that the network has.

    Returns
    -------
    dict of str to float32 arrays

    Raises
    ------
    InputError
        A file is missing, truncated, changed, not safetensors, or not of this network.
    """
    directory = epoch_directory(model_dir, epoch)
    path = directory / MODEL
    state = _read_json(directory / STATE, str(directory), "a finished epoch")
    try:
        expected = state["files"][MODEL]
        expected_bytes, expected_sum = expected["bytes"], expected["sha256"]
    except (KeyError, TypeError):
        raise InputError(f"{directory / STATE}: found no checksum of {MODEL}, expected one") from None
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: found no file, expected the weights of epoch {epoch}") from None
    if len(data) != expected_bytes or hashlib.sha256(data).hexdigest() != expected_sum:
        raise InputError(f"{path}: found {len(data)} bytes that don't match {STATE}, expected {expected_bytes} bytes "
                         f"with SHA-256 {expected_sum[:12]}...; the file was truncated or changed")
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{path}: found no safetensors file ({error}), expected one") from None
    found = {name: (values.dtype.name, list(values.shape)) for name, values in weights.items()}
    if found != {name: ("float32", shape) for name, shape in shapes.items()}:
        raise InputError(f"{path}: found weights of the types and shapes {found}, expected float32 of the shapes {shapes} "
                         "from config.json and vocab.txt")
    return weights


def _read_json(path, flag, expected):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{flag}: found no file {path}, expected {expected}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: found no valid JSON, expected {expected}") from None


def _umask_of(directory):
    """The permission bits that `directory` itself lacks: an epoch is as readable as the directory it stands in."""
    return 0o777 & ~directory.stat().st_mode
