"""What both infer scripts do: evaluate the epochs of a model directory and report the figures."""

import time
from pathlib import Path

import numpy as np
import paddle

from net import Network, NetworkSettings
from utils import checkpoint
from utils.baselines import baseline_ranks, popularity_scores, transition_scores
from utils.evaluation import network_ranks
from utils.files import InputError, require_file
from utils.metrics import recall_and_mrr
from utils.runlog import append_record, line_of, log, print_table, warn
from utils.sessions import read_conversion, read_sessions
from utils.vocabulary import checksum, read_vocabulary


def run_inference(options):
    """Evaluate the epochs that `options`, the flags of `options.add_inference_flags`, ask for.

    Prints and records one line of figures an epoch, and with --train_dir a table with those of POP and item transitions.

    Raises
    ------
    InputError
        For what is wrong with files or flags.
    """
    model_dir = Path(options.model_dir)
    config = checkpoint.read_config(model_dir)
    best = None if options.epochs_given else checkpoint.best_epoch(model_dir)
    epochs = [best] if best else epochs_to_evaluate(checkpoint.finished_epochs(model_dir), options)
    item_count = read_items(model_dir, config, options)
    record = read_conversion(options.test_dir, checksum(model_dir / "vocab.txt"), "--test_dir")
    sessions = read_sessions(options.test_dir, item_count, "--test_dir")
    if not sessions.predictions:
        raise InputError(f"--test_dir: found no session of two known clicks in {options.test_dir}, expected at least one")
    unknown = record.get("clicks_left_out", 0)
    log(f"test:{options.test_dir} sessions:{len(sessions.lengths)} predictions:{sessions.predictions} items:{item_count} "
        f"unknown_clicks_left_out:{unknown} ties:{options.ties}" + f" sampled:{options.sampled}" * bool(options.sampled))

    if best:
        log(f"epoch:{best} the best of the validation; --start_index and --last_index choose others")
    if options.sampled:
        warn(f"--sampled {options.sampled}: ranks among sampled items flatter every model and can turn their order around "
             "(Krichene and Rendle, KDD 2020); don't compare them with full ranks")
    results = {}
    if options.train_dir:
        results.update(evaluate_baselines(sessions, item_count, options))
    for epoch in epochs:
        figures, seconds = evaluate_epoch(model_dir, epoch, config, item_count, sessions, options)
        log(f"model:{checkpoint.epoch_directory(model_dir, epoch)} {line_of(figures)} time_cost(s):{seconds:.2f}")
        results[f"epoch_{epoch}"] = figures
        record_figures(model_dir, {"event": "test", "epoch": epoch, **figures, "ties": options.ties, "sampled": options.sampled,
                                   "test_dir": options.test_dir, "predictions": sessions.predictions,
                                   "unknown_clicks_left_out": unknown, "time_cost": seconds})
    if options.train_dir:
        print_table(results)


def epochs_to_evaluate(finished, options):
    """The finished epochs that were asked for; those that are not there are named."""
    found = [epoch for epoch in finished if options.start_index <= epoch <= options.last_index]
    if not found:
        there = ", ".join(map(str, finished)) or "none"
        raise InputError(f"--model_dir: found none of the epochs {options.start_index} to {options.last_index} in "
                         f"{options.model_dir}, expected at least one (epochs there: {there})")
    around = [options.start_index - 1, *found, options.last_index + 1]
    missing = [f"{before + 1}" if after - before == 2 else f"{before + 1} to {after - 1}"
               for before, after in zip(around, around[1:]) if after - before > 1]
    if missing:
        warn(f"{options.model_dir}: skipped epochs that are not there: {', '.join(missing)}")
    return found


def read_items(model_dir, config, options):
    """The number of items that the model knows; a --vocab_path that is given must be the model's."""
    own = model_dir / "vocab.txt"
    try:
        expected = str(config["data"]["vocab_sha256"])
    except (KeyError, TypeError):
        raise InputError(f"{model_dir / 'config.json'}: found no checksum of vocab.txt, expected one of train.py") from None
    paths = [(own, "--model_dir"), (options.vocab_path, "--vocab_path")] if options.vocab_path else [(own, "--model_dir")]
    for path, flag in paths:
        if checksum(require_file(path, flag)) != expected:
            raise InputError(f"{flag}: found another vocabulary in {path} than the model was trained with, expected "
                             f"SHA-256 {expected[:12]}...")
    return read_vocabulary(own, "--model_dir")[1]


def evaluate_epoch(model_dir, epoch, config, item_count, sessions, options):
    """Figures of one epoch as a dict, and the seconds that they took."""
    began = time.perf_counter()
    try:
        network = Network(item_count, NetworkSettings(**config["network"]))
    except (LookupError, TypeError, ValueError, ArithmeticError, AssertionError) as error:
        raise InputError(f"{model_dir / 'config.json'}: found no complete network settings ({error}), expected those of train.py")
    shapes = {name: list(weight.shape) for name, weight in network.named_parameters()}
    for name, values in checkpoint.load_weights(model_dir, epoch, shapes).items():
        network.state_dict()[name].set_value(paddle.to_tensor(values))
    try:
        ranks = network_ranks(network, sessions, options.batch_size, options.ties, f"epoch {epoch}",
                              draw_sample(sessions, item_count, options))
    except InputError as error:
        raise InputError(f"{checkpoint.epoch_directory(model_dir, epoch)}: {error}") from None
    return recall_and_mrr(ranks, options.topk), time.perf_counter() - began


def draw_sample(sessions, item_count, options):
    """For --sampled, the items that each click is ranked among, int32 [events, sampled], as in `network_ranks`; else None."""
    if not options.sampled:
        return None
    if item_count < 2:
        raise InputError(f"--sampled {options.sampled}: found a vocabulary of one item, expected others to rank it among")
    random = np.random.default_rng(options.seed)
    return random.integers(item_count - 1, size=(len(sessions.items), options.sampled), dtype=np.int32)


def evaluate_baselines(sessions, item_count, options):
    """Figures of what needs no network, by name."""
    read_conversion(options.train_dir, checksum(Path(options.model_dir) / "vocab.txt"), "--train_dir")
    training = read_sessions(options.train_dir, item_count, "--train_dir")
    baselines = {"POP": popularity_scores, "transitions": transition_scores}
    return {name: recall_and_mrr(baseline_ranks(fit(training, item_count), sessions, options.ties), options.topk)
            for name, fit in baselines.items()}


def record_figures(model_dir, record):
    """Append to metrics.jsonl; a model directory that can't be written must not keep anyone from their figures."""
    try:
        append_record(model_dir, record)
    except OSError as error:
        warn(f"{model_dir / 'metrics.jsonl'}: figures are not recorded ({error.strerror})")
