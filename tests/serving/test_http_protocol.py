"""utils/serving/http_protocol.py: a wrong, too large or too slow head is refused in JSON, and the connection closed."""

import asyncio
import json

import pytest
import uvicorn

from utils.serving import http_protocol
from utils.serving.http_protocol import JoinedWrites, LimitedProtocol

GOOD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 200000\r\n\r\n"


async def application(scope, receive, send):
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"%06d" % len(body)})


def talk(*parts, pause=0.0):
    """All that a server answers to the parts, sent with pauses between; b"" is a longer pause."""
    async def run():
        config = uvicorn.Config(application, http=LimitedProtocol, lifespan="off", log_config=None)
        config.load()
        state = uvicorn.server.ServerState()
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: LimitedProtocol(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        received = b""
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(pause)
            while part := await asyncio.wait_for(reader.read(1 << 16), 0.5):
                received += part
        except (TimeoutError, ConnectionError):  # the connection stays open
            pass
        finally:
            writer.close()
            server.close()
            await asyncio.sleep(0.05)
        return received
    return asyncio.run(run())


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


@pytest.mark.parametrize("sent", [b"GARBAGE\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nbroken\r\n\r\n"])
def test_what_is_no_request(sent):
    assert_refused(talk(sent), 400)


def test_a_head_that_is_too_large():
    assert_refused(talk(b"GET / HTTP/1.1\r\n", *[b"x: " + b"y" * 8000 + b"\r\n"] * 10, pause=0.005), 431)
    assert_refused(talk(b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000 + b"\r\n\r\n"), 431)
    assert_refused(talk(POST.replace(b"host", b"y" * 70_000 + b": 1\r\nhost") + b"x" * 200_000), 431)


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
