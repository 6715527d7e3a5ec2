"""From a model directory to what answers: its settings, weights and item ids, and the scorer for them."""

import hashlib
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from utils.data.vocabulary import checksum, read_vocabulary
from utils.files import InputError, require_file
from utils.model import checkpoint
from utils.model.layout import ANSWERING, EMBEDDINGS, NetworkSettings, weight_shapes
from utils.model.native_scorer import NativeScorer, native_library
from utils.model.scorer import Scorer

NET = Path(__file__).resolve().parent.parent.parent / "net.py"
LARGEST = 1e15  # products of weights below it stay finite in float32, so states and scores are never NaN


def load_scorer(model_dir, epoch=None):
    """What answers for a finished epoch of a model directory.

    Parameters
    ----------
    model_dir : str or Path
    epoch : int, optional
        By default the best by validation, or without validation the last that is finished.

    Returns
    -------
    scorer.Scorer
        A NativeScorer where C++ can be compiled, else a Scorer; a PaddleScorer for a network that these don't know.
    item_ids : list of str, or None
        By index; None where vocab.txt holds nothing but the number of items.

    Raises
    ------
    InputError
        No model directory, no such epoch, or files that are truncated, changed, or not of this network.
    """
    config = checkpoint.read_config(model_dir)
    if is_known(config):
        settings, weights, item_ids = load_model(model_dir, epoch)
        library, way = native_library()
        scorer = (Scorer if library is None else NativeScorer)(settings, weights)
        scorer.way = way
        return scorer, item_ids
    if find_spec("paddle") is None:
        raise InputError(f"{model_dir}: found a model of a network that was edited in net.py, which only Paddle can "
                         "compute, expected Paddle (requirements.txt) here")
    from utils.model.paddle_scorer import PaddleScorer
    scorer = PaddleScorer(model_dir, choose_epoch(model_dir, epoch))
    if another := other_net(model_dir, config):
        scorer.way += f" ({another})"
    return scorer, read_items(model_dir, config)[0]


def prepare(model_dir):
    """Load Paddle if `load_scorer` will need it. Only the main thread can; `load_scorer` may then run in any thread.

    Says nothing of a model directory that is missing or wrong: that is left to `load_scorer`.
    """
    with suppress(InputError):
        if not is_known(checkpoint.read_config(model_dir)) and find_spec("paddle") is not None:
            from utils.model import paddle_scorer
            paddle_scorer.prepare()


def load_model(model_dir, epoch=None):
    """The layout.NetworkSettings of a model directory, the weights of an epoch, and the item ids.

    Arguments and errors of `load_scorer`; an InputError too for a network that layout.py doesn't describe.
    """
    config = checkpoint.read_config(model_dir)
    if not is_known(config):
        raise InputError(f"{model_dir}: found a model of a network that was edited in net.py, expected the one that "
                         "net.py came with")
    epoch = choose_epoch(model_dir, epoch)
    item_ids, item_count = read_items(model_dir, config)
    settings = read_settings(model_dir, config)
    weights = checkpoint.load_weights(model_dir, epoch, weight_shapes(settings, item_count))
    path = checkpoint.epoch_directory(model_dir, epoch) / checkpoint.MODEL
    for name, values in weights.items():
        if not max(values.max(), -values.min()) < LARGEST:
            raise InputError(f"{path}: found weights from {values.min():g} to {values.max():g} in {name}, expected a "
                             "model that was trained without overflow")
    return settings, weights, item_ids


def is_known(config):
    """Whether the scorers compute the network of a config.json as net.py did when it was trained."""
    return config.get("network_is_known", True) is True


def net_checksum():
    """SHA-256 of net.py."""
    return hashlib.sha256(NET.read_bytes()).hexdigest()


def other_net(model_dir, config):
    """A warning where a model was trained with another net.py than the one here; None where it is the same."""
    then = config.get("net_sha256")
    if then in (None, net_checksum()):
        return None
    return (f"{model_dir}: trained with another net.py than the one here (SHA-256 {str(then)[:12]}..., here "
            f"{net_checksum()[:12]}...), which computes now")


def choose_epoch(model_dir, epoch=None):
    """The number of the epoch asked for, by default the best or the last; InputError if it isn't there."""
    finished = checkpoint.finished_epochs(model_dir)
    if not finished:
        raise InputError(f"--model_dir: found no finished epoch in {model_dir}, expected at least one")
    if epoch is not None and epoch not in finished:
        there = ", ".join(map(str, finished))
        raise InputError(f"--epoch: found no finished epoch {epoch} in {model_dir}, expected one of {there}")
    return epoch or checkpoint.best_epoch(model_dir) or finished[-1]


def read_items(model_dir, config):
    """`vocabulary.read_vocabulary` of the model's own vocab.txt, which must be the one that it was trained with."""
    path = require_file(Path(model_dir) / "vocab.txt", "--model_dir")
    expected = vocabulary_checksum(model_dir, config)
    if checksum(path) != expected:
        raise InputError(f"{path}: found another vocabulary than the model was trained with, expected SHA-256 "
                         f"{expected[:12]}...")
    return read_vocabulary(path, "--model_dir")


def vocabulary_checksum(model_dir, config):
    """SHA-256 of the vocab.txt that a model was trained with; InputError where config.json lacks it."""
    try:
        return str(config["data"]["vocab_sha256"])
    except (KeyError, TypeError):
        raise InputError(f"{Path(model_dir) / 'config.json'}: found no checksum of vocab.txt, expected one of "
                         "train.py") from None


def read_settings(model_dir, config):
    """The layout.NetworkSettings of a config.json; InputError where one is missing or impossible."""
    try:
        found = NetworkSettings(**config["network"])
        missing = [name for name in ANSWERING if name not in config["network"]]
        units = [*found.hid_size, *([] if found.embedding == "none" else [found.emb_size])]
        if missing or not found.hid_size or any(type(size) is not int or size < 1 for size in units):
            raise ValueError(f"sizes {units}" if not missing else f"no {missing[0]}")
        if found.embedding not in EMBEDDINGS or type(found.reset_after) is not bool:
            raise ValueError(f"embedding {found.embedding!r}, reset_after {found.reset_after!r}")
        if found.embedding == "shared" and found.emb_size != found.hid_size[-1]:
            raise ValueError(f"emb_size {found.emb_size} of a shared matrix with {found.hid_size[-1]} units")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{Path(model_dir) / 'config.json'}: found no complete network settings ({error}), expected "
                         "those of train.py") from None
    return found
