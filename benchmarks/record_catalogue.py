"""Speed of training and answering against the number of items, recorded in a file for draw_results.py.

    python benchmarks/record_catalogue.py --model_dir reproduce_output/sampled/model \\
      --test_dir reproduce_output/sampled/test_data --record benchmarks/recorded/catalogue.json

Training: steps of both trainers on made-up sessions of so many items, on one thread; the median of three measurements,
by processor time. Answers: --model_dir made larger or smaller by enlarge_model.py, with and without its memory, served
by serve.py with two workers. Sessions of five clicks ask for the best 20. The latency is that of --rate requests a
second, which arrive whenever they want (serve_load.py); the answers in a second of a processor are those of requests
that come all at once (capacity.py). What the file has already isn't measured again, so a run that was stopped goes on.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402
from capacity import Server, answers_for_a_core, switch  # noqa: E402
from record_file import RecordFile  # noqa: E402
from serve_load import Generator, requests_of  # noqa: E402
from speed import counts  # noqa: E402

from utils import device  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.options import COUNT, SECONDS, Parser, add_seed_flag, number  # noqa: E402
from utils.process import run  # noqa: E402
from utils.training import full_flags, sampled_flags  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
TASKS = "answers", "training"
TRAINERS = {"train_sample_neg.py": sampled_flags, "train.py": full_flags}
SESSIONS = 20_000  # made up
TIMES = 3
WORKERS, CLICKS, K = 2, 5, 20
FORMS = {"with the memory": 1, "the network alone": 0}  # --neighbours of enlarge_model.py


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--model_dir", default="model_output", help="trained model with a memory")
    parser.add_argument("--test_dir", default="test_data", help="its test sessions, which ask")
    parser.add_argument("--item_counts", type=counts, default=[1_000, 10_000, 100_000, 1_000_000],
                        help="numbers of items, such as 1000,1000000")
    parser.add_argument("--tasks", default=",".join(TASKS), help="what to measure, separated by commas")
    parser.add_argument("--softmax_items", type=number(int, 0, COUNT), default=100_000,
                        help="the most items that train.py is measured with; with a million it takes 15 GB")
    parser.add_argument("--seconds", type=number(float, 0.1, SECONDS), default=3.0, help="length of a measurement")
    parser.add_argument("--rate", type=number(float, 1, 100_000), default=20.0,
                        help="requests a second for the latency")
    parser.add_argument("--record", required=True, help="JSON file to write, or to add what it lacks to")
    parser.add_argument("--out_dir", default="benchmark_output/record_catalogue", help="directory for the models")
    add_seed_flag(parser)
    options = parser.parse_args()
    if unknown := set(options.tasks.split(",")) - set(TASKS):
        raise InputError(f"--tasks: found {', '.join(sorted(unknown))}, expected some of {', '.join(TASKS)}")
    return options


def lacks(file, name, items):
    return all(point["items"] != items for point in file.points(name))


def record_training(options, file):
    """The rates of both trainers. Loads Paddle, which `device.prepare` must come before."""
    prepared = device.prepare(threads=1)
    from session_text import random_sessions
    from speed_parts import TrainingPart
    for items in options.item_counts:
        for name, flags in TRAINERS.items():
            if lacks(file, name, items) and (name != "train.py" or items <= options.softmax_items):
                part = TrainingPart(flags, [], items, random_sessions(items, SESSIONS), prepared.kernels)
                part.run(min(1.0, options.seconds))  # the first steps make what the others find made
                rates = [rate_of(part, options.seconds) for _ in range(TIMES)]
                point = {"items": items, "predictions_per_second": round(float(np.median(rates))),
                         "from": round(min(rates)), "to": round(max(rates))}
                file.add(name, [point], f"python benchmarks/record_catalogue.py: {name}")


def rate_of(part, seconds):
    """How many predictions a part is trained on in a second of the processor."""
    began = time.process_time()
    return part.run(seconds)[0] / (time.process_time() - began)


def record_answers(options, file):
    """Latencies and answers of each form and number of items."""
    for items in options.item_counts:
        for name, neighbours in FORMS.items():
            if lacks(file, name, items):
                directory = Path(options.out_dir).absolute() / f"{items}_{neighbours}"
                if not (directory / "sessions.txt").exists():
                    shutil.rmtree(directory, ignore_errors=True)
                    enlarge(options, items, neighbours, directory)
                file.add(name, [{"items": items} | answers_of(options, directory, items)],
                         f"python benchmarks/enlarge_model.py --neighbours {neighbours}; "
                         "python benchmarks/record_catalogue.py: serve.py")


def enlarge(options, items, neighbours, directory):
    """Make a model of so many items in a directory."""
    flags = {"--model_dir": options.model_dir, "--test_dir": options.test_dir, "--item_count": items,
             "--neighbours": neighbours, "--out_dir": directory, "--seed": options.seed}
    words = [str(word) for pair in flags.items() for word in pair]
    process = subprocess.run([sys.executable, str(ROOT / "benchmarks/enlarge_model.py"), *words])
    if process.returncode:
        sys.exit(process.returncode)  # it has said why


def answers_of(options, directory, items):
    """What serve.py does with the model in a directory of enlarge_model.py: a dict of figures."""
    random = np.random.default_rng(options.seed)
    link = directory / "link"
    switch(link, directory / "model")
    with Server(link, WORKERS) as server:
        sessions = directory / "sessions.txt"
        asked = SimpleNamespace(form="post", session_length=CLICKS, topk=K, test_dir=sessions)
        generator = Generator(server.port, 16 * WORKERS, requests_of(asked, list(map(str, range(items))), random))
        generator.run(np.arange(100) * 0.01)  # warm
        count = max(int(options.rate * 3 * options.seconds), 20)
        latencies, failures, _ = generator.run(np.cumsum(random.exponential(1 / options.rate, count)))
        if failures:
            raise InputError(f"found {failures} failed requests with {items} items, expected none")
        began = time.monotonic()
        generator.run(np.zeros(100))
        rate = 100 / (time.monotonic() - began)
        answers, _ = answers_for_a_core(server, generator, np.zeros(max(int(rate * options.seconds), 100)))
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "requests": count,
            "answers_per_second": float(f"{answers:.3g}")}


def main():
    options = parse_arguments()
    file = RecordFile(options.record, {"processors": len(os.sched_getaffinity(0)), "seed": options.seed,
                                       "requests_per_second": options.rate, "workers": WORKERS})
    if "answers" in options.tasks:
        record_answers(options, file)
    if "training" in options.tasks:
        record_training(options, file)


if __name__ == "__main__":
    run(main)
