"""Recall, MRR and time of answering by NumPy and by utils/native/scoring.cc, and whether both find the same items.

    python benchmarks/scoring.py --model_dir model_output --test_dir test_data
    python benchmarks/scoring.py --model_dir model_output --test_dir test_data --others with_memory,joined

The time is that of the states and the best items together, per session: processor time, and the median of the time on
the clock. All models are asked in turn, batch by batch. Beside it is what a float32 product of the same states with the
item matrix would take at the rate of this core, which is measured in the same run. --others adds other models of the
same vocab.txt, such as joined ones, as recommend.py answers with them.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from machine import gemm_rate  # noqa: E402

from utils.data.sessions import Sessions, read_sessions  # noqa: E402
from utils.device import processor_name  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.model.layout import ITEM_MATRIX  # noqa: E402
from utils.model.load import load_model, load_scorer  # noqa: E402
from utils.model.native_scorer import NativeScorer, native_library  # noqa: E402
from utils.model.scorer import Scorer  # noqa: E402
from utils.options import COUNT, MODEL, TEST_SESSIONS, Parser, number  # noqa: E402
from utils.process import run  # noqa: E402


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--model_dir", default="model_recall20", help=MODEL)
    parser.add_argument("--test_dir", default="test_data", help=TEST_SESSIONS)
    parser.add_argument("--topk", type=number(int, 1, 1000), default=20, help="items to recommend")
    parser.add_argument("--batch_size", type=number(int, 1, 1024), default=8, help="sessions answered together")
    parser.add_argument("--predictions", type=number(int, 1, COUNT), default=100_000,
                        help="the first so many of the test sessions, >= 1")
    parser.add_argument("--others", default="", help="model directories to ask besides, separated by commas")
    return parser.parse_args()


def main():
    options = parse_arguments()
    settings, weights, _ = load_model(options.model_dir)
    library, reason = native_library()
    if library is None:
        raise InputError(f"found no compiled utils/native/scoring.cc ({reason}), expected a C++ compiler")
    scorers = {"NumPy": Scorer(settings, weights), "native": NativeScorer(settings, weights)}
    items, units = weights[ITEM_MATRIX].shape[0], settings.hid_size[-1]
    prefixes, targets = predictions(read_sessions(options.test_dir, items, "--test_dir"), options.predictions)
    limit = 2 * items * units / gemm_rate()
    print(f"{processor_name()}, {items} items, {units} units, {len(targets)} predictions, batches of "
          f"{options.batch_size}; the product alone at the rate of this core: {1e6 * limit:.0f} us a session")
    scorers |= {Path(path).name: load_scorer(path)[0] for path in filter(None, options.others.split(","))}
    found, seconds, medians = best_items(scorers, prefixes, options)
    for name, lists in found.items():
        places = [np.flatnonzero(best == target) for best, target in zip(lists, targets)]
        recall = np.mean([len(place) for place in places])
        mrr = np.mean([1 / (place[0] + 1) if len(place) else 0 for place in places])
        print(f"{name:7} recall@{options.topk}:{recall:.4f} mrr@{options.topk}:{mrr:.4f} "
              f"{1e6 * seconds[name]:.0f} us of the processor a session, "
              f"{seconds[name] / limit:.2f} of the product alone, median {1e6 * medians[name]:.0f} us on the clock")
    same = [np.array_equal(one, other) for one, other in zip(found["NumPy"], found["native"])]
    print(f"the same items in the same order: {np.mean(same):.4%}")


def predictions(sessions, most):
    """Prefixes of sessions as arrays of items, and the item that follows each."""
    prefixes, targets = [], []
    for start, end in zip(sessions.offsets, sessions.offsets[1:]):
        for click in range(start + 1, end):
            prefixes.append(sessions.items[start:click])
            targets.append(sessions.items[click])
    return prefixes[:most], targets[:most]


def best_items(scorers, prefixes, options):
    """Three dicts by name: each prefix's best items, the processor's seconds a prefix, the median by the clock."""
    found, spent = {name: [] for name in scorers}, {name: [] for name in scorers}
    for start in range(0, len(prefixes), options.batch_size):
        batch = prefixes[start:start + options.batch_size]
        sessions, rows = Sessions(np.concatenate(batch), np.cumsum([0] + [len(prefix) for prefix in batch])), len(batch)
        for name, scorer in scorers.items():
            began = np.array([time.process_time(), time.perf_counter()])
            best = scorer.best(scorer.after_sessions(sessions), [options.topk] * rows, [()] * rows, [None] * rows)
            spent[name].append(np.array([time.process_time(), time.perf_counter()]) - began)
            found[name] += [items for items, _ in best]
    seconds = {name: np.sum(times, axis=0)[0] / len(prefixes) for name, times in spent.items()}
    return found, seconds, {name: np.median(times, axis=0)[1] / options.batch_size for name, times in spent.items()}


if __name__ == "__main__":
    run(main)
