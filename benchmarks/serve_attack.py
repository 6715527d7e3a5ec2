"""Attacks serve.py on this machine, for a limited time: does it go on answering right, without taking more memory?

    python benchmarks/serve_attack.py                 # 20 seconds, seed 1
    python benchmarks/serve_attack.py --seconds 120 --seed 7

It starts a server of its own, with a model of random weights. Some connections send requests that were changed at
random, byte by byte; others send trailers without end, don't read what they asked for, send slowly, hold back the last
byte, send more headers than anyone needs, or just leave. Meanwhile somebody asks what can be asked, and compares the
answers with those from before. It ends with status 1 if an answer is wrong or late, a reply is none or has a status
that isn't documented, a worker dies, the log has an error, slow connections aren't closed, or the memory of a worker
grows by more than 64 MB.
"""

import asyncio
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from attack_requests import (  # noqa: E402
    ALLOWED,
    CHUNKED,
    ITEMS,
    LARGE,
    MANY_FIELDS,
    SEEDS,
    get,
    make_items,
    mutate,
    post,
)
from serve_load import free_port, make_model, wait_until_ready  # noqa: E402

from utils.options import Parser, add_seed_flag, number  # noqa: E402
from utils.process import run  # noqa: E402

UNITS, WORKERS = 16, 2
CHANGERS, FLOODERS = 24, 4  # how many attack at a time
SLOW_CONNECTIONS, SLOW_SECONDS = 60, 13.0  # more than a head, a body or a pause before the first byte may take
MOST_GROWTH = 64 << 20
LATE = 10.0  # seconds
DOCUMENTED = {100, 200, 400, 404, 405, 408, 413, 415, 422, 429, 431, 503}
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


class Tally:
    """What the attacks did, by their names, and what went wrong: lines for the user."""

    def __init__(self):
        self.connections, self.sent, self.statuses, self.wrong = Counter(), Counter(), defaultdict(Counter), []

    def note(self, what):
        if what not in self.wrong:
            self.wrong.append(what)

    def received(self, name, data):
        statuses = [int(status) for status in STATUS.findall(data)]
        self.statuses[name].update(statuses)
        for status in set(statuses) - DOCUMENTED:
            self.note(f"{name}: found a reply of status {status}: {data[:200]!r}")
        if data and not data.startswith(b"HTTP/1.1 "):
            self.note(f"{name}: found {data[:100]!r}, expected a reply")


class Connection:
    """A socket, used as `async with`; what goes wrong on it is no failure, as the server may close it."""

    def __init__(self, port, name, tally, receive_buffer=0):
        self.port, self.name, self.tally = port, name, tally
        self.socket, self.loop = socket.socket(), asyncio.get_running_loop()
        self.socket.setblocking(False)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)

    async def __aenter__(self):
        await self.loop.sock_connect(self.socket, ("127.0.0.1", self.port))
        self.tally.connections[self.name] += 1
        return self

    async def __aexit__(self, kind, error, trace):
        self.socket.close()
        return isinstance(error, (ConnectionError, TimeoutError))

    async def send(self, data, seconds=1.0):
        """Send, or raise TimeoutError if the server doesn't take it."""
        await asyncio.wait_for(self.loop.sock_sendall(self.socket, data), seconds)
        self.tally.sent[self.name] += len(data)

    async def receive(self, seconds, most=1 << 20):
        """What arrives until there is none for so many seconds, and whether the connection is closed then."""
        received, is_closed = b"", False
        with suppress(TimeoutError):
            while len(received) < most and not is_closed:
                try:
                    part = await asyncio.wait_for(self.loop.sock_recv(self.socket, 1 << 16), seconds)
                except ConnectionError:
                    part = b""
                received, is_closed = received + part, not part
        self.tally.received(self.name, received)
        return received, is_closed

    def reset(self):
        """Close it as if the machine behind it were gone."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Attacker:
    """Attacks again and again in one of the ways below, chosen at random among those that it is given."""

    FLOODS = "trailers", "unread", "withheld", "headers", "left", "chunks"

    def __init__(self, port, seed, tally):
        self.port, self.chance, self.tally = port, random.Random(seed), tally

    async def run(self, until, ways):
        while time.monotonic() < until:
            try:
                await getattr(self, self.chance.choice(ways))()
            except OSError as error:
                self.tally.note(f"found {error} at a new connection, expected it to be accepted")
                return

    def connect(self, name, **more):
        return Connection(self.port, name, self.tally, **more)

    async def changed(self):
        data = mutate(self.chance, self.chance.choice(SEEDS))
        async with self.connect("changed at random") as connection:
            for _ in range(self.chance.choice((1, 1, 1, 3, 10))):
                size = self.chance.randint(1, len(data) or 1)
                await connection.send(data[:size])
                data = data[size:]
                await asyncio.sleep(self.chance.choice((0, 0.001, 0.01)))
            await connection.send(data)
            if self.chance.random() < 0.2:
                connection.reset()
            else:
                await connection.receive(0.2)

    async def trailers(self):
        async with self.connect("trailers without end") as connection:
            first = self.chance.choice((get(b"/livez")[:-2] + b"transfer-encoding: chunked\r\n\r\n", CHUNKED))
            await connection.send(first + b"0\r\n")
            for _ in range(60):
                await connection.send(self.chance.choice((b"a: b\r\n" * 10_000, b"c" * 60_000, b"d: e\r\n" * 100)))
            await connection.receive(0.05)

    async def unread(self):
        request = self.chance.choice((get(b"/openapi.json"), get(b"/metrics"), post(LARGE), post(MANY_FIELDS)))
        async with self.connect("replies not read", receive_buffer=4096) as connection:
            for _ in range(60):
                await connection.send(request * (60_000 // len(request) + 1))

    async def withheld(self):
        async def hold(data):
            async with self.connect("last byte withheld") as connection:
                await connection.send(data, 3)
                await connection.receive(1)
        body = CHUNKED + (b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)) * 20
        head = get(b"/", b"a: %s\r\n" % (b"b" * 60_000))[:-1]
        await asyncio.gather(*[hold(self.chance.choice((post(b" " * 1_000_000)[:-1], body, head))) for _ in range(10)])

    async def headers(self):
        async with self.connect("headers") as connection:
            await connection.send(get(b"/livez", b"a:\r\n" * self.chance.choice((90, 110, 15_000, 60_000))))
            await connection.receive(0.05)

    async def chunks(self):
        async with self.connect("chunks") as connection:
            await connection.send(CHUNKED)
            for _ in range(30):
                await connection.send(self.chance.choice((b"1\r\n[\r\n" * 5000, b"1;" + b"x" * 3000 + b"\r\n[\r\n")))
            await connection.receive(0.05)

    async def left(self):
        for _ in range(30):
            async with self.connect("left") as connection:
                await connection.send(self.chance.choice(ALLOWED))
                await asyncio.sleep(0)
                connection.reset()


async def slow(port, tally):
    """Many connections that always send a little more; each has to be closed within SLOW_SECONDS."""
    begun = [b"", b"G", get(b"/livez")[:-2], get(b"/livez", b"content-length: 100000\r\n"),
             post(b" " * 100_000, headers=b"")[:-99_999], post(b" " * 100_000)[:-99_999], CHUNKED + b"ffff\r\n",
             CHUNKED + b"0\r\na: "]

    async def drip(first):
        async with Connection(port, "slow", tally) as connection:
            until = time.monotonic() + SLOW_SECONDS
            await connection.send(first)
            while time.monotonic() < until:
                _, is_closed = await connection.receive(1)
                if is_closed:
                    return
                if first:
                    await connection.send(b"x")
            tally.note(f"slow: found a connection open {SLOW_SECONDS:g} seconds after {first[:60]!r}, expected none")
    await asyncio.gather(*[drip(begun[place % len(begun)]) for place in range(SLOW_CONNECTIONS)])


class Check:
    """Asks what is allowed and compares the answers with those of a calm time."""

    def __init__(self, port, tally):
        self.port, self.tally, self.right, self.expected, self.slowest = port, tally, 0, {}, 0.0

    async def ask(self, request):
        """The reply's status and body, or what went wrong."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(re.search(rb"content-length: (\d+)", head)[1])
                return head.split(b" ", 2)[1], await reader.readexactly(length)
            finally:
                writer.close()
        except (OSError, EOFError) as error:
            return type(error).__name__, b""

    async def run(self, until):
        while time.monotonic() < until:
            for request in ALLOWED:
                began = time.monotonic()
                try:
                    found = await asyncio.wait_for(self.ask(request), LATE)
                except TimeoutError:
                    found = f"nothing after {LATE:g} seconds", b""
                self.slowest = max(self.slowest, time.monotonic() - began)
                expected = self.expected.setdefault(request, found)
                if found != expected or found[0] != b"200":
                    self.tally.note(f"{request[:60]!r}: found {found[0]} {found[1][:99]}, expected {expected[1][:99]}")
                else:
                    self.right += 1
            await asyncio.sleep(0.02)


class Memory:
    """Resident bytes of the workers: at first, at most, at the end."""

    def __init__(self, workers):
        self.workers, self.first, self.most, self.last = workers, {}, {}, {}

    def look(self):
        for worker in self.workers:
            with suppress(OSError):  # it died
                pages = int(Path(f"/proc/{worker}/statm").read_text().split()[1])
                self.last[worker] = pages * os.sysconf("SC_PAGE_SIZE")
        self.first = self.first or dict(self.last)
        self.most = {worker: max(self.most.get(worker, 0), size) for worker, size in self.last.items()}

    async def run(self, until):
        while time.monotonic() < until:
            self.look()
            await asyncio.sleep(0.1)


async def attack(port, memory, options, tally):
    """Attack for some seconds; the Check."""
    check = Check(port, tally)
    for _ in range(30):  # so that each worker has done everything once
        await check.ask(post(LARGE))
        await check.ask(get(b"/metrics"))
    await check.run(time.monotonic() + 1)
    memory.look()
    until = time.monotonic() + options.seconds
    attackers = [Attacker(port, f"{options.seed} {place}", tally).run(
        until, Attacker.FLOODS if place < FLOODERS else ["changed"]) for place in range(FLOODERS + CHANGERS)]
    await asyncio.gather(check.run(until), memory.run(until), slow(port, tally), *attackers)
    await asyncio.sleep(1)
    await check.run(time.monotonic() + 1)
    memory.look()
    return check


def workers_of(log_path):
    """The processes that loaded a model, in order; one too many, and one has died."""
    lines = [json.loads(line) for line in log_path.read_text().splitlines() if line.startswith("{")]
    return [line["process"] for line in lines if line["message"] == "model loaded"]


def look_at(log_path, memory, server, tally):
    """Note what went wrong in the server."""
    log = log_path.read_text()
    if len(workers_of(log_path)) > WORKERS or server.poll() is not None:
        tally.note(f"found workers {workers_of(log_path)}, expected that {WORKERS} live on")
    for line in log.splitlines():
        if "Traceback" in line or '"level":"error"' in line or not line.startswith("{"):
            tally.note(f"log: found {line[:1000]}")
    for worker, first in memory.first.items():
        if memory.most[worker] - first > MOST_GROWTH:
            tally.note(f"found {memory.most[worker] >> 20} MB in worker {worker}, expected at most "
                       f"{first + MOST_GROWTH >> 20}")


def print_table(tally, check, memory):
    print(f"{'attack':24}{'connections':>12}{'MB sent':>9}  replies by status")
    for name, count in sorted(tally.connections.items()):
        statuses = ", ".join(f"{status}: {replies}" for status, replies in sorted(tally.statuses[name].items()))
        print(f"{name:24}{count:12}{tally.sent[name] / 1e6:9.1f}  {statuses}")
    print(f"{check.right} right answers meanwhile, the slowest after {check.slowest * 1000:.0f} ms")
    for worker, first in memory.first.items():
        print(f"worker {worker}: {first >> 20} MB before, at most {memory.most[worker] >> 20}, "
              f"{memory.last[worker] >> 20} after")
    print(*(tally.wrong or ["found nothing wrong"]), sep="\n")


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=number(float, 1, 3600), default=20.0, help="length of the attacks")
    add_seed_flag(parser)
    return parser.parse_args()


def main():
    options, tally = parse_arguments(), Tally()
    with tempfile.TemporaryDirectory(prefix="gru4rec_attack_") as directory:
        make_model(Path(directory) / "model", ITEMS, UNITS, np.random.default_rng(options.seed))
        make_items(Path(directory) / "items.csv")
        port, log_path = free_port(), Path(directory) / "log"
        command = [sys.executable, "serve.py", "--model_dir", f"{directory}/model", "--port", str(port), "--workers",
                   str(WORKERS), "--log", "errors", "--items", f"{directory}/items.csv"]
        with open(log_path, "w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
        try:
            with open(log_path) as log:
                wait_until_ready(server, port, log, SimpleNamespace(server="serve", workers=WORKERS))
            memory = Memory(workers_of(log_path))
            check = asyncio.run(attack(port, memory, options, tally))
            look_at(log_path, memory, server, tally)
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(timeout=60)
        if status:
            tally.note(f"found status {status} of the stopped server, expected 0")
        print_table(tally, check, memory)
    sys.exit(bool(tally.wrong))


if __name__ == "__main__":
    run(main)
