"""The web server's HTTP/1.1. It limits the head of a request, which the application never sees, and refuses in JSON."""

from itertools import chain

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from utils.serving.http_messages import Problem, Refusal

MAX_HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10.0
REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class JoinedWrites:
    """A transport around another one: what is written within one turn of the event loop goes out together.

    So a reply's head and body are one packet, which takes the server and the client less time than two.
    """

    def __init__(self, transport, loop):
        self.transport, self.loop, self.waiting = transport, loop, []

    def __getattr__(self, name):
        return getattr(self.transport, name)

    def write(self, data):
        if not self.waiting:
            self.loop.call_soon(self.flush)
        self.waiting.append(data)

    def flush(self):
        joined = b"".join(self.waiting)
        self.waiting.clear()
        if joined and not self.transport.is_closing():  # the client may have left meanwhile
            self.transport.write(joined)

    def close(self):
        self.flush()
        self.transport.close()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection."""

    head_bytes, head_timer, is_in_body = 0, None, False

    def connection_made(self, transport):
        super().connection_made(JoinedWrites(transport, self.loop))
        self.head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def connection_lost(self, error):
        self._stop_timer()
        super().connection_lost(error)

    def data_received(self, data):
        if not self.is_in_body:
            self.head_bytes += len(data)
        super().data_received(data)
        if self.head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.refuse_head()
        elif self.head_bytes and self.head_timer is None and not self.transport.is_closing():
            self.head_timer = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def on_headers_complete(self):
        read, self.head_bytes, self.is_in_body = self.head_bytes, 0, True
        self._stop_timer()
        if read > MAX_HEAD_BYTES and len(self.url) + sum(map(len, chain(*self.headers))) > MAX_HEAD_BYTES:
            self.refuse_head()
        else:  # what was read beyond that belongs to the body
            super().on_headers_complete()

    def on_body(self, body):
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self):
        self.is_in_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def send_400_response(self, message):
        self.refuse(400, "head", "found no HTTP/1.1 request, expected one")

    def refuse(self, status, where, message):
        """Answer with a refusal and close the connection."""
        self._stop_timer()
        body = msgspec.json.encode(Refusal(Problem(status, where, message), ""))
        self.transport.write(f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n"
                             f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def refuse_head(self):
        self.refuse(431, "head", f"found more than {MAX_HEAD_BYTES} bytes, expected fewer")

    def _head_is_late(self):
        self.refuse(408, "head", f"found no end of it after {HEAD_SECONDS:g} seconds, expected one")

    def _stop_timer(self):
        if self.head_timer:
            self.head_timer.cancel()
            self.head_timer = None
