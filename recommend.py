"""Recommend the next items of sessions with a trained model.

    python recommend.py --model_dir model_output --topk 20 214536502 214536500
    python recommend.py --model_dir model_output --sessions sessions.txt --format json > answers.jsonl
    ... | python recommend.py --model_dir model_output --sessions -

A session is the item ids of its clicks in time order: the arguments, or a line of a text file. Items that the model
does not know are left out, and counted on stderr. For each session the best items are printed, as lines of session,
rank, item and score separated by tabs, or with --format json as one line like this:

    {"session": 1, "items": [...], "scores": [...]}

Sessions are numbered by their lines, from 1. A higher score means a likelier item; items with equal scores are in the
order of vocab.txt. Needs no Paddle, and uses one thread unless OMP_NUM_THREADS says otherwise.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import json
import os
import sys
from pathlib import Path

# Before NumPy loads: on busy processors its threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from utils.data.session_lines import name_of, read_lines
from utils.data.sessions import Sessions
from utils.files import InputError
from utils.model.load import load_scorer
from utils.options import COUNT, Parser, number
from utils.process import run

BATCH = 64  # sessions at once; more are hardly faster and need more memory


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("items", nargs="*", metavar="ITEM", default="", help="item ids of one session, in time order")
    parser.add_argument("--sessions", metavar="FILE", default="",
                        help="text file of item ids, one session a line, instead of the arguments; "
                        "- for standard input")
    parser.add_argument("--model_dir", default="model_recall20", help="model directory, as written by train.py")
    parser.add_argument("--epoch", type=number(int, 0, COUNT), default=0,
                        help="which epoch to use; 0: the best one by validation, or the last without validation")
    parser.add_argument("--topk", type=number(int, 1, COUNT), default=20, help="items to recommend")
    parser.add_argument("--exclude_seen", type=number(int, 0, 1), default=0,
                        help="1: leave out the items of the session itself, 0: keep them, as in infer.py")
    parser.add_argument("--format", choices=("tsv", "json"), default="tsv", help="what to print")
    options = parser.parse_args()
    if bool(options.items) == bool(options.sessions):
        found = "item ids and --sessions" if options.items else "neither item ids nor --sessions"
        raise InputError(f"ITEM, --sessions: found {found}, expected one of them (recommend.py -h has examples)")
    if options.items and not " ".join(options.items).split():
        raise InputError("ITEM: found only blanks, expected item ids")
    return options


def main():
    options = parse_arguments()
    scorer, item_ids = load_scorer(options.model_dir, options.epoch or None)
    if not scorer.state_size:
        tell(f"{options.model_dir} is answered through {scorer.way}")
    if item_ids is None:
        tell(f"{options.model_dir} has no item ids, only their number: items are indices from 0, in sessions and "
             "answers")
        item_ids = [str(index) for index in range(len(scorer.item_biases))]
    index_of = {item_id: index for index, item_id in enumerate(item_ids)}
    lines_of = tsv_lines if options.format == "tsv" else json_line
    skipped = Skipped(options.sessions)
    for lines in [[(1, " ".join(options.items).split())]] if options.items else read_lines(options.sessions):
        for start in range(0, len(lines), BATCH):
            asked = [(line, known_items(line, clicks, index_of, skipped))
                     for line, clicks in lines[start:start + BATCH] if clicks]
            answers = recommend(scorer, [items for _, items in asked], options.topk, options.exclude_seen)
            for (line, _), (best, scores) in zip(asked, answers):
                sys.stdout.write(lines_of(line, [item_ids[item] for item in best], scores.tolist()))
        sys.stdout.flush()  # a caller that asks line by line is waiting for it
    skipped.report()


def known_items(line, item_ids, index_of, skipped):
    """The indices of a session's items, a list of int; items that the model doesn't know are counted in `skipped`."""
    known = [index_of[item_id] for item_id in item_ids if item_id in index_of]
    if len(known) < len(item_ids):
        skipped.count(line, [item_id for item_id in item_ids if item_id not in index_of], bool(known))
    return known


def recommend(scorer, sessions, topk, exclude_seen):
    """The best items of each session and their scores: a list of pairs of arrays, empty for a session without items.

    Parameters
    ----------
    scorer : scorer.Scorer
    sessions : list of lists of int
    topk : int
    exclude_seen : bool
    """
    answers = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(sessions)
    places = [place for place, items in enumerate(sessions) if items]
    if not places:
        return answers
    asked = [sessions[place] for place in places]
    items, offsets = np.concatenate(asked).astype(np.int32), np.cumsum([0] + [len(clicks) for clicks in asked])
    states = scorer.after_sessions(Sessions(items, offsets))
    excluded = asked if exclude_seen else [()] * len(asked)
    for place, best in zip(places, scorer.best(states, [topk] * len(asked), excluded, [None] * len(asked))):
        answers[place] = best
    return answers


def tsv_lines(session, item_ids, scores):
    return "".join(f"{session}\t{rank}\t{item_id}\t{score:.6f}\n"
                   for rank, (item_id, score) in enumerate(zip(item_ids, scores), start=1))


def json_line(session, item_ids, scores):
    return json.dumps({"session": session, "items": item_ids, "scores": [round(score, 6) for score in scores]}) + "\n"


class Skipped:
    """Counts what was left out; `path` is the file of the sessions, empty for the command line."""

    def __init__(self, path):
        self.path = path
        self.clicks, self.first_click, self.sessions, self.first_session = 0, "", 0, ""

    def count(self, line, unknown, is_answered):
        """Count the `unknown` item ids of a session, and the session itself if it can't be answered without them."""
        place = f"{name_of(self.path)}:{line}" if self.path else "the arguments"
        self.first_click = self.first_click or f"{unknown[0][:40]!r} in {place}"
        self.clicks += len(unknown)
        if not is_answered:
            self.first_session = self.first_session or place
            self.sessions += 1

    def report(self):
        """Print one line on stderr, or none if nothing was skipped."""
        if self.clicks:
            line = f"left out clicks on items that the model doesn't know: {self.clicks} (first: {self.first_click})"
            if self.sessions:
                line += (f"; nothing to recommend for sessions without any other: {self.sessions} "
                         f"(first: {self.first_session})")
            tell(line)


def tell(message):
    """Print a line on stderr; utils.runlog would have to load the progress bar first."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
