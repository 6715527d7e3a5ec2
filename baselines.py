"""Recall, MRR and other metrics of simple methods: the figures that a trained network must beat.

    python baselines.py --train_dir train_data/ --test_dir test_data/ --vocab_path vocab.txt --topk 5,20

The methods are fitted on the training sessions and measured as infer.py measures a network: each click of a test
session except the first is predicted from those before it, and ranked among all items of the training sessions. Items
already seen in the session are not removed. The figures are means over these predictions. Paddle is not needed.

    pop          POP: the items clicked most
    spop         S-POP: the items clicked most in this session, then POP
    transitions  what came next after the session's last click
    itemknn      Item-KNN: what was in the same sessions as the last click
    vsknn        V-SKNN: what was in the training sessions most like this one
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import argparse
import time

import numpy as np

from utils.data.session_files import read_conversion
from utils.data.sessions import read_sessions
from utils.data.vocabulary import read_vocabulary
from utils.evaluation import baselines
from utils.evaluation.flags import add_metric_flags
from utils.evaluation.metrics import Measures
from utils.files import InputError
from utils.options import COUNT, TEST_SESSIONS, VOCABULARY, Parser, number
from utils.process import run
from utils.runlog import line_of, log, print_table

TITLES = {"pop": "POP", "spop": "S-POP", "transitions": "transitions", "itemknn": "Item-KNN", "vsknn": "V-SKNN"}


def parse_arguments():
    parser = Parser(__doc__)
    data, fitted = parser.group("input and output"), parser.group("methods")
    data.add_argument("--train_dir", default="train_data",
                      help="directory of training session files (or one file), the newest session last")
    data.add_argument("--test_dir", default="test_data", help=TEST_SESSIONS)
    data.add_argument("--vocab_path", default="vocab.txt", help=VOCABULARY)
    fitted.add_argument("--methods", type=methods, default=",".join(TITLES), metavar="NAME,...",
                        help="which of the methods, separated by commas")
    fitted.add_argument("--itemknn_lambda", type=number(float, 0, 1e9), default=20.0,
                        help="regularisation: sessions added to the support of every item, so that rare items "
                        "are not similar by chance")
    fitted.add_argument("--itemknn_alpha", type=number(float, 0, 1), default=0.5,
                        help="0: each similar item's score is divided by its own support, 1: popular items stay ahead, "
                        ".5: cosine")
    fitted.add_argument("--vsknn_neighbours", type=number(int, 1, COUNT), default=500,
                        help="how many of the most similar sessions give scores")
    fitted.add_argument("--vsknn_sample_size", type=number(int, 1, COUNT), default=5000,
                        help="how many of the newest sessions with a common item are candidates for that")
    fitted.add_argument("--vsknn_decay", choices=("harmonic", "linear"), default="harmonic",
                        help="weights of the session's clicks, from the last one back: 1, 1/2, 1/3 and so on, or in "
                        "equal steps down to 0")
    fitted.add_argument("--vsknn_idf_weight", type=number(float, 0, 100), default=1.0,
                        help="how much rare items gain; 0: nothing")
    add_metric_flags(parser.group("evaluation"))
    return parser.parse_args()


def methods(text):
    """A type for argparse: names of methods, separated by commas, as a list without repeats."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in TITLES:
            raise argparse.ArgumentTypeError(f"found {name[:40]!r}, expected some of {','.join(TITLES)}")
    return names


def main():
    options = parse_arguments()
    _, item_count, vocab_sha256 = read_vocabulary(options.vocab_path)
    read_conversion(options.train_dir, vocab_sha256, "--train_dir")
    record = read_conversion(options.test_dir, vocab_sha256, "--test_dir")
    training = read_sessions(options.train_dir, item_count, "--train_dir")
    sessions = read_sessions(options.test_dir, item_count, "--test_dir")
    if not sessions.predictions:
        raise InputError(f"--test_dir: found no session of two known clicks in {options.test_dir}, "
                         "expected at least one")
    log(f"train:{options.train_dir} sessions:{len(training.lengths)} clicks:{len(training.items)} items:{item_count}")
    log(f"test:{options.test_dir} sessions:{len(sessions.lengths)} predictions:{sessions.predictions} "
        f"items:{item_count} unknown_clicks_left_out:{record.get('clicks_left_out', 0)} ties:{options.ties}")

    results, training_clicks = {}, np.bincount(training.items, minlength=item_count)
    for method in options.methods:
        title = TITLES[method]
        began = time.perf_counter()
        scores_after = fit(method, training, item_count, options)
        measures = Measures(options.metrics, options.topk, item_count, training_clicks)
        measures.add(*baselines.baseline_ranks_and_best(scores_after, sessions, measures.list_length, options.ties,
                                                        title))
        results[title] = measures.figures()
        log(f"baseline:{title} {line_of(results[title])} time_cost(s):{time.perf_counter() - began:.2f}")
    print_table(results)


def fit(method, training, item_count, options):
    """Fit a method: returns a function from a session's clicks so far to the scores of all items."""
    if method == "pop":
        return baselines.popularity_scores(training, item_count)
    if method == "spop":
        return baselines.session_popularity_scores(training, item_count)
    if method == "transitions":
        return baselines.transition_scores(training, item_count)
    if method == "itemknn":
        return baselines.item_neighbour_scores(training, item_count, options.itemknn_lambda, options.itemknn_alpha)
    return baselines.session_neighbour_scores(training, item_count, options.vsknn_neighbours, options.vsknn_sample_size,
                                              options.vsknn_decay, options.vsknn_idf_weight)


if __name__ == "__main__":
    run(main)
