"""What serve.py --item_matrix int8 loses: recall and MRR of a model by its whole item matrix and by the rounded one.

    python benchmarks/int8_recall.py --model_dir model_output --test_dir test_data
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from utils.model_reload import ServedModel  # noqa: E402
from utils.options import Parser, number, run  # noqa: E402
from utils.sessions import Sessions, read_sessions  # noqa: E402

BATCH = 32


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--model_dir", default="model_recall20", help="model directory, as train.py writes")
    parser.add_argument("--test_dir", default="test_data", help="test sessions, as for infer.py")
    parser.add_argument("--k", type=number(int, 1, 1000), default=20, help="items recommended, 1 to 1000")
    parser.add_argument("--predictions", type=number(int, 1), default=20_000,
                        help="the first so many of the test sessions, >= 1")
    return parser.parse_args()


def main():
    options = parse_arguments()
    models = {matrix: ServedModel(options.model_dir, item_matrix=matrix) for matrix in ("float32", "int8")}
    sessions = read_sessions(options.test_dir, len(models["int8"].item_ids), "--test_dir")
    prefixes, targets = predictions(sessions, options.predictions)
    best = {matrix: best_items(model, prefixes, options.k) for matrix, model in models.items()}
    print(f"{len(models['int8'].item_ids)} items, {models['int8'].scorer.hid_size[-1]} units, {len(targets)} predictions")
    for matrix, (found, seconds) in best.items():
        ranks = [np.flatnonzero(items == target) for items, target in zip(found, targets)]
        recall, mrr = np.mean([len(rank) for rank in ranks]), np.mean([1 / (rank[0] + 1) if len(rank) else 0 for rank in ranks])
        print(f"{matrix:8} recall@{options.k}:{recall:.4f} mrr@{options.k}:{mrr:.4f} {1000 * seconds:.3f} ms each")
    whole, rounded = (found for found, _ in best.values())
    shared = sum(len(np.intersect1d(one, other)) for one, other in zip(whole, rounded))
    print(f"of the {options.k} best items int8 finds {shared / sum(map(len, whole)):.4%}; the same lists in the same order: "
          f"{np.mean([np.array_equal(one, other) for one, other in zip(whole, rounded)]):.4%}")


def predictions(sessions, most):
    """Prefixes of sessions as lists of items, and the item that follows each."""
    prefixes, targets = [], []
    for start, end in zip(sessions.offsets, sessions.offsets[1:]):
        for click in range(start + 1, end):
            prefixes.append(sessions.items[start:click])
            targets.append(sessions.items[click])
    return prefixes[:most], targets[:most]


def best_items(model, prefixes, k):
    """Each prefix's best items, and the seconds that finding them took, per prefix."""
    found, seconds = [], 0.0
    for start in range(0, len(prefixes), BATCH):
        batch = prefixes[start:start + BATCH]
        sessions = Sessions(np.concatenate(batch), np.cumsum([0] + [len(prefix) for prefix in batch]))
        states = model.scorer.after_sessions(sessions)
        began = time.perf_counter()
        found += [items for items, _ in model.best(states, k, [()] * len(batch))]
        seconds += time.perf_counter() - began
    return found, seconds / len(prefixes)


if __name__ == "__main__":
    run(main)
