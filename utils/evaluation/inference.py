"""What both infer scripts do: evaluate the epochs of a model directory and report the figures."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.session_files import read_conversion
from utils.data.sessions import read_sessions
from utils.data.vocabulary import checksum, read_vocabulary
from utils.evaluation.baselines import baseline_ranks, popularity_scores, transition_scores
from utils.evaluation.metrics import recall_and_mrr
from utils.evaluation.ranks import network_ranks
from utils.files import InputError, require_file
from utils.model import checkpoint
from utils.model.directory import other_net, vocabulary_checksum
from utils.model.network import load_network
from utils.processes import ALONE
from utils.runlog import append_record, line_of, log, print_table, warn


@dataclass
class Evaluation:
    """What to evaluate, and how.

    model_dir, test_dir : str
    train_dir : str, training sessions for POP and item transitions; empty: without these
    vocab_path : str, must be the model's; empty: not looked at
    first_epoch, last_epoch : int
    best_alone : bool, the epoch that validation found best instead, where there was a validation
    cutoffs : list of int
    ties : str, as of metrics.target_ranks
    batch_size : int, sessions at once; changes no figure
    sampled : int, rank each target among so many items drawn uniformly; 0: among all
    seed : int, of those draws
    """

    model_dir: str
    test_dir: str
    train_dir: str = ""
    vocab_path: str = ""
    first_epoch: int = 1
    last_epoch: int = 10
    best_alone: bool = False
    cutoffs: list = (20,)
    ties: str = "standard"
    batch_size: int = 1024
    sampled: int = 0
    seed: int = 1


def run_inference(evaluation, kernels=None, processes=ALONE):
    """Do an Evaluation, by several processes.Processes together.

    Prints and records one line of figures an epoch, and with `train_dir` a table with those of POP and item
    transitions. `kernels` is the C++ of device.prepare's Device, if any.

    Raises
    ------
    InputError
        For what is wrong with files or flags.
    """
    model_dir = Path(evaluation.model_dir)
    epochs, item_count, sessions, unknown = processes.in_turn(lambda: _prepare(evaluation))
    results = {}
    if evaluation.train_dir:
        results = processes.first_does(lambda: evaluate_baselines(sessions, item_count, evaluation)) or {}
    for epoch in epochs:
        figures, seconds = evaluate_epoch(epoch, sessions, item_count, evaluation, kernels, processes)
        log(f"model:{checkpoint.epoch_directory(model_dir, epoch)} {line_of(figures)} time_cost(s):{seconds:.2f}")
        results[f"epoch_{epoch}"] = figures
        if processes.is_first:
            record_figures(model_dir, {"event": "test", "epoch": epoch, **figures, "ties": evaluation.ties,
                                       "sampled": evaluation.sampled, "test_dir": evaluation.test_dir,
                                       "predictions": sessions.predictions, "unknown_clicks_left_out": unknown,
                                       "time_cost": seconds})
    if evaluation.train_dir:
        print_table(results)


def _prepare(evaluation):
    """The epochs to evaluate, the number of items, the sessions, and how many clicks on unknown items they lack."""
    model_dir, sampled = Path(evaluation.model_dir), evaluation.sampled
    config = checkpoint.read_config(model_dir)
    best = checkpoint.best_epoch(model_dir) if evaluation.best_alone else None
    epochs = [best] if best else epochs_to_evaluate(checkpoint.finished_epochs(model_dir), evaluation)
    item_count = read_items(model_dir, config, evaluation.vocab_path)
    record = read_conversion(evaluation.test_dir, checksum(model_dir / "vocab.txt"), "--test_dir")
    sessions = read_sessions(evaluation.test_dir, item_count, "--test_dir")
    if not sessions.predictions:
        raise InputError(f"--test_dir: found no session of two known clicks in {evaluation.test_dir}, expected at "
                         "least one")
    unknown = record.get("clicks_left_out", 0)
    log(f"test:{evaluation.test_dir} sessions:{len(sessions.lengths)} predictions:{sessions.predictions} "
        f"items:{item_count} unknown_clicks_left_out:{unknown} ties:{evaluation.ties}"
        + f" sampled:{sampled}" * bool(sampled))
    if best:
        log(f"epoch:{best} the best by validation; --start_index and --last_index choose others")
    if sampled:
        warn(f"--sampled {sampled}: ranks among sampled items flatter every model and can turn their order around "
             "(Krichene and Rendle, KDD 2020); don't compare them with full ranks")
    if another := other_net(model_dir, config):
        warn(another)
    return epochs, item_count, sessions, unknown


def epochs_to_evaluate(finished, evaluation):
    """The finished epochs that were asked for; those that are not there are named."""
    first, last = evaluation.first_epoch, evaluation.last_epoch
    found = [epoch for epoch in finished if first <= epoch <= last]
    if not found:
        there = ", ".join(map(str, finished)) or "none"
        raise InputError(f"--model_dir: found none of the epochs {first} to {last} in {evaluation.model_dir}, expected "
                         f"at least one (epochs there: {there})")
    around = [first - 1, *found, last + 1]
    missing = [f"{before + 1}" if after - before == 2 else f"{before + 1} to {after - 1}"
               for before, after in zip(around, around[1:]) if after - before > 1]
    if missing:
        warn(f"{evaluation.model_dir}: skipped epochs that are not there: {', '.join(missing)}")
    return found


def read_items(model_dir, config, vocab_path):
    """The number of items that the model knows; a `vocab_path` that is given must be the model's."""
    own, expected = model_dir / "vocab.txt", vocabulary_checksum(model_dir, config)
    for path, flag in [(own, "--model_dir")] + [(vocab_path, "--vocab_path")] * bool(vocab_path):
        if checksum(require_file(path, flag)) != expected:
            raise InputError(f"{flag}: found another vocabulary in {path} than the model was trained with, expected "
                             f"SHA-256 {expected[:12]}...")
    return read_vocabulary(own, "--model_dir")[1]


def evaluate_epoch(epoch, sessions, item_count, evaluation, kernels=None, processes=ALONE):
    """Figures of one epoch as a dict, and the seconds that they took."""
    began = time.perf_counter()
    network = processes.in_turn(lambda: load_network(evaluation.model_dir, epoch))
    sample = draw_sample(sessions, item_count, evaluation.sampled, evaluation.seed) if evaluation.sampled else None
    try:
        ranks = network_ranks(network, sessions, evaluation.batch_size, evaluation.ties, f"epoch {epoch}", sample,
                              kernels, processes)
    except InputError as error:
        raise InputError(f"{checkpoint.epoch_directory(evaluation.model_dir, epoch)}: {error}") from None
    return recall_and_mrr(ranks, evaluation.cutoffs), time.perf_counter() - began


def draw_sample(sessions, item_count, size, seed):
    """The `size` items that each click is ranked among, int32 [events, size], as in `network_ranks`."""
    if item_count < 2:
        raise InputError(f"--sampled {size}: found a vocabulary of one item, expected others to rank it among")
    return np.random.default_rng(seed).integers(item_count - 1, size=(len(sessions.items), size), dtype=np.int32)


def evaluate_baselines(sessions, item_count, evaluation):
    """Figures of what needs no network, by name."""
    read_conversion(evaluation.train_dir, checksum(Path(evaluation.model_dir) / "vocab.txt"), "--train_dir")
    training = read_sessions(evaluation.train_dir, item_count, "--train_dir")
    baselines = {"POP": popularity_scores, "transitions": transition_scores}
    ranks = {name: baseline_ranks(fit(training, item_count), sessions, evaluation.ties)
             for name, fit in baselines.items()}
    return {name: recall_and_mrr(found, evaluation.cutoffs) for name, found in ranks.items()}


def record_figures(model_dir, record):
    """Append to metrics.jsonl; a model directory that can't be written must not keep anyone from their figures."""
    try:
        append_record(model_dir, record)
    except OSError as error:
        warn(f"{model_dir / 'metrics.jsonl'}: figures are not recorded ({error.strerror})")
