"""Time of answers with a filter that leaves 1 %, 10 % and 90 % of the items, beside the time without one.

    python benchmarks/filtering.py                                 # 1,000,000 items, 100 units
    python benchmarks/filtering.py --item_count 37483 --hid_size 512

The weights are random, and so are the items that a filter leaves. Answers with and without a filter are timed in turn,
with one session at a time and with eight; the time is that of the processor, and each ratio is the median of all turns.
Each filtered answer is compared with the plain way, which scores all items, masks and sorts them. Before that, the
table of the items' fields is read, matched with the model's items and asked for one filter that is new.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from utils.data.item_filter import parse_filter  # noqa: E402
from utils.data.item_table import ItemFields, read_item_table  # noqa: E402
from utils.device import processor_name  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.memory import peak_memory  # noqa: E402
from utils.model.layout import NetworkSettings, weight_shapes  # noqa: E402
from utils.model.native_scorer import NativeScorer, native_library  # noqa: E402
from utils.options import COUNT, Parser, add_seed_flag, number  # noqa: E402
from utils.process import run  # noqa: E402

SHARES = 0.01, 0.1, 0.9
TOGETHER = 1, 8  # sessions


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--item_count", type=number(int, 100, COUNT), default=1_000_000, help="items of the model")
    parser.add_argument("--hid_size", type=number(int, 1, 100_000), default=100, help="units of the model")
    parser.add_argument("--topk", type=number(int, 1, 1000), default=20, help="items to recommend")
    parser.add_argument("--rounds", type=number(int, 1, COUNT), default=40, help="measurements of each kind, in turns")
    add_seed_flag(parser)
    return parser.parse_args()


def main():
    options = parse_arguments()
    library, reason = native_library()
    if library is None:
        raise InputError(f"found no compiled utils/native/scoring.cc ({reason}), expected a C++ compiler")
    random = np.random.default_rng(options.seed)
    print(f"{processor_name()}, {options.item_count} items, {options.hid_size} units, the best {options.topk}, seed "
          f"{options.seed}")
    fields = timed_fields(options.item_count, random)
    selections = {share: fields.select(parse_filter(f"share_{share}:1")) for share in SHARES}
    settings = NetworkSettings([options.hid_size], options.hid_size)
    scale = np.float32(2 / np.sqrt(options.hid_size))
    scorer = NativeScorer(settings, {name: random.standard_normal(shape, np.float32) * scale
                                     for name, shape in weight_shapes(settings, options.item_count).items()})
    for rows in TOGETHER:
        seconds = {share: [] for share in (None, *SHARES)}
        for _ in range(options.rounds):
            states = random.uniform(-1, 1, (rows, options.hid_size)).astype(np.float32)
            for share, taken in seconds.items():
                began = time.process_time()
                found = scorer.best(states, [options.topk] * rows, [()] * rows, [selections.get(share)] * rows)
                taken.append(time.process_time() - began)
                if share:
                    require_plain(scorer, states, selections[share], options.topk, found)
        without = np.array(seconds[None])
        ratios = ", ".join(f"{share:.0%} {np.median(np.array(seconds[share]) / without):.2f}" for share in SHARES)
        print(f"{rows} at a time: without a filter {1000 * np.median(without) / rows:.2f} ms a session; with one that "
              f"leaves: {ratios} of that")


def timed_fields(items, random):
    """The ItemFields of a table with a column of 0 and 1 for each share, and with a title of their own for all."""
    item_ids = [str(item) for item in range(items)]
    with tempfile.TemporaryDirectory(prefix="gru4rec_filtering_") as directory:
        path = Path(directory) / "items.csv"
        columns = [(random.random(items) < share).astype(int).tolist() for share in SHARES]
        names = ["id", *(f"share_{share}" for share in SHARES), "title"]
        with open(path, "w") as file:
            file.write(",".join(names) + "\n")
            file.writelines(f"{','.join(map(str, row))},item number {row[0]}\n" for row in zip(item_ids, *columns))
        before, began = peak_memory(), time.process_time()
        fields = ItemFields(read_item_table(path, "--items"), item_ids)
        read, memory = time.process_time() - began, peak_memory() - before
    began = time.process_time()
    fields.select(parse_filter(",".join(f"share_{share}:1" for share in SHARES)))
    new = time.process_time() - began
    print(f"a table of {items} rows and {len(names) - 1} fields: read in {read:.2f} s, {memory} MiB at most; a new "
          f"filter of three values: {1000 * new:.2f} ms")
    return fields


def require_plain(scorer, states, selection, k, found):
    """InputError unless the items found, and their scores, are those of the plain way.

    The plain way scores by the sums of the same C++, since others round in another order.
    """
    every = np.arange(selection.items)
    left = selection.mask()
    for state, (best, scores) in zip(states, found):
        all_scores = scorer.scores(state, every)
        order = np.lexsort((every[left], -all_scores[left]))[:k]
        expected = every[left][order]
        if best.tolist() != expected.tolist() or scores.tobytes() != all_scores[expected].tobytes():
            raise InputError(f"found {best[:5]} with a filter, expected {expected[:5]} as from all scores")


if __name__ == "__main__":
    run(main)
