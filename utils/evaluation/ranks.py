"""Ranks of the next clicks: every click after the first of every session is predicted from those before it."""

from typing import NamedTuple

import numpy as np
import paddle

import net
from utils import sources
from utils.data.batches import evaluation_batches
from utils.evaluation.metrics import ranks_of_counts, target_ranks
from utils.files import InputError
from utils.losses import cross_entropy_of_scores
from utils.model.layout import scored_length
from utils.model.top_k import top_k_of_rows
from utils.processes import ALONE, Processes
from utils.runlog import progress
from utils.tensors import chunk_rows, host_array, is_on_host

PROOF_ITEMS = 500  # whose scores are computed both ways
TOLERANCE = 1e-3  # how far the two may differ, relative to the largest score
PAD_ROWS = 8  # a product of fewer rows may round differently, and no figure may depend on how sessions were batched


class Way(NamedTuple):
    """How ranks are computed; none of it changes a figure.

    batch_size : int, sessions at once
    description : str, for the progress bar
    kernels : kernels.Kernels or None, which rank faster, by all threads
    processes : processes.Processes, those that compute together, each its share of the sessions; all have the result
    """

    batch_size: int = 1024
    description: str = "evaluation"
    kernels: object = None
    processes: Processes = ALONE


def network_ranks(network, sessions, way, ties="standard", sample=None):
    """Rank all items for each prediction by a network.

    Parameters
    ----------
    network : net.Network
    sessions : sessions.Sessions
    way : Way
    ties : {"standard", "conservative", "median"}
    sample : int array [events, n] or None
        Rank each target among these items, drawn for its place in `sessions.items`, instead of among all. They are
        numbered without the target: those from the target's index on are meant one higher.

    Returns
    -------
    float64 array [predictions]
        In the order of the clicks in `sessions`.

    Raises
    ------
    InputError
        Weights, hidden states or scores are not finite numbers: they would rank nothing, and so every target first.
    """
    def ranks(scores, targets, positions):
        return [_ranks(*scores, targets, ties, None if sample is None else sample[positions])]

    way = way if sample is None and counts_right(way.kernels) else way._replace(kernels=None)
    return measure([network], sessions, way, ranks, 1, ties)[0]


def network_ranks_and_best(network, sessions, k, way, ties="standard"):
    """As `network_ranks` among all items, and the `k` best items of each prediction.

    Returns
    -------
    float64 array [predictions]
    int32 array [predictions, k or the number of items]
        The best first; among equal scores the lower index comes first.
    """
    k = min(k, network.item_matrix.shape[0])

    def ranks_and_best(scores, targets, positions):
        return [_ranks(*scores, targets, ties), *_best_items(scores[0][:len(targets)], k).T]

    way = way if counts_right(way.kernels) else way._replace(kernels=None)
    ranks, *best = measure([network], sessions, way, ranks_and_best, 1 + k, ties)
    return ranks, np.stack(best, axis=1).astype(np.int32)


def network_ranks_and_losses(network, sessions, way):
    """As `network_ranks`, and each prediction's cross-entropy over all items in nats: two float64 arrays.

    Kernels are not used.
    """
    def ranks_and_losses(scores, targets, positions):
        ranks = _ranks(*scores, targets, "standard")
        return [ranks, cross_entropy_of_scores(scores[0][:len(targets)], paddle.to_tensor(targets)).numpy()]

    return measure([network], sessions, way._replace(kernels=None), ranks_and_losses, 2)


@paddle.no_grad()
def measure(networks, sessions, way, figures_of, count, ties="standard"):
    """What `figures_of` says of each prediction, `count` figures: float64 [count, predictions].

    It is a function of each network's scores, a list of float32 tensors [>= rows, items], of the targets and of their
    places in `sessions.items`, int64 arrays [rows]; it returns a list of arrays [rows]. Where the Way has kernels,
    these say the ranks, by `ties`, and the best items by a single network in its place, where the product of `_scoring`
    gives what `network.scores` does.
    """
    largest_sums = [_largest_sum(network) for network in networks]
    score, items_by_unit = zip(*map(_scoring, networks))
    figures = np.zeros([count, len(sessions.items)])
    chunk = max(PAD_ROWS, chunk_rows(networks[0].item_matrix.shape[0]))
    with progress(sessions.predictions // way.processes.count, way.description) as bar:
        for batch in evaluation_batches(sessions, way.batch_size, PAD_ROWS, way.processes):
            hidden = [_hidden_states(*network, batch) for network in zip(networks, largest_sums)]
            if way.kernels and items_by_unit[0] is not None:
                above, at_least, best = way.kernels.count_above(host_array(hidden[0]), host_array(items_by_unit[0]),
                                                                batch.targets, chunk, count - 1)
                is_real = batch.positions >= 0
                figures[0, batch.positions[is_real]] = ranks_of_counts(above, at_least, ties)[is_real]
                figures[1:, batch.positions[is_real]] = best[is_real].T
                bar.update(int(is_real.sum()))
                continue
            for start in range(0, len(batch.targets), chunk):
                positions = batch.positions[start:start + chunk]
                # The scores get no name, so that the next chunk takes the same memory, still in the cache.
                found = np.stack(figures_of([of_states(_padded(states[start:start + chunk]))
                                             for of_states, states in zip(score, hidden)],
                                            batch.targets[start:start + chunk], positions))
                is_real = positions >= 0
                figures[:, positions[is_real]] = found[:, is_real]
                bar.update(int(is_real.sum()))
    # Each figure is a number from one process and 0 from the others: the sum is exact.
    return way.processes.sum_of_array(figures)[:, is_predicted(sessions)]


def _largest_sum(network):
    """The largest sum of an item's weights without their signs; the network is ready for evaluation afterwards."""
    network.eval()
    for name, weight in network.named_parameters():
        require_finite(weight, f"weights {name}")
    largest_sum = float(paddle.abs(network.item_matrix).sum(axis=1).max())
    if network.settings.score_scale:
        require_finite(paddle.to_tensor(largest_sum) ** 2, "lengths of item vectors")  # this bounds their squares
    return largest_sum


def _hidden_states(network, largest_sum, batch):
    """A batch's hidden states with a column of ones, float32 tensor [rows, units + 1]."""
    hidden = _with_ones(network.hidden_states(paddle.to_tensor(batch.inputs), batch.rows_per_step))
    require_finite(hidden, "hidden states")
    require_finite(paddle.abs(hidden).max() * largest_sum, "scores")  # this bounds them
    return hidden


def _scoring(network):
    """A function of hidden states and a column of ones, [rows, units + 1]: all scores, [rows, items].

    A product with the items side by side is several times as fast as `network.scores`, and is used where that wasn't
    edited and gives the same. They are returned too, float32 tensor [units + 1, items]; None where they aren't used.
    """
    matrix, length = network.item_matrix, scored_length(network.settings)
    if length:
        matrix = paddle.concat([net.of_length(length, matrix[:, :-1]), matrix[:, -1:]], axis=1)
    items_by_unit = paddle.transpose(matrix, [1, 0]).contiguous()
    states = np.random.default_rng(0).uniform(-1, 1, (PAD_ROWS, network.item_matrix.shape[1] - 1))
    tried = paddle.to_tensor(states.astype(np.float32))
    expected = network.scores(tried, network.item_matrix[:PROOF_ITEMS])
    found = paddle.matmul(_with_ones(tried), items_by_unit[:, :PROOF_ITEMS])
    largest = float(paddle.abs(expected).max())
    if (not sources.edits([sources.SCORES])
            and found.shape == expected.shape and np.isfinite(largest)  # an infinite tolerance would let anything pass
            and bool((paddle.abs(found - expected) <= TOLERANCE * largest).all())):
        return lambda hidden: paddle.matmul(hidden, items_by_unit), items_by_unit

    def score(hidden):
        scores = network.scores(hidden[:, :-1], network.item_matrix)
        require_finite(scores, "scores")
        return scores
    return score, None


def counts_right(kernels):
    """Whether there are kernels, and they count and find what NumPy does, for whole numbers, which nothing rounds."""
    if not kernels:
        return False
    random = np.random.default_rng(1)
    hidden, items, targets = (random.integers(-2, 3, shape).astype(np.float32) for shape in ((40, 9), (9, 300), 40))
    targets = (targets + 2).astype(np.int64)
    scores = hidden @ items
    thresholds = scores[np.arange(40), targets][:, None]
    above, at_least, best = kernels.count_above(hidden, items, targets, 7, 20)
    return bool((above == (scores > thresholds).sum(axis=1)).all()
                and (at_least == (scores >= thresholds).sum(axis=1)).all()
                and (best == np.argsort(-scores, axis=1, kind="stable")[:, :20]).all())


def _with_ones(hidden):
    """`hidden`, float32 [rows, units], and the column of ones that meets the bias column of the item matrix."""
    return paddle.concat([hidden, paddle.ones([hidden.shape[0], 1], hidden.dtype)], axis=1)


def require_finite(values, what):
    """Raise InputError where the float tensor `values` holds NaN or infinity."""
    if not bool(paddle.isfinite(values).all()):
        raise InputError(f"found {what} that are not finite numbers, expected a model that was trained without "
                         "overflow")


def _ranks(scores, targets, ties, sample=None):
    """`ranks_of` for scores in a float32 tensor [>= rows, items]."""
    scores = scores[:len(targets)]
    if sample is not None or is_on_host(scores):
        return ranks_of(host_array(scores), targets, ties, sample)
    picks = np.stack([np.arange(len(targets)), targets], axis=1)
    target_scores = paddle.gather_nd(scores, paddle.to_tensor(picks))
    return target_ranks(scores, target_scores, ties, count=lambda mask: paddle.sum(mask, axis=1).numpy())


def ranks_of(scores, targets, ties, sample=None):
    """Ranks of `targets`, int64 array [rows], in `scores`, float32 array [rows, items], or among the `sample`.

    That is an int array [rows, n], as `network_ranks` has it.
    """
    if sample is not None:
        others = sample + (sample >= targets[:, None])
        scores = np.take_along_axis(scores, np.concatenate([targets[:, None], others], axis=1), axis=1)
        targets = np.zeros(len(targets), np.int64)
    return target_ranks(scores, scores[np.arange(len(targets)), targets], ties)


def _best_items(scores, k):
    """`best_items` for scores in a float32 tensor [rows, items]."""
    return best_items(host_array(scores), k)


def best_items(scores, k):
    """The `k` best items by `scores`, float32 array [rows, items]: int64 array [rows, k]."""
    return np.array([items for items, _ in top_k_of_rows(scores, k)])


def _padded(hidden):
    """`hidden` with at least PAD_ROWS rows: its last one again, as an edited network may divide by a row's length."""
    missing = PAD_ROWS - hidden.shape[0]
    return hidden if missing <= 0 else paddle.concat([hidden, paddle.tile(hidden[-1:], [missing, 1])])


def is_predicted(sessions):
    """Whether each click is a prediction's target: all but the first of each session, bool [events]."""
    predicted = np.ones(len(sessions.items), bool)
    predicted[sessions.offsets[:-1]] = False
    return predicted
