"""Where a model is good: its recall by position in the session, by session length and by popularity of the item."""

from typing import NamedTuple

import numpy as np

from utils.data.batches import evaluation_batches
from utils.data.session_files import read_conversion
from utils.data.sessions import read_sessions
from utils.data.vocabulary import checksum
from utils.evaluation.metrics import target_ranks
from utils.files import InputError
from utils.model.directory import named_by
from utils.model.load import load_scorer
from utils.runlog import progress, warn

BATCH_SIZE = 128  # sessions at once
COUNTS = (1, 2, 3, 4, 5, 7, 10, 15)  # the largest count in each group; one more group has the larger ones
ITEM_SHARES = (0.01, 0.05, 0.2, 0.5, 1.0)  # where the groups of items end, as shares of all, the most frequent first


class Ranks(NamedTuple):
    """The predictions for test sessions.

    ranks : float64 [predictions], the rank of the target among all items
    positions : int64 [predictions], how many clicks of the session come before it
    lengths : int64 [predictions], how many clicks the session has
    shares : float64 [predictions], > 0 to 1, the share of items that are clicked at least as often in training
    """

    ranks: np.ndarray
    positions: np.ndarray
    lengths: np.ndarray
    shares: np.ndarray


def run_ranks(run, test_dir):
    """The Ranks of the best or last epoch of a runs.Run; popularity is the order of vocab.txt, by training clicks."""
    with named_by("MODEL_DIR"):
        scorer, _ = load_scorer(run.model_dir)
    if not scorer.state_size:
        warn(f"{run.model_dir} is ranked through {scorer.way}")
    read_conversion(test_dir, checksum(run.model_dir / "vocab.txt"), "--test_dir")
    item_count = len(scorer.item_biases)
    sessions = read_sessions(test_dir, item_count, "--test_dir")
    if not sessions.predictions:
        raise InputError(f"--test_dir: found no session of two known clicks in {test_dir}, expected at least one")
    ranks = np.zeros(len(sessions.items))
    with progress(sessions.predictions, run.name) as bar:
        for batch in evaluation_batches(sessions, BATCH_SIZE, minimum_rows=1):
            states, start = scorer.packed_states(batch.inputs, batch.rows_per_step), 0
            for rows in batch.rows_per_step:
                step = slice(start, start + rows)
                scores = scorer.scores(states[step])
                ranks[batch.positions[step]] = target_ranks(scores, scores[np.arange(rows), batch.targets[step]])
                start += rows
            bar.update(start)
    lengths = np.repeat(sessions.lengths, sessions.lengths)
    positions = np.arange(len(ranks)) - np.repeat(sessions.offsets[:-1], sessions.lengths)
    predicted = positions > 0
    shares = (sessions.items + 1) / item_count
    return Ranks(ranks[predicted], positions[predicted], lengths[predicted], shares[predicted])


def by_count(counts):
    """Groups of counts >= 1, as GROUPINGS needs them."""
    firsts = 1, *(count + 1 for count in COUNTS)
    labels = [f"{first}" if first == last else f"{first}–{last}" for first, last in zip(firsts, COUNTS)]
    return np.searchsorted(COUNTS, counts), [*labels, f"> {COUNTS[-1]}"]


def by_share(shares):
    """Groups of items by how frequent they are, as GROUPINGS needs them."""
    bounds = [0, *ITEM_SHARES]
    labels = [f"{100 * first:g}–{100 * last:g} %" for first, last in zip(bounds, bounds[1:])]
    return np.minimum(np.searchsorted(ITEM_SHARES, shares), len(labels) - 1), labels


# Each function takes Ranks, and returns the group of each prediction, int array [predictions], and the groups' names.
GROUPINGS = {
    "clicks seen before": lambda found: by_count(found.positions),
    "clicks of the session": lambda found: by_count(found.lengths),
    "items by training clicks, most frequent first": lambda found: by_share(found.shares),
}


class Group(NamedTuple):
    """A group of predictions: its name, its size, its recall, and the standard error of the recall."""

    name: str
    predictions: int
    recall: float
    error: float


def recall_by_group(found, grouping, topk):
    """The Groups of the Ranks `found` that have predictions, in order."""
    numbers, labels = grouping(found)
    groups = []
    for number, label in enumerate(labels):
        hits = found.ranks[numbers == number] <= topk
        if len(hits):
            recall = float(hits.mean())
            groups.append(Group(label, len(hits), recall, float(np.sqrt(recall * (1 - recall) / len(hits)))))
    return groups
