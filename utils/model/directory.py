"""What a model directory says: its network, its items, its epochs; and whether that fits together."""

import hashlib
from pathlib import Path

from utils.data.vocabulary import checksum, read_vocabulary
from utils.files import InputError, require_file
from utils.model import checkpoint
from utils.model.layout import ANSWERING, EMBEDDINGS, NetworkSettings

NET = Path(__file__).resolve().parent.parent.parent / "net.py"


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
