"""The whole stack under load while much goes wrong: nginx, serve.py and Redis, from the files in deploy/.

    python benchmarks/endure.py                                  # ten minutes
    python benchmarks/endure.py --seconds 30 --rate 100 --seed 2

Requests come at times of their own (a Poisson process), live clicks and whole sessions through nginx. Meanwhile the
model is replaced every 30 s, and every third one is broken; a worker is killed every 20 s; Redis is stopped once and
killed once, and started again; 20 connections are slow, silent or leave; and 5 % more requests are garbage. (A shorter
run does all of that more often.)

Each answer is compared with the scorer of the model that it names, and each live session is followed click by click.
It ends with status 1 if an answer is wrong, a session is lost that Redis had saved, an error is none of those that
docs/operation.md names or has nothing to explain it, the log has an error, or memory grows beyond doubt: one worker is
spared for that. It prints latencies by minute and the growth of memory, and draws both. Needs nginx and redis-server.
"""

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from endure_clients import (  # noqa: E402
    Connections,
    Models,
    Visitor,
    broken_model,
    garbage,
    live_request,
    slow,
    whole_request,
)
from endure_report import Findings, picture, print_report, shared_memory  # noqa: E402
from serve_attack import workers_of  # noqa: E402
from serve_load import descendants, make_model  # noqa: E402
from stack import Stack, program  # noqa: E402

from utils.files import InputError, write_atomically  # noqa: E402
from utils.options import Parser, add_seed_flag, number  # noqa: E402
from utils.plotting.pictures import as_png  # noqa: E402
from utils.process import run  # noqa: E402

ITEMS, UNITS = 5000, 64
VISITORS, SLOW_CLIENTS = 200, 20
GARBAGE = 0.05  # as many more requests
LIVE_SHARE = 0.6
DOCUMENTED = {200, 400, 404, 405, 408, 413, 415, 422, 429, 431, 501, 502, 503, 504, 505}
KILL, STOP, CRASH, RELOAD = "worker killed", "Redis stopped", "Redis killed", "new model"
BROKEN = "broken model"  # a worker that starts meanwhile has none, until there is one again
STALL, STALL_SECONDS = "machine stood still", 2.0  # what this process couldn't wake up in, and the server neither
MOST_STOP_SECONDS = 30
EXPECTED_ERRORS = "model refused", "Worker (pid:"  # how lines of the log begin; gunicorn tells of killed workers so


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=number(float, 10, 86400), default=600.0, help="length of the run")
    parser.add_argument("--rate", type=number(float, 1, 100_000), default=200.0, help="requests a second")
    parser.add_argument("--server", choices=("serve", "gunicorn"), default="serve",
                        help="serve.py, or gunicorn with deploy/gunicorn.conf.py")
    parser.add_argument("--workers", type=number(int, 2, 256), default=2, help="processes of the server")
    add_seed_flag(parser)
    parser.add_argument("--output", default="benchmark_output/endure.png", help="the picture, a PNG file")
    return parser.parse_args()


class Load:
    """Asks, compares the answers, and follows the live sessions."""

    def __init__(self, options, stack, models, findings, loop):
        self.seconds, self.rate, self.stack, self.models = options.seconds, options.rate, stack, models
        self.findings, self.loop, self.began = findings, loop, loop.time()
        self.chance = random.Random(options.seed)
        self.connections = Connections(stack.ports["nginx"])
        self.visitors, self.born = [], 0
        for _ in range(VISITORS):
            self.visitors.append(self.new_visitor())

    def now(self):
        return self.loop.time() - self.began

    def new_visitor(self):
        self.born += 1
        return Visitor(f"v{self.born}", self.chance.choice(self.models.sequences))

    async def run(self):
        tasks, due = set(), 0.0
        while (due := due + self.chance.expovariate(self.rate)) < self.seconds:
            await asyncio.sleep(max(due - self.now(), 0))
            ask = self.ask_live if self.chance.random() < LIVE_SHARE else self.ask_whole
            for coroutine in [ask, self.ask_garbage] if self.chance.random() < GARBAGE else [ask]:
                task = self.loop.create_task(coroutine(due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        self.connections.close()

    async def ask(self, due, request, kinds):
        """The decoded reply, or None after an error, which must be documented and explained by one of these kinds."""
        try:
            status, body = await self.connections.ask(request)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            status, body = 0, repr(error).encode()
        end = self.now()
        self.findings.requests.append((due, end - due, status))
        if status == 200:
            return json.loads(body)
        with suppress(ValueError, KeyError, TypeError):
            if status in DOCUMENTED and json.loads(body)["error"]["status"] == status \
                    and self.findings.is_explained((*kinds, BROKEN, STALL), due, end):
                return None
        self.findings.note(f"at {due:.1f} to {end:.1f} s: found status {status} ({body[:150]!r}) without one of "
                           f"{', '.join(kinds)} to explain it, expected 200")
        return None

    async def ask_whole(self, due):
        sessions = self.chance.sample(self.models.sequences, self.chance.choice((1, 1, 1, 4)))
        reply = await self.ask(due, whole_request(sessions), (KILL,))
        if reply:
            checksum = reply["model"]["sha256"]
            answers = zip(reply["answers"], sessions, strict=True)
            right = checksum in self.models.by_checksum and all(
                self.models.is_right(found, checksum, clicks, False) for found, clicks in answers)
            self.count("whole sessions right" if right else "wrong", right, f"whole sessions, {reply['model']}")

    async def ask_live(self, due):
        free = [place for place, visitor in enumerate(self.visitors) if not visitor.is_busy]
        if not free:
            return await self.ask_whole(due)
        place = self.chance.choice(free)
        visitor = self.visitors[place]
        visitor.is_busy, click = True, visitor.next_click()
        since, visitor.asked_at = visitor.asked_at or due, due
        reply = await self.ask(due, live_request(visitor, click), (KILL, STOP, CRASH))
        visitor.is_busy = False
        if reply is None:
            visitor.unsure.append(click)
            visitor.asked_at = since  # what came after the last answer may explain what is found
        else:
            self.follow(visitor, click, reply, since)
        if visitor.is_done:
            self.visitors[place] = self.new_visitor()

    def follow(self, visitor, click, reply, since):
        """Compare an answer with what the session may hold."""
        checksum, now = reply["model"]["sha256"], self.now()
        allowed = {"right", *["counted twice"] * self.findings.is_explained((KILL, CRASH), since, now),
                   *["older"] * self.findings.is_explained((CRASH,), since, now)}
        for clicks, verdict in visitor.histories(click, reply["clicks"]):
            if checksum in self.models.by_checksum and self.models.is_right(reply, checksum, clicks, True):
                self.count(f"live clicks {verdict}", verdict in allowed, f"{clicks} after {visitor.known}, which is "
                           f"{verdict}, with nothing to explain it")
                visitor.settle(clicks, verdict)
                return
        self.count("wrong", False, f"{reply['clicks']} clicks and an answer that no history of the session gives, "
                   f"{visitor.known} {visitor.unsure} {click} {reply}")

    def count(self, verdict, is_allowed, found):
        self.findings.verdicts[verdict] += 1
        if not is_allowed:
            self.findings.note(f"at {self.now():.1f} s: found {found}, expected the answer of the scorer")

    async def ask_garbage(self, due):
        statuses, received = await garbage(self.stack.ports["nginx"], self.chance)
        self.findings.garbage.update(statuses or ["closed"])
        if set(statuses) - DOCUMENTED - {100}:
            self.findings.note(f"garbage: found {statuses} ({received[:200]!r}), expected {sorted(DOCUMENTED)}")


class Disturber:
    """What goes wrong, at its times."""

    def __init__(self, load, stack, links):
        self.load, self.stack, self.links, self.seconds = load, stack, links, load.seconds
        self.broken, self.under_way_broken = links[-1], None

    def note(self, what, start):
        self.load.findings.disturbances.append([what, start, self.load.now()])

    def workers(self):
        """The processes of the workers, the oldest first."""
        living = set(descendants(self.stack.parts["serve"].pid))
        return [worker for worker in workers_of(self.stack.log("serve")) if worker in living]

    async def every(self, period, act):
        while self.load.now() + period < self.seconds:
            await asyncio.sleep(period)
            await act()

    async def replace_model(self):
        """Let the link lead to the next model."""
        self.links.append(self.links.pop(0))
        start, new = self.load.now(), self.stack.model_dir.with_name("link.new")
        new.symlink_to(self.links[0])
        os.replace(new, self.stack.model_dir)
        self.note(RELOAD, start)
        if self.under_way_broken:
            self.under_way_broken[2] = self.load.now()
        self.under_way_broken = [BROKEN, start, self.seconds] if self.links[0] == self.broken else None
        if self.under_way_broken:
            self.load.findings.disturbances.append(self.under_way_broken)

    async def kill_worker(self):
        workers = list(dict.fromkeys(self.workers()))
        if len(workers) > 1:  # the first one is spared: its memory tells
            os.kill(workers[-1], signal.SIGKILL)
            self.note(KILL, self.load.now())

    async def stop_redis(self, number, what):
        start = self.load.now()
        under_way = [what, start, self.seconds]  # until it is known when that ends
        self.load.findings.disturbances.append(under_way)
        await asyncio.to_thread(self.stack.stop, "redis", number)
        await asyncio.sleep(min(10, self.seconds / 10))
        await asyncio.to_thread(self.stack.start_redis)
        under_way[2] = self.load.now()

    async def stop_redis_twice(self):
        await asyncio.sleep(0.3 * self.seconds)
        await self.stop_redis(signal.SIGTERM, STOP)
        await asyncio.sleep(0.25 * self.seconds)
        await self.stop_redis(signal.SIGKILL, CRASH)

    async def watch_clock(self):
        while (before := self.load.now()) < self.seconds:
            await asyncio.sleep(0.2)
            if self.load.now() - before > STALL_SECONDS:
                self.note(STALL, before)

    async def watch_memory(self):
        spared, server = self.workers()[0], self.stack.parts["serve"].pid
        nginx = descendants(self.stack.parts["nginx"].pid)
        parts = {"oldest worker": [spared], "its parent": [server], "nginx": nginx}
        while self.load.now() < self.seconds:
            for part, processes in parts.items():
                sizes = list(map(shared_memory, processes))
                if None in sizes:
                    return self.load.findings.note(f"{part}: found it gone, expected it to live on")
                self.load.findings.memory.setdefault(part, []).append((self.load.now(), sum(sizes)))
            await asyncio.sleep(min(1, self.seconds / 100))


async def endure(options, stack, models, links, findings):
    """Let all of it happen."""
    loop = asyncio.get_running_loop()
    load = Load(options, stack, models, findings, loop)
    disturber = Disturber(load, stack, links)
    slow_ones = [loop.create_task(slow(stack.ports["nginx"], f"{options.seed} {place}"))
                 for place in range(SLOW_CLIENTS)]
    await asyncio.gather(load.run(), disturber.watch_memory(), disturber.watch_clock(), disturber.stop_redis_twice(),
                         disturber.every(min(30, options.seconds / 4), disturber.replace_model),
                         disturber.every(min(20, options.seconds / 5), disturber.kill_worker))
    began = loop.time()
    if status := await asyncio.to_thread(stack.stop, "serve"):  # while the slow ones are there
        findings.note(f"serve: found exit status {status}, expected 0")
    findings.stop_seconds = loop.time() - began
    if findings.stop_seconds > MOST_STOP_SECONDS:
        findings.note(f"serve: found a stop that took {findings.stop_seconds:.0f} s, expected {MOST_STOP_SECONDS}")
    for task in slow_ones:
        task.cancel()
    await asyncio.gather(*slow_ones, return_exceptions=True)


def look_at_logs(stack, findings):
    for line in stack.log("serve").read_text(encoding="utf-8").splitlines():
        found = json.loads(line) if line.startswith("{") else {"level": "error", "message": line}
        if found["level"] == "error" and not found["message"].startswith(EXPECTED_ERRORS):
            findings.note(f"log: found {line[:500]}, expected no error")
    for line in stack.log("nginx").read_text(encoding="utf-8", errors="replace").splitlines():
        if any(f"[{level}]" in line for level in ("alert", "crit", "emerg")):
            findings.note(f"nginx: found {line[:300]}, expected no such line")


def main():
    options, findings = parse_arguments(), Findings()
    if Path(options.output).is_dir():
        raise InputError(f"--output: found a directory at {options.output}, expected a file to write")
    missing = [name for name in ("nginx", "redis-server") if program(name) is None]
    if missing:
        raise InputError(f"found no program {missing[0]}, expected Debian's package nginx-light or redis-server")
    with tempfile.TemporaryDirectory(prefix="gru4rec_endure_") as name:
        directory = Path(name)
        models = [directory / "one" / "model", directory / "two" / "model"]
        for place, model_dir in enumerate(models):
            model_dir.parent.mkdir()
            make_model(model_dir, ITEMS, UNITS, np.random.default_rng([options.seed, place]))
        broken = directory / "three" / "model"
        broken_model(broken, models[0])
        link = directory / "link"
        link.symlink_to(models[0])
        with Stack(directory, link, options.workers) as stack:
            stack.start_redis()
            stack.start_server("--session_store", f"redis://127.0.0.1:{stack.ports['redis']}/0", "--session_ttl", 120,
                               "--reload_seconds", 1, "--drain_seconds", 1, "--log", "errors",
                               gunicorn=options.server == "gunicorn")
            stack.start_nginx()
            asyncio.run(endure(options, stack, Models(models, options.seed), [*models, broken], findings))
            if status := stack.stop("nginx"):
                findings.note(f"nginx: found exit status {status}, expected 0")
            look_at_logs(stack, findings)
    interval = min(60.0, options.seconds / 10)
    print(f"{options.server}, {options.seconds:g} s, {options.rate:g} requests a second, {options.workers} workers, "
          f"{ITEMS} items, {UNITS} units, seed {options.seed}; {os.cpu_count()} cores, whose load is "
          f"{os.getloadavg()[1]:.1f}")
    print_report(findings, options.seconds, interval)
    with write_atomically(Path(options.output), "wb") as file:
        file.write(as_png(partial(picture, findings, options.seconds, interval)))
    print(f"written: {options.output}")
    return sys.exit(1) if findings.wrong else None


if __name__ == "__main__":
    run(main)
