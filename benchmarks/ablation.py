"""What brings train_sample_neg.py's defaults their figures: a markdown table of named variations on a validation split.

    python benchmarks/ablation.py --train_dir train_data --vocab_path vocab.txt --out_dir benchmark_output/ablation
    ... --losses bpr,bpr-max,top1 --extra 'half the rate: --base_lr 0.075' --extra '64 slots: --batch_size 64'
    ... --edited_networks all                                # other networks: benchmarks/networks/NAME.py
    ... --edited_networks attention --extra 'half the rate: --base_lr 0.075'

The newest tenth of the training sessions is split off. train_sample_neg.py trains each variation on the rest, or with
--every on a part of them, one process a seed. The table has recall@20 and MRR@20 of the last epoch: the mean over the
seeds, and their range; both of the best epoch with a memory of neighbours, by the predictions that choose its weight;
and the processor time of the training as a multiple of the defaults'. Started again with the same flags, it goes on
where it was stopped; finished runs aren't trained again.

A file in benchmarks/networks is appended to net.py in a copy of the repository's scripts, and that copy trains. With
--networks, the table has the defaults, these networks and what --losses and --extra say.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from utils import device  # noqa: E402
from utils.data.session_files import read_conversion  # noqa: E402
from utils.data.sessions import Sessions, choose, read_sessions, write_sessions  # noqa: E402
from utils.data.vocabulary import read_vocabulary  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.model import checkpoint, upkeep  # noqa: E402
from utils.options import COUNT, VOCABULARY, Parser, number  # noqa: E402
from utils.process import run  # noqa: E402
from utils.runlog import line_of, log, read_records  # noqa: E402
from utils.training import sampled_flags  # noqa: E402

VALID_FRACTION = 0.1
JOINED = 4  # models in a set
FIGURES = "recall@20", "mrr@20"
NETWORKS = ROOT / "benchmarks/networks"
WHOLE = ["--batching", "sessions", "--batch_size", "32", "--base_lr", "0.1", "--lr_end", "0.05"]
SORTED = ["--group_batches", "20"]


class Variation(NamedTuple):
    """A row of the table.

    key : str, of its model directories' names
    name : str, in the table
    flags : list of str, of train_sample_neg.py
    network : str, the file in benchmarks/networks; empty: net.py as it comes
    """

    key: str
    name: str
    flags: list
    network: str = ""


DEFAULTS = Variation("defaults", "item vectors of one length: train_sample_neg.py's defaults", [])
FREE = ["--score_scale", "0"]  # item vectors as long as they become
STEPS = [
    Variation("sorted_in_batch", "whole sessions, batches sorted by length, the batch's targets as negatives",
              [*WHOLE, *FREE, *SORTED, "--in_batch", "1"]),
    Variation("sorted", "negatives drawn alone", [*WHOLE, *FREE, *SORTED]),
    Variation("in_order", "batches in the order of the sessions, not sorted by length", [*WHOLE, *FREE]),
    Variation("side_by_side", "sessions side by side", FREE),
    DEFAULTS,
]


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--train_dir", default="train_data", help="training sessions, a directory or one file")
    parser.add_argument("--vocab_path", default="vocab.txt", help=VOCABULARY)
    parser.add_argument("--every", type=number(int, 1, COUNT), default=1,
                        help="train on one of so many of the sessions that are left: items are rarer then")
    parser.add_argument("--out_dir", default="benchmark_output/ablation",
                        help="directory of the split, the models and their logs")
    parser.add_argument("--seeds", type=number(int, 1, COUNT), default=3,
                        help="runs of each variation, with the seeds 1, 2 ...")
    parser.add_argument("--pass_num", type=number(int, 1, COUNT), default=8, help="epochs of each run")
    parser.add_argument("--sets", type=number(int, 0, COUNT),
                        help=f"sets of {JOINED} models of the defaults that are joined, each set with seeds of its "
                        "own; 0: none; default: 1, with --edited_networks 0")
    parser.add_argument("--workers", type=number(int, 1, 1024), default=1,
                        help="processes at once; each has one thread")
    parser.add_argument("--edited_networks", type=networks, default=[],
                        help="the defaults with each of these networks, such as attention,bilinear, or all: of "
                        + ", ".join(network_names()))
    parser.add_argument("--losses", type=losses, default=[],
                        help="also the defaults with each of these losses, such as bpr,top1: of "
                        + ", ".join(sampled_flags.LOSSES))
    parser.add_argument("--extra", type=extra, action="append", default=[], metavar="'NAME: FLAGS'",
                        help="one more variation: its name, a colon, and flags of train_sample_neg.py; may be repeated")
    options = parser.parse_args()
    if options.sets is None:
        options.sets = 0 if options.edited_networks else 1
    options.out_dir = Path(options.out_dir)
    return options


def network_names():
    """The names of the files in benchmarks/networks."""
    return sorted(path.stem for path in NETWORKS.glob("*.py"))


def networks(text):
    """A type for argparse: `attention,bilinear` or `all` as a list of Variation."""
    known, names = network_names(), network_names() if text == "all" else text.split(",")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"found {name!r}, expected all, or some of {','.join(known)}")
    return [Variation(f"network_{name}", f"`{name}`: {title(name)}", [], name) for name in dict.fromkeys(names)]


def title(network):
    """What a file of benchmarks/networks says in its first line."""
    lines = (NETWORKS / f"{network}.py").read_text(encoding="utf-8").splitlines()
    return lines[0].strip('".') if lines else ""


def losses(text):
    """A type for argparse: `bpr,top1` as a list of Variation."""
    variations = []
    for loss in text.split(","):
        if loss not in sampled_flags.LOSSES:
            raise argparse.ArgumentTypeError(f"found {loss!r}, expected some of {','.join(sampled_flags.LOSSES)}")
        flags = ["--loss", loss]
        is_default = sampled_flags.parse_arguments(flags) == sampled_flags.parse_arguments([])
        key = "defaults" if is_default else f"loss_{loss}"
        variations.append(Variation(key, f"the defaults with `--loss {loss}`", flags))
    return variations


def extra(text):
    """A type for argparse: `name: --flag value` as a Variation."""
    name, colon, flags = text.partition(":")
    key = re.sub(r"\W+", "_", name.strip())
    try:
        flags = shlex.split(flags)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r} ({error}), expected a name, a colon and flags") from None
    if not (colon and key):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a name, a colon and flags")
    return Variation(f"extra_{key}", name.strip(), flags)


def main():
    options = parse_arguments()
    own = [DEFAULTS, *options.edited_networks] if options.edited_networks else STEPS
    variations = [*own, *options.losses, *options.extra]
    keys = [variation.key for variation in options.extra]
    if len(set(keys)) < len(keys):
        raise InputError(f"--extra: found two names for one directory, {max(keys, key=keys.count)}_seed_1, expected "
                         "other names")
    runs = plan(options, variations)
    training, validation, data = split(options)
    nets = {variation.network: net_with(variation.network) for variation in variations}
    for model_dir, (variation, flags) in runs.items():
        require_same(model_dir, flags, data, nets[variation.network])
    write_sessions(options.out_dir / "train" / "train.txt", training)
    write_sessions(options.out_dir / "valid" / "valid.txt", validation)
    for name in filter(None, nets):
        copy_scripts(scripts(options, name), nets[name])
    log(f"train:{training.predictions} validation:{validation.predictions} predictions, epochs:{options.pass_num} "
        f"seeds:{options.seeds} sets:{options.sets} runs:{len(runs)}")
    waiting = [(model_dir, [sys.executable, scripts(options, variation.network) / "train_sample_neg.py", *flags])
               for model_dir, (variation, flags) in runs.items()
               if not last_record(model_dir, "neighbours")]
    run_processes(waiting, options.workers, len(runs))
    rows = table(options, variations)
    log("\n| | recall@20 | MRR@20 | both with a memory | CPU time |\n|-|-|-|-|-|")
    for name, alone, mixed, seconds in rows:
        figures = [with_range([record[figure] for record in alone]) for figure in FIGURES]
        means = [with_range([np.mean([record[figure] for record in mixed])]) if mixed else "" for figure in FIGURES]
        log(f"| {' | '.join([name, *figures, ' / '.join(filter(None, means)), seconds])} |")


def table(options, variations):
    """The rows: names, figures of each seed alone and with a memory, and the CPU time as a multiple."""
    seeds, rows, seconds = range(1, options.seeds + 1), [], {}
    for variation in variations:
        model_dirs = [directory(options, variation.key, seed) for seed in seeds]
        seconds[variation.key] = np.mean([cpu_seconds(model_dir) for model_dir in model_dirs])
        rows.append((variation, [last_record(model_dir, "epoch") for model_dir in model_dirs],
                     [with_memory(last_record(model_dir, "neighbours")) for model_dir in model_dirs]))
    rows = [(variation.name, alone, mixed if all(mixed) else [],
             f"{seconds[variation.key] / seconds['defaults']:.1f}") for variation, alone, mixed in rows]
    if options.sets:
        joined = [joined_record(options, number_of) for number_of in range(1, options.sets + 1)]
        after = 1 + [variation.key for variation in variations].index("defaults")
        rows.insert(after, (f"{JOINED} of these joined by merge_models.py", [], joined, f"{JOINED:.1f}"))
    return rows


def with_memory(record):
    """The figures of a run with its memory, a dict; empty where too few predictions chose it."""
    return record.get("with_returns", {})


def net_with(network):
    """The text of net.py with a file of benchmarks/networks after it, bytes."""
    text = (ROOT / "net.py").read_bytes()
    return text + b"\n\n" + (NETWORKS / f"{network}.py").read_bytes() if network else text


def scripts(options, network):
    """The directory of the scripts that train a network: the repository's, or a copy with another net.py."""
    return options.out_dir / "networks" / network if network else ROOT


def copy_scripts(copy, net):
    """Copy the repository's scripts, and write the net.py that they take there."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT / "utils", copy / "utils", ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy)
    (copy / "net.py").write_bytes(net)


def directory(options, key, seed):
    """The model directory of a run."""
    return options.out_dir / f"{key}_seed_{seed}"


def plan(options, variations):
    """All runs: a dict of model directories to their Variation and the flags of train_sample_neg.py, a list of str."""
    runs = {}
    for variation in variations:
        last = max(options.seeds, JOINED * options.sets if variation.key == "defaults" else 0)
        for seed in range(1, last + 1):
            model_dir = directory(options, variation.key, seed)
            own = {"train_dir": options.out_dir / "train", "valid_dir": options.out_dir / "valid",
                   "vocab_path": options.vocab_path, "model_dir": model_dir, "seed": seed, "pass_num": options.pass_num,
                   "keep": 1, "threads": 1, "resume": 1}
            flags = [*variation.flags, *(f"--{flag}={value}" for flag, value in own.items())]
            runs[model_dir] = variation, flags
            try:
                sampled_flags.parse_arguments(flags)
            except InputError as error:
                message = str(error).replace(Path(sys.argv[0]).name, "train_sample_neg.py")
                raise InputError(f"--extra, {variation.name}: {message}") from None
    return runs


def split(options):
    """The sessions to train on and to validate with, and what config.json says of them once a run has read them."""
    _, item_count, vocab_sha256 = read_vocabulary(options.vocab_path)
    read_conversion(options.train_dir, vocab_sha256, "--train_dir")
    whole = read_sessions(options.train_dir, item_count, "--train_dir")
    device.prepare(threads=1, tune_cpu=0)
    from utils.evaluation.validation import sessions_checksum, split_sessions, without_unknown  # it loads Paddle
    training, validation, _ = split_sessions(whole, item_count, vocab_sha256, "", VALID_FRACTION)
    if options.every > 1:
        training = choose(training, np.arange(0, len(training.lengths), options.every))
        validation, _ = without_unknown(validation, training, item_count)
        if not (training.predictions and validation.predictions):
            raise InputError(f"--every: found {options.every}, which leaves {len(training.lengths)} sessions and "
                             "nothing to predict, expected less")
    validation = Sessions(validation.items, np.unique(validation.offsets))  # no session that has lost all its clicks
    return training, validation, {"vocab_sha256": vocab_sha256, "sessions_sha256": sessions_checksum(training),
                                  "validation_sha256": sessions_checksum(validation)}


def require_same(model_dir, flags, data, net):
    """Raise InputError where a model directory holds a run with other flags, data or net.py than these."""
    from utils.training.resume import differences
    if not upkeep.holds_run(model_dir):
        return
    now = {"script": "train_sample_neg.py", "options": vars(sampled_flags.parse_arguments(flags)), "data": data}
    then = checkpoint.read_config(model_dir)
    try:
        # Whether its network is known follows from net.py, which is compared below.
        then = {**then, "data": {name: then["data"].get(name) for name in data}, "network_is_known": True}
        found = differences(then, json.loads(json.dumps(now)))
        found += ["net.py"] * (then["net_sha256"] != hashlib.sha256(net).hexdigest())
    except (KeyError, TypeError, AttributeError):
        found = ["config.json"]
    if found:
        raise InputError(f"--out_dir: found other data or settings than the run in {model_dir}: {', '.join(found)}; "
                         "expected the same, or another directory")


def run_processes(waiting, jobs, count):
    """Run commands, some at once, and say what each brought.

    Parameters
    ----------
    waiting : list of (Path, list)
        Model directories and the commands that make them. The output goes to a file beside the directory.
    jobs : int
    count : int
        Of all runs, with those that were finished before.
    """
    waiting, running, done = list(waiting), {}, count - len(waiting)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                model_dir, command = waiting.pop(0)
                running[model_dir] = start(model_dir, command)
            time.sleep(0.05)
            for model_dir, process in list(running.items()):
                if has_ended(model_dir, process):
                    del running[model_dir]
                    require_success(model_dir, process)
                    done += 1
                    record = last_record(model_dir, "epoch")
                    log(f"{model_dir.name}: {line_of({figure: record[figure] for figure in FIGURES})} "
                        f"({done} of {count})")
    finally:
        for process in running.values():
            process.terminate()  # a training saves what it has
        for model_dir, process in running.items():
            has_ended(model_dir, process, 0)


def has_ended(model_dir, process, options=os.WNOHANG):
    """Whether a process has ended; if so, note the CPU time that it took, beside its model directory."""
    ended, status, usage = os.wait4(process.pid, options)
    if ended:
        process.returncode = os.waitstatus_to_exitcode(status)
        with open(seconds_file(model_dir), "a", encoding="utf-8") as file:
            file.write(f"{usage.ru_utime + usage.ru_stime:.2f}\n")
    return bool(ended)


def cpu_seconds(model_dir):
    """The CPU time of all processes that made a model directory; nan where it was made by something else."""
    path = seconds_file(model_dir)
    return sum(map(float, path.read_text(encoding="utf-8").split())) if path.exists() else np.nan


def seconds_file(model_dir):
    return model_dir.with_name(f"{model_dir.name}.seconds")


def start(model_dir, command):
    """Start a command that makes a model directory."""
    with open(log_file(model_dir), "a", encoding="utf-8") as output:
        # In a session of its own, a training doesn't get the terminal's Ctrl-C as well as our SIGTERM.
        return subprocess.Popen(list(map(str, command)), stdout=output, stderr=output, start_new_session=True)


def require_success(model_dir, process):
    """Raise InputError where an ended process failed."""
    if process.returncode:
        path = log_file(model_dir)
        said = path.read_text(encoding="utf-8", errors="replace").splitlines() or ["nothing"]
        raise InputError(f"{path}: found that the run failed: {said[-1][:300]}")


def log_file(model_dir):
    return model_dir.with_name(f"{model_dir.name}.log")


def last_record(model_dir, event):
    """The last record of an event in metrics.jsonl, a dict; empty where there is none."""
    return next((record for record in reversed(read_records(model_dir)) if record.get("event") == event), {})


def joined_record(options, number_of):
    """The figures of a set of joined models, a dict; the set is joined and evaluated where that hasn't been done."""
    first = JOINED * (number_of - 1) + 1
    models = [directory(options, "defaults", seed) for seed in range(first, first + JOINED)]
    model_dir = options.out_dir / f"joined_{number_of}"
    trained = max(last_record(model, "epoch")["time"] for model in models)
    if last_record(model_dir, "test").get("time", 0) < trained:
        merge = [sys.executable, ROOT / "merge_models.py", *models, "--epoch", options.pass_num, "--model_dir",
                 model_dir, "--overwrite", 1]
        infer = [sys.executable, ROOT / "infer_sample_neg.py", "--test_dir", options.out_dir / "valid", "--model_dir",
                 model_dir, "--last_index", 1, "--threads", 1]
        for command in (merge, infer):
            process = start(model_dir, command)
            process.wait()
            require_success(model_dir, process)
    return last_record(model_dir, "test")


def with_range(values):
    """The mean of some figures from 0 to 1, and from where to where they go, as in README.md; empty for none."""
    if not values:
        return ""
    mean, low, high = (f"{value:.4f}".removeprefix("0") for value in (np.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"


if __name__ == "__main__":
    run(main)
