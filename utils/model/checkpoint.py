"""The model directory: written so that a crash at any moment leaves every finished epoch usable, read without pickle.

    config.json             settings, versions and data of the run
    net.py                  the one that trained it, where it was edited: a record, which nothing runs
    vocab.txt               the items that the model knows
    popular.json            what was clicked most lately (popular.py)
    epoch_1/model_N/        in a directory of joined models each of them, in this same form (joined.py)
    neighbours.safetensors  the sessions of a memory of neighbours, if there is one (neighbours_file.py)
    metrics.jsonl           one record per line, appended
    epoch_N/                model.safetensors, optimizer.safetensors, and written last state.json
    last/                   the same for the latest point within an epoch, to resume a stopped run from
    tensorboard/ visualdl/  the records for these programs, if the user asked for them

config.json, popular.json and state.json each carry a checksum of their own, and state.json those of the arrays. Runs of
older versions lack the first. config.json also has the checksum of neighbours.safetensors.
"""

import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from safetensors.numpy import save

from utils.data.arrays import arrays_in
from utils.files import InputError, open_file, sync_directory, write_atomically
from utils.memory import own_room
from utils.model.checked_json import json_text, read_json, require_kinds

FORMAT = "gru4rec-paddle-1"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
NEIGHBOURS = "neighbours.safetensors"
LAST, LAST_BEFORE = "last", ".last.before"  # the second exists only while the first is being replaced
CONFIG_KINDS = {"data": dict, "options": dict, "versions": dict, "script": str, "net_sha256": str, "loss": str,
                "loss_is_sampled": bool, "merged": list, "joined": dict, "neighbours": dict, "fit": dict,
                "definitions": dict, "computed_by": dict}
STATE_KINDS = {"epoch": int, "files": dict, "progress": dict, "best": (dict, type(None))}
NUMBER = int, float
BEST_KINDS = {"epoch": int, "watched": str, "value": NUMBER}
PROGRESS_KINDS = {"epoch": int, "num_steps": int, "predictions": int, "seconds": NUMBER, "loss_sum": NUMBER,
                  "recent": list, "best": (dict, type(None)), "processes": int}
FILE_KINDS = {"bytes": int, "sha256": str}
LARGEST = 1e15  # products of weights below it stay finite in float32, so states and scores are never NaN


class OtherWeights(InputError):
    """A file has other weights than the network.

    difference : str, in what
    """

    def __init__(self, path, difference):
        super().__init__(f"{path}: {difference}, as config.json and vocab.txt say")
        self.difference = difference


class Weights(dict):
    """Weights by name, as read from a file; `checksum` is the SHA-256 of the bytes that were read."""

    checksum = ""


def read_config(model_dir):
    """config.json of a model directory, a dict; InputError if there is none that this project wrote."""
    path = Path(model_dir) / "config.json"
    config = read_json(path, "--model_dir", "a model directory with a config.json, as train.py writes")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise InputError(f"{path}: found another format, expected {FORMAT!r}")
    require_kinds(path, config, CONFIG_KINDS)
    return config


def epoch_directory(model_dir, epoch):
    return Path(model_dir) / f"epoch_{epoch}"


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
    if best.get("epoch") not in finished:
        raise InputError(f"--model_dir: found no finished epoch in {model_dir} that is the best by validation "
                         f"according to the state.json of epoch_{finished[-1]}, expected one, or the number of another "
                         f"(epochs there: {', '.join(map(str, finished))})")
    return best["epoch"]


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


def _save(target, weights, optimizer_state, state):
    contents = {MODEL: save(weights), OPTIMIZER: save(optimizer_state)}
    with _appearing(target) as directory:
        _write_files(directory, contents, state)


@contextmanager
def joined_epoch(model_dir):
    """Yield a directory to put joined models in; at the end of the block it becomes epoch_1, in one step."""
    with _appearing(epoch_directory(model_dir, 1)) as directory:
        yield directory
        _write_files(directory, {}, {"epoch": 1})


def _write_files(directory, contents, state):
    """Write a dict of bytes by file name, and last state.json with their sizes and checksums."""
    files = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    for name, data in [*contents.items(), (STATE, json_text({**state, "files": files}).encode())]:
        with write_atomically(directory / name, "wb") as file:
            file.write(data)


@contextmanager
def _appearing(target):
    """Yield a temporary directory that takes the name of an epoch, or of last/, when the block ends well."""
    model_dir = target.parent
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=model_dir))
    try:
        yield temporary
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


def load_weights(model_dir, epoch, shapes, room=own_room, key="", finish=lambda weights: None):
    """The weights of a finished epoch, checked against its state.json and against the network.

    Parameters
    ----------
    model_dir : Path
    epoch : int
    shapes : dict of str to list of int
        The shape of every weight in the network.
    room : function
        As `memory.own_room`: where the weights will lie.
    key, finish : str, function
        Called with the weights once they are read and checked. It may change them in place, by what `key` says.

    Returns
    -------
    Weights
        float32 arrays.

    Raises
    ------
    InputError
        A file is missing, truncated, changed, not in the safetensors format, or not for this network.
    """
    return _load_weights(epoch_directory(model_dir, epoch), shapes, room, key, finish)


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
    path = directory / STATE
    state = read_json(path, str(directory), "a finished epoch")
    if not isinstance(state, dict):
        raise InputError(f"{path}: found no JSON object, expected what train.py writes")
    require_kinds(path, state, STATE_KINDS)
    progress = state.get("progress", {})
    require_kinds(path, progress, PROGRESS_KINDS)
    for best in state.get("best"), progress.get("best"):
        require_kinds(path, best or {}, BEST_KINDS)
    for file in state.get("files", {}).values():
        require_kinds(path, {"files": file}, {"files": dict})
        require_kinds(path, file, FILE_KINDS)
    return state


def load_any_weights(model_dir, epoch):
    """As `load_weights`, for a network whose shapes nobody needs to know."""
    return _read_weights(epoch_directory(model_dir, epoch))


def _read_weights(directory, *how):
    state = read_state(directory)
    weights = Weights(_load_arrays(directory, MODEL, state, *how))
    weights.checksum = state["files"][MODEL]["sha256"]  # that of the bytes, or they would have been refused
    return weights


def _load_weights(directory, shapes, room=own_room, key="", finish=lambda weights: None):
    def require_shapes(weights):
        found = {name: f"{values.dtype.name} {list(values.shape)}" for name, values in weights.items()}
        expected = {name: f"float32 {list(shape)}" for name, shape in shapes.items()}
        if found != expected:
            raise OtherWeights(directory / MODEL, _first_difference(found, expected))
        finish(weights)
    return _read_weights(directory, room, f"{key} {shapes}", require_shapes)


def _first_difference(found, expected):
    """The first of the weights that differ in two dicts of texts by name, and how many more there are."""
    names = [name for name in expected | found if found.get(name) != expected.get(name)]
    more = f", and {len(names) - 1} more that differ" if len(names) > 1 else ""
    return f"found {found.get(names[0], 'no')} {names[0]}, expected {expected.get(names[0], 'none')}{more}"


def _load_arrays(directory, name, state, room=own_room, key="", finish=lambda arrays: None):
    """The arrays of a safetensors file by name; InputError if the file's size or checksum is not that of state.json."""
    path = directory / name
    try:
        expected_bytes, expected_sum = (state["files"][name][what] for what in ("bytes", "sha256"))
    except (KeyError, TypeError):
        raise InputError(f"{directory / STATE}: found no checksum of {name}, expected one") from None
    with open_file(path, str(directory), f"the arrays of {directory.name}") as file:
        size = os.fstat(file.fileno()).st_size
        changed = InputError(f"{path}: found {size} bytes that don't match {STATE}, expected {expected_bytes} bytes "
                             f"with SHA-256 {str(expected_sum)[:12]}...; the file was truncated or changed")
        if size != expected_bytes:
            raise changed

        def fill(data):
            if file.readinto(data) != size or hashlib.sha256(data).hexdigest() != expected_sum:
                raise changed
            finish(_arrays_in(data, path))
        return _arrays_in(room(f"{expected_sum} {key}", size, fill, f"{path}: found {size} bytes"), path)


def _arrays_in(data, path):
    try:
        return arrays_in(data)[0]
    except ValueError as error:
        raise InputError(f"{path}: found no safetensors file ({error}), expected one") from None


def require_moderate(weights, directory):
    """InputError where a weight of an epoch, a dict of arrays by name, is LARGEST or more, or no number."""
    for name, values in weights.items():
        if not max(values.max(), -values.min()) < LARGEST:
            raise InputError(f"{directory / MODEL}: found weights from {values.min():g} to {values.max():g} in {name}, "
                             "expected a model that was trained without overflow")


def require_optimizer_of(directory, arrays, shapes):
    """InputError unless what an optimiser keeps of the weights, by `weight.kind`, has the types and shapes of these.

    C++ goes through both at once. What an optimiser or an engine keeps besides, under other names, is left to it.
    """
    for key, values in arrays.items():
        expected = shapes.get(key.rpartition(".")[0])
        if expected is not None and (values.dtype.name, list(values.shape)) != ("float32", expected):
            raise InputError(f"{directory / OPTIMIZER}: found {values.dtype.name} {list(values.shape)} for {key}, "
                             f"expected float32 {expected}")


def _umask_of(directory):
    """The permission bits that `directory` doesn't have: an epoch is as readable as the directory that it is in."""
    return 0o777 & ~directory.stat().st_mode
