"""The flags of train_intent.py. Nothing here loads Paddle."""

import os

from utils.files import InputError
from utils.options import COUNT, FLOAT32, Parser, add_device_flags, number
from utils.training.flags import (
    GROUPING,
    HIDDEN_DROPOUT,
    ITEM_DROPOUT,
    add_length_flags,
    add_patience_flag,
    add_record_flags,
    add_run_flags,
)
from utils.training.optimizer_flags import add_rate_flags, add_update_flags, check_optimizer_flags, rates_of

RATES = rates_of(adagrad=0.1, adam=0.003, adamw=0.003, nadam=0.003)
WATCHED = "auc", "average_precision", "item_auc", "jaccard", "score", "valid_loss"
SESSIONS = "clicks.tsv and buys.tsv, as preprocess.py --to_intent writes them"


def parse_arguments(arguments=None, description=""):
    """The checked options; `arguments` is a list of str, by default the command line's."""
    parser = Parser(description)
    _add_data_flags(parser.group("input and output"))
    add_length_flags(parser.group("training"), 4)
    _add_network_flags(parser.group("network"))
    _add_loss_flags(parser.group("loss"))
    add_rate_flags(parser.group("optimiser"), RATES)
    add_update_flags(parser.group("optimiser"), "adamw")
    _add_validation_flags(parser.group("evaluation"))
    _add_batch_flags(parser.group("batching"))
    add_record_flags(parser.group("log and checkpoints"))
    add_device_flags(parser)
    options = parser.parse_with_config(arguments)
    check_optimizer_flags(options, RATES)
    return _check(options, parser.given)


def _add_data_flags(data):
    data.add_argument("--train_dir", default="intent_data/train",
                      help=f"directory of the training sessions: {SESSIONS}; vocab.txt and categories.txt lie beside "
                      "it")
    data.add_argument("--model_dir", default="model_intent", help="model directory to write")
    add_run_flags(data)
    data.add_argument("--init_from", default="", metavar="DIR",
                      help="model directory of train.py or train_sample_neg.py: the items begin with its vectors, "
                      "and --emb_size is theirs; empty: they are drawn")


def _add_network_flags(network):
    network.add_argument("--networks", type=number(int, 1, 1000), default=3,
                         help="equal networks, trained side by side from other weights; their answers' mean counts")
    network.add_argument("--hid_size", type=number(int, 1, 100_000), default=32, help="units of the GRU")
    network.add_argument("--hid_dropout", type=number(float, 0, below=1), default=0.3, help=HIDDEN_DROPOUT)
    network.add_argument("--emb_size", type=number(int, 1, 100_000), default=16, help="units of an item's vector")
    network.add_argument("--emb_dropout", type=number(float, 0, below=1), default=0.2, help=ITEM_DROPOUT)
    network.add_argument("--head_size", type=number(int, 1, 100_000), default=16,
                         help="units of the hidden layer of each of the two heads")
    network.add_argument("--head_dropout", type=number(float, 0, below=1), default=0.3,
                         help="dropout on the heads' hidden layers")
    network.add_argument("--category_size", type=number(int, 0, 100_000), default=8,
                         help="units of a category's vector; 0, and without categories: none")
    network.add_argument("--min_item_sessions", type=number(int, 1, COUNT), default=50,
                         help="training sessions that an item needs for a vector of its own; the others share one")
    network.add_argument("--bidirectional", type=number(int, 0, 1), default=0,
                         help="1: a second GRU reads each session backwards; the model then answers for sessions that "
                         "have ended alone; 0: also while they run")


def _add_loss_flags(loss):
    loss.add_argument("--buying_weight", type=number(float, 1e-3, FLOAT32), default=1.0,
                      help="how much a session that buys counts; one that doesn't counts 1; the probabilities stay "
                      "those of sessions as they are")
    loss.add_argument("--focal", type=number(float, 0, 100), default=0.0,
                      help="exponent of the focal loss, such as 2; 0: the cross-entropy")
    loss.add_argument("--item_weight", type=number(float, 0, FLOAT32), default=1.0,
                      help="how much the loss of the bought items counts beside that of the sessions")
    loss.add_argument("--prefix_weight", type=number(float, 0, 1), default=None,
                      help="share of the sessions' loss that comes from the states after each click, as of running "
                      "sessions; the rest comes from those after the last click; default: 0.5, with --bidirectional 1 "
                      "0")


def _add_batch_flags(batching):
    batching.add_argument("--batch_size", type=number(int, 1, COUNT), default=128, help="sessions per step")
    batching.add_argument("--group_batches", type=number(int, 1, COUNT), default=8,
                          help=f"{GROUPING}, which is faster; 1: no sorting")


def _add_validation_flags(validation):
    validation.add_argument("--valid_dir", default="",
                            help=f"directory of the validation sessions: {SESSIONS}; empty: --valid_fraction")
    validation.add_argument("--valid_fraction", type=number(float, 1e-6, below=1),
                            help="share of the training sessions to validate with instead, those that begin last; the "
                            "thresholds are tuned on them; default: 0.1")
    validation.add_argument("--watch", choices=WATCHED, default="valid_loss",
                            help="validation figure that decides which epoch is the best")
    add_patience_flag(validation)


def _check(options, given):
    """Refuse combinations that can't work, and fill in values that depend on other flags."""
    if options.resume and options.overwrite:
        raise InputError("--resume: found 1 with --overwrite 1, expected one of them")
    if options.valid_dir and options.valid_fraction:
        raise InputError(f"--valid_fraction: found {options.valid_fraction:g} with --valid_dir, expected one of them")
    options.valid_fraction = 0.0 if options.valid_dir else options.valid_fraction or 0.1
    require_other_sessions(options, "train_dir", "valid_dir")
    if options.prefix_weight is None:
        options.prefix_weight = 0.0 if options.bidirectional else 0.5
    if options.bidirectional and options.prefix_weight:
        raise InputError(f"--prefix_weight: found {options.prefix_weight:g} with --bidirectional 1, expected 0; the "
                         "second GRU sees all clicks of a session")
    if options.init_from and "emb_size" in given:
        raise InputError(f"--emb_size: found {options.emb_size} with --init_from, expected one of them")
    return options


def require_other_sessions(options, *names):
    """InputError where two of the flags `names`, which may be empty, name the same directory."""
    flag_of = {}
    for name in names:
        path = getattr(options, name)
        other = flag_of.setdefault(os.path.realpath(path), name) if path else name
        if other != name:
            raise InputError(f"--{name}: found --{other}, {path}, expected other sessions")
