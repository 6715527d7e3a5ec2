"""Join several trained models into one whose scores are the mean of theirs.

    python merge_models.py model_1 model_2 model_3 --model_dir merged
    python infer.py --model_dir merged --last_index 1

Models of the same data with other seeds err in different places, so their mean ranks better than each of them. The joined
network is a GRU4Rec like any other: its states are theirs side by side, and its GRU weights are 0 between them. All scripts
take it; it costs what its models cost together. Needs no Paddle.
"""

from pathlib import Path

import numpy as np

from utils import checkpoint
from utils.files import InputError
from utils.options import Parser, number, run
from utils.scorer import SETTINGS, load_model

SAME = "embedding", "reset_after"


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR", help="model directories of the same vocab.txt, at least two")
    parser.add_argument("--epoch", type=number(int, 0), default=0, help="of each, >= 1; 0: the best of its validation, or its last")
    parser.add_argument("--model_dir", required=True, help="directory to write")
    parser.add_argument("--overwrite", type=number(int, 0, 1), default=0, help="1: delete the run that --model_dir holds")
    options = parser.parse_args()
    if len(options.models) < 2:
        raise InputError("MODEL_DIR: found one model, expected at least two")
    if Path(options.model_dir).resolve() in [Path(path).resolve() for path in options.models]:
        raise InputError(f"--model_dir: found one of the models, {options.model_dir}, expected another directory")
    return options


def main():
    options = parse_arguments()
    all_settings, all_weights = zip(*(load_model(path, options.epoch or None)[:2] for path in options.models))
    data = [checkpoint.read_config(path)["data"] for path in options.models]
    for number_of, path in enumerate(options.models):
        check_fit(path, all_settings[number_of], data[number_of], options.models[0], all_settings[0], data[0])
    settings = merged_settings(all_settings)
    model_dir = Path(options.model_dir)
    checkpoint.start_run(model_dir, {"network": settings, "data": data[0], "merged": options.models},
                         Path(options.models[0]) / "vocab.txt", bool(options.overwrite))
    checkpoint.save_epoch(model_dir, 1, merged_weights(all_weights, settings), {}, {})
    print(f"model saved in {checkpoint.epoch_directory(model_dir, 1)}")


def check_fit(path, settings, data, first_path, first_settings, first_data):
    """Refuse a model that can't be joined with the first one."""
    if data["vocab_sha256"] != first_data["vocab_sha256"]:
        raise InputError(f"MODEL_DIR: found another vocab.txt in {path} than in {first_path}, expected the same")
    for name in SAME:
        if settings[name] != first_settings[name]:
            raise InputError(f"MODEL_DIR: found {name} {settings[name]!r} in {path}, expected {first_settings[name]!r} as in "
                             f"{first_path}")
    if len(settings["hid_size"]) != len(first_settings["hid_size"]):
        raise InputError(f"MODEL_DIR: found {len(settings['hid_size'])} layers in {path}, expected "
                         f"{len(first_settings['hid_size'])} as in {first_path}")


def merged_settings(settings):
    """net.NetworkSettings of the joined network, as a dict: what answers depend on."""
    sizes = [sum(units) for units in zip(*(each["hid_size"] for each in settings))]
    return {**{name: settings[0][name] for name in SETTINGS}, "hid_size": sizes,
            "emb_size": sum(each["emb_size"] for each in settings)}


def merged_weights(weights, settings):
    """The joined network's weights, float32 arrays by their names in net.Network.

    A shared matrix is divided by the number of models, so that the scores are a mean; what comes from it as an input is
    multiplied by the same number again.
    """
    merged = {}
    for name in weights[0]:
        parts = [each[name] for each in weights]
        if name == "item_matrix":
            vectors = np.hstack([part[:, :-1] for part in parts]) / len(parts)
            merged[name] = np.hstack([vectors, np.mean([part[:, -1:] for part in parts], axis=0)])
        elif name == "embedding" and settings["embedding"] == "separate":
            merged[name] = np.hstack(parts)
        elif name.endswith("bias") or name == "embedding":  # the three gates' parts stay together
            merged[name] = np.concatenate(gates(parts, np.hstack), axis=-1)
        else:
            merged[name] = np.concatenate(gates(parts, block_diagonal), axis=-1)
    if settings["embedding"] == "shared":
        merged["fc.0.weight"] *= len(weights)
    return {name: np.ascontiguousarray(values, np.float32) for name, values in merged.items()}


def gates(parts, join):
    """The arrays' thirds, for gates r, z and c, each joined over all models."""
    return [join(third) for third in zip(*(np.split(part, 3, axis=-1) for part in parts))]


def block_diagonal(matrices):
    """One matrix with the given ones from corner to corner, and 0 elsewhere."""
    result = np.zeros(np.sum([matrix.shape for matrix in matrices], axis=0), np.float32)
    row = column = 0
    for matrix in matrices:
        result[row:row + matrix.shape[0], column:column + matrix.shape[1]] = matrix
        row, column = row + matrix.shape[0], column + matrix.shape[1]
    return result


if __name__ == "__main__":
    run(main)
