"""How well popular items predict the first click of a session, and the others, by how many sessions are counted.

    python benchmarks/popular.py --train_dir train_data --vocab_path vocab.txt

The newest sessions, which are the last, are left out and predicted from counts of those before them: recall@20 of the
first clicks and of all further ones, once by counts of all clicks and once by counts of first clicks.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from utils.data.sessions import choose, read_sessions  # noqa: E402
from utils.data.vocabulary import read_vocabulary  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.model.popular import NEWEST  # noqa: E402
from utils.options import VOCABULARY, Parser, number  # noqa: E402
from utils.process import run  # noqa: E402

COUNTED = 1000, 2000, 5000, NEWEST, 20_000, 50_000
K = 20


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--train_dir", default="train_data", help="training sessions, the newest last")
    parser.add_argument("--vocab_path", default="vocab.txt", help=VOCABULARY)
    parser.add_argument("--left_out", type=number(float, 0.001, 0.9), default=0.1,
                        help="share of the sessions, the newest, that are predicted")
    return parser.parse_args()


def main():
    options = parse_arguments()
    item_count = read_vocabulary(options.vocab_path).item_count
    sessions = read_sessions(options.train_dir, item_count, "--train_dir")
    count = len(sessions.lengths)
    cut = int(count * (1 - options.left_out))
    if not 0 < cut < count:
        raise InputError(f"--train_dir: found {count} sessions, expected enough to leave out {options.left_out:g}")
    asked = choose(sessions, np.arange(cut, count))
    is_first = np.zeros(len(asked.items), bool)
    is_first[asked.offsets[:-1]] = True
    print(f"{count - cut} sessions of {count} predicted, recall@{K} of first clicks and of further ones")
    print(f"{'counted':>8}{'by all clicks':>20}{'by first clicks':>20}")
    for newest in (*(each for each in COUNTED if each < cut), cut):
        known = choose(sessions, np.arange(cut - newest, cut))
        figures = []
        for items in (known.items, known.items[known.offsets[:-1]]):
            best = np.argsort(-np.bincount(items, minlength=item_count), kind="stable")[:K]
            hits = np.isin(asked.items, best)
            figures += [hits[is_first].mean(), hits[~is_first].mean() if len(hits) > is_first.sum() else np.nan]
        print(f"{newest:8}" + "".join(f"{figure:10.4f}" for figure in figures))


if __name__ == "__main__":
    run(main)
