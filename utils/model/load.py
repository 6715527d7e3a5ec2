"""From a model directory to what answers: its settings, weights and item ids, and the scorer for them."""

import hashlib
import json
from contextlib import suppress
from functools import partial
from importlib.util import find_spec

from utils.files import InputError
from utils.memory import own_room
from utils.model import checkpoint
from utils.model.directory import (
    choose_epoch,
    is_known,
    other_net,
    read_items,
    read_settings,
    require_one_network,
    vocabulary_checksum,
)
from utils.model.equal_lengths import fold_lengths, without_scale
from utils.model.joined import JOINED, JoinedScorer, read_members, read_weights
from utils.model.layout import weight_shapes
from utils.model.native_scorer import NativeScorer, native_library
from utils.model.neighbours_file import MEMORY, read_memory
from utils.model.scorer import Scorer


def load_scorer(model_dir, epoch=None, network_alone=False, room=own_room):
    """What answers for a finished epoch of a model directory.

    Parameters
    ----------
    model_dir : str or Path
    epoch : int, optional
        By default the best by validation, or without validation the last that is finished.
    network_alone : bool
        Leave out the memory of neighbours, and refuse joined models.
    room : function
        As `memory.own_room`: where the large arrays will lie that C++ or NumPy answers with.

    Returns
    -------
    scorer.Scorer
        A NativeScorer where C++ can be compiled, else a Scorer; a PaddleScorer for a network that these don't know; a
        JoinedScorer of these for joined models, and with a memory of neighbours. Its `weights_checksum` is the SHA-256
        of the weights' file, or of those of joined models. Its `checksum` is that of all that answers depend on:
        weights, vocabulary, network and memory.
    item_ids : list of str, or None
        By index; None where vocab.txt holds nothing but the number of items.

    Raises
    ------
    InputError
        No model directory, no such epoch, or files that are truncated, changed, or not of this network.
    """
    config = checkpoint.read_config(model_dir)
    epoch = choose_epoch(model_dir, epoch)
    if network_alone:
        require_one_network(model_dir, config)
        config = {name: value for name, value in config.items() if name != MEMORY}
    if JOINED in config:
        scorers, item_ids = _load_members(model_dir, epoch, config, room)
        weights_checksum = _checksum([scorer.weights_checksum for scorer in scorers])
        decisive = [config[JOINED]]
    else:
        scorer, item_ids = (_load_known(model_dir, epoch, config, room) if is_known(config)
                            else _load_edited(model_dir, epoch, config))
        scorers, weights_checksum, decisive = [scorer], scorer.weights_checksum, [config["network"], is_known(config)]
    weights = read_weights(model_dir, config)
    memory = read_memory(model_dir, config, len(scorers[0].item_matrix), room)
    if memory:
        decisive.append(config[MEMORY])
    scorer = JoinedScorer(scorers, weights, memory) if JOINED in config or memory else scorers[0]
    scorer.weights_checksum = weights_checksum
    scorer.checksum = _checksum([weights_checksum, vocabulary_checksum(model_dir, config), *decisive])
    return scorer, item_ids


def _checksum(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _load_members(model_dir, epoch, config, room):
    """The scorers of joined models, and the item ids of all."""
    members = read_members(model_dir, epoch, config)
    return [load_scorer(member, room=room)[0] for member in members], read_items(model_dir, config).item_ids


def _load_known(model_dir, epoch, config, room):
    settings, weights, item_ids = _load_model(model_dir, epoch, config, room)
    library, way = native_library()
    if library is None:
        scorer = Scorer(settings, weights)
    else:
        scorer = NativeScorer(settings, weights, partial(room, f"{weights.checksum} {config['network']}"))
    scorer.way, scorer.weights_checksum = way, weights.checksum
    return scorer, item_ids


def _load_edited(model_dir, epoch, config):
    if find_spec("paddle") is None:
        raise InputError(f"{model_dir}: found a model of a network that was edited in net.py, which only Paddle can "
                         "compute, expected Paddle (requirements.txt) here")
    from utils.model.paddle_scorer import PaddleScorer
    scorer = PaddleScorer(model_dir, epoch)
    if another := other_net(model_dir, config):
        scorer.way += f" ({another})"
    return scorer, read_items(model_dir, config).item_ids


def prepare(model_dir):
    """Load Paddle if `load_scorer` will need it. Only the main thread can; `load_scorer` may then run in any thread.

    Says nothing of a model directory that is missing or wrong: that is left to `load_scorer`.
    """
    with suppress(InputError):
        config = checkpoint.read_config(model_dir)
        members = read_members(model_dir, choose_epoch(model_dir), config) if JOINED in config else [model_dir]
        known = [is_known(checkpoint.read_config(member)) for member in members]
        if not all(known) and find_spec("paddle") is not None:
            from utils.model import paddle_scorer
            paddle_scorer.prepare()


def load_model(model_dir, epoch=None):
    """The layout.NetworkSettings of a model directory, the weights of an epoch, and the item ids; nothing of a memory.

    Those of a network with a `score_scale` come as `equal_lengths.fold_lengths` makes them: they have none.

    Arguments and errors of `load_scorer`; an InputError too for a network that layout.py doesn't describe.
    """
    config = checkpoint.read_config(model_dir)
    if not is_known(config):
        raise InputError(f"{model_dir}: found a model of a network that was edited in net.py, expected the one that "
                         "net.py came with")
    return _load_model(model_dir, choose_epoch(model_dir, epoch), config)


def _load_model(model_dir, epoch, config, room=own_room):
    item_ids, item_count, _ = read_items(model_dir, config)
    settings = read_settings(model_dir, config)

    def finish(weights):
        checkpoint.require_moderate(weights, checkpoint.epoch_directory(model_dir, epoch))
        folded = dict(weights)
        fold_lengths(settings, folded)
        for name, values in weights.items():
            if folded[name] is not values:
                values[:] = folded[name]
    shapes = weight_shapes(settings, item_count)
    weights = checkpoint.load_weights(model_dir, epoch, shapes, room, repr(settings), finish)
    return without_scale(settings), weights, item_ids
