"""The model directory of train_intent.py: that of train.py (utils/model/checkpoint.py), but for the network.

config.json has the network's settings and the categories under KIND; an epoch's state.json has the thresholds; an
epoch's weights have the counts and quantiles that inputs are computed from.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from utils.files import InputError
from utils.intent.features import Counts
from utils.intent.scorer import IntentScorer
from utils.intent.settings import IntentSettings, weight_shapes
from utils.model import checkpoint
from utils.model.directory import KIND, choose_epoch, is_known, other_net, read_items

CLOSE = 1e-4  # of log-odds: what different orders of sums differ by is far less
EXPECTED = "expected one of train_intent.py"


@dataclass
class IntentModel:
    """A finished epoch of a model directory.

    Attributes
    ----------
    settings : IntentSettings
    weights : checkpoint.Weights
    item_ids, categories : lists of str
    counts : features.Counts
    knots : tuple of two float32 arrays
        As of batches.make_batch.
    session_threshold, item_threshold : float
        What the probabilities of sessions that are said to buy, and of items that they are said to buy, must reach.
    is_known : bool
        Whether `scorer` computes the network as net.py did when it was trained.
    epoch : int
    config : dict
        What config.json says.
    """

    settings: IntentSettings
    weights: dict
    item_ids: list
    categories: list
    counts: Counts
    knots: tuple
    session_threshold: float
    item_threshold: float
    is_known: bool
    epoch: int
    config: dict

    def scorer(self):
        """The scorer.IntentScorer of the weights."""
        return IntentScorer(self.settings, self.weights)


def load_intent_model(model_dir, epoch=None):
    """The IntentModel of a finished epoch, by default the best one by validation.

    InputError for another kind of model, and where files are missing, damaged or changed.
    """
    config = checkpoint.read_config(model_dir)
    settings, categories = _read_network(model_dir, config)
    epoch = choose_epoch(model_dir, epoch)
    item_ids, item_count, _ = read_items(model_dir, config)
    directory = checkpoint.epoch_directory(model_dir, epoch)
    weights = checkpoint.load_weights(model_dir, epoch, weight_shapes(settings, item_count, len(categories)))
    state = checkpoint.read_state(directory)
    checkpoint.require_moderate(weights, directory)
    thresholds = [state.get(f"{name}_threshold") for name in ("session", "item")]
    if not all(type(value) is float and np.isfinite(value) for value in thresholds):
        raise InputError(f"{directory / checkpoint.STATE}: found the thresholds {thresholds}, expected two numbers")
    counts = Counts(*(weights[name][None].astype(np.float64) for name in ("item_counts", "category_counts")))
    return IntentModel(settings, weights, item_ids or [str(index) for index in range(item_count)], categories, counts,
                       (weights["click_knots"], weights["pair_knots"]), *thresholds, is_known(config), epoch,
                       config)


def _read_network(model_dir, config):
    """The IntentSettings and the categories of a config.json."""
    path, found = Path(model_dir) / "config.json", config.get(KIND)
    if found is None:
        raise InputError(f"--model_dir: found another kind of model in {model_dir}, {EXPECTED}")
    try:
        settings, categories = IntentSettings(**found["network"]), found["categories"]
        for field in fields(IntentSettings):
            value = getattr(settings, field.name)
            kinds = (int, float) if field.type is float else (field.type,)
            if type(value) not in kinds or not 0 <= value < 1e9:
                raise ValueError(f"{field.name} {value!r}")
        if min(settings.networks, settings.hid_size, settings.emb_size, settings.head_size) < 1:
            raise ValueError("a size of 0")
        if type(categories) is not list or any(type(name) is not str for name in categories):
            raise ValueError("no list of categories")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: found no complete settings ({error}), expected those of train_intent.py") from None
    return settings, categories


def load_network(model, model_dir):
    """The net.IntentNetwork of an IntentModel of a model directory; needs Paddle."""
    from net import IntentNetwork
    from utils.intent.settings import STATISTICS
    from utils.model.network import put_weights, shapes
    network = IntentNetwork(model.settings, {name: model.weights[name] for name in STATISTICS})
    if {name: list(values.shape) for name, values in model.weights.items()} != shapes(network):
        what = "whose IntentNetwork has other weights"
        raise InputError(other_net(model_dir, model.config, what) or "net.py: found another IntentNetwork than the "
                         "model was trained with, expected the same")
    put_weights(network, model.weights)
    return network


def agrees(settings, weights, batch, found):
    """Whether an IntentScorer computes the log-odds `found`, two float32 arrays, for an IntentBatch."""
    if {name: list(values.shape) for name, values in weights.items()} != weight_shapes(
            settings, weights["item_counts"].shape[1] - 1, weights["category_counts"].shape[1] - 1):
        return False
    return all(np.allclose(*both, rtol=CLOSE, atol=CLOSE)
               for both in zip(IntentScorer(settings, weights).log_odds(batch), found))
