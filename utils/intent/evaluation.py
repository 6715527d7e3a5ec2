"""What infer_intent.py does: measure a model, and simple methods beside it, on test sessions."""

import time
from functools import partial
from pathlib import Path

import numpy as np

from utils.files import InputError, write_atomically
from utils.intent.answers import network_scores
from utils.intent.features import pairs_of
from utils.intent.metrics import (
    METRICS,
    Measured,
    decide,
    intervals,
    outcomes_of,
    reliability_curve,
    require_readable,
    write_submission,
)
from utils.intent.model import load_intent_model, load_network
from utils.intent.sessions import read_intent_sessions
from utils.model.checkpoint import epoch_directory
from utils.model.directory import other_net
from utils.runlog import append_record, line_of, log, print_table, warn


def evaluate(options):
    """Do what the options of infer_intent.py ask for; InputError for what is wrong with files or flags."""
    began = time.perf_counter()
    model = load_intent_model(options.model_dir, options.epoch or None)
    test = _read(options.test_dir, model, "--test_dir")
    pairs, name = pairs_of(test), str(epoch_directory(options.model_dir, model.epoch))
    outcomes = outcomes_of(test, pairs)
    known = 1 - float((test.items == len(model.item_ids)).mean())
    log(f"test:{options.test_dir} sessions:{len(test)} clicks:{len(test.items)} buying:{outcomes.buys.sum()} "
        f"share:{outcomes.buys.mean():.4f} known_clicks:{known:.4f}")
    network = load_network(model, options.model_dir)
    if another := other_net(options.model_dir, model.config):
        warn(another)
    session_scores, pair_scores, _ = network_scores(network, test, model.counts, model.knots)
    found = decide(outcomes.owners, session_scores, pair_scores, model.session_threshold, model.item_threshold)
    predictions = _of_baselines(options, model, test) if options.train_dir else {}
    predictions[name] = found
    figures, ends = {}, {}
    for title, predicted in predictions.items():
        measured = Measured(outcomes, predicted)
        figures[title] = measured.figures()
        ends[title] = intervals(measured.drawn(options.draws, options.seed))
        log(f"model:{title} {line_of(figures[title])}")
        log(f"intervals:{title} " + " ".join(f"{metric}:{low:.4f}..{high:.4f}" for metric, (low, high)
                                            in zip(METRICS, ends[title])) + f" level:0.95 draws:{options.draws}")
    if len(figures) > 1:
        print_table(figures)
    _write(options, test, pairs, outcomes, found)
    append_record(Path(options.model_dir), {
        "event": "test", "epoch": model.epoch, **figures[name], "intervals": dict(zip(METRICS, ends[name].tolist())),
        "test_dir": options.test_dir, "sessions": len(test), "session_threshold": model.session_threshold,
        "item_threshold": model.item_threshold, "time_cost": time.perf_counter() - began})


def _read(directory, model, flag):
    """The sessions of a directory, by the vocabularies of an IntentModel; some must buy, and some not."""
    sessions = read_intent_sessions(directory, (model.item_ids, model.categories), flag)
    if not 0 < sessions.buys.sum() < len(sessions):
        raise InputError(f"{flag} {directory}: found {sessions.buys.sum()} of {len(sessions)} sessions that buy, "
                         "expected some that do and some that don't")
    return sessions


def _of_baselines(options, model, test):
    """What simple methods predict of the test sessions, a dict of metrics.Predictions by their names."""
    from utils.intent.baselines import baseline_predictions  # scikit-learn loads for this alone
    training, validation = (_read(path, model, flag) for path, flag in (
        (options.train_dir, "--train_dir"), (options.valid_dir, "--valid_dir")))
    sizes = len(model.item_ids), len(model.categories)
    return baseline_predictions(training, validation, test, sizes, options.seed)


def _write(options, test, pairs, outcomes, predictions):
    """Write the files that were asked for."""
    if options.submission:
        with write_atomically(options.submission) as file:
            write_submission(test, pairs, predictions, file)
        log(f"written: {options.submission}")
    if options.per_session:
        with write_atomically(options.per_session) as file:
            _write_per_session(test, pairs, predictions, file)
        log(f"written: {options.per_session}")
    if options.picture:
        from utils.plotting.pictures import as_png  # matplotlib loads for this alone
        from utils.plotting.reliability import reliability
        curve = reliability_curve(predictions.session_scores, outcomes.buys)
        with write_atomically(options.picture, "wb") as file:
            file.write(as_png(partial(reliability, *curve)))
        log(f"written: {options.picture}")


def _write_per_session(test, pairs, predictions, file):
    """Write each session's id, its probability, and its items with theirs, as a TSV file.

    InputError for an item with a comma, which could not be read back.
    """
    items = test.item_ids.take(test.ids[pairs.firsts]).to_pylist()
    require_readable(items, ",", "--per_session")
    words = [f"{item}:{score:.6g}" for item, score in zip(items, predictions.pair_scores.tolist())]
    ends = np.searchsorted(pairs.owners, np.arange(len(test)), side="right").tolist()
    file.write("SessionId\tProbability\tItems\n")
    start = 0
    for name, score, end in zip(test.session_ids.to_pylist(), predictions.session_scores.tolist(), ends):
        file.write(f"{name}\t{score:.6g}\t{','.join(words[start:end])}\n")
        start = end
