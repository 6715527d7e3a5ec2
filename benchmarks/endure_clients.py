"""The clients of benchmarks/endure.py: visitors whose answers are checked, garbage, and connections that are slow.

What a visitor's live session may hold is followed click by click. A click with a reply is in it; one without a reply,
or with an error, may be in it or not, and the next reply says by its number of clicks.
"""

import asyncio
import json
import random
import re
import shutil
from contextlib import suppress
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
from attack_requests import SEEDS, mutate, post

from utils.serving.micro_batches import Question, answer
from utils.serving.model_reload import ServedModel

K = 10
SEQUENCES, LONGEST = 200, 20  # of clicks
PATIENCE = 15.0  # seconds; nginx itself gives up after 10
SLOW_ADDRESS = "127.0.0.3"
STATUS = re.compile(rb"HTTP/1\.\d (\d{3}) ")
TOLERANCE = 2e-6  # of scores, which are rounded to six places


class Models:
    """What each model answers, by its own scorer.

    Parameters
    ----------
    model_dirs : list of Path
    seed : int
        Of the sequences of clicks that visitors make.
    """

    def __init__(self, model_dirs, seed):
        self.by_checksum = {model.weights_checksum: model for model in map(ServedModel, model_dirs)}
        chance = np.random.default_rng(seed)
        names = next(iter(self.by_checksum.values())).item_ids
        self.sequences = [tuple(names[item] for item in chance.integers(len(names), size=chance.integers(2, LONGEST)))
                          for _ in range(SEQUENCES)]
        for checksum in self.by_checksum:  # before the clock runs
            for clicks in self.sequences:
                for length in range(1, len(clicks) + 1):
                    self.best(checksum, clicks[:length], True)
                self.best(checksum, clicks, False)

    @lru_cache(maxsize=100_000)  # noqa: B019, one object for the whole run
    def best(self, checksum, clicks, without_last):
        question = Question(list(clicks), K, excluded=clicks[-1:] if without_last else ())
        found, = answer(self.by_checksum[checksum], [question])
        return found.item_ids, np.array(found.scores)

    def is_right(self, reply, checksum, clicks, without_last):
        """Whether a decoded reply has the items and scores of the model that it names."""
        items, scores = self.best(checksum, clicks, without_last)
        return reply["items"] == items and np.allclose(reply["scores"], scores, rtol=0, atol=TOLERANCE)


class Connections:
    """Connections to one port that stay open; one request at a time on each."""

    def __init__(self, port):
        self.port, self.idle = port, []

    async def ask(self, request):
        """The status and the body of the reply; OSError, EOFError or TimeoutError without one."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = self._idle() or await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
            except BaseException:
                writer.close()
                raise
        if b"connection: close" in head.lower():
            writer.close()
        else:
            self.idle.append((reader, writer))
        return int(head.split(b" ", 2)[1]), body

    def _idle(self):
        """One that the other side hasn't closed, or None."""
        while self.idle:
            reader, writer = self.idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()

    def close(self):
        for _, writer in self.idle:
            writer.close()


class Visitor:
    """A live session: what the server is known to hold of it, and what it may hold.

    Attributes
    ----------
    known : tuple of str, the clicks that the last right answer showed
    unsure : list of str, clicks since then that had no answer
    """

    def __init__(self, session_id, clicks):
        self.session_id, self.clicks, self.place = session_id, clicks, 0
        self.known, self.unsure, self.asked_at = (), [], None
        self.is_busy = False

    @property
    def is_done(self):
        return self.place == len(self.clicks)

    def next_click(self):
        click = self.clicks[self.place]
        self.place += 1
        return click

    def settle(self, clicks, verdict):
        """Take a history as known. Clicks that aren't in it may still come: nginx gives up before the server does."""
        left = [] if verdict == "older" else list(self.unsure)
        for click in clicks[len(self.known):-1]:
            if click in left:
                left.remove(click)
        self.known, self.unsure = clicks, left

    def histories(self, click, length):
        """What the session may hold, `length` clicks with the present one, each with what that says.

        Yields
        ------
        tuple of str, str
            The clicks, and one of "right", "counted twice" and "older".
        """
        missing = length - len(self.known) - 1
        if 0 <= missing <= len(self.unsure):
            for chosen in combinations(self.unsure, missing):
                yield (*self.known, *chosen, click), "right"
        for twice in range(len(self.unsure) + 1):  # one of the new ones was counted twice
            new = [*self.unsure, click]
            doubled = [*new[:twice + 1], *new[twice:]]
            if 1 <= missing <= len(doubled) - 1:
                for chosen in combinations(doubled[:-1], missing):
                    yield (*self.known, *chosen, click), "counted twice"
        for kept in range(min(len(self.known), length)):  # Redis has what it had when it last saved
            since = length - kept - 1
            if since <= len(self.unsure):
                for chosen in combinations(self.unsure, since):
                    yield (*self.known[:kept], *chosen, click), "older"


def live_request(visitor, click):
    return (f"GET /v1/recommend?session_id={visitor.session_id}&item_id={click}&user_consent=true&k={K} HTTP/1.1\r\n"
            "host: x\r\n\r\n").encode()


def whole_request(sessions):
    body = json.dumps({"sessions": sessions, "k": K}).encode()
    return post(body)


async def garbage(port, chance):
    """Send a request that was changed at random; the statuses of what comes back, and its bytes."""
    received = b""
    with suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(mutate(chance, chance.choice(SEEDS)))
            async with asyncio.timeout(2):
                while part := await reader.read(1 << 16):
                    received += part
        finally:
            writer.close()
    return [int(status) for status in STATUS.findall(received)], received


BEGUN = [b"", b"GET /liv", b"GET /livez HTTP/1.1\r\nhost: x\r\na: ",
         b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n[",
         b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nff\r\n"]
UNREAD = whole_request([["1"] * 20] * 64).replace(b'"k": 10', b'"k": 99')


async def slow(port, seed):
    """One connection after the other that sends a byte a second, stays silent, doesn't read, or just leaves, forever.
    """
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    await asyncio.sleep(chance.uniform(0, 10))  # not all at once
    while True:
        with suppress(OSError, TimeoutError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(SLOW_ADDRESS, 0), limit=1024)
            way = chance.choice(("drip", "silent", "unread", "left"))
            try:
                writer.write(UNREAD * 20 if way == "unread" else chance.choice(BEGUN))
                end = loop.time() + (0.1 if way == "left" else chance.uniform(5, 20))
                while loop.time() < end and not writer.is_closing():
                    await asyncio.sleep(min(1, max(end - loop.time(), 0)))
                    if way == "drip":
                        writer.write(b"x")
            finally:
                writer.transport.abort() if way == "left" else writer.close()


def broken_model(model_dir, source):
    """A model directory like another one, but with weights that are no weights."""
    shutil.copytree(source, model_dir)
    weights = next(Path(model_dir).glob("epoch_*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
