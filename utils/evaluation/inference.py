"""What both infer scripts do: evaluate the epochs of a model directory and report the figures."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.data.session_files import read_conversion
from utils.data.sessions import Sessions, cut_blocks, read_sessions
from utils.data.vocabulary import checksum
from utils.evaluation.baselines import baseline_ranks_and_best, popularity_scores, transition_scores
from utils.evaluation.joined_ranks import load, model_ranks, model_ranks_and_best
from utils.evaluation.metrics import Measures
from utils.evaluation.ranks import Way
from utils.evaluation.significance import bootstrap_intervals, session_sums, sign_flip_p_values
from utils.files import InputError, require_file
from utils.model import checkpoint
from utils.model.directory import choose_epoch, named_by, other_net, read_items, vocabulary_checksum
from utils.processes import ALONE
from utils.runlog import append_record, line_of, log, print_table, warn

LISTED = 1 << 21  # best items that are held at once, about


@dataclass
class Evaluation:
    """What to evaluate, and how.

    model_dir, test_dir : str
    train_dir : str, training sessions for POP and item transitions; empty: without these
    vocab_path : str, must be the model's; empty: not looked at
    epoch : int or None, the only epoch; 0: the best one by validation, or the last without validation
    first_epoch, last_epoch : int or None, of several in its place; None: the first or the last that is there. Where
        all three are None, the best one by validation is evaluated, or all without validation
    cutoffs : list of int
    metrics : list of str, of metrics.METRICS
    ties : str, as of metrics.target_ranks
    batch_size : int, sessions at once; changes no figure
    sampled : int, rank each target among so many items drawn uniformly; 0: among all
    seed : int, of all draws
    intervals : bool, add intervals of the figures
    against : str, another model directory, to test the differences from its best or last epoch; empty: none
    draws : int, for intervals and tests
    per_prediction : str, Parquet file to write with each prediction of the only epoch; empty: none
    """

    model_dir: str
    test_dir: str
    train_dir: str = ""
    vocab_path: str = ""
    epoch: int = None
    first_epoch: int = None
    last_epoch: int = None
    cutoffs: list = (20,)
    metrics: list = ("recall", "mrr")
    ties: str = "standard"
    batch_size: int = 1024
    sampled: int = 0
    seed: int = 1
    intervals: bool = False
    against: str = ""
    draws: int = 2000
    per_prediction: str = ""

    @property
    def measured(self):
        """The metrics that are recorded: those asked for, and recall and MRR, which plot.py and others read."""
        return list(dict.fromkeys([*self.metrics, "recall", "mrr"]))


class Test(NamedTuple):
    """What the epochs are evaluated on.

    sessions : Sessions, the test's
    item_ids : list of str, by index
    unknown : int, how many clicks on unknown items the sessions lack
    training : Sessions, those of Evaluation.train_dir, or None
    """

    sessions: Sessions
    item_ids: list
    unknown: int
    training: Sessions

    def measures(self, evaluation):
        """The metrics.Measures of one model's predictions, without any yet."""
        clicks = None if self.training is None else np.bincount(self.training.items, minlength=len(self.item_ids))
        return Measures(evaluation.measured, evaluation.cutoffs, len(self.item_ids), clicks)


def run_inference(evaluation, kernels=None, processes=ALONE):
    """Do an Evaluation, by several processes.Processes together.

    Prints and records one line of figures an epoch, and with `train_dir` a table with those of POP and item
    transitions. `kernels` is the C++ of device.prepare's Device, if any.

    Raises
    ------
    InputError
        For what is wrong with files or flags.
    """
    test, epochs, other_epoch = processes.in_turn(lambda: _prepare(evaluation))
    with _open_file(evaluation, test, processes) as write:
        _evaluate(evaluation, test, epochs, other_epoch, write, Way(evaluation.batch_size, "", kernels, processes))


def _evaluate(evaluation, test, epochs, other_epoch, write, way):
    """`run_inference` of what `_prepare` found, with the function of the open prediction file or None."""
    model_dir, results, other, processes = Path(evaluation.model_dir), {}, None, way.processes
    if evaluation.train_dir:
        results = processes.first_does(lambda: _evaluate_baselines(test, evaluation)) or {}
    if other_epoch:
        other, seconds = _evaluate_epoch(evaluation.against, other_epoch, test, evaluation, way)
        other_name = checkpoint.epoch_directory(evaluation.against, other_epoch)
        log(f"against:{other_name} {line_of(_shown(other, evaluation))} time_cost(s):{seconds:.2f}")
    for epoch in epochs:
        measures, seconds = _evaluate_epoch(model_dir, epoch, test, evaluation, way, write)
        name, figures = checkpoint.epoch_directory(model_dir, epoch), _shown(measures, evaluation)
        log(f"model:{name} {line_of(figures)} time_cost(s):{seconds:.2f}")
        results[f"epoch_{epoch}"] = figures
        record = {"event": "test", "epoch": epoch, **measures.figures(), "ties": evaluation.ties,
                  "sampled": evaluation.sampled, "test_dir": evaluation.test_dir,
                  "predictions": test.sessions.predictions, "unknown_clicks_left_out": test.unknown,
                  "time_cost": seconds}
        if evaluation.intervals:
            record["intervals"] = processes.first_does(lambda: _report_intervals(name, measures, test, evaluation))
        if other:
            difference = processes.first_does(lambda: _report_difference(
                f"{name} less {other_name}", measures, other, test, evaluation))
            record["against"] = {"model_dir": evaluation.against, "epoch": other_epoch, "difference": difference}
        if processes.is_first:
            _record_figures(model_dir, record)
    if evaluation.train_dir:
        print_table(results)


def _prepare(evaluation):
    """The Test, the epochs to evaluate, and the epoch of the model to compare with or None."""
    model_dir, sampled = Path(evaluation.model_dir), evaluation.sampled
    config = checkpoint.read_config(model_dir)
    is_range, best = bool(evaluation.first_epoch or evaluation.last_epoch), None
    if evaluation.epoch is not None:
        epochs = [choose_epoch(model_dir, evaluation.epoch or None)]
    else:
        best = None if is_range else checkpoint.best_epoch(model_dir)
        epochs = [best] if best else _epochs_to_evaluate(checkpoint.finished_epochs(model_dir), evaluation)
    if evaluation.per_prediction and len(epochs) > 1:
        raise InputError(f"--per_prediction: found {len(epochs)} epochs to evaluate, expected one; --epoch chooses it")
    item_ids, item_count, vocab_sha256 = read_items(model_dir, config)
    if evaluation.vocab_path:
        _require_vocabulary(evaluation.vocab_path, vocab_sha256)
    other_epoch = _other_epoch(evaluation, vocab_sha256) if evaluation.against else None
    record = read_conversion(evaluation.test_dir, vocab_sha256, "--test_dir")
    sessions = read_sessions(evaluation.test_dir, item_count, "--test_dir")
    if not sessions.predictions:
        raise InputError(f"--test_dir: found no session of two known clicks in {evaluation.test_dir}, expected at "
                         "least one")
    training = None
    if evaluation.train_dir:
        read_conversion(evaluation.train_dir, vocab_sha256, "--train_dir")
        training = read_sessions(evaluation.train_dir, item_count, "--train_dir")
    others = [(model_dir, epochs[0])] + [(Path(evaluation.against), other_epoch)] * bool(other_epoch)
    warnings = [_warning_of_net(*other) for other in others]
    unknown = record.get("clicks_left_out", 0)  # from here on nothing is refused: that would be a second line on stderr
    log(f"test:{evaluation.test_dir} sessions:{len(sessions.lengths)} predictions:{sessions.predictions} "
        f"items:{item_count} unknown_clicks_left_out:{unknown} ties:{evaluation.ties}"
        + f" sampled:{sampled}" * bool(sampled))
    if best:
        log(f"epoch:{best} the best by validation; --epoch, --start_index and --last_index choose others")
    if sampled:
        warn(f"--sampled {sampled}: ranks among sampled items flatter every model and can turn their order around "
             "(Krichene and Rendle, KDD 2020); don't compare them with full ranks")
    for warning in filter(None, warnings):
        warn(warning)
    if is_range:
        _warn_of_missing(epochs, evaluation)
    return Test(sessions, item_ids or list(map(str, range(item_count))), unknown, training), epochs, other_epoch


def _other_epoch(evaluation, vocab_sha256):
    """The epoch of the model to compare with, its best or last; InputError if it has another vocabulary."""
    other_dir = Path(evaluation.against)
    with named_by("--against"):
        config = checkpoint.read_config(other_dir)
        if vocabulary_checksum(other_dir, config) != vocab_sha256:
            raise InputError(f"found another vocab.txt in {other_dir} than in {evaluation.model_dir}, expected the "
                             "same, to compare the same predictions")
        return choose_epoch(other_dir)


def _warning_of_net(model_dir, epoch):
    """`other_net` of a model whose network net.py can make, or None; InputError where it can't."""
    another = other_net(model_dir, checkpoint.read_config(model_dir))
    if another:
        load(model_dir, epoch)
    return another


def _epochs_to_evaluate(finished, evaluation):
    """The finished epochs that were asked for; InputError where none of them is there."""
    first, last = evaluation.first_epoch or 1, evaluation.last_epoch or math.inf
    found = [epoch for epoch in finished if first <= epoch <= last]
    if not found:
        wanted = f"to {last}" if evaluation.last_epoch else "and later"
        there = ", ".join(map(str, finished)) or "none"
        raise InputError(f"--model_dir: found none of the epochs {first} {wanted} in {evaluation.model_dir}, expected "
                         f"at least one (epochs there: {there})")
    return found


def _warn_of_missing(found, evaluation):
    """Name the epochs that were asked for and aren't among those that were found."""
    around = [(evaluation.first_epoch or found[0]) - 1, *found, (evaluation.last_epoch or found[-1]) + 1]
    missing = [f"{before + 1}" if after - before == 2 else f"{before + 1} to {after - 1}"
               for before, after in zip(around, around[1:]) if after - before > 1]
    if missing:
        warn(f"{evaluation.model_dir}: skipped epochs that are not there: {', '.join(missing)}")


def _require_vocabulary(path, sha256):
    """InputError where --vocab_path, that of the test sessions, isn't the vocab.txt with this checksum, the model's."""
    if checksum(require_file(path, "--vocab_path")) != sha256:
        raise InputError(f"--vocab_path: found another vocabulary in {path} than the model was trained with, expected "
                         f"SHA-256 {sha256[:12]}...")


def _evaluate_epoch(model_dir, epoch, test, evaluation, way, write=None):
    """The Measures of one epoch, and the seconds that it took; `write` takes each block as `prediction_file.rows`."""
    began = time.perf_counter()
    model = way.processes.in_turn(lambda: load(model_dir, epoch))
    measures, way = test.measures(evaluation), way._replace(description=f"epoch {epoch}")
    listed = min(max(evaluation.cutoffs) if write else measures.list_length, len(test.item_ids))
    try:
        if not listed:
            sample = _draw_sample(test, evaluation.sampled, evaluation.seed) if evaluation.sampled else None
            measures.add(model_ranks(model, test.sessions, way, evaluation.ties, sample))
            return measures, time.perf_counter() - began
        for first, block in cut_blocks(test.sessions, LISTED // listed):
            ranks, best = model_ranks_and_best(model, block, listed, way, evaluation.ties)
            measures.add(ranks, best)
            if write:
                way.processes.first_does(lambda: write(first, block, ranks, best))
    except InputError as error:
        raise InputError(f"{checkpoint.epoch_directory(model_dir, epoch)}: {error}") from None
    return measures, time.perf_counter() - began


def _open_file(evaluation, test, processes):
    """The prediction file that is asked for, open on process 0; None in its place elsewhere."""
    if not evaluation.per_prediction:
        return nullcontext()
    from utils.evaluation.prediction_file import open_prediction_file  # pyarrow loads for this alone
    if not processes.is_first:
        return nullcontext(lambda *block: None)
    return open_prediction_file(evaluation.per_prediction, test.item_ids)


def _shown(measures, evaluation):
    """The figures that were asked for, of all that are measured."""
    return {name: figure for name, figure in measures.figures().items() if name.split("@")[0] in evaluation.metrics}


def _report_intervals(name, measures, test, evaluation):
    """Print the interval of each figure that was asked for: a dict of lists of both ends."""
    names, sums, counts = _sums(measures, test, evaluation)
    ends = bootstrap_intervals(sums, counts, evaluation.draws, evaluation.seed).tolist()
    log(f"intervals:{name} " + " ".join(f"{metric}:{low:.4f}..{high:.4f}" for metric, (low, high) in zip(names, ends))
        + f" level:0.95 sessions:{len(counts)} draws:{evaluation.draws}")
    return dict(zip(names, ends))


def _report_difference(title, measures, other, test, evaluation):
    """Print a table of how far a model is ahead of another one: a dict of dicts of the difference, its ends and p."""
    names, sums, counts = _sums(measures, test, evaluation)
    sums -= _sums(other, test, evaluation)[1]
    ends = bootstrap_intervals(sums, counts, evaluation.draws, evaluation.seed)
    columns = [sums.sum(axis=0) / counts.sum(), *ends.T, sign_flip_p_values(sums, evaluation.draws, evaluation.seed)]
    found = {metric: dict(zip(("difference", "from", "to", "p"), map(float, row)))
             for metric, row in zip(names, zip(*columns))}
    log(f"{title}, sessions:{len(counts)} draws:{evaluation.draws}")
    print_table(found)
    return found


def _sums(measures, test, evaluation):
    """The names of the means that were asked for, and their `session_sums`."""
    values = {name: of_metric for name, of_metric in measures.values().items()
              if name.split("@")[0] in evaluation.metrics}
    return list(values), *session_sums(list(values.values()), test.sessions.lengths)


def _draw_sample(test, size, seed):
    """The `size` items that each click is ranked among, int32 [events, size], as in `network_ranks`."""
    item_count = len(test.item_ids)
    if item_count < 2:
        raise InputError(f"--sampled {size}: found a vocabulary of one item, expected others to rank it among")
    return np.random.default_rng(seed).integers(item_count - 1, size=(len(test.sessions.items), size), dtype=np.int32)


def _evaluate_baselines(test, evaluation):
    """Figures of what needs no network, by name."""
    baselines, figures = {"POP": popularity_scores, "transitions": transition_scores}, {}
    for name, fit in baselines.items():
        measures = test.measures(evaluation)
        measures.add(*baseline_ranks_and_best(fit(test.training, len(test.item_ids)), test.sessions,
                                              measures.list_length, evaluation.ties))
        figures[name] = _shown(measures, evaluation)
    return figures


def _record_figures(model_dir, record):
    """Append to metrics.jsonl; a model directory that can't be written must not keep anyone from their figures."""
    try:
        append_record(model_dir, record)
    except OSError as error:
        warn(f"{model_dir / 'metrics.jsonl'}: figures are not recorded ({error.strerror})")
