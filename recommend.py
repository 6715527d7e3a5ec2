r"""Recommend the next items of sessions with a trained model.

    python recommend.py --model_dir model_output --topk 20 214536502 214536500
    python recommend.py --model_dir model_output --sessions sessions.txt --format json > answers.jsonl
    python recommend.py --model_dir model_output --items items.csv --filter category:shoes,in_stock:1 214536502
    ... | python recommend.py --model_dir model_output --sessions -

A session is the item ids of its clicks in time order: the arguments, or a line of a text file, separated by blanks and
written as in vocab.txt, where a blank within an id is `\{20}` and a backslash `\\`. Items that the model does not know
are left out, and counted on stderr. For each session the best items are printed, as lines of session, rank, item and
score separated by tabs, on a terminal under a line that names these; or with --format json as one line like this:

    {"session": 1, "items": [...], "scores": [...]}

A session without any click that the model knows, such as an empty line, gets popular items. Their scores are numbers
of clicks in the newest training sessions, and the JSON line also has "fallback": "popular". Models of older versions
have no such counts: then nothing is recommended, and empty lines are skipped.

Sessions are numbered by their lines, from 1. A higher score means a likelier item; with a memory of neighbours, and
for models side by side, it is the logarithm of the item's probability. Items with equal scores are in the order of
vocab.txt. Needs no Paddle, and uses one thread unless OMP_NUM_THREADS says otherwise.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import json
import os
import sys

# Before NumPy loads: on busy processors its threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from utils.data.session_lines import name_of, read_lines
from utils.data.sessions import Sessions
from utils.files import InputError
from utils.model.load import load_scorer
from utils.model.popular import read_popular
from utils.options import COUNT, ITEM_FIELDS, SESSION_LINES, Parser, add_model_flags, number
from utils.process import run, tell

BATCH = 64  # sessions at once; more are hardly faster and need more memory


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("clicks", nargs="*", metavar="ITEM", default="",
                        help="item ids of one session, in time order, each an argument; or --sessions")
    data, answers = parser.group("input and output"), parser.group("answers")
    add_model_flags(data)
    data.add_argument("--sessions", metavar="FILE", default="", help=SESSION_LINES)
    data.add_argument("--format", choices=("tsv", "json"), default="tsv", help="what to print")
    answers.add_argument("--topk", type=number(int, 1, COUNT), default=20, help="items to recommend")
    answers.add_argument("--exclude", choices=("last", "seen", "none"), default="none",
                         help="which items of the session itself to leave out: the last one, all, or none, as in "
                         "infer.py")
    answers.add_argument("--items", metavar="FILE", default="", help=ITEM_FIELDS)
    answers.add_argument("--filter", metavar="COLUMN:VALUE", default="",
                         help="choose from the items with these fields, several separated by commas; needs --items")
    options = parser.parse_args()
    if bool(options.clicks) == bool(options.sessions):
        found = "item ids and --sessions" if options.clicks else "neither item ids nor --sessions"
        raise InputError(f"ITEM, --sessions: found {found}, expected one of them (recommend.py -h has examples)")
    if options.clicks and not " ".join(options.clicks).split():
        raise InputError("ITEM: found only blanks, expected item ids")
    if bool(options.items) != bool(options.filter):
        raise InputError(f"--items, --filter: found {'--filter' if options.filter else '--items'} alone, expected both")
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
    if options.format == "tsv" and sys.stdout.isatty():
        print("session", "rank", "item", "score", sep="\t")
    popular, allowed = read_popular(options.model_dir, len(item_ids)), read_selection(options, item_ids)
    skipped = Skipped(options.sessions, popular is not None)
    for lines in [[(1, options.clicks)]] if options.clicks else read_lines(options.sessions):
        for start in range(0, len(lines), BATCH):
            asked = [(line, clicks) for line, clicks in lines[start:start + BATCH] if clicks or popular]
            known = [known_items(line, clicks, index_of, skipped) for line, clicks in asked]
            answers = recommend(scorer, known, options.topk, options.exclude, allowed)
            for (line, clicks), items, (best, scores) in zip(asked, known, answers):
                fallback = "" if items else "popular" if popular else "none"
                if fallback == "popular":
                    best, scores = popular.best(not clicks, options.topk, (), allowed)
                write_answer(options.format, line, [item_ids[item] for item in best], scores.tolist(), fallback)
        sys.stdout.flush()  # a caller that asks line by line is waiting for it
    skipped.report()


def read_selection(options, item_ids):
    """The Selection that --items and --filter ask for, or None for all items."""
    if not options.filter:
        return None
    from utils.data.item_filter import parse_filter
    from utils.data.item_table import ItemFields, read_item_table  # loads pyarrow, which takes longer than the rest
    fields = ItemFields(read_item_table(options.items, "--items"), item_ids)
    try:
        selection = fields.select(parse_filter(options.filter))
    except ValueError as error:
        raise InputError(f"--filter: {error}") from None
    tell(f"{options.items}: items that pass: {selection.count} of {len(item_ids)}; without a row: "
         f"{fields.without_row}; rows of items that the model doesn't know: {fields.unknown}")
    return selection


def known_items(line, item_ids, index_of, skipped):
    """The indices of a session's items, a list of int; items that the model doesn't know are counted in `skipped`."""
    known = [index_of[item_id] for item_id in item_ids if item_id in index_of]
    if len(known) < len(item_ids) or not known:
        skipped.count(line, [item_id for item_id in item_ids if item_id not in index_of], bool(known))
    return known


def recommend(scorer, sessions, topk, exclude, allowed=None):
    """The best items of each session and their scores: a list of pairs of arrays, empty for a session without items.

    Parameters
    ----------
    scorer : scorer.Scorer
    sessions : list of lists of int
    topk : int
    exclude : str
        Which items of a session are left out: `last`, `seen` or `none`.
    allowed : selection.Selection, optional
        Which items to choose from.
    """
    answers = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(sessions)
    places = [place for place, items in enumerate(sessions) if items]
    if not places:
        return answers
    asked = [sessions[place] for place in places]
    items, offsets = np.concatenate(asked).astype(np.int32), np.cumsum([0] + [len(clicks) for clicks in asked])
    states = scorer.after_sessions(Sessions(items, offsets))
    excluded = [{"last": clicks[-1:], "seen": clicks, "none": ()}[exclude] for clicks in asked]
    for place, best in zip(places, scorer.best(states, [topk] * len(asked), excluded, [allowed] * len(asked))):
        answers[place] = best
    return answers


def write_answer(form, session, item_ids, scores, fallback):
    """Print the answer to a session in the form `tsv` or `json`."""
    if form == "tsv":
        sys.stdout.write("".join(f"{session}\t{rank}\t{quoted(item_id)}\t{score:.6f}\n"
                                 for rank, (item_id, score) in enumerate(zip(item_ids, scores), start=1)))
    else:
        answer = {"session": session, "items": item_ids, "scores": [round(score, 6) for score in scores]}
        sys.stdout.write(json.dumps(answer | ({"fallback": fallback} if fallback else {})) + "\n")


def quoted(item_id):
    """An item id as a field of a TSV file."""
    if any(character in item_id for character in '"\t\r\n'):
        return '"' + item_id.replace('"', '""') + '"'
    return item_id


class Skipped:
    """Counts what was left out.

    path : str, the file of the sessions, empty for the command line
    has_popular : bool, sessions without any known click get popular items
    """

    def __init__(self, path, has_popular):
        self.path, self.has_popular = path, has_popular
        self.clicks, self.first_click, self.sessions, self.first_session = 0, "", 0, ""

    def count(self, line, unknown, is_answered):
        """Count the `unknown` item ids of a session, and the session itself if it can't be answered without them."""
        place = f"{name_of(self.path)}:{line}" if self.path else "the arguments"
        if unknown:
            self.first_click = self.first_click or f"{unknown[0][:40]!r} in {place}"
            self.clicks += len(unknown)
        if not is_answered:
            self.first_session = self.first_session or place
            self.sessions += 1

    def report(self):
        """Print one line on stderr, or none if nothing was skipped."""
        parts = []
        if self.clicks:
            parts.append("left out clicks on items that the model doesn't know: "
                         f"{self.clicks} (first: {self.first_click})")
        if self.sessions:
            instead = "popular items" if self.has_popular else "nothing to recommend"
            parts.append(f"{instead} for sessions without any known click: {self.sessions} "
                         f"(first: {self.first_session})")
        if parts:
            tell("; ".join(parts))


if __name__ == "__main__":
    run(main)
