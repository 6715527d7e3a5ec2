"""What the tests of the network for purchase intent share: small sessions, their files, and networks."""

import numpy as np
import pyarrow as pa

from net import IntentNetwork
from utils.intent.features import count, pairs_of
from utils.intent.inputs import click_inputs, knots_of, pair_inputs
from utils.intent.sessions import IntentSessions
from utils.intent.settings import STATISTICS, IntentSettings

ITEMS, CATEGORIES = 12, 3
SIZES = ITEMS, CATEGORIES
FORMS = {"forward": IntentSettings(2, 5, 4, 3, 6, 3), "no categories": IntentSettings(1, 4, 3, 0, 2, 100),
         "bidirectional": IntentSettings(2, 5, 4, 3, 6, 3, bidirectional=True)}


def draw_sessions(count=40, seed=3, unknown=0.1):
    """IntentSessions of one to nine clicks; those that click an item twice buy it, most of the time."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 10, count)
    ids = random.integers(0, ITEMS + 4, lengths.sum()).astype(np.int32)
    ids = np.where(random.random(len(ids)) < 0.3, np.roll(ids, 1), ids)
    offsets = np.append(0, np.cumsum(lengths))
    owners = np.repeat(np.arange(count), lengths)
    keys = owners * 100 + ids
    twice = np.isin(keys, [key for key, times in zip(*np.unique(keys, return_counts=True)) if times > 1])
    bought = twice & (random.random(count) < 0.8)[owners]
    buys = np.logical_or.reduceat(bought, offsets[:-1])
    bought_count = np.array([len(np.unique(ids[start:end][bought[start:end]]))
                             for start, end in zip(offsets, offsets[1:])], np.int32)
    times = 1.7e9 + np.cumsum(random.exponential(90, len(ids)).round(3))
    return IntentSessions(np.minimum(ids, ITEMS).astype(np.int32), (ids % (CATEGORIES + 1)).astype(np.int32), times,
                          ids, bought, offsets, buys, bought_count, pa.array(list(map(str, range(count)))),
                          pa.array([f"item_{number}" for number in range(ITEMS + 4)]))


def write_sessions(directory, sessions):
    """Write IntentSessions as preprocess.py --to_intent writes a split."""
    directory.mkdir(parents=True)
    names, clicks, purchases = sessions.item_ids.to_pylist(), [], []
    for session, (start, end) in enumerate(zip(sessions.offsets, sessions.offsets[1:])):
        for click in range(start, end):
            category = f"c{sessions.categories[click]}" if sessions.categories[click] else ""
            clicks.append(f"{session}\t{names[sessions.ids[click]]}\t{category}\t{sessions.times[click]:.3f}\n")
        purchases += [f"{session}\t{names[item]}\t{sessions.times[end - 1] + 1:.3f}\n"
                      for item in np.unique(sessions.ids[start:end][sessions.bought[start:end]])]
    (directory / "clicks.tsv").write_text("SessionId\tItemId\tCategory\tTime\n" + "".join(clicks), encoding="utf-8")
    (directory / "buys.tsv").write_text("SessionId\tItemId\tTime\n" + "".join(purchases), encoding="utf-8")


def write_data(directory, count=120):
    """A directory as preprocess.py --to_intent writes it."""
    write_sessions(directory / "train", draw_sessions(count))
    write_sessions(directory / "valid", draw_sessions(count // 2, seed=4))
    write_sessions(directory / "test", draw_sessions(count // 2, seed=5))
    (directory / "vocab.txt").write_text("".join(f"item_{item}\n" for item in range(ITEMS)), encoding="utf-8")
    (directory / "categories.txt").write_text("".join(f"c{number + 1}\n" for number in range(CATEGORIES)),
                                              encoding="utf-8")
    return directory


def make_network(form="forward"):
    """A network of random weights, and what its batches are made with."""
    sessions = draw_sessions()
    counts = count(sessions, *SIZES, 1)
    known = counts.log_counts_and_rates(sessions)
    knots = knots_of(click_inputs(sessions, known)), knots_of(pair_inputs(sessions, pairs_of(sessions)))
    statistics = dict(zip(STATISTICS, [counts.items.sum(axis=0), counts.categories.sum(axis=0), *knots]))
    network, random = IntentNetwork(FORMS[form], statistics, (-2.0, -1.0)), np.random.default_rng(8)
    for weight in network.parameters():
        weight.set_value(weight + random.normal(0, 0.3, weight.shape).astype(np.float32))
    network.eval()
    return network, counts, knots
