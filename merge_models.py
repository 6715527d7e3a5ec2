"""Join several trained models into one, and a memory of neighbours if asked for.

    python merge_models.py model_1 model_2 model_3 --model_dir merged
    python merge_models.py model_1 model_2 --weights 2,1 --neighbours_from train_data --model_dir merged
    python infer.py --model_dir merged --last_index 1

Models trained on the same data make different mistakes, so their mean ranks better than each of them. Those of one form
(embedding, reset gate, number of layers) become one network, a GRU4Rec like any other, whose scores are the mean of
theirs: its states are theirs side by side, and its GRU weights between them are 0. Models of different forms, or with
--weights, stay as they are, side by side in one directory: it answers with the weighted mean of their probabilities.
--neighbours_from adds what the most similar training sessions say, in either case.

infer.py, recommend.py and serve.py take the result, export.py and --init_from only one network. It costs as much as its
models together. Needs no Paddle.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import os
from pathlib import Path

import numpy as np

from utils.data.session_files import read_conversion, refuse_sessions
from utils.data.sessions import read_sessions
from utils.files import InputError
from utils.memory import require_memory
from utils.model import checkpoint, upkeep
from utils.model.directory import (
    NET,
    choose_epoch,
    is_known,
    named_by,
    read_items,
    read_settings,
    vocabulary_checksum,
)
from utils.model.joined import JOINED, member_directory
from utils.model.layout import GATES, ITEM_MATRIX, LAST_CLICK, NetworkSettings, layers, weight_count
from utils.model.load import load_model
from utils.model.neighbours import remember
from utils.model.neighbours_file import MEMORY, read_remembered, read_returns, read_weight, write_neighbours
from utils.model.popular import read_popular_record
from utils.options import Parser, add_epoch_flag, add_overwrite_flag, number
from utils.process import run

WEIGHT = 0.3  # of the memory
MERGED_BYTES = 8  # of each weight: as it is computed, and as it is written


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL_DIR",
                        help="model directories with the same vocab.txt, at least two, or one with --neighbours_from")
    data, shares = parser.group("input and output"), parser.group("weights and memory")
    data.add_argument("--model_dir", required=True, help="model directory to write")
    add_epoch_flag(data)
    add_overwrite_flag(data)
    shares.add_argument("--weights", type=weights_of, default=None, metavar="X,...",
                        help="how much each model counts, in their order; they are scaled to a sum of 1; default: all "
                        "the same")
    shares.add_argument("--neighbours_from", default="", metavar="DIR",
                        help="directory of training session files (or one file), the newest session last, for a memory "
                        "of neighbours, in place of those that the models have")
    shares.add_argument("--neighbours_weight", type=number(float, 0.001, 0.999), default=None,
                        help=f"how much the memory counts, the models the rest; default: {WEIGHT}")
    options = parser.parse_args()
    if len(options.models) < 2 and not options.neighbours_from:
        raise InputError("MODEL_DIR: found one model, expected at least two, or --neighbours_from")
    if options.weights and len(options.weights) != len(options.models):
        raise InputError(f"--weights: found {len(options.weights)} for {len(options.models)} models, expected one for "
                         "each")
    if options.neighbours_weight is not None and not options.neighbours_from:
        raise InputError("--neighbours_weight: found it without --neighbours_from, expected both or none")
    models = [os.path.realpath(path) for path in options.models]
    if os.path.realpath(options.model_dir) in models:
        raise InputError(f"--model_dir: found one of the models, {options.model_dir}, expected another directory")
    for place, (path, real) in enumerate(zip(options.models, models)):
        if real in models[:place]:
            raise InputError(f"MODEL_DIR: found {path} twice, expected every model once: a mean of the same scores "
                             "would be no better")
    refuse_sessions(options.model_dir, "--model_dir")
    return options


def weights_of(text):
    """A type for argparse: numbers above 0, separated by commas."""
    one = number(float, 0.001, 1000)
    return [one(part) for part in text.split(",")]


def main():
    options = parse_arguments()
    with named_by("MODEL_DIR"):
        configs = [checkpoint.read_config(path) for path in options.models]
    for path, config in zip(options.models, configs):
        check_fit(path, config, options.models[0], configs[0])
    weights, memory = shares_of(options, configs)
    with upkeep.hold_directory(Path(options.model_dir)):
        if options.weights is None and have_one_form(options.models, configs):
            write_one_network(options, configs, memory)
        else:
            write_joined(options, configs, weights, memory)
    print(f"model saved in {checkpoint.epoch_directory(options.model_dir, 1)}")


def check_fit(path, config, first_path, first_config):
    """InputError if a model can't be joined with the first one."""
    if JOINED in config:
        raise InputError(f"MODEL_DIR: found joined models in {path}, expected one network; join all of them at once")
    if vocabulary_checksum(path, config) != vocabulary_checksum(first_path, first_config):
        raise InputError(f"MODEL_DIR: found another vocab.txt in {path} than in {first_path}, expected the same")


def have_one_form(paths, configs):
    """Whether the models can become one network."""
    if not all(map(is_known, configs)):
        return False
    forms = [(found.embedding, found.reset_after, found.last_click, len(found.hid_size))
             for found in map(read_settings, paths, configs)]
    return len(set(forms)) == 1


def shares_of(options, configs):
    """How much each network counts, a list of float, and the memory beside them.

    The memory is None, or a tuple of what `neighbours_file.write_neighbours` takes: what is remembered, its weight, and
    the mean of the weights of returns.py.
    """
    weights = options.weights or [1] * len(configs)
    weights = [weight / sum(weights) for weight in weights]
    if options.neighbours_from:
        own = [options.neighbours_weight or WEIGHT] * len(configs)
        memory = read_training(options, configs[0])
    else:
        own, memory = [read_weight(*model) for model in zip(options.models, configs)], shared_memory(options, configs)
    of_memory = sum(weight * part for weight, part in zip(weights, own))
    returns = np.average([read_returns(*model) for model in zip(options.models, configs)], axis=0, weights=weights)
    weights = [weight * (1 - part) for weight, part in zip(weights, own)]
    return weights, memory and (memory, of_memory, returns.tolist())


def read_training(options, config):
    """What is remembered of --neighbours_from."""
    model_dir, flag = options.models[0], "--neighbours_from"
    read_conversion(options.neighbours_from, vocabulary_checksum(model_dir, config), flag)
    item_count = read_items(model_dir, config).item_count
    return remember(read_sessions(options.neighbours_from, item_count, flag), item_count)


def shared_memory(options, configs):
    """What the memory of some of the models remembers, or None; it must be the same one."""
    having = [(path, config) for path, config in zip(options.models, configs) if config.get(MEMORY) is not None]
    if not having:
        return None
    first_path, first = having[0]
    for path, config in having:
        if any(config[MEMORY][name] != first[MEMORY][name] for name in ("file", "version")):
            raise InputError(f"MODEL_DIR: found another memory of neighbours in {path} than in {first_path}, expected "
                             "the same, or --neighbours_from")
    return read_remembered(first_path, first, read_items(first_path, first).item_count)


def write_one_network(options, configs, memory):
    """Write the network that the models become together."""
    with named_by("MODEL_DIR"):
        all_settings, all_weights = zip(*(load_model(path, options.epoch or None)[:2] for path in options.models))
    settings = merged_settings(all_settings)
    require_memory(MERGED_BYTES * weight_count(settings, len(all_weights[0][ITEM_MATRIX])),
                   f"MODEL_DIR: found {len(options.models)} models whose merged one has layers of {settings.hid_size}")
    weights = merged_weights(all_weights, settings)
    start(options, configs, {"network": settings.as_dict()}, memory)
    checkpoint.save_epoch(Path(options.model_dir), 1, weights, {}, {})


def write_joined(options, configs, weights, memory):
    """Write the models side by side."""
    with named_by("MODEL_DIR"):
        epochs = [choose_epoch(path, options.epoch or None) for path in options.models]
        all_weights = [checkpoint.load_any_weights(*model) for model in zip(options.models, epochs)]
    vocabulary = Path(options.models[0]) / "vocab.txt"
    start(options, configs, {JOINED: {"weights": weights}}, memory)
    with checkpoint.joined_epoch(Path(options.model_dir)) as epoch_dir:
        for place, config in enumerate(configs):
            member = member_directory(epoch_dir, place + 1)
            member.mkdir()
            net = Path(options.models[place], NET.name)
            upkeep.start_run(member, {name: value for name, value in config.items() if name != MEMORY}, vocabulary,
                             overwrite=False, net=net if net.is_file() else None)
            checkpoint.save_epoch(member, epochs[place], all_weights[place], {}, {})


def start(options, configs, config, memory):
    """Write all of the new model directory but its epoch."""
    model_dir, popular = Path(options.model_dir), next(filter(None, map(read_popular_record, options.models)), None)
    upkeep.start_run(model_dir, {**config, "data": configs[0]["data"], "merged": options.models},
                     Path(options.models[0]) / "vocab.txt", bool(options.overwrite), popular)
    if memory:
        write_neighbours(model_dir, *memory)


def merged_settings(settings):
    """The NetworkSettings of the merged network, as far as its answers depend on them."""
    sizes = [sum(units) for units in zip(*(each.hid_size for each in settings))]
    emb_size = sum(each.emb_size for each in settings)
    return NetworkSettings(sizes, emb_size, settings[0].embedding, settings[0].reset_after,
                           last_click=settings[0].last_click)


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
    if settings.last_click:
        merged[LAST_CLICK] = np.hstack(parts[LAST_CLICK]) * len(weights)
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
