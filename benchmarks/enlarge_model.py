"""Make a model of many items from a trained one: its items many times over, each time a little different.

    python benchmarks/enlarge_model.py --model_dir model_output --test_dir test_data --out_dir large
    python benchmarks/serve_load.py --model_dir large/model --test_dir large/sessions.txt --rates 1,10

Random weights don't show how fast a trained model answers: their scores lie close together. Here each vector is one of
the trained model, plus a random one whose length is a share (--spread) of its own. The biases stay as they are, and so
does the order of the items. The sessions are those of --test_dir, with one of the new items for each click, always the
same one in a session. The memory of neighbours, if there is one, gets such sessions too; with --neighbours 0 it is left
out. With fewer --items than the model has, its first ones are left, which are the most frequent, and their clicks.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from utils.data.sessions import Sessions, read_sessions  # noqa: E402
from utils.data.vocabulary import checksum  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.model import checkpoint, upkeep  # noqa: E402
from utils.model.layout import ITEM_MATRIX, input_matrix  # noqa: E402
from utils.model.load import load_model  # noqa: E402
from utils.model.neighbours import Remembered  # noqa: E402
from utils.model.neighbours_file import MEMORY, read_remembered, read_weight, write_neighbours  # noqa: E402
from utils.options import COUNT, TEST_SESSIONS, Parser, add_seed_flag, number  # noqa: E402
from utils.process import run  # noqa: E402

ROWS_AT_ONCE = 1 << 16


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--model_dir", default="model_output", help="trained model of one network")
    parser.add_argument("--test_dir", default="test_data", help=TEST_SESSIONS)
    parser.add_argument("--item_count", type=number(int, 2, COUNT), default=1_000_000, help="items of the new model")
    parser.add_argument("--spread", type=number(float, 0, 10), default=0.5,
                        help="how long what is added to a vector is, as a share of its length")
    parser.add_argument("--session_count", type=number(int, 1, COUNT), default=2000, help="sessions to write")
    parser.add_argument("--neighbours", type=number(int, 0, 1), default=1, help="1: keep the memory of neighbours")
    parser.add_argument("--out_dir", default="large", help="new directory for the model and sessions.txt")
    add_seed_flag(parser)
    return parser.parse_args()


def main():
    options = parse_arguments()
    random, output = np.random.default_rng(options.seed), Path(options.out_dir)
    settings, weights, _ = load_model(options.model_dir)
    trained = len(weights[ITEM_MATRIX])
    if output.exists():
        raise InputError(f"--out_dir: found {output}, expected a directory that isn't there yet")
    sessions = read_sessions(options.test_dir, trained, "--test_dir")
    new = max(options.item_count, trained)
    firsts = -(-np.arange(trained + 1) * new // trained)  # the new items of each trained one
    firsts = np.minimum(firsts, options.item_count)  # none for those that are left out
    for name in {ITEM_MATRIX, input_matrix(settings)}:
        units = weights[name].shape[1] - (name == ITEM_MATRIX)  # its last column has the biases
        weights[name] = enlarged(weights[name], units, firsts, options.spread, random)
    output.mkdir(parents=True)
    vocabulary = output / "vocab.txt"
    vocabulary.write_text("".join(f"{item}\n" for item in range(options.item_count)), encoding="utf-8")
    config = {"network": settings.as_dict(), "data": {"vocab_sha256": checksum(vocabulary)}}
    upkeep.start_run(output / "model", config, vocabulary, overwrite=False)
    checkpoint.save_epoch(output / "model", 1, weights, {"none": np.zeros(1, np.float32)}, {})
    config = checkpoint.read_config(options.model_dir)
    if options.neighbours and MEMORY in config:
        remembered = read_remembered(options.model_dir, config, trained)
        rates = np.repeat(remembered.repeat_rates, np.diff(firsts))
        write_neighbours(output / "model", Remembered(spread_out(remembered.sessions, firsts, random), rates),
                         read_weight(options.model_dir, config))
    items, offsets = spread_out(sessions, firsts, random)
    with open(output / "sessions.txt", "w", encoding="utf-8") as file:
        for start, end in list(zip(offsets, offsets[1:]))[:options.session_count]:
            file.write(" ".join(map(str, items[start:end])) + "\n")
    print(f"{output / 'model'}: {options.item_count} items from {trained}; {output / 'sessions.txt'}: "
          f"{min(options.session_count, len(offsets) - 1)} sessions")


def enlarged(matrix, units, firsts, spread, random):
    """A matrix whose rows firsts[i] to before firsts[i + 1] are row i, each with other numbers in its first `units`."""
    result = np.repeat(matrix, np.diff(firsts), axis=0)
    for start in range(0, len(result), ROWS_AT_ONCE):
        rows = result[start:start + ROWS_AT_ONCE, :units]
        added = random.standard_normal(rows.shape, np.float32)
        rows += added * (spread * np.linalg.norm(rows, axis=1, keepdims=True)
                         / np.linalg.norm(added, axis=1, keepdims=True))
    return result


def with_items(sessions, is_left):
    """The sessions.Sessions without the clicks on other items, and without sessions that have none left."""
    kept = is_left[sessions.items]
    offsets = np.unique(np.concatenate([[0], np.cumsum(kept)])[sessions.offsets])
    return Sessions(sessions.items[kept], offsets)


def spread_out(sessions, firsts, random):
    """The same sessions.Sessions of the new items; an item that comes again in a session is again the same one."""
    sessions = with_items(sessions, np.diff(firsts) > 0)
    keys = np.repeat(np.arange(len(sessions.lengths)), sessions.lengths) * len(firsts) + sessions.items
    keys, places = np.unique(keys, return_inverse=True)
    items = keys % len(firsts)
    return Sessions(random.integers(firsts[items], firsts[items + 1])[places].astype(np.int32), sessions.offsets)


if __name__ == "__main__":
    run(main)
