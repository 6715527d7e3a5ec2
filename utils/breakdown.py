"""Where a model is good: its recall by position in the session, by session length, by popularity of the item. No Paddle."""

from typing import NamedTuple

import numpy as np

from utils.files import InputError
from utils.metrics import target_ranks
from utils.runlog import progress
from utils.scorer import load_scorer
from utils.sessions import evaluation_batches, read_conversion, read_sessions
from utils.vocabulary import checksum

BATCH_SIZE = 128  # sessions at once
COUNTS = (1, 2, 3, 4, 5, 7, 10, 15)  # each group goes up to this, the last one beyond
ITEM_SHARES = (0.01, 0.05, 0.2, 0.5, 1.0)  # of all items, the most frequent first


class Ranks(NamedTuple):
    """The predictions for test sessions.

    ranks : float64 [predictions], of the target among all items
    positions : int64 [predictions], clicks seen before it
    lengths : int64 [predictions], clicks of its session
    shares : float64 [predictions], > 0 to 1: which share of the items is clicked at least as often in the training
    """

    ranks: np.ndarray
    positions: np.ndarray
    lengths: np.ndarray
    shares: np.ndarray


def run_ranks(run, test_dir):
    """The Ranks of a runs.Run's best or last epoch; popularity is the order of vocab.txt, which is that of the training clicks."""
    scorer, _ = load_scorer(run.model_dir)
    read_conversion(test_dir, checksum(run.model_dir / "vocab.txt"), "--test_dir")
    item_count = len(scorer.item_biases)
    sessions = read_sessions(test_dir, item_count, "--test_dir")
    if not sessions.predictions:
        raise InputError(f"--test_dir: found no session of two known clicks in {test_dir}, expected at least one")
    ranks = np.zeros(len(sessions.items))
    with progress(sessions.predictions, run.name) as bar:
        for batch in evaluation_batches(sessions, BATCH_SIZE, minimum_rows=1):
            states, start = scorer.before_first_click(batch.rows_per_step[0]), 0
            for rows in batch.rows_per_step:
                step = slice(start, start + rows)
                states = scorer.click(batch.inputs[step], [state[:rows] for state in states])
                scores = scorer.scores(states[-1])
                ranks[batch.positions[step]] = target_ranks(scores, scores[np.arange(rows), batch.targets[step]])
                start += rows
            bar.update(start)
    lengths = np.repeat(sessions.lengths, sessions.lengths)
    positions = np.arange(len(ranks)) - np.repeat(sessions.offsets[:-1], sessions.lengths)
    predicted = positions > 0
    shares = (sessions.items + 1) / item_count
    return Ranks(ranks[predicted], positions[predicted], lengths[predicted], shares[predicted])


def by_count(counts):
    """Groups of counts from 1 on, as `GROUPINGS` want them."""
    labels = [f"{first}" if first == last else f"{first}–{last}" for first, last in zip((1, *(c + 1 for c in COUNTS)), COUNTS)]
    return np.searchsorted(COUNTS, counts), [*labels, f"> {COUNTS[-1]}"]


def by_share(shares):
    """Groups of items by how frequent they are, as `GROUPINGS` want them."""
    bounds = [0, *ITEM_SHARES]
    labels = [f"{100 * first:g}–{100 * last:g} %" for first, last in zip(bounds, bounds[1:])]
    return np.minimum(np.searchsorted(ITEM_SHARES, shares), len(labels) - 1), labels


# Each takes Ranks and returns the group of each prediction, int array [predictions], and the groups' names.
GROUPINGS = {
    "clicks seen before": lambda found: by_count(found.positions),
    "clicks of the session": lambda found: by_count(found.lengths),
    "items by training clicks, most frequent first": lambda found: by_share(found.shares),
}


class Group(NamedTuple):
    """Some of the predictions: their name, how many, their recall, and its standard error."""

    name: str
    predictions: int
    recall: float
    error: float


def recall_by_group(found, grouping, topk):
    """A Group for each group of the Ranks `found` that has predictions, in order."""
    numbers, labels = grouping(found)
    groups = []
    for number, label in enumerate(labels):
        hits = found.ranks[numbers == number] <= topk
        if len(hits):
            recall = float(hits.mean())
            groups.append(Group(label, len(hits), recall, float(np.sqrt(recall * (1 - recall) / len(hits)))))
    return groups
