"""How fast the server starts, and how much memory its processes take, by the size of the model.

    python benchmarks/serve_start.py                                # with the packages of this Python
    python benchmarks/serve_start.py --python ENVIRONMENT/bin/python      # with those of another environment

It starts the server as the image does (deploy/start.py), with models of random weights: several times, from the start
of the process to the first 200 of /ping. After 1,000 answers it reads what memory each process has to itself, which is
what one more of them takes: the private part in Linux's smaps_rollup.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from serve_load import free_port, make_model  # noqa: E402

from utils.device import processor_name  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.options import SEED, Parser, number, sizes  # noqa: E402
from utils.process import run  # noqa: E402

PATIENCE = 60.0  # seconds without an answer
SESSIONS = json.dumps({"sessions": [["1", "2", "3"]] * 20}).encode()


def main():
    parser = Parser(__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter whose packages the server uses")
    parser.add_argument("--items", type=sizes, default=[1000, 20_000, 100_000], help="items of the models")
    parser.add_argument("--hid_size", type=number(int, 1, 100_000), default=100, help="units of the models")
    parser.add_argument("--workers", type=number(int, 2, 256), default=2, help="processes that answer")
    parser.add_argument("--starts", type=number(int, 1, 1000), default=5, help="starts of each model's server")
    parser.add_argument("--seed", type=number(int, 0, SEED), default=1, help="of weights")
    options = parser.parse_args()
    print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores, {options.workers} workers, "
          f"{options.hid_size} units")
    print(f"{'items':>10}{'median start, s':>17}{'slowest':>9}{'first process, MB':>19}{'each worker':>13}")
    for items in options.items:
        with tempfile.TemporaryDirectory(prefix="gru4rec_start_") as directory:
            make_model(Path(directory) / "model", items, options.hid_size, np.random.default_rng(options.seed))
            starts = [measure(options, directory) for _ in range(options.starts)]
        seconds = sorted(taken for taken, _, _ in starts)
        _, first, worker = starts[-1]
        median = seconds[len(seconds) // 2]
        print(f"{items:>10}{median:>17.2f}{seconds[-1]:>9.2f}{first:>19.1f}{worker:>13.1f}", flush=True)


def measure(options, directory):
    """Start a server and stop it; the seconds it took, and the MB of its first process and of its largest worker."""
    port = free_port()
    command = [options.python, str(ROOT / "deploy/start.py"), f"--model_dir={directory}/model", f"--port={port}",
               f"--workers={options.workers}", "--host=127.0.0.1", "--session_memory=16", "--log=errors"]
    began = time.monotonic()
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while not asked(port, "/ping"):
            if server.poll() is not None or time.monotonic() - began > PATIENCE:
                raise InputError(f"--python: found the server ended or silent ({server.stderr.readline().strip()}), "
                                 "expected it to become ready")
            time.sleep(0.002)
        seconds = time.monotonic() - began
        time.sleep(1)
        for _ in range(50):
            asked(port, "/v1/recommend", SESSIONS)
        workers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        return seconds, private_megabytes(server.pid), max(map(private_megabytes, workers))
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=PATIENCE)


def asked(port, path, body=None):
    """Whether a request was answered."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            reply.read()
            return True
    except OSError:
        return False


def private_megabytes(process):
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(int(kilobytes) for kilobytes in re.findall(r"^Private_\w+: +(\d+) kB", text, re.MULTILINE)) / 1000


if __name__ == "__main__":
    run(main)
