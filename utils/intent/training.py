"""A run of train_intent.py: from the sessions to a finished model directory; needs Paddle."""

import hashlib
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import paddle

from net import IntentNetwork
from utils import sources
from utils.data.vocabulary import checksum
from utils.files import InputError
from utils.intent.answers import network_scores
from utils.intent.features import count, pairs_of
from utils.intent.inputs import click_inputs, knots_of, pair_inputs
from utils.intent.metrics import Measured, decide, outcomes_of, tune_thresholds
from utils.intent.proof import prove
from utils.intent.sessions import ITEMS as VOCABULARY
from utils.intent.sessions import choose_sessions, read_intent_sessions, read_intent_vocabularies
from utils.intent.settings import STATISTICS, IntentSettings, weight_count
from utils.intent.trainer import IntentLoss, IntentTrainer
from utils.memory import require_memory
from utils.model.directory import KIND, named_by, net_checksum
from utils.model.layout import input_matrix, input_width
from utils.model.load import load_model
from utils.processes import ALONE
from utils.runlog import log
from utils.training.flags import output_of, schedule_of
from utils.training.limits import WEIGHT_BYTES, flag_to_blame
from utils.training.loop import Run
from utils.training.optimizer_flags import make_optimizer
from utils.training.versions import versions

SAMPLE = 20_000  # training sessions whose inputs are compared with
NONE = 0.5  # sessions, added to both sides of odds that could be 0


def run_intent_training(options):
    """A whole run, by the options of flags.parse_arguments; InputError for what is wrong with files or flags."""
    vocab_path = Path(options.train_dir).resolve().parent / VOCABULARY
    vocabularies = read_intent_vocabularies(vocab_path.parent, "--train_dir")
    training, validation = _read_sessions(options, vocabularies)
    known_vectors = _known_vectors(options.init_from, vocabularies[0]) if options.init_from else None
    settings = _settings(options, vocabularies, known_vectors)
    sizes = list(map(len, vocabularies))
    require_memory(WEIGHT_BYTES * weight_count(settings, *sizes),
                   f"--train_dir {options.train_dir}: found a network of {sizes[0]} items")
    paddle.seed(options.seed)
    trainer = _make_trainer(options, settings, training, sizes, known_vectors)
    config = {"script": Path(sys.argv[0]).name, KIND: {"network": settings.as_dict(), "categories": vocabularies[1]},
              "network_is_known": prove(trainer), "net_sha256": net_checksum(), "versions": versions(),
              "definitions": {"engine": sources.checksum([sources.INTENT]),
                              "optimizer": sources.checksum(sources.optimizer(type(trainer.optimizer)))},
              "options": vars(options), "processes": 1,
              "data": {"sessions": len(training), "buying": int(training.buys.sum()), "events": len(training.items),
                       "items": sizes[0], "vocab_sha256": checksum(vocab_path),
                       "sessions_sha256": _checksum(training), "validation_sha256": _checksum(validation)}}
    run = Run(trainer, partial(_validation_figures, trainer, validation), schedule_of(options), output_of(options),
              flag_to_blame(vars(options)), math.inf)
    with run.directory.started(config, vocab_path) as start_from:
        run.train(start_from, trainer.weights(), {})


def _validation_figures(trainer, validation, processes=ALONE):
    """The figures that an epoch is judged by, a dict of float: valid_loss, metrics.METRICS, and the thresholds.

    The challenge's score is that at the thresholds which are best for these very sessions.
    """
    session_scores, pair_scores, loss = network_scores(trainer.network, validation, trainer.counts, trainer.knots,
                                                       trainer.objective)
    outcomes = outcomes_of(validation, pairs_of(validation))
    thresholds = tune_thresholds(outcomes, session_scores, pair_scores)
    figures = Measured(outcomes, decide(outcomes.owners, session_scores, pair_scores, *thresholds)).figures()
    return {"valid_loss": loss, **figures, "session_threshold": thresholds[0], "item_threshold": thresholds[1]}


def _read_sessions(options, vocabularies):
    """The sessions to train on, and those to validate with."""
    training = read_intent_sessions(options.train_dir, vocabularies, "--train_dir")
    if options.valid_dir:
        validation, flag = read_intent_sessions(options.valid_dir, vocabularies, "--valid_dir"), "--valid_dir"
    else:
        order = np.argsort(training.times[training.offsets[:-1]], kind="stable")
        count = len(order) - math.ceil(options.valid_fraction * len(order))
        training, validation = (choose_sessions(training, np.sort(part)) for part in (order[:count], order[count:]))
        flag = f"--valid_fraction {options.valid_fraction:g}"
    for sessions, name in ((training, f"--train_dir {options.train_dir}"), (validation, flag)):
        if not 0 < sessions.buys.sum() < len(sessions):
            raise InputError(f"{name}: found {sessions.buys.sum()} of {len(sessions)} sessions that buy, expected some "
                             "that do and some that don't")
    of_buying = validation.bought[np.repeat(validation.buys, validation.lengths())]
    if options.watch == "item_auc" and not 0 < of_buying.sum() < len(of_buying):
        raise InputError(f"--watch item_auc: found {of_buying.sum()} bought ones of the {len(of_buying)} clicks of "
                         f"sessions that buy in {flag}, expected some that are and some that aren't")
    for sessions, name in ((training, "sessions"), (validation, "validation sessions")):
        log(f"{name}:{len(sessions)} clicks:{len(sessions.items)} buying:{sessions.buys.sum()} "
            f"share:{sessions.buys.mean():.4f}")
    return training, validation


def _settings(options, vocabularies, known_vectors):
    """The IntentSettings that the flags ask for."""
    names = "networks", "hid_size", "head_size", "emb_dropout", "hid_dropout", "head_dropout"
    return IntentSettings(emb_size=options.emb_size if known_vectors is None else known_vectors[1].shape[1],
                          category_size=options.category_size * bool(vocabularies[1]),
                          bidirectional=bool(options.bidirectional), min_support=options.min_item_sessions,
                          **{name: getattr(options, name) for name in names})


def _make_trainer(options, settings, training, sizes, known_vectors):
    """The IntentTrainer of a new network."""
    counts, pairs = count(training, *sizes, options.seed), pairs_of(training)
    knots = _knots(training, counts, options.seed)
    statistics = dict(zip(STATISTICS, [counts.items.sum(axis=0), counts.categories.sum(axis=0), *knots]))
    bought = training.bought[pairs.lasts][training.buys[pairs.owners]]
    network = IntentNetwork(settings, statistics, (_log_odds(training.buys), _log_odds(bought)), options.seed)
    for member in network.members if known_vectors else ():
        rows = member.items.numpy()
        rows[known_vectors[0]] = known_vectors[1]
        member.items.set_value(rows)
    loss = IntentLoss(options.buying_weight, options.focal, options.item_weight, options.prefix_weight)
    return IntentTrainer(network, training, counts, knots, loss, make_optimizer(options), options.batch_size,
                         options.group_batches, options.grad_cap)


def _knots(training, counts, seed):
    """The knots of inputs.knots_of for clicks and for pairs, from some of the training sessions."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(training))[:SAMPLE])
    sample = choose_sessions(training, chosen)
    known = counts.log_counts_and_rates(sample, counts.folds[chosen])
    return knots_of(click_inputs(sample, known)), knots_of(pair_inputs(sample, pairs_of(sample)))


def _log_odds(are):
    """The logarithm of the odds that one of some bools is true."""
    return float(np.log((are.sum() + NONE) / (len(are) - are.sum() + NONE)))


def _known_vectors(model_dir, item_ids):
    """Which rows of the items' matrix begin as another model's vectors, and these: int64 [n], float32 [n, units]."""
    with named_by("--init_from"):
        settings, weights, ids = load_model(model_dir)
    row_of = {item_id: row for row, item_id in enumerate(ids or ())}
    rows = np.array([row_of.get(item_id, -1) for item_id in item_ids], np.int64)
    if not (rows >= 0).any():
        raise InputError(f"--init_from: found none of the items of --train_dir in {model_dir}, expected some")
    log(f"init_from:{model_dir} known_items:{(rows >= 0).sum()} new_items:{(rows < 0).sum()}")
    vectors = weights[input_matrix(settings)][:, :input_width(settings)]
    return np.flatnonzero(rows >= 0), vectors[rows[rows >= 0]]


def _checksum(sessions):
    """SHA-256 of sessions and of what they buy, as hexadecimal digits."""
    digest = hashlib.sha256()
    for name, kind in (("items", "<i4"), ("ids", "<i4"), ("categories", "<i4"), ("times", "<f8"), ("offsets", "<i8"),
                       ("bought", "u1"), ("buys", "u1"), ("bought_count", "<i4")):
        digest.update(np.ascontiguousarray(getattr(sessions, name), kind))
    return digest.hexdigest()
