"""net.py's network with the weights of a model directory. Needs Paddle; scorer.py and native_scorer.py do without."""

from pathlib import Path

import paddle

from net import Network
from utils.memory import require_memory
from utils.model import checkpoint
from utils.model.directory import blaming_net, read_items, read_settings
from utils.model.layout import weight_count

LOADED_BYTES = 8  # of a weight: in the network, and in the file that it is read from


def load_network(model_dir, epoch):
    """The net.Network of a finished epoch; InputError where its files are missing, damaged, or of another network."""
    return load_network_and_checksum(model_dir, epoch)[0]


def load_network_and_checksum(model_dir, epoch):
    """The same, and the SHA-256 of the weights' file."""
    config = checkpoint.read_config(model_dir)
    item_count, settings = read_items(model_dir, config).item_count, read_settings(Path(model_dir), config)
    require_memory(LOADED_BYTES * weight_count(settings, item_count),
                   f"{Path(model_dir) / 'config.json'}: found a network of {item_count} items")
    network = Network(item_count, settings)
    with blaming_net(model_dir, config):
        weights = checkpoint.load_weights(model_dir, epoch, shapes(network))
    put_weights(network, weights)
    return network, weights.checksum


def shapes(network):
    """The shape of every weight of a net.Network by its name, a dict of str to list of int."""
    return {name: list(weight.shape) for name, weight in network.state_dict().items()}


def named_weights(network):
    """Every weight of a net.Network by its name, float32 arrays; also what an edited one keeps, such as means."""
    return {name: weight.numpy() for name, weight in network.state_dict().items()}


def put_weights(network, weights):
    """Give a net.Network the weights, a dict of arrays by name, in the memory of those it has."""
    found = network.state_dict()
    for name, values in weights.items():
        paddle.assign(paddle.to_tensor(values), found[name])
