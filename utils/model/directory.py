"""What a model directory says: its network, its items, its epochs; and whether that fits together."""

import hashlib
import math
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from utils.data.vocabulary import checksum, read_vocabulary
from utils.files import InputError, require_file
from utils.model import checkpoint
from utils.model.layout import ANSWERING, EMBEDDINGS, NetworkSettings

SWITCHES = [field.name for field in fields(NetworkSettings) if field.type is bool]
NUMBERS = [field.name for field in fields(NetworkSettings) if field.type is float]
KIND = "intent"  # what config.json of a model of train_intent.py has, and no other
NET = Path(__file__).resolve().parent.parent.parent / "net.py"


@contextmanager
def named_by(flag):
    """Within the block, a model directory is named by `flag`: that is what an InputError blames, not --model_dir."""
    try:
        yield
    except InputError as error:
        text = str(error).removeprefix("--model_dir: ")
        raise InputError(text if text.startswith("--") else f"{flag}: {text}") from None


def is_known(config):
    """Whether the scorers compute the network of a config.json as net.py did when it was trained."""
    return config.get("network_is_known", True) is True


def net_checksum():
    """SHA-256 of net.py."""
    return hashlib.sha256(NET.read_bytes()).hexdigest()


def other_net(model_dir, config, what="which computes now"):
    """What to say where a model was trained with another net.py than the one here; None where it is the same.

    The text says of the one here `what`, and how to go on with the model's own.
    """
    then, own = config.get("net_sha256"), Path(model_dir) / NET.name
    if then in (None, net_checksum()):
        return None
    if own.is_file() and checksum(own) == then:
        how = f"to go on with its own, put {own} in place of net.py"
    elif is_known(config):
        how = "its own computed what net.py computes as it comes"
    else:
        how = f"its own had the SHA-256 {str(then)[:12]}..."
    return f"{model_dir}: trained with another net.py than the one here, {what}; {how}"


@contextmanager
def blaming_net(model_dir, config):
    """Within the block, weights of other shapes are put down to net.py where that is another than the model's."""
    try:
        yield
    except checkpoint.OtherWeights as error:
        what = f"which has other weights ({error.difference})"
        raise InputError(other_net(model_dir, config, what) or str(error)) from None


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
    found = config.get("data", {}).get("vocab_sha256")
    if not isinstance(found, str):
        raise InputError(f"{Path(model_dir) / 'config.json'}: found no checksum of vocab.txt, expected one of train.py")
    return found


def require_one_network(model_dir, config):
    """InputError for joined models (joined.py), and for those of train_intent.py (utils/intent/model.py)."""
    if KIND in config:
        raise InputError(f"{model_dir}: found a model of purchase intent, expected one that recommends; "
                         "infer_intent.py and serve.py --intent_model_dir take it")
    if "joined" in config:
        raise InputError(f"{model_dir}: found joined models, expected a model of one network, such as those in its "
                         "epoch_1")


def read_settings(model_dir, config):
    """The layout.NetworkSettings of a config.json; InputError where one is missing or impossible."""
    require_one_network(model_dir, config)
    try:
        found = NetworkSettings(**config["network"])
        missing = [name for name in ANSWERING if name not in config["network"]]
        units = [*found.hid_size, *([] if found.embedding == "none" else [found.emb_size])]
        if missing or not found.hid_size or any(type(size) is not int or size < 1 for size in units):
            raise ValueError(f"sizes {units}" if not missing else f"no {missing[0]}")
        if type(found.hid_size) is not list or type(found.emb_size) is not int or found.embedding not in EMBEDDINGS:
            raise ValueError(f"hid_size {found.hid_size!r}, emb_size {found.emb_size!r}, embedding "
                             f"{found.embedding!r}")
        for name in SWITCHES:
            if type(getattr(found, name)) is not bool:
                raise ValueError(f"{name} {getattr(found, name)!r}")
        for name in NUMBERS:
            value = getattr(found, name)
            if type(value) not in (int, float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} {value!r}")
        if found.embedding == "shared" and found.emb_size != found.hid_size[-1]:
            raise ValueError(f"emb_size {found.emb_size} of a shared matrix with {found.hid_size[-1]} units")
        if found.last_click and found.embedding != "shared":
            raise ValueError(f"last_click with embedding {found.embedding}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{Path(model_dir) / 'config.json'}: found no complete network settings ({error}), expected "
                         "those of train.py") from None
    return found
