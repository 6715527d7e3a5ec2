"""net.py's network with the weights of a model directory. Needs Paddle; scorer.py and native_scorer.py do without."""

from pathlib import Path

import paddle

from net import Network
from utils.model import checkpoint
from utils.model.directory import read_items, read_settings


def load_network(model_dir, epoch):
    """The net.Network of a finished epoch; InputError where its files are missing, damaged, or of another network."""
    config = checkpoint.read_config(model_dir)
    network = Network(read_items(model_dir, config)[1], read_settings(Path(model_dir), config))
    put_weights(network, checkpoint.load_weights(model_dir, epoch, shapes(network)))
    return network


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
