"""utils/serving/http_protocol.py: a wrong, too large or too slow head is refused in JSON, and the connection closed."""

import asyncio
import json
import re
import time
from contextlib import suppress

import pytest
import uvicorn

from utils.serving import http_protocol
from utils.serving.http_protocol import JoinedWrites, LimitedProtocol

GOOD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
BLOCK = 60_000


async def application(scope, receive, send):
    """Answers with the size of the body, in six digits, once it's complete; but at once to a GET of /early."""
    body = b""
    if scope["path"] == "/early":
        receive = None
    while receive and (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    assert b"trailer" not in dict(scope["headers"])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"%06d" % len(body)})


def talk(*parts, pause=0.0, stop_after=None):
    """All that a server answers to the parts, sent with pauses between; b"" is a longer pause.

    After `stop_after` seconds, it shuts its connections down.
    """
    async def run():
        config = uvicorn.Config(application, http=LimitedProtocol, lifespan="off", log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: LimitedProtocol(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        received = bytearray()

        async def receive():
            while part := await reader.read(1 << 16):
                received.extend(part)
        if stop_after:
            loop.call_later(stop_after, lambda: [connection.shutdown() for connection in list(state.connections)])
        receiver = asyncio.create_task(receive())
        with suppress(TimeoutError, ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            await asyncio.wait_for(receiver, 0.5)  # or the connection stays open
        receiver.cancel()
        writer.close()
        server.close()
        await asyncio.sleep(0.05)
        return bytes(received)
    return asyncio.run(run())


@pytest.mark.parametrize("before, late", [(b"", GOOD), (GOOD, GOOD), (GOOD[:9], GOOD[9:]), (GOOD, 2 * GOOD)], ids=str)
def test_a_request_on_its_way_to_a_server_that_stops_is_answered(monkeypatch, before, late):
    monkeypatch.setattr(http_protocol, "LAST_SECONDS", 0.2)
    received = talk(before, late, pause=0.1, stop_after=0.05)
    _, *replies = received.split(b"HTTP/1.1 200 OK")
    assert len(replies) == 1 + (before == GOOD)
    assert replies[-1].endswith(b"000000") and [b"connection: close" in reply for reply in replies] == (
        [False] * (len(replies) - 1) + [True])
    assert talk(before, late, pause=0.4, stop_after=0.05).count(b"200 OK") == (before == GOOD), "too late"


def assert_refused(received, status):
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received
    assert b"application/json" in head and b"connection: close" in head, received
    assert json.loads(body)["error"]["status"] == status


def test_requests_pass():
    assert talk(GOOD).endswith(b"000000")
    assert talk(GOOD[:9], GOOD[9:], pause=0.02).endswith(b"000000")
    assert talk(POST + b"x" * 100_000, b"x" * 100_000, pause=0.02).endswith(b"200000"), "a body isn't a head"
    assert talk(GOOD + GOOD).count(b"HTTP/1.1 200") == 2
    assert talk(*[GOOD] * 5, pause=0.02).count(b"HTTP/1.1 200") == 5
    assert talk(GOOD * 500).count(b"HTTP/1.1 200") == 500
    assert talk(CHUNKED + b"3;a=b\r\nxxx\r\n2\r\nxx\r\n0\r\n\r\n" + GOOD).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("parts", [
    (GOOD[:-1], GOOD[-1:] + GOOD), (GOOD[:-2], GOOD[-2:] + GOOD), (POST, b"x" * 200_000 + GOOD),
    (POST[:-1], POST[-1:] + b"x" * 200_000 + GOOD), (POST, b"\r\n\r\n" * 50_000, GOOD),
    (POST + b"\r\n\r\n" * 50_000 + GOOD,), (CHUNKED + b"1\r\nx\r\n0\r\n\r", b"\n" + GOOD),
    (b"\r\n\r\n" + GOOD + b"\r\n", GOOD),
    [bytes([byte]) for byte in CHUNKED + b"1\r\nx\r\n0\r\na: b\r\n\r\n" + GOOD]],
    ids=["head", "blank line", "body", "blank line and body", "blank lines for a body", "not at all", "chunks",
         "blank lines between", "everywhere"])
def test_two_requests_wherever_they_are_cut(parts):
    received = talk(*parts, pause=0.002)
    assert received.count(b"HTTP/1.1 200") == 2 and received.endswith(b"000000")


@pytest.mark.parametrize("sent", [b"GARBAGE\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nbroken\r\n\r\n"])
def test_what_is_no_request(sent):
    assert_refused(talk(sent), 400)


def test_a_head_that_is_too_large():
    assert_refused(talk(b"GET / HTTP/1.1\r\n", *[b"x: " + b"y" * 8000 + b"\r\n"] * 10, pause=0.005), 431)
    assert_refused(talk(b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n"), 431)
    assert_refused(talk(POST.replace(b"host", b"y" * 70_000 + b": 1\r\nhost") + b"x" * 200_000), 431)


def test_too_many_headers():
    assert talk(GOOD[:-2] + b"a:\r\n" * 90 + b"\r\n").startswith(b"HTTP/1.1 200")
    assert_refused(talk(GOOD[:-2] + b"a:\r\n" * 110 + b"\r\n"), 431)
    assert_refused(talk(GOOD[:-2] + b"a:\r\n" * 110), 431)


def test_trailers_are_dropped_and_count_as_the_head_does():
    few = b"1\r\nx\r\n0\r\n" + b"trailer: y\r\n" * 50 + b"\r\n"
    assert talk(CHUNKED + few + CHUNKED + few).count(b"000001") == 2
    for block in b"a: b\r\n" * (BLOCK // 6), b"a: " + b"b" * BLOCK + b"\r\n", b"c" * BLOCK:
        assert_refused(talk(CHUNKED + b"0\r\n", block, block, pause=0.05), 431)


@pytest.mark.parametrize("block", [b"1\r\nx\r\n" * (BLOCK // 6), b"1;" + b"x" * BLOCK + b"\r\nx\r\n"],
                         ids=["sizes", "extensions"])
def test_what_chunks_have_beside_the_body_counts_as_the_head_does(block):
    assert talk(CHUNKED + block + b"0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert_refused(talk(CHUNKED, block, block, pause=0.05), 431)


def test_whoever_has_a_reply_gets_no_second_one():
    early = CHUNKED.replace(b"POST /", b"GET /early") + b"0\r\n"
    received = talk(early, *[b"a: b\r\n" * (BLOCK // 6)] * 2, pause=0.05)
    assert received.count(b"HTTP/1.1") == 1 and received.startswith(b"HTTP/1.1 200")


def test_another_protocol():
    """It isn't spoken; but a body behind such a head must not be taken for a request."""
    upgrade = b"connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    assert talk(GOOD[:-2] + upgrade + GOOD).count(b"HTTP/1.1 200") == 2
    assert_refused(talk(POST[:-2] + upgrade + GOOD), 400)
    assert_refused(talk(CHUNKED[:-2] + upgrade + GOOD), 400)


def test_a_head_that_is_too_slow(monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.2)
    assert_refused(talk(b"GET / HT", b"", pause=0.2), 408)
    assert_refused(talk(b"", b"", pause=0.2), 408)
    first, second = talk(GOOD, b"GET / HT", b"", b"", pause=0.1).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200") and second.startswith(b"408")
    assert talk(GOOD, b"", b"", b"", GOOD, pause=0.1).count(b"HTTP/1.1 200") == 2, "between two requests there is time"


def test_head_and_body_go_out_together():
    """One packet a reply, whoever asks; and nothing is lost where the connection closes at once."""
    class Transport:
        def __init__(self):
            self.written, self.closed = [], False

        def write(self, data):
            self.written.append(data)

        def close(self):
            self.closed = True

        def is_closing(self):
            return self.closed

    async def write():
        transport = Transport()
        joined = JoinedWrites(transport, asyncio.get_running_loop())
        joined.write(b"head")
        joined.write(b"body")
        assert transport.written == []
        await asyncio.sleep(0)
        joined.write(b"next")
        joined.close()
        assert transport.closed and joined.written is transport.written
        joined.write(b"too late")  # uvloop would raise
        await asyncio.sleep(0)
        return transport.written
    assert asyncio.run(write()) == [b"headbody", b"next"]


@pytest.mark.parametrize("first, replies", [
    (GOOD[:-2] + b"content-length: 100\r\n\r\n", [408]), (POST + b"x", [408]), (CHUNKED + b"0\r\na", [408]),
    (GOOD + POST + b"x", [200, 408]), (POST.replace(b"POST /", b"GET /early"), [200])],
    ids=["GET", "POST", "trailer", "second", "early reply"])
def test_a_body_that_is_too_slow_is_closed_whoever_has_its_reply(monkeypatch, first, replies):
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    began = time.monotonic()
    received = talk(first, *[b"x"] * 8, pause=0.1)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"%d" % status for status in replies]
    assert 0.3 < time.monotonic() - began < 1.2, "closed"


def test_an_early_reply_leaves_time_for_the_body_and_for_the_next_request(monkeypatch):
    monkeypatch.setattr(http_protocol, "BODY_SECONDS", 0.5)
    early = POST.replace(b"POST /", b"GET /early")
    received = talk(early, b"x" * 100_000, b"x" * 100_000, GOOD, pause=0.1)
    assert received.count(b"HTTP/1.1 200") == 2


def test_a_path_with_a_slash_too_many_is_unknown_as_others_are(server):
    for path in "/v1/recommend/", "/v1/items/", "/livez/":
        response = server.get(path)
        assert response.status_code == 404 and response.json()["error"]["where"] == "path"
