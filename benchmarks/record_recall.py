"""Recall and MRR against the processor time of training, recorded in a file for draw_results.py.

    bash reproduce/sampled.sh rsc15_train_full.txt rsc15_test.txt
    python benchmarks/record_recall.py --data_dir reproduce_output/sampled --name 'RSC15 1/64' \\
      --record benchmarks/recorded/recall_rsc15_64.json

Trains the defaults of both trainers and the official settings, and evaluates every epoch on the test; joins four models
of train_sample_neg.py, of this seed and the next ones; runs baselines.py. What the file has already isn't done again,
so a run that was stopped goes on.

Processor time is that of the whole process. Of a training, the time up to the end of an epoch counts, and what comes
after the last epoch, which is the choice of the memory's weights: every epoch is evaluated with that memory. Of a
baseline, reading the data and answering the test count too, since it has no training that could be told from that.
"""

import re
import resource
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from record_file import RecordFile  # noqa: E402
from serve_load import process_seconds  # noqa: E402

from utils.data.session_files import read_conversion  # noqa: E402
from utils.data.sessions import read_sessions  # noqa: E402
from utils.data.vocabulary import checksum, read_vocabulary  # noqa: E402
from utils.files import InputError, require_file  # noqa: E402
from utils.options import SEED, Parser, number  # noqa: E402
from utils.process import run  # noqa: E402
from utils.runlog import read_records  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
FIRST = "train_sample_neg.py"
TRAININGS = {  # the script and its own flags, by the name of the series
    FIRST: ["train_sample_neg.py"],
    "official settings": ["train_sample_neg.py", "--config", "settings/official_xe.json"],
    "train.py": ["train.py"],
}
JOINED = 4
BASELINES = {"S-POP": "spop", "Item-KNN": "itemknn", "item transitions": "transitions", "V-SKNN": "vsknn"}
JOINED_NAME = f"{JOINED} joined"
SERIES = [*BASELINES, *TRAININGS, JOINED_NAME]
FIGURES = "recall@20", "mrr@20"


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--data_dir", required=True,
                        help="directory with train_data, test_data and vocab.txt, as the pipelines leave it")
    parser.add_argument("--name", required=True, help="what the data are called in the pictures")
    parser.add_argument("--record", required=True, help="JSON file to write, or to add what it lacks to")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=SERIES, metavar="NAME",
                        help=f"which to record: of {', '.join(SERIES)}; the last one needs train_sample_neg.py")
    parser.add_argument("--out_dir", default="benchmark_output/record_recall", help="directory for the models")
    parser.add_argument("--seed", type=number(int, 0, SEED - JOINED), default=1, help="of the trainings")
    parser.add_argument("--train_flags", default="", help="further flags of all trainings, to try this script quickly")
    return parser.parse_args()


class Runs:
    """The runs that give the series.

    Parameters
    ----------
    options : argparse.Namespace
    """

    def __init__(self, options):
        self.options, self.data, self.output = options, Path(options.data_dir), Path(options.out_dir).absolute()
        vocabulary = require_file(self.data / "vocab.txt", "--data_dir")
        items, sha256 = read_vocabulary(vocabulary)[1], checksum(vocabulary)
        sessions = {}
        for name in ("train_data", "test_data"):
            read_conversion(self.data / name, sha256, "--data_dir")
            sessions[name] = read_sessions(self.data / name, items, "--data_dir")
        self.file = RecordFile(options.record, {
            "data": options.name, "items": items, "sessions": len(sessions["train_data"].lengths),
            "predictions": sessions["test_data"].predictions, "seed": options.seed, "threads": 1,
            "flags": options.train_flags})

    def lacks(self, name):
        """Whether a series is asked for that the file doesn't have."""
        return name in self.options.series and not self.file.points(name)

    def call(self, *words):
        """Run a script of the repository on one thread.

        Returns
        -------
        list of str
            What it printed, by lines.
        list of float
            The processor seconds at the end of each epoch of a training.
        float
            Those of the whole process.
        """
        before, lines, at_epochs = resource.getrusage(resource.RUSAGE_CHILDREN), [], []
        command = [sys.executable, *map(str, words)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                lines.append(line)
                if line.startswith("epoch:"):
                    at_epochs.append(process_seconds(process.pid))
        if process.returncode:
            raise InputError(f"{words[0]}: found exit status {process.returncode}, expected 0")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return lines, at_epochs, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def train(self, words, model_dir, seed):
        """A training: the processor seconds at its epochs and of the whole."""
        return self.call(*words, "--train_dir", self.data / "train_data", "--vocab_path", self.data / "vocab.txt",
                         "--model_dir", model_dir, "--overwrite", 1, "--seed", seed, "--threads", 1,
                         *self.options.train_flags.split())[1:]

    def evaluate(self, model_dir, epochs):
        """FIGURES of each epoch, a list of dicts."""
        self.call("infer_sample_neg.py", "--test_dir", self.data / "test_data", "--model_dir", model_dir,
                  "--start_index", 1, "--last_index", epochs, "--threads", 1)
        found = {record["epoch"]: record for record in read_records(model_dir) if record["event"] == "test"}
        return [{name: round(found[epoch][name], 5) for name in FIGURES} for epoch in range(1, epochs + 1)]

    def trained(self):
        """The series of TRAININGS."""
        for name, words in TRAININGS.items():
            if self.lacks(name):
                model_dir = self.output / name.replace(" ", "_")
                at_epochs, whole = self.train(words, model_dir, self.options.seed)
                figures = self.evaluate(model_dir, len(at_epochs))
                points = [{"epoch": epoch, "processor_seconds": round(at + whole - at_epochs[-1], 2), **of_epoch}
                          for epoch, (at, of_epoch) in enumerate(zip(at_epochs, figures), 1)]
                self.file.add(name, points, f"python {' '.join(words)}")

    def joined(self):
        """The series of JOINED models of train_sample_neg.py, the first of which is there already: one point."""
        if not self.lacks(JOINED_NAME):
            return
        first = self.file.points(FIRST)
        if not first:
            raise InputError(f"--series: found no {FIRST} in {self.file.path}, expected it before {JOINED_NAME}")
        seeds = range(self.options.seed + 1, self.options.seed + JOINED)
        models = [self.output / f"seed_{seed}" for seed in seeds]
        seconds = first[-1]["processor_seconds"]
        seconds += sum(self.train(["train_sample_neg.py"], path, seed)[1] for path, seed in zip(models, seeds))
        seconds += self.call("merge_models.py", self.output / FIRST, *models, "--model_dir", self.output / "joined",
                             "--overwrite", 1)[2]
        figures = self.evaluate(self.output / "joined", 1)
        self.file.add(JOINED_NAME, [{"processor_seconds": round(seconds, 2), **figures[0]}],
                      f"python train_sample_neg.py with the seeds {self.options.seed} to {seeds[-1]}; "
                      "python merge_models.py")

    def baselines(self):
        """The series of BASELINES, one point each."""
        for name, method in BASELINES.items():
            if self.lacks(name):
                lines, _, seconds = self.call("baselines.py", "--methods", method, "--train_dir",
                                              self.data / "train_data", "--test_dir", self.data / "test_data",
                                              "--vocab_path", self.data / "vocab.txt")
                line = next(line for line in lines if line.startswith("baseline:"))
                figures = {figure: float(re.search(rf"\b{figure}:(\S+)", line)[1]) for figure in FIGURES}
                self.file.add(name, [{"processor_seconds": round(seconds, 2), **figures}],
                              f"python baselines.py --methods {method}")


def main():
    runs = Runs(parse_arguments())
    runs.baselines()
    runs.trained()
    runs.joined()


if __name__ == "__main__":
    run(main)
