"""What a model is worth from day to day: updated every day (--init_from), trained anew every day, and left alone.

    python benchmarks/daily.py --input train.tsv.gz --report_days 21 --out_dir daily
    python benchmarks/daily.py --input train.tsv.gz test.tsv.gz --parts 26 --report_days 7 --out_dir daily_parts

A session belongs to the day (UTC) of its last click; with --parts, to one of so many parts of all sessions in the order
of their ends, which take the place of days where times are not real. Before a day, each model has learnt from the
sessions of the days before: the first one trains on all of them (`alone` stays so); `retrained` does that every day;
`updated` goes on from itself with the sessions of the last --window days, --copies of each, and every --older-th one of
the days before, in random order. Then each is asked for every click after the first of each
session of the day, among the items that it knows. What it doesn't know counts as missed.

Prints the days, and tables by week and of costs; writes daily.json, and daily.svg and daily_dark.svg for light and dark
pages. --skip_last leaves out the newest days: settings are chosen on earlier ones. What is in --out_dir already is
taken from there, so a run that was stopped goes on.
"""

import json
import resource
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path

import numpy as np
from pyarrow import csv

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.device import processor_name  # noqa: E402
from utils.files import InputError, require_file, write_atomically  # noqa: E402
from utils.options import COUNT, Parser, add_seed_flag, number  # noqa: E402
from utils.process import run  # noqa: E402
from utils.runlog import log, read_records  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MODELS = "retrained", "updated", "alone"
# Flags that daily.json has.
RECORDED = "parts", "report_days", "window", "copies", "older", "update_flags", "train_flags", "seed", "threads"
WEEK = 7


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--input", nargs="+", required=True,
                        help="TSV or CSV files of SessionId, ItemId, Time; sessions of a later one are later")
    parser.add_argument("--name", default="the clicks given", help="what they are called in the pictures")
    parser.add_argument("--parts", type=number(int, 0, COUNT), default=0,
                        help="parts to cut all sessions into, in place of days; 0: days")
    parser.add_argument("--report_days", type=number(int, 2, COUNT), default=21,
                        help="days (or parts) to report, the last")
    parser.add_argument("--skip_last", type=number(int, 0, COUNT), default=0, help="days to leave out at the end")
    parser.add_argument("--models", default=",".join(MODELS), help="which models to evaluate, separated by commas")
    parser.add_argument("--window", type=number(int, 1, COUNT), default=7,
                        help="days that an update trains on, the newest")
    parser.add_argument("--copies", type=number(int, 1, COUNT), default=2, help="copies of their sessions in an update")
    parser.add_argument("--older", type=number(int, 0, COUNT), default=10,
                        help="one of so many older sessions is in an update, too; 0: none")
    parser.add_argument("--update_flags", default="", help="flags of the trainer for an update, in one text")
    parser.add_argument("--train_flags", default="", help="flags of the trainer for a training on all sessions")
    add_seed_flag(parser)
    parser.add_argument("--threads", type=number(int, 1, 1024), default=1,
                        help="processor threads of the trainings and evaluations")
    parser.add_argument("--out_dir", required=True, help="directory for models and figures")
    options = parser.parse_args()
    options.models = options.models.split(",")
    if unknown := set(options.models) - set(MODELS):
        raise InputError(f"--models: found {', '.join(sorted(unknown))}, expected some of {', '.join(MODELS)}")
    return options


def read_sessions(path):
    """The sessions of a table in the order of their ends: a list of (seconds of the last and first click, line)."""
    table = csv.read_csv(require_file(path, "--input"), parse_options=csv.ParseOptions(delimiter="\t"))
    clicks = {}
    for session, item, second in zip(*(table[name].to_pylist() for name in ("SessionId", "ItemId", "Time"))):
        clicks.setdefault(session, []).append((second, item))
    for session in clicks.values():
        session.sort(key=itemgetter(0))
    lines = [(clicks[session][-1][0], clicks[session][0][0], " ".join(str(item) for _, item in clicks[session]) + "\n")
             for session in sorted(clicks)]
    return sorted(lines, key=itemgetter(0))


def write_days(options, directory):
    """Write the session text of each day to a file of its name in `directory`; the names, ascending."""
    sessions, days = [session for path in options.input for session in read_sessions(path)], {}
    for place, (end, start, line) in enumerate(sessions):
        if options.parts:
            name = f"part_{place * options.parts // len(sessions) + 1:0{len(str(options.parts))}}"
        else:
            name = str(datetime.fromtimestamp(end, UTC).date())
        days.setdefault(name, []).append((start, line))
    directory.mkdir(parents=True, exist_ok=True)
    for name, lines in days.items():
        with write_atomically(directory / f"{name}.txt") as file:
            file.writelines(line for _, line in sorted(lines, key=itemgetter(0)))
    return sorted(days)


class Shop:
    """The days of a shop, and the commands that train and ask models of them.

    Parameters
    ----------
    options : argparse.Namespace
    """

    def __init__(self, options):
        self.options, self.directory = options, Path(options.out_dir)
        self.days = write_days(options, self.directory / "days")
        self.days = self.days[:len(self.days) - options.skip_last]
        if len(self.days) <= options.report_days:
            raise InputError(f"--report_days: found {options.report_days}, expected fewer than there are, "
                             f"{len(self.days)}")
        self.record_path = self.directory / "figures.jsonl"

    def file(self, day):
        return self.directory / "days" / f"{day}.txt"

    def work_directory(self, model, day):
        """Where a model's files of a day are; `alone` has the ones of the first day."""
        return self.directory / f"{model}_{day}"

    def call(self, script, *arguments):
        """Run a script of the repository; the seconds of processor time that it took."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.run([sys.executable, str(ROOT / script), *map(str, arguments)], capture_output=True,
                                 text=True)
        if process.returncode:
            raise InputError(f"{script}: {process.stderr.strip()}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def lines(self, days):
        """The session text of some days, a list of lines."""
        return [line for day in days for line in self.file(day).read_text(encoding="utf-8").splitlines(keepends=True)]

    def update_lines(self, days):
        """What an update trains on after some days, a list of lines in random order."""
        options, older = self.options, self.lines(days[:-self.options.window])
        lines = self.lines(days[-options.window:]) * options.copies
        lines += older[len(days) % options.older::options.older] if options.older else []
        np.random.default_rng([options.seed, len(days)]).shuffle(lines)
        return lines

    def convert(self, place, lines, test_day, *more):
        """text2paddle.py for lines of session text, to `place`; processor seconds."""
        shutil.rmtree(place, ignore_errors=True)
        for name, text in (("raw_train", lines), ("raw_test", self.lines([test_day]))):
            (place / name).mkdir(parents=True)
            (place / name / "sessions.txt").write_text("".join(text), encoding="utf-8")
        return self.call("text2paddle.py", place / "raw_train", place / "raw_test", place / "train", place / "test",
                         place / "vocab.txt", *more)

    def train(self, place, flags, *more):
        """A training on what was converted to `place`; processor seconds."""
        return self.call("train_sample_neg.py", "--train_dir", place / "train", "--vocab_path", place / "vocab.txt",
                         "--model_dir", place / "model", "--threads", self.options.threads, "--keep", 1, "--seed",
                         self.options.seed, *shlex.split(flags), *more)

    def ask(self, place, model_dir):
        """What infer_sample_neg.py records of the newest epoch, for the day converted to `place`: a dict."""
        epoch = max(int(path.name.removeprefix("epoch_")) for path in model_dir.glob("epoch_*"))
        self.call("infer_sample_neg.py", "--test_dir", place / "test", "--model_dir", model_dir, "--start_index", epoch,
                  "--last_index", epoch, "--threads", self.options.threads)
        return [record for record in read_records(model_dir) if record["event"] == "test"][-1]

    def measure(self, model, place_in_days):
        """Prepare a model for a day and ask it; what goes to figures.jsonl, a dict."""
        day, first = self.days[place_in_days], len(self.days) - self.options.report_days
        place, before = self.work_directory(model, day), self.days[:place_in_days]
        model_dir = place / "model"
        if model == "alone" or place_in_days == first and model == "updated":
            model_dir = self.work_directory("retrained", self.days[first]) / "model"
            seconds = self.convert(place, self.lines(self.days[:first]), day)
        elif model == "retrained":
            seconds = self.convert(place, self.lines(before), day) + self.train(place, self.options.train_flags)
        else:
            last = self.last_updated(place_in_days - 1)
            seconds = self.convert(place, self.update_lines(before), day, "--extend", last / "vocab.txt")
            seconds += self.train(place, self.options.update_flags, "--init_from", last)
        found = self.ask(place, model_dir)
        return {"model": model, "day": day, "hits": found["recall@20"] * found["predictions"],
                "reciprocal_ranks": found["mrr@20"] * found["predictions"], "processor_seconds": seconds}

    def last_updated(self, place_in_days):
        """The model directory of `updated` for a day."""
        first = len(self.days) - self.options.report_days
        model = "retrained" if place_in_days == first else "updated"
        return self.work_directory(model, self.days[place_in_days]) / "model"

    def figures(self):
        """The records of all models and days; those that are missing are measured first, day by day."""
        found = {}
        if self.record_path.exists():
            found = {(record["model"], record["day"]): record
                     for record in map(json.loads, self.record_path.read_text(encoding="utf-8").splitlines())}
        first = len(self.days) - self.options.report_days
        todo = [(model, place) for place in range(first, len(self.days)) for model in MODELS
                if model in self.options.models or (model, place) == ("retrained", first)]
        for model, place in todo:
            day = self.days[place]
            if (model, day) not in found:
                record = found[model, day] = self.measure(model, place)
                with open(self.record_path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
                self.clean_up(model, place)
        return found

    def clean_up(self, model, place_in_days):
        """Remove what no later day needs."""
        place, first = self.work_directory(model, self.days[place_in_days]), len(self.days) - self.options.report_days
        for name in ("raw_train", "raw_test", "train", "test"):
            shutil.rmtree(place / name)
        if model == "retrained" and place_in_days > first:
            shutil.rmtree(place)
        if model == "updated" and place_in_days > first + 1:
            shutil.rmtree(self.work_directory(model, self.days[place_in_days - 1]))

    def targets(self, place_in_days):
        """Of a day: the targets, how many are items of no day before, and of no day before the first reported one."""
        first = len(self.days) - self.options.report_days
        ids = lambda days: {item for line in self.lines(days) for item in line.split()}
        before = ids(self.days[:first])
        yesterday = before | ids(self.days[first:place_in_days])
        targets = [item for line in self.lines([self.days[place_in_days]]) for item in line.split()[1:]]
        return np.array([len(targets), sum(item not in yesterday for item in targets),
                         sum(item not in before for item in targets)])


def row(name, targets, records, options):
    """A line of the table: the sums of some days."""
    shares = [f"{100 * count / targets[0]:.1f} %" for count in targets[1:]]
    recalls = [f"{sum(record[model]['hits'] for record in records) / targets[0]:.4f}" for model in options.models]
    return f"| {name} | {targets[0]} | {' | '.join(shares + recalls)} |"


def print_tables(shop, targets, records, options):
    """By day and by week: the targets, the shares of them that are new items, and what each model reaches."""
    days = shop.days[-options.report_days:]
    log(f"| recall@20 | targets | new that day | new since the first | {' | '.join(options.models)} |")
    log("|-" * (4 + len(options.models)) + "|")
    for day, counts, record in zip(days, targets, records):
        log(row(day, counts, [record], options))
    for start in range(0, len(days), WEEK):
        week = slice(start, start + WEEK)
        log(row(f"{days[week][0]} to {days[week][-1]}", sum(targets[week]), records[week], options))
    later, targets = records[1:], sum(targets[1:])  # on the first day, all are one model
    log(row("all but the first", targets, later, options))
    for model in options.models:
        mean = np.mean([record[model]["processor_seconds"] for record in later])
        reciprocal = sum(record[model]["reciprocal_ranks"] for record in later) / targets[0]
        seconds = f", {mean:.2f} s of processor time a day for conversion and training" * (model != "alone")
        log(f"{model}: MRR@20 {reciprocal:.4f}{seconds}")


def record_of(shop, targets, records, options):
    """What daily.json has: the recall@20 of each model by day, and how it was found."""
    recalls = {model: [round(float(record[model]["hits"] / counts[0]), 5) for counts, record in zip(targets, records)]
               for model in options.models}
    measured = datetime.fromtimestamp(shop.record_path.stat().st_mtime, UTC).date()
    return {"data": options.name, "unit": "part" if options.parts else "day", "script": "benchmarks/daily.py",
            "flags": {name: getattr(options, name) for name in RECORDED}, "machine": processor_name(),
            "date": str(measured), "recall@20": recalls}


def draw(record, directory):
    """Write daily.json and the pictures of it."""
    from utils.plotting import results  # slow to import
    with write_atomically(directory / "daily.json") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    results.write_light_and_dark(lambda theme: results.days(record, theme), directory / "daily")


def main():
    options = parse_arguments()
    shop = Shop(options)
    found = shop.figures()
    places = range(len(shop.days) - options.report_days, len(shop.days))
    targets = [shop.targets(place) for place in places]
    records = [{model: found[model, shop.days[place]] for model in options.models} for place in places]
    print_tables(shop, targets, records, options)
    draw(record_of(shop, targets, records, options), shop.directory)


if __name__ == "__main__":
    run(main)
