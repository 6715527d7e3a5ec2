"""Write what a trained model knows for other programs: item vectors, session states, or the network as ONNX.

    python export.py --model_dir model_output --item_vectors items.npy
    python export.py --model_dir model_output --session_states states.parquet --sessions sessions.txt
    python export.py --model_dir model_output --onnx model.onnx --topk 20

The ending of a file's name says its form. An item's score after a session is the product of the session's state and the
item's vector, plus the item's bias.

    items.npy        float32 [items, units + 1] in the order of vocab.txt; the last column is the bias
    items.parquet    a row for each item: item_id, bias, vector
    states.npy       float32 [sessions, units] in the order of --sessions, empty lines left out
    states.parquet   a row for each session: session, counted from 0, clicks on known items, state
    model.onnx       from clicks and states to new states, scores and the best items (docs/export.md)

--sessions is a text file of item ids, one session a line, as for recommend.py. Clicks on items that the model doesn't
know are left out, and counted on stderr. A session without any other has a state of zeros. Needs no Paddle, but for
vectors and states of a network that was edited in net.py; ONNX needs the package onnx (requirements-export.txt).
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import os
from importlib.util import find_spec
from pathlib import Path

# Before NumPy loads: on busy processors its threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from utils.data.session_files import refuse_conversion
from utils.data.session_lines import name_of, read_lines
from utils.data.sessions import Sessions
from utils.files import InputError, require_different, write_atomically
from utils.model.checkpoint import read_config
from utils.model.directory import require_one_network
from utils.model.load import load_model, load_scorer
from utils.model.neighbours_file import MEMORY
from utils.options import COUNT, SESSION_LINES, Parser, add_model_flags, number
from utils.process import run, tell

OUTPUTS = {"item_vectors": (".npy", ".parquet"), "session_states": (".npy", ".parquet"), "onnx": (".onnx",)}
BATCH = 256  # sessions at once


def parse_arguments():
    parser = Parser(__doc__)
    data = parser.group("input and output")
    add_model_flags(data)
    data.add_argument("--item_vectors", default="", metavar="FILE", help=".npy or .parquet file to write")
    data.add_argument("--session_states", default="", metavar="FILE",
                      help=".npy or .parquet file to write, with the state after each of --sessions")
    data.add_argument("--sessions", default="", metavar="FILE", help=SESSION_LINES)
    data.add_argument("--onnx", default="", metavar="FILE", help=".onnx file to write")
    parser.group("answers").add_argument("--topk", type=number(int, 1, COUNT), default=20,
                                         help="items to recommend, by the ONNX graph")
    options = parser.parse_args()
    outputs = [(f"--{name}", getattr(options, name)) for name in OUTPUTS if getattr(options, name)]
    if not outputs:
        raise InputError("--item_vectors, --session_states, --onnx: found none of them, expected at least one file to "
                         "write")
    for flag, path in outputs:
        endings = OUTPUTS[flag[2:]]
        if Path(path).suffix not in endings:
            raise InputError(f"{flag}: found {path}, expected a name that ends in {' or '.join(endings)}")
        refuse_conversion(Path(path).parent, flag)
    require_different([("--sessions", options.sessions)] * bool(options.sessions), outputs)
    if bool(options.session_states) != bool(options.sessions):
        found, missing = ("--sessions", "--session_states")[::1 if options.sessions else -1]
        raise InputError(f"{found}: found it without {missing}, expected both or none")
    if options.onnx and find_spec("onnx") is None:
        raise InputError("--onnx: found no Python package onnx, expected it: "
                         "pip install --require-hashes -r requirements-export.txt")
    return options


def main():
    options = parse_arguments()
    config = read_config(options.model_dir)
    require_one_network(options.model_dir, config)
    if config.get(MEMORY) is not None:
        tell(f"{options.model_dir} has a memory of neighbours, which is left out: only the network is written")
    if options.item_vectors or options.session_states:
        scorer, item_ids = load_scorer(options.model_dir, options.epoch or None, network_alone=True)
        if not scorer.state_size:
            tell(f"{options.model_dir} is answered through {scorer.way}")
        item_ids = item_ids or [str(index) for index in range(len(scorer.item_biases))]
        if options.session_states:
            write_states(options.session_states, *session_states(scorer, item_ids, options.sessions))
        if options.item_vectors:
            write_items(options.item_vectors, scorer, item_ids)
    if options.onnx:
        write_onnx(options)
    for path in filter(None, (options.session_states, options.item_vectors, options.onnx)):
        print(f"written: {path}")


def session_states(scorer, item_ids, path):
    """The state after each session of a file, float32 [sessions, units], and its clicks on known items, a list of int.
    """
    index_of = {item_id: index for index, item_id in enumerate(item_ids)}
    states, counts, unknown, first = [np.empty((0, scorer.item_vectors.shape[1]), np.float32)], [], 0, ""
    for lines in read_lines(path):
        sessions = [(line, clicks) for line, clicks in lines if clicks]
        for start in range(0, len(sessions), BATCH):
            batch = [[index_of[item_id] for item_id in clicks if item_id in index_of]
                     for _, clicks in sessions[start:start + BATCH]]
            counts += map(len, batch)
            states.append(scorer.after_sessions(Sessions(
                np.array([item for items in batch for item in items], np.int32),
                np.cumsum([0, *map(len, batch)], dtype=np.int64))))
        for line, clicks in sessions:
            missing = [item_id for item_id in clicks if item_id not in index_of]
            first = first or (f"{missing[0][:40]!r} in {name_of(path)}:{line}" if missing else "")
            unknown += len(missing)
    if not counts:
        raise InputError(f"--sessions: found no session in {name_of(path)}, expected item ids, one session a line")
    if unknown:
        tell(f"left out clicks on items that the model doesn't know: {unknown} (first: {first}); sessions without any "
             f"other, with a state of zeros: {counts.count(0)}")
    return np.concatenate(states), counts


def write_states(path, states, counts):
    if path.endswith(".npy"):
        write_array(path, states)
    else:
        write_table(path, {"session": np.arange(len(states)), "clicks": counts}, "state", states)


def write_items(path, scorer, item_ids):
    if path.endswith(".npy"):
        write_array(path, scorer.item_matrix)
    else:
        write_table(path, {"item_id": item_ids, "bias": scorer.item_biases}, "vector", scorer.item_vectors)


def write_array(path, values):
    with write_atomically(path, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)


def write_table(path, columns, name, vectors):
    """Write a Parquet file of `columns`, a dict, and of a column `name` of float32 vectors [rows, units]."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    table = pa.table({column: pa.array(values) for column, values in columns.items()})
    numbers = pa.array(np.ascontiguousarray(vectors).ravel())
    table = table.append_column(name, pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1]))
    with write_atomically(path, "wb") as file:
        pq.write_table(table, file)


def write_onnx(options):
    from utils.model.onnx_model import session_model  # onnx loads for this alone
    settings, weights, _ = load_model(options.model_dir, options.epoch or None)
    model = session_model(settings, weights, options.topk, {"weights_sha256": weights.checksum})
    with write_atomically(options.onnx, "wb") as file:
        file.write(model.SerializeToString())


if __name__ == "__main__":
    run(main)
