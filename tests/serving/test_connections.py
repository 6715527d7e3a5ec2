"""What connections hold is bounded, each and all together: requests that wait, replies that nobody reads, their number.

utils/serving/http_protocol.py in this process, with shorter times; serve.py is in test_connections_of_workers.py.
"""

import asyncio
import gc
import json
import re
import resource
import socket
import struct
import tracemalloc
import weakref

import pytest
import uvicorn
import uvloop

from utils.files import InputError
from utils.serving import http_protocol
from utils.serving.http_protocol import MAX_CONNECTIONS, LimitedProtocol
from utils.serving.workers import RESERVE, connections_allowed

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LARGE = GET.replace(b"/", b"/large", 1)
RESET = struct.pack("ii", 1, 0)
LARGE_BYTES = 12 << 20  # more than the system takes off the server's hands


class Application:
    """Answers when `may_answer` is set; to /large with many bytes, to /early without waiting for the body."""

    def __init__(self):
        self.asked, self.may_answer = [], asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope, receive, send):
        path = scope["path"]
        self.asked.append(path)
        while path != "/early" and (await receive()).get("more_body"):
            pass
        await self.may_answer.wait()
        body = bytes(LARGE_BYTES) if path == "/large" else b"%06d" % len(self.asked)
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


class Serving:
    """The protocol's connections, and how to make more of them."""

    def __init__(self, **limits):
        self.application, self.made, self.limits = Application(), [], limits

    async def __aenter__(self):
        config = uvicorn.Config(self.application, http=LimitedProtocol, lifespan="off", log_config=None)
        config.load()
        vars(config).update(self.limits)
        self.state = uvicorn.server.ServerState()

        def protocol():
            self.made.append(LimitedProtocol(config, self.state, {}))
            return self.made[-1]
        self.server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error):
        self.server.close()
        for protocol in list(self.state.connections):
            protocol.transport.abort()
        await asyncio.sleep(0.05)
        assert LimitedProtocol.all_counted == 0 and not self.state.connections

    async def connect(self):
        reader, writer = await asyncio.open_connection(*self.server.sockets[0].getsockname(), limit=1000)
        await asyncio.sleep(0.02)
        return reader, writer


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request):
    return request.param


async def everything(reader, seconds=0.5):
    """What arrives until the connection is closed, or silent for so many seconds; and whether it's closed."""
    received = bytearray()
    try:
        while part := await asyncio.wait_for(reader.read(1 << 20), seconds):
            received += part
    except TimeoutError:
        return bytes(received), False
    except ConnectionError:
        pass
    return bytes(received), True


def test_pipelined_requests_are_taken_one_after_another(run):
    async def talk():
        async with Serving() as serving:
            serving.application.may_answer.clear()
            reader, writer = await serving.connect()
            writer.write(GET * 5000)
            await asyncio.sleep(0.2)
            asked, held = len(serving.application.asked), len(serving.made[0].held) + len(serving.made[0].pipeline)
            serving.application.may_answer.set()
            received, _ = await everything(reader)
            writer.close()
            return asked, held, re.findall(rb"\d{6}", received)
    asked, held, answers = run(talk())
    assert asked == 1 and held <= 256 << 10
    assert answers == [b"%06d" % number for number in range(1, 5001)]


def test_nothing_new_is_asked_before_replies_are_taken(run):
    async def talk():
        async with Serving() as serving:
            reader, writer = await serving.connect()
            writer.write(LARGE + GET * 5)
            await asyncio.sleep(0.3)
            asked = list(serving.application.asked)
            received, _ = await everything(reader)
            writer.close()
            return asked, received
    asked, received = run(talk())
    assert asked == ["/large"]
    assert received.count(b"HTTP/1.1 200") == 6 and received.endswith(b"000006")


def test_whoever_does_not_read_is_closed(run, monkeypatch):
    monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 0.2)

    async def talk():
        async with Serving() as serving:
            _, writer = await serving.connect()
            writer.write(LARGE)
            await asyncio.sleep(0.1)
            before = len(serving.state.connections)
            await asyncio.sleep(0.4)
            after = len(serving.state.connections)
            writer.close()
            return before, after
    assert run(talk()) == (1, 0)


@pytest.mark.parametrize("ending", [b"", b"connection: close\r\n"])
def test_whoever_reads_slowly_gets_everything(run, monkeypatch, ending):
    monkeypatch.setattr(http_protocol, "UNREAD_SECONDS", 0.1)

    async def talk():
        async with Serving() as serving:
            reader, writer = await serving.connect()
            writer.write(LARGE[:-2] + ending + b"\r\n")
            received = 0
            while received < LARGE_BYTES:
                part = await asyncio.wait_for(reader.read(LARGE_BYTES // 10), 5)
                assert part, received
                received += len(part)
                await asyncio.sleep(0.001)
            writer.close()
    run(talk())


def test_all_together_hold_only_so_much(run, monkeypatch):
    """Where the bodies without an end are too large in all, those who hold most are refused."""
    monkeypatch.setattr(http_protocol, "MAX_HELD_BYTES", 2 << 20)  # a body counts twice
    post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 600000\r\n\r\n"

    async def talk():
        async with Serving() as serving:
            connections = [await serving.connect() for _ in range(4)]
            for (_, writer), size in zip(connections, [300_000, 200_000, 500_000, 100_000]):
                writer.write(post + bytes(size))
                await asyncio.sleep(0.1)
            replies = [await everything(reader, 0.1) for reader, _ in connections]
            reader, writer = connections[0]
            writer.write(bytes(300_000))
            finished = await everything(reader, 0.2)
            for _, writer in connections:
                writer.close()
            return replies, finished
    replies, finished = run(talk())
    assert [(reply[:12], is_closed) for reply, is_closed in replies] == [
        (b"", False), (b"", False), (b"HTTP/1.1 503", True), (b"", False)]
    assert finished[0].startswith(b"HTTP/1.1 200")


def test_all_together_leave_only_so_much_unread(run, monkeypatch):
    monkeypatch.setattr(http_protocol, "MAX_HELD_BYTES", LARGE_BYTES)

    async def talk():
        async with Serving() as serving:
            writers = [(await serving.connect())[1] for _ in range(3)]
            for writer in writers:
                writer.write(LARGE)
                await asyncio.sleep(0.1)
            found = LimitedProtocol.all_counted, len(serving.state.connections)
            for writer in writers:
                writer.close()
            return found
    held, connections = run(talk())
    assert 0 < held <= LARGE_BYTES and connections == 1


def test_one_connection_too_many(run):
    async def talk():
        async with Serving(max_connections=3) as serving:
            connections = [await serving.connect() for _ in range(4)]
            refused = await everything(connections[3][0])
            connections[0][1].close()
            await asyncio.sleep(0.05)
            _, writer = connections[1]
            reader, another = await serving.connect()
            another.write(GET)
            answered, _ = await everything(reader, 0.1)
            for _, writer in [*connections, (reader, another)]:
                writer.close()
            return refused, answered
    (refused, is_closed), answered = run(talk())
    assert refused.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in refused and is_closed
    assert json.loads(refused.partition(b"\r\n\r\n")[2])["error"]["where"] == "server"
    assert answered.startswith(b"HTTP/1.1 200")


def test_an_idle_connection_is_closed_also_where_the_body_came_after_the_reply(run):
    async def talk():
        async with Serving(timeout_keep_alive=0.2) as serving:
            reader, writer = await serving.connect()
            writer.write(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx")
            await asyncio.sleep(0.1)
            writer.write(b"x")
            received = await everything(reader, 1)
            writer.close()
            return received
    received, is_closed = run(talk())
    assert received.startswith(b"HTTP/1.1 200") and is_closed


def test_a_connection_that_broke_off_leaves_nothing_in_memory(run):
    async def talk():
        async with Serving() as serving:
            reader, writer = await serving.connect()
            writer.write(GET)
            await everything(reader, 0.1)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            await asyncio.sleep(0.1)
            protocol = weakref.ref(serving.made.pop())
            gc.collect()
            return protocol() is None
    assert run(talk())


def test_requests_count_until_their_replies_and_are_not_kept_after_them(run):
    request = b"GET /early HTTP/1.1\r\ncontent-length: 9999\r\na: %s\r\n%s\r\n" % (b"a" * 30_000, b"b: b\r\n" * 90)

    async def talk():
        async with Serving() as serving:
            serving.application.may_answer.clear()
            writers = [(await serving.connect())[1] for _ in range(20)]
            tracemalloc.start()
            for writer in writers:
                writer.write(request + b"c" * 9999)
            await asyncio.sleep(0.2)
            counted = LimitedProtocol.all_counted
            serving.application.may_answer.set()
            await asyncio.sleep(0.2)
            for writer in writers:
                writer.close()
            return counted, tracemalloc.get_traced_memory()[0]
    counted, kept = run(talk())
    tracemalloc.stop()
    assert counted > 20 * (30_000 + 90 * 150 + 9999) and kept < 20 * 9999


UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize("files, asked, allowed, raised", [
    ((20_000, 20_000), 0, MAX_CONNECTIONS, None), ((UNLIMITED, UNLIMITED), 0, MAX_CONNECTIONS, None),
    ((1024, 4096), 0, MAX_CONNECTIONS, MAX_CONNECTIONS + RESERVE), ((1024, UNLIMITED), 5000, 5000, 5000 + RESERVE),
    ((1024, 4096), 100, 100, None), ((1024, 4096), 3000, 3000, 3000 + RESERVE),
    ((1024, 1024), 0, 1024 - RESERVE, 1024), ((1024, 1024), 1024 - RESERVE, 1024 - RESERVE, None)])
def test_as_many_connections_as_descriptors_allow(monkeypatch, files, asked, allowed, raised):
    limits = [files]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.append(new))
    assert connections_allowed(asked) == allowed
    assert limits[-1] == (raised or files[0], files[1])


@pytest.mark.parametrize("files, asked", [((1024, 1024), 1000), ((100, 100), 0), ((100, 100), 5)])
def test_too_few_descriptors(monkeypatch, files, asked):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: files)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: None)
    with pytest.raises(InputError, match=f"--max_connections: found {asked} and at most {files[1]} open files"):
        connections_allowed(asked)
