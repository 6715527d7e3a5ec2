"""The memory of a run: which sessions it holds, how much neighbours count, and how readily sessions come back to items.

Both are chosen by sessions that the network wasn't trained on: those of the validation, or a few that are held out
for it. Meanwhile, the memory lacks them too. The finished one holds those that were held out.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.sessions import Sessions, choose, joined
from utils.evaluation.joined_ranks import Model, mixed_ranks, model_ranks, recent_before
from utils.evaluation.ranks import Way, is_predicted
from utils.evaluation.validation import evenly_chosen, without_unknown
from utils.model import checkpoint
from utils.model.directory import choose_epoch
from utils.model.neighbours import Neighbours, remember
from utils.model.neighbours_file import (
    MEMORY,
    NO_RETURNS,
    Memory,
    read_remembered,
    read_returns,
    read_weight,
    write_neighbours,
)
from utils.model.network import load_network
from utils.model.returns import NAMES, features, fit_returns
from utils.runlog import append_record, log

HELD_OUT, NEWEST = 0.02, 0.1  # the share of all sessions that is held out, from this share of them, the newest
FEWEST_SESSIONS, MOST_SESSIONS = 200, 2000  # that are held out, but no more than half of the newest
FEWEST, MOST = 100, 8000  # predictions that choose: fewer say too little, more take longer
WEIGHTS = 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7
USUAL_WEIGHT = 0.4  # where too few predictions could choose
CUTOFF = 20


class Before(NamedTuple):
    """The memory of a model to begin with.

    sessions : Sessions, as far as this run has their items
    weight, returns : as `neighbours_file.Memory` has them
    """

    sessions: Sessions
    weight: float
    returns: list


class Remembering(NamedTuple):
    """The sessions of a run's memory.

    whole : Sessions, those that the finished memory holds
    without : Sessions, those of them that it holds while the weight is chosen
    choosing : Sessions, by which the weight is chosen
    held_out : int, how many sessions the network isn't trained on because of that
    weight, returns : those of the memory of the model to begin with, as `Before` has them; None and zeros without one
    """

    whole: Sessions
    without: Sessions
    choosing: Sessions
    held_out: int
    weight: float = None
    returns: list = NO_RETURNS


def divide(sessions, validation, item_count, before=None):
    """Divide a run's sessions into those to train on and those to choose by.

    Parameters
    ----------
    sessions : Sessions
    validation : Sessions or None
    item_count : int
    before : Before or None
        Then nothing is held out: the network and the memory may know such sessions already.

    Returns
    -------
    Sessions
        To train the network on.
    Remembering
    """
    training, choosing = sessions, validation
    if before and not validation:
        choosing = choose(sessions, np.empty(0, np.int64))
    elif not validation:
        numbers = numbers_held_out(len(sessions.lengths))
        training = choose(sessions, np.setdiff1d(np.arange(len(sessions.lengths)), numbers))
        choosing, _ = without_unknown(choose(sessions, numbers), training, item_count)
        if choosing.predictions < FEWEST or not training.predictions:
            training = sessions
    whole = joined([before.sessions, sessions]) if before else sessions
    without = whole if training is sessions else training  # large sessions are in memory once
    return training, Remembering(whole, without, evenly_chosen(choosing, MOST),
                                 len(sessions.lengths) - len(training.lengths), *(before[1:] if before else ()))


def memory_before(initial_model):
    """The Before of an initial.InitialModel; None where that has no memory."""
    model_dir = initial_model.epoch_dir.parent
    config = checkpoint.read_config(model_dir)
    if MEMORY not in config:
        return None
    items, offsets = read_remembered(model_dir, config, initial_model.items).sessions
    number_of = np.full(initial_model.items, -1, np.int32)
    number_of[initial_model.row_of[initial_model.is_known]] = np.flatnonzero(initial_model.is_known)
    items = number_of[items]
    sessions = Sessions(items[items >= 0], np.unique(np.concatenate([[0], np.cumsum(items >= 0)])[offsets]))
    return Before(sessions, read_weight(model_dir, config), read_returns(model_dir, config))


def numbers_held_out(count):
    """The numbers of the sessions that are held out of so many, spread over the newest of them: int64 array."""
    newest = math.ceil(NEWEST * count)
    wanted = min(max(round(HELD_OUT * count), FEWEST_SESSIONS), MOST_SESSIONS, newest // 2)
    return count - newest + np.arange(wanted) * newest // max(wanted, 1)


def add_memory(model_dir, remembering, item_count):
    """Give a finished run its memory, unless it has one, or the network alone does better. Process 0 alone does it.

    The weight is the one of WEIGHTS with the largest recall + MRR by the run's best epoch, or its last one. The weights
    of returns.py are fitted with it, and stay 0 unless they raise that sum. Without a validation, both are those of the
    model to begin with.
    """
    model_dir = Path(model_dir)
    if MEMORY in checkpoint.read_config(model_dir):
        return
    whole, without, choosing, _, weight, returns = remembering
    figures = {}
    if choosing.predictions >= FEWEST:
        network = load_network(model_dir, choose_epoch(model_dir))
        weight, returns, figures = _chosen(network, Neighbours(remember(without, item_count)), choosing)
    elif weight is not None:
        log(f"neighbours: weight:{weight:g} as in the model of --init_from; {choosing.predictions} validation "
            "predictions are too few to choose by")
    else:
        weight = USUAL_WEIGHT
        log(f"neighbours: weight:{weight:g} as usual; {choosing.predictions} predictions are too few to choose by")
    append_record(model_dir, {"event": "neighbours", "weight": weight, "returns": returns,
                              "predictions": choosing.predictions, **figures})
    if weight or any(returns):
        write_neighbours(model_dir, remember(whole, item_count), weight, returns)


def _chosen(network, neighbours, choosing):
    """The weight of the neighbours and those of returns.py by the Sessions `choosing`, and the figures as a dict."""
    ranks, probabilities = mixed_ranks(network, neighbours, choosing, WEIGHTS)
    recalls, mrrs = _figures_of(ranks)
    best = int(np.argmax(recalls + mrrs))
    recent = recent_before(choosing)
    is_next = recent - 1 == choosing.items[is_predicted(choosing)][:, None]
    returns = fit_returns(features(recent), probabilities[best], is_next)
    memory = Memory(neighbours, WEIGHTS[best], "", returns)
    recall, mrr = _figures_of(model_ranks(Model([network], [1 - WEIGHTS[best]], memory), choosing, Way()))
    if recall + mrr <= recalls[best] + mrrs[best]:
        returns, recall, mrr = NO_RETURNS, recalls[best], mrrs[best]
    log(f"neighbours: weight:{WEIGHTS[best]:g} "
        f"returns({' '.join(f'{name}:{each:.2f}' for name, each in zip(NAMES, returns))}) "
        f"recall@{CUTOFF}:{recall:.4f} mrr@{CUTOFF}:{mrr:.4f}, without returns recall@{CUTOFF}:{recalls[best]:.4f} "
        f"mrr@{CUTOFF}:{mrrs[best]:.4f}, without both recall@{CUTOFF}:{recalls[0]:.4f} mrr@{CUTOFF}:{mrrs[0]:.4f}, "
        f"by {choosing.predictions} predictions")
    return WEIGHTS[best], returns, {
        "weights": list(WEIGHTS), f"recall@{CUTOFF}": recalls.tolist(), f"mrr@{CUTOFF}": mrrs.tolist(),
        "with_returns": {f"recall@{CUTOFF}": float(recall), f"mrr@{CUTOFF}": float(mrr)}}


def _figures_of(ranks):
    """Recall and MRR of float64 [..., predictions]."""
    is_found = ranks <= CUTOFF
    return is_found.mean(axis=-1), np.where(is_found, 1 / ranks, 0).mean(axis=-1)
