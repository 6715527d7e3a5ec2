"""Ranks of the next clicks by what a model directory has: a network, several joined, or these with a memory."""

from typing import NamedTuple

import numpy as np

from utils.evaluation.ranks import (
    Way,
    best_items,
    is_predicted,
    measure,
    network_ranks,
    network_ranks_and_best,
    ranks_of,
)
from utils.model import checkpoint
from utils.model.directory import choose_epoch, read_items
from utils.model.joined import JOINED, read_members, read_weights
from utils.model.mixture import add_neighbours, log_sum_exp, mix
from utils.model.neighbours import RECENT
from utils.model.neighbours_file import Memory, read_memory
from utils.model.network import load_network
from utils.model.returns import recent_clicks
from utils.tensors import host_array


class Model(NamedTuple):
    """What answers together.

    networks : list of net.Network
    weights : list of float, theirs
    memory : neighbours_file.Memory or None
    """

    networks: list
    weights: list
    memory: Memory

    @property
    def is_network(self):
        """Whether there is one network, and nothing else."""
        return len(self.networks) == 1 and self.memory is None


def load(model_dir, epoch):
    """The Model of a finished epoch; errors of `load.load_scorer`."""
    config = checkpoint.read_config(model_dir)
    if JOINED in config:
        networks = [load_network(member, choose_epoch(member)) for member in read_members(model_dir, epoch, config)]
    else:
        networks = [load_network(model_dir, epoch)]
    memory = read_memory(model_dir, config, read_items(model_dir, config).item_count)
    return Model(networks, read_weights(model_dir, config), memory)


def model_ranks(model, sessions, way, ties="standard", sample=None):
    """As `ranks.network_ranks`, by a Model."""
    if model.is_network:
        return network_ranks(*model.networks, sessions, way, ties, sample)

    def ranks(scores, targets, positions):
        mixed = _mixed(model, scores, sessions, positions)
        return [ranks_of(mixed, targets, ties, None if sample is None else sample[positions])]

    return measure(model.networks, sessions, way._replace(kernels=None), ranks, 1)[0]


def model_ranks_and_best(model, sessions, k, way, ties="standard"):
    """As `ranks.network_ranks_and_best`, by a Model."""
    if model.is_network:
        return network_ranks_and_best(*model.networks, sessions, k, way, ties)
    k = min(k, model.networks[0].item_matrix.shape[0])

    def ranks_and_best(scores, targets, positions):
        mixed = _mixed(model, scores, sessions, positions)
        return [ranks_of(mixed, targets, ties), *best_items(mixed, k).T]

    ranks, *best = measure(model.networks, sessions, way._replace(kernels=None), ranks_and_best, 1 + k)
    return ranks, np.stack(best, axis=1).astype(np.int32)


def mixed_ranks(network, neighbours, sessions, weights):
    """As `ranks.network_ranks` in one process, with a memory of neighbours by each of several weights, from one pass.

    Parameters
    ----------
    network : net.Network
    neighbours : neighbours.Neighbours
    sessions : sessions.Sessions
    weights : list of float
        The memory's, from 0, the network alone, to less than 1.

    Returns
    -------
    float64 array [weights, predictions]
    float64 array [weights, predictions, RECENT]
        The probability of each of the last clicks' items, in the places that `recent_before` gives them; anything where
        there is none.
    """
    def figures(scores, targets, positions):
        scores, before = _arrays(scores, positions)[0], _before(sessions, positions)
        totals, found, recent = log_sum_exp(scores), neighbours.shares_of(*before), recent_clicks(*before)
        at = np.repeat(np.arange(len(positions)), np.diff(found[2])), found[0]
        clicked = np.arange(len(positions))[:, None], recent - 1
        ranks, probabilities, own = [], [], scores[at]
        for weight in weights:
            scores[at] = own
            if weight:
                add_neighbours(scores, totals, weight / (1 - weight), found)
            ranks.append(ranks_of(scores, targets, "standard"))
            of_networks = np.where(np.diff(found[2]) > 0, 1 - weight, 1)
            probabilities += [*(np.exp(scores[clicked] - totals[:, None]) * of_networks[:, None]).T]
        return ranks + probabilities

    found = measure([network], sessions, Way(description="neighbours"), figures, len(weights) * (1 + RECENT))
    return found[:len(weights)], found[len(weights):].reshape(len(weights), RECENT, -1).transpose(0, 2, 1)


def recent_before(sessions):
    """The last clicks before each prediction, in the order of `mixed_ranks`: `returns.recent_clicks`."""
    return recent_clicks(*_before(sessions, np.flatnonzero(is_predicted(sessions))))


def _mixed(model, scores, sessions, positions):
    """The mixture's scores, float32 array [rows, items], for what `ranks.measure` gives."""
    scores = _arrays(scores, positions)
    if not model.memory:
        return mix(scores, model.weights)[0]
    before = _before(sessions, positions)
    return mix(scores, model.weights, model.memory, model.memory.shares_of(*before), recent_clicks(*before))[0]


def _arrays(scores, positions):
    """Each network's scores as an array that may be changed, float32 [rows, items]."""
    return [np.array(host_array(each)[:len(positions)]) for each in scores]


def _before(sessions, positions):
    """The clicks before those at these places in `sessions.items`, none before -1: items, starts and ends."""
    session = np.searchsorted(sessions.offsets, positions, side="right") - 1
    ends = np.maximum(positions, 0)
    starts = np.maximum(np.where(positions < 0, 0, sessions.offsets[session]), ends - RECENT)
    return sessions.items, starts, ends
