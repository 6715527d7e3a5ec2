"""What a run begins with that goes on from another model (--init_from): what that one learnt of the items it knows."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.files import InputError
from utils.model import checkpoint
from utils.model.directory import blaming_net, choose_epoch, named_by, other_net, read_items, read_settings
from utils.model.layout import ITEM_MATRIX
from utils.model.neighbours_file import MEMORY
from utils.runlog import log, warn

GONE_NAMED = 5  # items that the log names
PAIRS_AT_ONCE = 1 << 16  # of a new item and a known one, whose rows are added up


@dataclass
class InitialModel:
    """A model to begin with, beside the vocabulary of the new run.

    epoch_dir : Path
    items : int, that it knows
    row_of : int64 [items of the new run], where in its matrices each of them is; -1 for new items
    gone : list of str, the items that the new run doesn't have
    weights_sha256 : str
    config : dict, its config.json
    """

    epoch_dir: Path
    items: int
    row_of: np.ndarray
    gone: list
    weights_sha256: str
    config: dict

    @property
    def is_known(self):
        """Which items of the new run the model knows, bool [items]."""
        return self.row_of >= 0

    def as_dict(self):
        """What config.json says of it."""
        known = int(self.is_known.sum())
        return {"epoch_dir": str(self.epoch_dir), "weights_sha256": self.weights_sha256, "known_items": known,
                "new_items": len(self.row_of) - known, "gone_items": len(self.gone)}


def network_of(model_dir):
    """The layout.NetworkSettings of the model that --init_from names; InputError where there is none."""
    with named_by("--init_from"):
        return read_settings(model_dir, checkpoint.read_config(model_dir))


def has_memory(model_dir):
    """Whether the model that --init_from names has a memory of neighbours."""
    with named_by("--init_from"):
        return MEMORY in checkpoint.read_config(model_dir)


def find_initial(model_dir, item_ids):
    """The InitialModel of a model directory: its best epoch by validation, or its last one.

    `item_ids`, a list of str or None, are those of the new run by index.
    """
    model_dir = Path(os.path.realpath(model_dir))  # a link may be switched meanwhile
    with named_by("--init_from"):
        config = checkpoint.read_config(model_dir)
        epoch_dir = checkpoint.epoch_directory(model_dir, choose_epoch(model_dir))
        known_ids, count, _ = read_items(model_dir, config)
        state = checkpoint.read_state(epoch_dir)
    if known_ids is None or item_ids is None:
        where = "--vocab_path" if item_ids is None else f"the vocab.txt of {model_dir}"
        raise InputError(f"--init_from: found nothing but the number of items in {where}, expected item ids")
    row_of = {item_id: row for row, item_id in enumerate(known_ids)}
    rows = np.array([row_of.pop(item_id, -1) for item_id in item_ids], np.int64)
    if not (rows >= 0).any():
        raise InputError(f"--init_from: found none of the items of --vocab_path in {model_dir}, expected some")
    return InitialModel(epoch_dir, count, rows, list(row_of), state.get("files", {}).get(checkpoint.MODEL, {})
                        .get("sha256"), config)


def load_initial(model, trainer):
    """The weights and the optimiser's state that a run begins with, two dicts of arrays, on process 0; else empty ones.

    Items that the InitialModel `model` knows have its rows. New ones begin with the mean of the rows of the known items
    that are clicked right before or after them, or, where there are none, as drawn; the optimiser has seen nothing of
    them.
    """
    drawn, processes = trainer.weights(), trainer.exchange.processes
    return processes.first_does(lambda: _put_together(model, trainer, drawn)) or ({}, {})


def _put_together(model, trainer, drawn):
    shapes = trainer.shapes()
    by_item = {ITEM_MATRIX, trainer.input_matrix}
    shapes_then = {name: [model.items, *shape[1:]] if name in by_item else shape for name, shape in shapes.items()}
    model_dir = model.epoch_dir.parent
    with named_by("--init_from"):
        with blaming_net(model_dir, model.config):
            weights, arrays, _ = checkpoint.load_checkpoint(model.epoch_dir, shapes_then)
        checkpoint.require_optimizer_of(model.epoch_dir, arrays, shapes_then)
    if another := other_net(model_dir, model.config):
        warn(another)
    if weights.checksum != model.weights_sha256:
        raise InputError(f"--init_from: found {model.epoch_dir} changed while it was read, expected a finished model")
    known, rows = model.is_known, model.row_of[model.is_known]

    def of_this_run(name, values, others):
        """A weight, or what is kept of it, with the rows of the items of this run; new ones have those of `others`."""
        if name not in by_item:
            return values
        others[known] = values[rows]
        return others

    state, kinds = {}, trainer.optimizer.kinds
    kept = {name for name in shapes if any(f"{name}.{kind}" in arrays for kind in kinds)}
    for name in kept:
        for kind in kinds:
            zeros = np.zeros(shapes[name], np.float32)
            values = arrays.get(f"{name}.{kind}")
            state[f"{name}.{kind}"] = zeros if values is None else of_this_run(name, values, zeros)
    if kept:
        state |= {key: values for key, values in arrays.items() if "." not in key}
    _say(model, bool(kept))
    begun = {name: of_this_run(name, values, drawn[name]) for name, values in weights.items()}
    new, neighbours = pairs_with_known(trainer.sessions, known)
    for name in by_item:
        put_means(begun[name], new, neighbours)
    return begun, state


def pairs_with_known(sessions, is_known):
    """Each click on a new item that has a known one right before or after it in its session.

    Parameters
    ----------
    sessions : sessions.Sessions
    is_known : bool [items]

    Returns
    -------
    int32 [pairs], int32 [pairs]
        The new items, and the known ones beside them.
    """
    begins = np.zeros(len(sessions.items) + 1, bool)
    begins[sessions.offsets] = True
    follows = ~begins[1:-1]
    first, second = sessions.items[:-1][follows], sessions.items[1:][follows]
    new, neighbours = np.concatenate([first, second]), np.concatenate([second, first])
    wanted = ~is_known[new] & is_known[neighbours]
    return new[wanted], neighbours[wanted]


def put_means(rows, new, neighbours):
    """Replace each row of an item in `new` by the mean of the rows of its `neighbours`, in place.

    Parameters
    ----------
    rows : float32 [items, ...]
    new, neighbours : int [pairs]
        No item is in both.
    """
    items, place, counts = np.unique(new, return_inverse=True, return_counts=True)
    sums = np.zeros([len(items), rows.shape[1]], np.float64)
    for start in range(0, len(new), PAIRS_AT_ONCE):
        some = slice(start, start + PAIRS_AT_ONCE)
        np.add.at(sums, place[some], rows[neighbours[some]])
    rows[items] = sums / counts[:, None]


def _say(model, has_state):
    figures = model.as_dict()
    log(f"init_from:{model.epoch_dir} known_items:{figures['known_items']} new_items:{figures['new_items']} "
        f"gone_items:{figures['gone_items']} optimizer_state:{'kept' if has_state else 'new'}")
    if model.gone:
        some = ", ".join(model.gone[:GONE_NAMED]) + ", ..." * (len(model.gone) > GONE_NAMED)
        log(f"items that --vocab_path lacks are left out: {some} (text2paddle.py --extend keeps them)")
