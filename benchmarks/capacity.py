"""What serve.py takes for a catalogue: memory, at rest and while a new model is loaded, time to start, and processor.

    python benchmarks/capacity.py
    python benchmarks/capacity.py --catalogues 37483x100,1000000x100 --workers 1,2,4

For each catalogue (ITEMSxUNITS) a model of random weights is made and served by so many workers. Memory is that of all
processes together, where what several share counts once (Pss). Answers for a core are those to whole sessions, divided
by the processor time that the server took, when requests come all the time and when ten come in a second; server and
generator share this machine.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from endure_report import shared_memory  # noqa: E402
from serve_load import (  # noqa: E402
    Generator,
    cores_used,
    descendants,
    free_port,
    make_model,
    requests_of,
    wait_until_ready,
)

from utils.device import processor_name  # noqa: E402
from utils.options import SECONDS, Parser, add_seed_flag, number, sizes  # noqa: E402
from utils.process import run  # noqa: E402

FEW = 10  # requests a second


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--catalogues", type=catalogues, default="10000x100,100000x100,1000000x100",
                        help="ITEMSxUNITS, several separated by commas")
    parser.add_argument("--workers", type=sizes, default=[1, 2], help="processes of the server, such as 1,2")
    parser.add_argument("--seconds", type=number(float, 1, SECONDS), default=5.0, help="length of each load")
    parser.add_argument("--session_length", type=number(int, 1, 200), default=5, help="clicks of a session")
    parser.add_argument("--topk", type=number(int, 1, 1000), default=20, help="items to recommend")
    add_seed_flag(parser)
    return parser.parse_args()


def catalogues(text):
    """A type for argparse: `10000x100,100000x100` as a list of pairs of items and units."""
    try:
        pairs = [tuple(number(int, 1)(part) for part in pair.split("x")) for pair in text.split(",")]
        if any(len(pair) != 2 for pair in pairs):
            raise ValueError
        return pairs
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected ITEMSxUNITS, such as 100000x100") from None


class Server:
    """serve.py with a link to a model, in a `with` block; `seconds` is how long it took to start."""

    def __init__(self, link, workers):
        self.link, self.workers, self.port = link, workers, free_port()

    def __enter__(self):
        self.log = open(self.link.with_name("log"), "w+", encoding="utf-8")
        command = [sys.executable, "serve.py", "--model_dir", str(self.link), "--port", str(self.port), "--workers",
                   str(self.workers), "--log", "errors", "--reload_seconds", "0.5"]
        began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=ROOT)
        wait_until_ready(self.process, self.port, self.log, SimpleNamespace(server="serve", workers=self.workers))
        self.seconds = time.monotonic() - began - 2  # that `wait_until_ready` waits in the end
        return self

    def __exit__(self, *error):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.log.close()

    def memory(self):
        """MiB of all its processes."""
        return sum(shared_memory(process) or 0 for process in descendants(self.process.pid))

    def models_loaded(self):
        return Path(self.log.name).read_text(encoding="utf-8").count('"model loaded"')

    def most_during_reload(self, model_dir):
        """Let the link lead to another model; the most MiB until all workers have it."""
        most, expected = [self.memory()], self.models_loaded() + self.workers
        switch(self.link, model_dir)
        done = threading.Event()

        def watch():
            while not done.wait(0.02):
                most.append(self.memory())
        watcher = threading.Thread(target=watch)
        watcher.start()
        deadline = time.monotonic() + 300
        while self.models_loaded() < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        done.set()
        watcher.join()
        return max(most)


def switch(link, model_dir):
    new = link.with_name("link.new")
    new.symlink_to(model_dir)
    os.replace(new, link)


def answers_for_a_core(server, generator, arrivals):
    """How many requests the server answered for each second of processor time that it took; p99 in milliseconds."""
    before = cores_used(server.process.pid)[0]
    latencies, failures, _ = generator.run(arrivals)
    used = cores_used(server.process.pid)[0] - before
    return (len(latencies) - failures) / max(used, 1e-9), np.percentile(latencies, 99) * 1000


def main():
    options = parse_arguments()
    random = np.random.default_rng(options.seed)
    print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores; sessions of {options.session_length} clicks, "
          f"{options.topk} items asked for")
    print(f"{'items':>9}{'units':>6}{'workers':>8}{'start s':>9}{'MiB':>8}{'at load':>9}{'reload':>8}"
          f"{'answers/s of a core':>21}{'at ' + str(FEW) + '/s':>9}")
    for items, units in options.catalogues:
        with tempfile.TemporaryDirectory(prefix="gru4rec_capacity_") as name:
            model_dirs = [Path(name, place, "model") for place in ("one", "two")]
            for model_dir in model_dirs:
                model_dir.parent.mkdir()
                make_model(model_dir, items, units, random)
            for workers in options.workers:
                switch(Path(name, "link"), model_dirs[0])
                with Server(Path(name, "link"), workers) as server:
                    measure(options, server, items, units, model_dirs[1], random)


def measure(options, server, items, units, other_model, random):
    """Print a line of the table."""
    at_rest = server.memory()
    sessions = SimpleNamespace(form="post", session_length=options.session_length, topk=options.topk, test_dir="")
    request = requests_of(sessions, list(map(str, range(items))), random)
    generator = Generator(server.port, 16 * server.workers, request)
    generator.run(np.arange(100) * 0.01)  # warm
    few, _ = answers_for_a_core(server, generator, np.cumsum(random.exponential(1 / FEW, int(FEW * options.seconds))))
    began = time.monotonic()
    generator.run(np.zeros(200))
    rate = 200 / (time.monotonic() - began)
    many, _ = answers_for_a_core(server, generator, np.zeros(max(int(rate * options.seconds), 100)))
    loaded, most = server.memory(), server.most_during_reload(other_model)
    print(f"{items:9}{units:6}{server.workers:8}{server.seconds:9.1f}{at_rest:8.0f}{loaded:9.0f}{most:8.0f}{many:21.0f}"
          f"{few:9.0f}", flush=True)


if __name__ == "__main__":
    run(main)
