"""Search for the settings of a trainer that its validation likes best.

    python tune.py --space settings/search.json --trials 30 --study_dir tune_output
    python train_sample_neg.py --config tune_output/best.json
    python tune.py --script train_intent.py --train_dir intent_data/train --space settings/search_intent.json

The space is a JSON file in the form of NNI: flags with `_type` and `_value`. Optuna draws values, a process of the
trainer trains each trial, and trials that look bad after an epoch are stopped. The trainer's defaults and the settings
in settings/ come first. The same command goes on with a search that was stopped or killed. With one worker, --seed
makes the same trials. It reads training and validation sessions alone. --study_dir gets

    study.db         all trials, for Optuna's tools too
    best.json        the settings of the best trial, for --config
    trials/          the log and the figures of each trial; the weights of the best one
    history.png  importance.png  parallel_coordinates.png

Needs Optuna: pip install --require-hashes -r requirements-tune.txt
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import os
from pathlib import Path

# Before NumPy loads: the trainings need the processors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from utils.data.session_files import read_conversion, refuse_sessions, session_files
from utils.data.sessions import read_sessions
from utils.data.vocabulary import checksum, read_vocabulary
from utils.files import InputError
from utils.model.upkeep import hold_directory
from utils.options import COUNT, VOCABULARY, Parser, add_device_flags, add_seed_flag, number
from utils.process import processors, run
from utils.runlog import log
from utils.tuning.folds import write_folds
from utils.tuning.space import all_parameters, drawn_for, read_space
from utils.tuning.trainer_flags import (
    DIRECTIONS,
    INTENT,
    ROOT,
    TRAINERS,
    WATCHED,
    most_epochs,
    parse,
    read_settings,
    require_possible,
)

PRUNERS = "median", "hyperband", "none"


def parse_arguments():
    parser = Parser(__doc__)
    data, search = parser.group("input and output"), parser.group("search")
    data.add_argument("--train_dir", default="train_data",
                      help="directory of training session files (or one file), the newest session last; with "
                      "train_intent.py, what it reads")
    data.add_argument("--vocab_path", default="vocab.txt",
                      help=f"{VOCABULARY}; train_intent.py: the one beside --train_dir")
    data.add_argument("--study_dir", default="tune_output",
                      help="directory to write to, created if missing; with a search in it, that goes on")
    search.add_argument("--script", choices=TRAINERS, default="train_sample_neg.py",
                        help="trainer whose settings are searched")
    search.add_argument("--space", metavar="FILE", default="settings/search.json",
                        help="JSON file of the flags to search, as NNI's")
    search.add_argument("--base", metavar="FILE", default="",
                        help="settings file of the flags that the space leaves out; empty: the trainer's defaults")
    search.add_argument("--first", nargs="*", metavar="FILE",
                        help="settings files to try as they are, after --base and before anything is drawn; without a "
                        "file: none; default: all in settings/ that the trainer takes")
    search.add_argument("--trials", type=number(int, 1, COUNT), default=30,
                        help="trials in all, with those of --first; a larger number goes on with a finished search")
    search.add_argument("--workers", type=number(int, 1, 1024), default=1,
                        help="trainings at once, each with its share of --threads")
    search.add_argument("--pruner", choices=PRUNERS, default="median",
                        help="what stops trials early, after each epoch: the median of the trials before, Hyperband, "
                        "or nothing")
    add_seed_flag(search)
    search.add_argument("--keep_models", type=number(int, 0, 1), default=0,
                        help="1: keep the weights of all trials, 0: only those of the best one")
    chosen = parser.group("evaluation")
    chosen.add_argument("--valid_dir", default="",
                        help="directory of validation session files (or one file); empty: the newest training sessions")
    chosen.add_argument("--valid_fraction", type=number(float, 0, below=1), default=0.1,
                        help="share of the training sessions that validates, the newest; with --folds, of each slice")
    chosen.add_argument("--folds", type=number(int, 1, 100), default=1,
                        help="slices of the newest training sessions that validate in turn; each model is trained on "
                        "what is older than its slice, and their mean counts")
    chosen.add_argument("--watch", choices=list(DIRECTIONS),
                        help="validation figure to search for; each model counts with its best epoch; default: "
                        "recall@20, with train_intent.py auc")
    add_device_flags(parser)
    return check(parser.parse_args(), parser.given)


def check(options, given):
    """Refuse combinations that make no sense, and share the threads among the workers."""
    if options.valid_dir and ("valid_fraction" in given or options.folds > 1):
        flag = "--folds" if options.folds > 1 else "--valid_fraction"
        raise InputError(f"{flag}: found it with --valid_dir, expected one of them")
    options.watch = options.watch or WATCHED[options.script][0]
    if options.watch not in WATCHED[options.script]:
        raise InputError(f"--watch: found {options.watch} with {options.script}, expected one of "
                         f"{', '.join(WATCHED[options.script])}")
    if options.script == INTENT and (options.folds > 1 or "vocab_path" in given):
        flag = "--folds" if options.folds > 1 else "--vocab_path"
        raise InputError(f"{flag}: found it with --script {INTENT}, expected it with other trainers alone")
    if not options.valid_fraction:
        raise InputError("--valid_fraction: found 0, expected more: nothing would validate")
    threads = options.threads or processors()
    if options.workers > threads:
        raise InputError(f"--workers: found {options.workers} with {threads} threads, expected at most one a thread "
                         "(--threads)")
    options.threads = threads // options.workers
    refuse_sessions(options.study_dir, "--study_dir")
    directory = Path(options.study_dir)
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "study.db").is_file():
        raise InputError(f"--study_dir: found {directory} with other files, expected an empty directory, one of a "
                         "search, or none")
    return options


def main():
    options = parse_arguments()
    require_optuna()
    parameters, space = read_space(options.space)
    base = read_settings(options.base, options.script, "--base") if options.base else {}
    require_possible(parameters, base, options.script, options.space)
    first = known_settings(options, parameters, base)
    sums = check_data(options)
    directory = Path(options.study_dir)
    asked = {"--space": space, "--base": base, **sums,
             **{f"--{name}": getattr(options, name)
                for name in ("script", "watch", "seed", "pruner", "valid_fraction", "folds", "use_cuda")}}
    from utils.tuning import study as studies  # loads Optuna
    from utils.tuning.search import Plan, Search

    with hold_directory(directory, "--study_dir"), studies.storage_errors(directory / studies.FILE):
        models = folds(options, directory)
        study = studies.open_study(directory, asked, options.watch, options.pruner,
                                   most_epochs(parameters, base, options.script))
        studies.enqueue(study, first)
        log(f"search:{directory} parameters:{len(list(all_parameters(parameters)))} trials:{options.trials} "
            f"workers:{options.workers} threads:{options.threads} pruner:{options.pruner} watch:{options.watch}")
        log(f"first come: {', '.join(name for name, _, _ in first)}" + (
            f"; with --trials {options.trials}, nothing is drawn (--first without a file leaves out those in settings/)"
            if options.trials <= len(first) else ""))
        device = {name: getattr(options, name) for name in ("use_cuda", "threads", "tune_cpu")}
        plan = Plan(directory, options.script, parameters, base, folds=models, watched=options.watch,
                    seed=options.seed, trials=options.trials, workers=options.workers, device=device,
                    keep_models=bool(options.keep_models))
        Search(plan, study).run()
        report(options, directory, study, parameters)


def require_optuna():
    """InputError where Optuna is missing."""
    from importlib.util import find_spec
    if not find_spec("optuna"):
        raise InputError("found no package optuna, expected one: "
                         "pip install --require-hashes -r requirements-tune.txt")


def known_settings(options, parameters, base):
    """The settings that are tried first: of each a name, the flags, and what of the space has to be drawn for them."""
    found = {f"--base {options.base}" if options.base else f"the defaults of {options.script}": base}
    paths = sorted((ROOT / "settings").glob("*.json")) if options.first is None else options.first
    for path in map(Path, paths):
        if path.name in found:
            raise InputError(f"--first: found two files named {path.name}, expected files of different names")
        try:
            found[path.name] = read_settings(path, options.script, "--first")
        except InputError:
            if options.first is not None:
                raise
    first, taken = [], []
    for name, flags in found.items():
        whole = vars(parse(options.script, flags))
        if whole not in taken:
            taken.append(whole)
            first.append((name, flags, drawn_for(parameters, whole)))
    return first


def check_data(options):
    """See that all files are right; checksums that tell them from others, by the flags that name them."""
    if options.script == INTENT:
        from utils.intent.sessions import data_checksums  # slow to import
        return data_checksums(options.train_dir, options.valid_dir)
    _, item_count, vocab_sha256 = read_vocabulary(options.vocab_path)
    sums = {"--vocab_path": vocab_sha256}
    for flag in ["--train_dir"] + ["--valid_dir"] * bool(options.valid_dir):
        path = getattr(options, flag[2:])
        read_conversion(path, vocab_sha256, flag)
        read_sessions(path, item_count, flag)
        sums[flag] = {file.name: checksum(file) for file in session_files(path, flag)}
    return sums


def folds(options, directory):
    """The flags of the data of each model that a trial trains: a list of dict."""
    vocabulary = {} if options.script == INTENT else {"vocab_path": options.vocab_path}
    if options.folds > 1:
        sessions = read_sessions(options.train_dir, read_vocabulary(options.vocab_path).item_count, "--train_dir")
        return [{"train_dir": training, "valid_dir": validation} | vocabulary for training, validation
                in write_folds(directory, sessions, options.folds, options.valid_fraction)]
    validation = {"valid_dir": options.valid_dir} if options.valid_dir else {"valid_fraction": options.valid_fraction}
    return [{"train_dir": options.train_dir} | validation | vocabulary]


def report(options, directory, study, parameters):
    """Say what was found, and draw it."""
    from utils.tuning import study as studies
    from utils.tuning.report import write_pictures  # slow to import
    from utils.tuning.search import BEST
    best = studies.best_trial(study)
    if not best:
        raise InputError(f"{directory}: found no trial that was trained to its end, expected at least one; see the "
                         "reasons above and in trials/")
    written = write_pictures(directory, study, parameters, options.watch)
    for path in [directory / BEST, *written]:
        log(f"written: {path}")
    log(f"best: trial {best.number}, {options.watch}:{best.value:.4f}; python {options.script} --config "
        f"{directory / BEST} --train_dir {options.train_dir}"
        + f" --vocab_path {options.vocab_path}" * (options.script != INTENT))


if __name__ == "__main__":
    run(main)
