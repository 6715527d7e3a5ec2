"""Purchase intent by cross-validation: the network and simple methods on the same folds of sessions.

    python benchmarks/intent_folds.py --input clicks.dat --buys buys.dat

Each of five folds is the test once. Of the other sessions, an eighth chooses epochs, settings and thresholds, and the
rest trains. "Network and boosting" is the mean of their log-odds. The figures are those of all sessions together, each
predicted by models that didn't know it: their mean over the seeds, which draw the folds and the weights, with 95 %
intervals by drawing sessions, the same for all methods. It needs scikit-learn (requirements-intent.txt).
"""

import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.data.click_columns import Columns  # noqa: E402
from utils.files import InputError, require_file  # noqa: E402
from utils.intent.baselines import BOOSTING, LOGISTIC, baseline_scores, predictions_of  # noqa: E402
from utils.intent.events import join, keep, read_events  # noqa: E402
from utils.intent.features import pairs_of  # noqa: E402
from utils.intent.metrics import METRICS, Measured, Predictions, intervals, outcomes_of  # noqa: E402
from utils.intent.preparation import open_intent_files, write_intent  # noqa: E402
from utils.intent.preparation_flags import PARTS  # noqa: E402
from utils.intent.sessions import read_intent_sessions, read_intent_vocabularies, sessions_of  # noqa: E402
from utils.options import COUNT, Parser, number  # noqa: E402
from utils.process import run  # noqa: E402

NETWORK, BOTH = "network", "network and boosting"
SHOWN = "auc", "average_precision", "item_auc", "jaccard", "score", "share_of_maximum", "calibration_error"


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--input", required=True,
                        help="yoochoose-clicks.dat, or a table of clicks with columns SessionId, ItemId and Time")
    parser.add_argument("--buys", required=True, help="yoochoose-buys.dat, or such a table of purchases")
    parser.add_argument("--category_column", default="", help="name of the column of categories, as for preprocess.py")
    parser.add_argument("--folds", type=number(int, 2, 100), default=5, help="folds")
    parser.add_argument("--seeds", type=number(int, 1, 100), default=3,
                        help="runs of each kind, with the seeds 1, 2 ...")
    parser.add_argument("--min_support", type=number(int, 1, COUNT), default=5,
                        help="training clicks of an item that is in the vocabulary")
    parser.add_argument("--train_share", type=number(float, 0.01, 1), default=1.0,
                        help="share of the training sessions that is used, for a learning curve")
    parser.add_argument("--draws", type=number(int, 100, 10_000_000), default=1000,
                        help="random draws for the intervals")
    parser.add_argument("--network", type=number(int, 0, 1), default=1, help="0: simple methods alone")
    parser.add_argument("--train_flags", type=shlex.split, default="",
                        help="further flags of train_intent.py, in one text")
    options = parser.parse_args()
    for flag in ("input", "buys"):
        require_file(getattr(options, flag), f"--{flag}")
    return options


def main():
    options = parse_arguments()
    events = read_events([options.input], [options.buys], Columns(category=options.category_column))
    joined, _ = join(events)
    everything = sessions_of(joined, ([], []))
    pairs = pairs_of(everything)
    outcomes = outcomes_of(everything, pairs)
    print(f"{len(everything):,} sessions, {outcomes.buys.sum():,} buy; {options.folds} folds, {options.seeds} seeds, "
          f"{options.draws} draws", flush=True)
    found, drawn = {}, {}
    for seed in range(1, options.seeds + 1):
        for name, predictions in predict_all(joined, everything, pairs, options, seed).items():
            measured = Measured(outcomes, predictions)
            figures = measured.figures()
            print(f"seed:{seed} method:{name} " + " ".join(f"{key}:{figures[key]:.4f}" for key in SHOWN), flush=True)
            found.setdefault(name, []).append(list(figures.values()))
            drawn.setdefault(name, []).append(measured.drawn(options.draws, 1))
    report({name: np.mean(values, axis=0) for name, values in found.items()},
           {name: np.mean(values, axis=0) for name, values in drawn.items()})


def predict_all(joined, everything, pairs, options, seed):
    """Each method's Predictions of all sessions, each by a model that was fitted without its fold."""
    random = np.random.default_rng(seed)
    fold = random.permutation(len(everything)) % options.folds
    rest = random.random(len(everything))
    found = {}
    for number_of_fold in range(options.folds):
        is_test = fold == number_of_fold
        is_valid = ~is_test & (rest < 1 / 8)
        is_training = ~is_test & (rest >= 1 / 8) & (rest < 1 / 8 + 7 / 8 * options.train_share)
        with TemporaryDirectory() as folder:
            with open_intent_files(folder) as files:
                write_intent([keep(joined, mask) for mask in (is_training, is_valid, is_test)], options.min_support,
                             files)
            of_fold = predict_fold(Path(folder), options, seed)
        numbers = np.flatnonzero(is_test)
        of_test = np.flatnonzero(is_test[pairs.owners])
        for name, part in of_fold.items():
            whole = found.setdefault(name, Predictions(
                np.zeros(len(everything)), np.zeros(len(pairs.owners)), np.zeros(len(everything), bool),
                np.zeros(len(pairs.owners), bool)))
            whole.session_scores[numbers], whole.predicted[numbers] = part.session_scores, part.predicted
            whole.pair_scores[of_test], whole.chosen[of_test] = part.pair_scores, part.chosen
    return found


def predict_fold(folder, options, seed):
    """Each method's Predictions of the test sessions in a directory as preprocess.py --to_intent writes it."""
    words = read_intent_vocabularies(folder, "")
    training, validation, test = (read_intent_sessions(folder / part, words, "") for part in PARTS)
    scores = baseline_scores(training, validation, test, tuple(map(len, words)), seed)
    if options.network:
        scores[NETWORK] = network_scores(folder, options, seed, validation, test)
        scores[BOTH] = tuple(mean_of_log_odds(*pair) for pair in zip(scores[NETWORK], scores[BOOSTING]))
    return predictions_of(scores, validation, test)


def network_scores(folder, options, seed, validation, test):
    """What train_intent.py's model says of validation and test sessions, as baselines.baseline_scores returns it."""
    model, scores = folder / "model", folder / "scores.tsv"
    start("train_intent.py", "--train_dir", folder / "train", "--valid_dir", folder / "valid", "--model_dir", model,
          "--seed", seed, *options.train_flags)
    found = []
    for part, sessions in (("valid", validation), ("test", test)):
        start("infer_intent.py", "--test_dir", folder / part, "--model_dir", model, "--per_session", scores, "--draws",
              10)
        rows = [line.split("\t") for line in scores.read_text().splitlines()[1:]]
        if [row[0] for row in rows] != sessions.session_ids.to_pylist():
            raise InputError(f"{scores}: found other sessions than those of {part}, expected the same")
        found += [np.array([float(row[1]) for row in rows]),
                  np.array([float(pair.rpartition(":")[2]) for row in rows for pair in row[2].split(",")])]
    return tuple(found)


def mean_of_log_odds(one, other):
    """The probabilities whose log-odds are the mean of those of two arrays of probabilities."""
    odds = [np.clip(found, 1e-9, 1 - 1e-9) / (1 - np.clip(found, 1e-9, 1 - 1e-9)) for found in (one, other)]
    return 1 / (1 + 1 / np.sqrt(odds[0] * odds[1]))


def start(script, *arguments):
    """Run a script of this repository; where it fails, it has said why."""
    process = subprocess.run([sys.executable, ROOT / script, *map(str, arguments)], stdout=subprocess.DEVNULL)
    if process.returncode:
        sys.exit(process.returncode)


def report(figures, drawn):
    """Print a table of all figures with their intervals, and how networks differ from simple methods."""
    places = [METRICS.index(name) for name in SHOWN]
    print(f"\n| | {' | '.join(SHOWN)} |\n|{'-|' * (len(SHOWN) + 1)}")
    for name, values in figures.items():
        print_row(name, values, intervals(drawn[name]), places)
    for name in (NETWORK, BOTH) if NETWORK in drawn else ():
        for other in (LOGISTIC, BOOSTING):
            print_row(f"{name}, less {other}", figures[name] - figures[other], intervals(drawn[name] - drawn[other]),
                      places)


def print_row(name, values, ends, places):
    cells = [f"{values[place]:.4f} ({ends[place, 0]:.4f} to {ends[place, 1]:.4f})" for place in places]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run(main)
