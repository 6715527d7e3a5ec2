"""Latency of serve.py at given rates of requests, server and generator together on this machine.

    python benchmarks/serve_load.py                                      # 37,483 items, 100 units, POST of 5 clicks
    python benchmarks/serve_load.py --form get --serve_flags '--session_store redis://localhost:6379/0'
    python benchmarks/serve_load.py --item_count 1000000 --hid_size 512 --rates 5,10,20
    python benchmarks/serve_load.py --model_dir model_output              # any model, such as joined ones
    python benchmarks/serve_load.py --model_dir large/model --test_dir large/sessions.txt  # enlarge_model.py makes it
    python benchmarks/serve_load.py --form intent --model_dir model_intent --session_length 4   # train_intent.py's
    python benchmarks/serve_load.py --server flask                       # Flask on gunicorn, which must be installed

Open loop: requests have arrival times of their own (a Poisson process), whatever the server does, and latency counts
from there, so that a stall is not hidden. A model of random weights is made for it, unless one is named. For each rate,
the table has the latencies in milliseconds, how many requests failed, and the processor time in cores that the server,
the generator and everything else on the machine took. Below is the memory of the server.
"""

import json
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from pathlib import Path
from urllib.parse import quote

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from machine import gemm_rate  # noqa: E402

from utils.data.sessions import read_sessions  # noqa: E402
from utils.data.vocabulary import checksum  # noqa: E402
from utils.device import processor_name  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.model import checkpoint, upkeep  # noqa: E402
from utils.model.directory import read_items  # noqa: E402
from utils.model.layout import NetworkSettings, weight_shapes  # noqa: E402
from utils.options import COUNT, SECONDS, Parser, add_seed_flag, number, sizes  # noqa: E402
from utils.process import run  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
PREPARED = 2000  # different sessions
LIVE = 100  # live sessions at a time
PATIENCE = 60.0  # seconds without an answer
AWAKE = 0.0005  # so many seconds before a request is due the generator is awake, so that waking up isn't measured


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--server", choices=("serve", "flask"), default="serve",
                        help="serve.py, or benchmarks/serve_flask.py on gunicorn")
    parser.add_argument("--serve_flags", default="", help="further flags of serve.py, in one text")
    parser.add_argument("--workers", type=number(int, 1, 256), default=len(os.sched_getaffinity(0)),
                        help="processes of the server")
    parser.add_argument("--form", choices=("post", "get", "intent"), default="post",
                        help="whole sessions, clicks of live sessions, or whole sessions that may buy")
    parser.add_argument("--model_dir", default="",
                        help="model directory to serve; empty: one that is made, with --item_count and --hid_size")
    parser.add_argument("--item_count", type=number(int, 100, COUNT), default=37483, help="items of the model")
    parser.add_argument("--hid_size", type=number(int, 1, 100_000), default=100, help="units of the model")
    parser.add_argument("--rates", type=sizes, default=[1, 500, 1000, 1500, 2000, 2500],
                        help="requests a second, such as 500,1000")
    parser.add_argument("--seconds", type=number(float, 1, SECONDS), default=10.0, help="length of each rate")
    parser.add_argument("--connections", type=number(int, 1, 900), default=32,
                        help="kept open; further requests wait for one")
    parser.add_argument("--session_length", type=number(int, 1, 200), default=5, help="clicks of a session")
    parser.add_argument("--topk", type=number(int, 1, 1000), default=20, help="items to recommend")
    parser.add_argument("--test_dir", default="",
                        help="session text of the model's items, a file or a directory: the first --session_length "
                        "clicks of each session that has as many; empty: drawn clicks")
    add_seed_flag(parser)
    return parser.parse_args()


def main():
    options = parse_arguments()
    if options.form == "intent" and (not options.model_dir or options.server != "serve"):
        raise InputError("--form: found intent, expected with it --server serve and a --model_dir of train_intent.py")
    random = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory(prefix="gru4rec_load_") as directory:
        model_dir = Path(options.model_dir or Path(directory) / "model")
        if not options.model_dir:
            make_model(model_dir, options.item_count, options.hid_size, random)
        item_ids = read_items(model_dir, checkpoint.read_config(model_dir)).item_ids
        port = free_port()
        log = open(Path(directory) / "server.log", "w+")
        command = server_command(options, model_dir.absolute(), port)
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        try:
            wait_until_ready(server, port, log, options)
            print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores, float32 products at "
                  f"{gemm_rate() / 1e9:.0f} GFLOP/s on one")
            model = options.model_dir or f"{options.hid_size} units"
            asked = "" if options.form == "intent" else f", {options.topk} items asked for"
            print(f"{options.server} with {options.workers} workers, {len(item_ids)} items, {model}, "
                  f"{options.form}, sessions of {options.session_length} clicks{asked} {options.serve_flags}")
            print(f"{'asked/s':>8}{'done/s':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}{'failed':>8}"
                  f"{'server':>9}{'generator':>11}{'others':>8}")
            generator = Generator(port, options.connections, requests_of(options, item_ids, random))
            generator.run(np.arange(200) * 0.01)  # warm
            for rate in options.rates:
                arrivals = np.cumsum(random.exponential(1 / rate, max(int(rate * options.seconds), 10)))
                before = cores_used(server.pid)
                found = generator.run(arrivals)
                print_line(rate, found, [after - then for after, then in zip(cores_used(server.pid), before)])
            print(f"memory of the server with its {options.workers} workers: {memory_used(server.pid)} MiB")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def make_model(model_dir, items, units, random):
    """Write a model directory of random weights for `items` items, which are called 0, 1, 2 ..."""
    vocabulary = model_dir.parent / "vocab.txt"
    vocabulary.write_text("".join(f"{item}\n" for item in range(items)), encoding="utf-8")
    settings = NetworkSettings([units], units)
    config = {"network": settings.as_dict(), "data": {"vocab_sha256": checksum(vocabulary)}}
    upkeep.start_run(model_dir, config, vocabulary, overwrite=False)
    weights = {name: random.standard_normal(shape, np.float32) * np.float32(2 / np.sqrt(units))
               for name, shape in weight_shapes(settings, items).items()}
    checkpoint.save_epoch(model_dir, 1, weights, {"none": np.zeros(1, np.float32)}, {})


def server_command(options, model_dir, port):
    """How to start the server, a list of words."""
    if options.server == "serve":
        flag = "--intent_model_dir" if options.form == "intent" else "--model_dir"
        return [sys.executable, "serve.py", flag, str(model_dir), "--port", str(port), "--workers",
                str(options.workers), *shlex.split(options.serve_flags)]
    return [sys.executable, "-m", "gunicorn", "--chdir", "benchmarks", "--worker-class", "gthread", "--threads", "8",
            "--workers", str(options.workers), "--keep-alive", "75", "--bind", f"127.0.0.1:{port}",
            f"serve_flask:application({str(model_dir)!r})"]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def wait_until_ready(server, port, log, options):
    """Return as soon as all workers have the model; InputError where the server ends, or takes minutes."""
    deadline = time.monotonic() + 900
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10)
            if options.server == "flask" or workers_with_model(port) == options.workers:
                time.sleep(2)
                return
        except OSError:
            pass
        time.sleep(0.2)
    log.seek(0)
    last = (log.read().splitlines() or ["nothing on stderr"])[-1]
    raise InputError(f"--server {server.args[1]}: found it ended or silent ({last[:300]}), expected it to become ready")


def workers_with_model(port):
    """How many processes of serve.py can answer, by its metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("gru4rec_model_workers{"))


def requests_of(options, item_ids, random):
    """A function from a number to the bytes of that request."""
    clicks = clicks_of(options, len(item_ids), random)
    if options.form != "get":
        if options.form == "post":
            path, bodies = "recommend", [{"sessions": [[item_ids[item] for item in row]], "k": options.topk}
                                         for row in clicks]
        else:
            path, bodies = "intent", [{"sessions": [[{"item_id": item_ids[item], "time": 1_700_000_000 + 60 * place}
                                                     for place, item in enumerate(row)]]} for row in clicks]
        bodies = map(json.dumps, bodies)
        prepared = [f"POST /v1/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(body)}\r\n\r\n{body}".encode() for body in bodies]
        return lambda place: prepared[place % PREPARED]
    items = [quote(item_ids[item]) for item in clicks.ravel().tolist()]

    def click(place):
        """LIVE sessions side by side, a click of each in turn, then the next LIVE ones."""
        session = place // (LIVE * options.session_length) * LIVE + place % LIVE
        return (f"GET /v1/recommend?session_id=load-{session}&item_id={items[place % len(items)]}&user_consent=true"
                f"&k={options.topk} HTTP/1.1\r\nhost: localhost\r\n\r\n").encode()
    return click


def clicks_of(options, items, random):
    """The items clicked in PREPARED sessions, int array [PREPARED, --session_length]."""
    if not options.test_dir:  # the first items are the most popular ones
        return (items * random.random((PREPARED, options.session_length)) ** 3).astype(int)
    found, offsets = read_sessions(options.test_dir, items, "--test_dir")
    starts = offsets[:-1][np.diff(offsets) >= options.session_length]
    if not len(starts):
        raise InputError(f"--test_dir: found no session of {options.session_length} clicks in {options.test_dir}, "
                         "expected one")
    return found[np.resize(starts, PREPARED)[:, None] + np.arange(options.session_length)]


class Generator:
    """Sends requests at given times over connections that stay open, and takes down when each was answered."""

    def __init__(self, port, connections, request):
        self.request, self.sent = request, 0
        self.free = deque(Connection(port) for _ in range(connections))

    def run(self, arrivals):
        """Latencies in seconds [requests], failures, and the seconds until the last was answered."""
        busy, due, latencies, failures = {}, deque(arrivals.tolist()), [], 0
        began = time.perf_counter()
        while due or busy:
            now = time.perf_counter() - began
            while due and due[0] <= now and self.free:
                connection = self.free.popleft()
                connection.send(self.request(self.sent), due.popleft())
                busy[connection.socket.fileno()] = connection
                self.sent += 1
            pause = max(due[0] - now, 0) if due and self.free else PATIENCE
            if not busy:
                pause = max(pause - AWAKE, 0)
            answered, _, _ = select.select(busy, [], [], pause)  # unlike poll and epoll, it waits for microseconds
            if not answered and pause == PATIENCE:
                raise InputError(f"found no answer for {PATIENCE} seconds, expected one")
            for file_number in answered:
                if status := busy[file_number].receive():
                    connection = busy.pop(file_number)
                    latencies.append(time.perf_counter() - began - connection.arrival)
                    failures += status != 200
                    self.free.append(connection)
        return np.array(latencies), failures, time.perf_counter() - began


class Connection:
    """One kept open; one request at a time."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request, arrival):
        self.arrival, self.received = arrival, b""
        self.socket.sendall(request)

    def receive(self):
        """Read what is there; the reply's status if it is whole, otherwise 0."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise InputError("found a connection closed by the server, expected an answer")
        self.received += part
        head, ended, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        return int(head.split(b" ", 2)[1]) if ended and len(body) >= int(length) else 0


def cores_used(server):
    """Processor seconds so far of the server with its workers, of this process, and of the rest of the machine."""
    total = sum(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:4])) / TICKS
    servers = sum(process_seconds(process) for process in descendants(server))
    own = time.process_time()
    return servers, own, total - servers - own


def memory_used(server):
    """MiB of the server with its workers; what processes share counts once (Linux's proportional set size)."""
    rollups = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in descendants(server)]
    return sum(int(rollup.partition("Pss:")[2].split()[0]) for rollup in rollups) // 1024


def descendants(process):
    found = [process]
    for task in Path(f"/proc/{process}/task").iterdir():
        found += [below for child in (task / "children").read_text().split() for below in descendants(int(child))]
    return found


def process_seconds(process):
    return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13])) / TICKS


def print_line(rate, found, used):
    latencies, failures, seconds = found
    p50, p90, p99 = np.percentile(latencies, [50, 90, 99]) * 1000
    server, generator, others = np.array(used) / seconds
    print(f"{rate:8}{len(latencies) / seconds:8.0f}{p50:8.2f}{p90:8.2f}{p99:8.2f}{latencies.max() * 1000:8.1f}"
          f"{failures:8}{server:9.2f}{generator:11.2f}{max(others, 0):8.2f}", flush=True)


if __name__ == "__main__":
    run(main)
