"""Merge several trained models into one whose scores are the mean of theirs.

    python merge_models.py model_1 model_2 model_3 --model_dir merged
    python infer.py --model_dir merged --last_index 1

Models trained on the same data with different seeds make different mistakes, so their mean ranks better than each of
them. The merged network is a GRU4Rec like any other: its states are theirs side by side, and its GRU weights between
them are 0. All scripts take it. It costs as much as its models together. Needs no Paddle.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import os
from pathlib import Path

import numpy as np

from utils.data.session_files import refuse_sessions
from utils.files import InputError
from utils.memory import require_memory
from utils.model import checkpoint
from utils.model.layout import GATES, ITEM_MATRIX, NetworkSettings, layers, weight_count
from utils.model.load import load_model
from utils.model.popular import read_popular_record
from utils.options import COUNT, Parser, number
from utils.process import run
from utils.training.resume import hold_directory

SAME = "embedding", "reset_after"
MERGED_BYTES = 8  # of each weight: as it is computed, and as it is written


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR",
                        help="model directories with the same vocab.txt, at least two")
    parser.add_argument("--epoch", type=number(int, 0, COUNT), default=0,
                        help="which epoch of each to use; 0: its best one by validation, or its last")
    parser.add_argument("--model_dir", required=True, help="directory to write")
    parser.add_argument("--overwrite", type=number(int, 0, 1), default=0,
                        help="1: delete the run in --model_dir first")
    options = parser.parse_args()
    if len(options.models) < 2:
        raise InputError("MODEL_DIR: found one model, expected at least two")
    models = [os.path.realpath(path) for path in options.models]
    if os.path.realpath(options.model_dir) in models:
        raise InputError(f"--model_dir: found one of the models, {options.model_dir}, expected another directory")
    for place, (path, real) in enumerate(zip(options.models, models)):
        if real in models[:place]:
            raise InputError(f"MODEL_DIR: found {path} twice, expected every model once: a mean of the same scores "
                             "would be no better")
    refuse_sessions(options.model_dir, "--model_dir")
    return options


def main():
    options = parse_arguments()
    all_settings, all_weights = zip(*(load_model(path, options.epoch or None)[:2] for path in options.models))
    data = [checkpoint.read_config(path)["data"] for path in options.models]
    popular = next(filter(None, map(read_popular_record, options.models)), None)
    for number_of, path in enumerate(options.models):
        check_fit(path, all_settings[number_of], data[number_of], options.models[0], all_settings[0], data[0])
    settings = merged_settings(all_settings)
    require_memory(MERGED_BYTES * weight_count(settings, len(all_weights[0][ITEM_MATRIX])),
                   f"MODEL_DIR: found {len(options.models)} models whose merged one has layers of {settings.hid_size}")
    model_dir, weights = Path(options.model_dir), merged_weights(all_weights, settings)
    with hold_directory(model_dir):
        checkpoint.start_run(model_dir, {"network": settings.as_dict(), "data": data[0], "merged": options.models},
                             Path(options.models[0]) / "vocab.txt", bool(options.overwrite), popular)
        checkpoint.save_epoch(model_dir, 1, weights, {}, {})
    print(f"model saved in {checkpoint.epoch_directory(model_dir, 1)}")


def check_fit(path, settings, data, first_path, first_settings, first_data):
    """InputError if a model can't be merged with the first one."""
    if data["vocab_sha256"] != first_data["vocab_sha256"]:
        raise InputError(f"MODEL_DIR: found another vocab.txt in {path} than in {first_path}, expected the same")
    for name in SAME:
        if getattr(settings, name) != getattr(first_settings, name):
            raise InputError(f"MODEL_DIR: found {name} {getattr(settings, name)!r} in {path}, expected "
                             f"{getattr(first_settings, name)!r} as in {first_path}")
    if len(settings.hid_size) != len(first_settings.hid_size):
        raise InputError(f"MODEL_DIR: found {len(settings.hid_size)} layers in {path}, expected "
                         f"{len(first_settings.hid_size)} as in {first_path}")


def merged_settings(settings):
    """The NetworkSettings of the merged network, as far as its answers depend on them."""
    sizes = [sum(units) for units in zip(*(each.hid_size for each in settings))]
    emb_size = sum(each.emb_size for each in settings)
    return NetworkSettings(sizes, emb_size, settings[0].embedding, settings[0].reset_after)


def merged_weights(weights, settings):
    """The merged network's weights, float32 arrays by their names in net.Network.

    The item matrix is divided by the number of models, so that the scores are a mean. If it is also the embedding, the
    weights that take it as input are multiplied by the same number.
    """
    parts = {name: [each[name] for each in weights] for name in weights[0]}
    vectors = np.hstack([part[:, :-1] for part in parts[ITEM_MATRIX]]) / len(weights)
    merged = {ITEM_MATRIX: np.hstack([vectors, np.mean([part[:, -1:] for part in parts[ITEM_MATRIX]], axis=0)])}
    if settings.embedding == "separate":
        merged["embedding"] = np.hstack(parts["embedding"])
    elif settings.embedding == "none":
        merged["embedding"] = gates(parts["embedding"], np.hstack)
    for name in [name for layer in layers(settings) for name in (layer.fc, layer.gru) if name]:
        merged[f"{name}.weight"] = gates(parts[f"{name}.weight"], block_diagonal)
        merged[f"{name}.bias"] = gates(parts[f"{name}.bias"], np.hstack)
    if settings.embedding == "shared":
        merged[f"{layers(settings)[0].fc}.weight"] *= len(weights)
    return {name: np.ascontiguousarray(values, np.float32) for name, values in merged.items()}


def gates(parts, join):
    """Join arrays gate by gate: the thirds for r of all models, then those for z, then those for c."""
    return np.concatenate([join(third) for third in zip(*(np.split(part, GATES, axis=-1) for part in parts))], axis=-1)


def block_diagonal(matrices):
    """One matrix with the given ones along its diagonal, and 0 elsewhere."""
    result = np.zeros(np.sum([matrix.shape for matrix in matrices], axis=0), np.float32)
    row = column = 0
    for matrix in matrices:
        result[row:row + matrix.shape[0], column:column + matrix.shape[1]] = matrix
        row, column = row + matrix.shape[0], column + matrix.shape[1]
    return result


if __name__ == "__main__":
    run(main)
