"""The flags of the scripts that evaluate, written once."""

import argparse
import os
from pathlib import Path

from utils.data.session_files import refuse_conversion
from utils.evaluation.metrics import METRICS, OF_CLICKS, OF_LISTS, TIES
from utils.files import InputError, require_place
from utils.options import (
    COUNT,
    MODEL,
    TEST_SESSIONS,
    add_device_flags,
    add_process_flags,
    add_seed_flag,
    cutoffs,
    number,
)


def add_metric_flags(evaluation):
    """Add the flags of both infer scripts and of baselines.py."""
    evaluation.add_argument("--topk", type=cutoffs, default=[20],
                            help="cut-offs k of the metrics, such as 20 or 1,5,20")
    evaluation.add_argument("--metrics", type=metric_names, default="recall,mrr", metavar="NAME,...",
                            help=f"which metrics, separated by commas, of {','.join(METRICS)} (docs/runs.md)")
    evaluation.add_argument("--ties", choices=TIES, default="standard",
                            help="rank of a target that has the same score as other items: the best, worst or middle "
                            "of their ranks")


def metric_names(text):
    """A type for argparse: names of metrics, separated by commas, as a list without repeats."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in METRICS:
            raise argparse.ArgumentTypeError(f"found {name[:40]!r}, expected some of {','.join(METRICS)}")
    return names


def add_inference_flags(parser):
    """Add the flags of both infer scripts."""
    _add_data_flags(parser.group("input and output"))
    _add_evaluation_flags(parser.group("evaluation"))
    parser.group("batching").add_argument("--batch_size", type=number(int, 1, COUNT), default=1024,
                                          help="sessions at once; any will do")
    add_device_flags(parser)
    add_process_flags(parser)


def _add_data_flags(data):
    data.add_argument("--test_dir", default="test_data", help=TEST_SESSIONS)
    data.add_argument("--model_dir", default="model_recall20", help=MODEL)
    data.add_argument("--epoch", type=number(int, 0, COUNT),
                      help="the only epoch to evaluate; 0: the best one by validation, or the last without validation; "
                      "default: the best one by validation, or all without validation")
    data.add_argument("--start_index", type=number(int, 1, COUNT),
                      help="in place of --epoch, the first of several; default: the first that is there")
    data.add_argument("--last_index", type=number(int, 1, COUNT),
                      help="in place of --epoch, the last of several; default: the last that is there")
    data.add_argument("--vocab_path", default="",
                      help="vocab.txt of the test sessions, to check that it is the model's; empty: the model's own")
    data.add_argument("--train_dir", default="",
                      help="directory of training session files (or one file); with it, POP and item transitions are "
                      "fitted and evaluated too; popularity and novelty need it")
    data.add_argument("--per_prediction", default="", metavar="FILE",
                      help=".parquet file to write with the rank and the best items of each prediction, for one epoch")


def _add_evaluation_flags(evaluation):
    add_metric_flags(evaluation)
    evaluation.add_argument("--intervals", type=number(int, 0, 1), default=0,
                            help="1: add 95 %% intervals, by drawing sessions with replacement")
    evaluation.add_argument("--against", default="", metavar="DIR",
                            help="another model directory with the same vocab.txt, by its best or last epoch: add the "
                            "differences from it, with intervals and p-values")
    add_draws_flag(evaluation, 2000)
    evaluation.add_argument("--sampled", type=number(int, 0, COUNT), default=0,
                            help="rank each target among so many items drawn uniformly, which misleads; 0: among all "
                            "items")
    add_seed_flag(evaluation)


def add_draws_flag(evaluation, default):
    """Add the flag of the scripts that have intervals."""
    evaluation.add_argument("--draws", type=number(int, 100, 10_000_000), default=default,
                            help="random draws for the intervals, and for p-values where there are some")


def check_inference_flags(options):
    """Refuse combinations of flags that can't work, before Paddle loads."""
    first, last = options.start_index, options.last_index
    if first and last and first > last:
        raise InputError(f"--start_index: found {first}, expected at most --last_index {last}")
    if options.epoch is not None and (first or last):
        raise InputError(f"--epoch: found {options.epoch} with --{'start' if first else 'last'}_index, expected one of "
                         "them")
    lists = [metric for metric in options.metrics if metric in OF_LISTS]
    if options.sampled and (lists or options.per_prediction):
        found = f"--metrics {lists[0]}" if lists else "--per_prediction"
        raise InputError(f"--sampled: found {options.sampled} with {found}, expected 0, since these need the best of "
                         "all items")
    if options.sampled and options.train_dir:
        raise InputError("--train_dir: found it beside --sampled, expected one of them; the baselines are ranked among "
                         "all items")
    clicks = [metric for metric in options.metrics if metric in OF_CLICKS]
    if clicks and not options.train_dir:
        raise InputError(f"--metrics: found {clicks[0]} without --train_dir, expected the training sessions there, to "
                         "count each item's clicks")
    if options.metrics == ["coverage"] and (options.intervals or options.against):
        raise InputError("--metrics: found coverage alone with --intervals or --against, expected another metric too; "
                         "coverage isn't a mean over predictions, and has no interval")
    if options.per_prediction:
        _check_file(options)


def _check_file(options):
    """Refuse a --per_prediction that would do harm where it is written."""
    flag, path = "--per_prediction", Path(options.per_prediction)
    if path.suffix != ".parquet":
        raise InputError(f"{flag}: found {path}, expected a name that ends in .parquet")
    require_place(path, flag)
    refuse_conversion(path.parent, flag)
    for name in "--test_dir", "--train_dir":
        sessions = getattr(options, name[2:])
        if sessions and os.path.realpath(path.parent) == os.path.realpath(sessions):
            raise InputError(f"{flag}: found {path} in the directory of {name}, where it would be read as sessions, "
                             "expected another one")


def evaluation(options):
    """The inference.Evaluation that the infer scripts' flags ask for; after `device.prepare`, since it loads Paddle."""
    from utils.evaluation.inference import Evaluation
    same_names = ["model_dir", "epoch", "test_dir", "train_dir", "vocab_path", "metrics", "ties", "batch_size", "seed",
                  "intervals", "against", "draws", "per_prediction", "sampled"]
    return Evaluation(first_epoch=options.start_index, last_epoch=options.last_index, cutoffs=options.topk,
                      **{name: getattr(options, name) for name in same_names})
