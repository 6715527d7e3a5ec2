"""The web server's HTTP/1.1: what a connection may send, hold and leave unread, and for how long.

The application never sees a head that isn't complete, trailers, or a request that waits behind another one. So this
limits them, and refuses in JSON like the application. docs/security.md says what it promises.
"""

import msgspec
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from utils.serving.http_messages import Problem, Refusal

MAX_HEAD_BYTES = 64 << 10  # of all bytes of a request that aren't its body: head, sizes of chunks, trailers
MAX_HEADERS = 100
HEADER_BYTES = 160  # that a header takes in memory beside its text
HEAD_SECONDS = 10.0
BODY_SECONDS = 10.5  # the application's own limit is 10, so that it answers and logs what is late
LAST_SECONDS = 0.5  # for a request that is on its way while the server stops
UNREAD_SECONDS, LEAST_READ = 30.0, 64 << 10  # whoever takes fewer bytes than that of a waiting reply has gone
MAX_HELD_BYTES = 24 << 20  # of requests without a reply and replies that nobody took, all connections together
MAX_CONNECTIONS = 2048  # where nobody says how many
PIECES, PIECE_BYTES = 64, 16 << 10  # what the parser gets in one turn of the event loop, with a look at limits between
END = b"\r\n\r\n"  # of every head, and of every body in chunks
HEAD, BODY = "head", "body"
REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large",
           503: "Service Unavailable"}


class JoinedWrites:
    """A transport around another one: what is written within one turn of the event loop goes out together.

    So a reply's head and body are one packet, which takes the server and the client less time than two.
    """

    def __init__(self, transport, loop):
        self.transport, self.loop, self.waiting, self.size = transport, loop, [], 0
        self.is_closing = transport.is_closing  # asked often

    def __getattr__(self, name):
        return getattr(self.transport, name)

    def write(self, data):
        if not self.waiting:
            self.loop.call_soon(self.flush)
        self.waiting.append(data)
        self.size += len(data)
        if self.size > HIGH_WATER_LIMIT:  # so that the transport can say at once that it has enough
            self.flush()

    def flush(self):
        joined = b"".join(self.waiting)
        self.waiting.clear()
        self.size = 0
        if joined and not self.is_closing():  # the client may have left meanwhile
            self.transport.write(joined)

    def close(self):
        self.flush()
        self.transport.close()


class Flow(FlowControl):
    """Whether a connection reads and writes. It reads nothing new while the protocol still holds what was read."""

    def __init__(self, transport, protocol):
        super().__init__(transport)
        self.protocol = protocol

    def resume_reading(self):
        if self.protocol.held:
            self.protocol.loop.call_soon(self.protocol.read_on)
        else:
            super().resume_reading()


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with limits.

    What arrives is given to the parser in pieces that end where a head may end, and the rest is held until the reply to
    the request before it has been taken. So a connection never has more than one request in work, and at most one more
    that is parsed.

    Attributes
    ----------
    held, place : bytes, and how many of them the parser has
    no_body, unread : int, bytes of this request that aren't its body; those of the present piece that may follow it
    kept_bytes : int, what the application's requests take until their replies are complete
    is_in_body : bool
    late, late_part : the timer of what the client owes, and that part: HEAD, BODY or None
    slow, unsent : the timer of a reply that isn't taken, and how many of its bytes waited when it started
    counted : int, this connection's share of `all_counted`
    is_last : bool, the server stops, so the next reply ends the connection
    """

    held, place, no_body, unread, kept_bytes, unsent, counted, all_counted = b"", 0, 0, 0, 0, 0, 0, 0
    is_in_body, is_last, late, late_part, slow = False, False, None, None, None

    # The connection

    def connection_made(self, transport):
        most = getattr(self.config, "max_connections", MAX_CONNECTIONS)
        is_one_too_many = len(self.connections) >= most
        transport.set_write_buffer_limits(0)  # so that `pause_writing` tells of every byte that waits
        super().connection_made(JoinedWrites(transport, self.loop))
        self.flow, self.headers = Flow(self.transport, self), []
        if is_one_too_many:
            self.connections.discard(self)
            self.refuse(503, "server", f"found {most} connections open, expected fewer")
        else:
            self._expect(HEAD)

    def connection_lost(self, error):
        self._expect(None)
        self._stop_slow()
        self._unset_keepalive_if_required()  # uvicorn leaves it after an error, and the timer would keep us in memory
        self.held, self.place, self.kept_bytes = b"", 0, 0
        self._count(0)
        super().connection_lost(error)

    def shutdown(self):
        """Close the connection, for the server stops: after the reply in work, or after the one to the next request.

        An idle client may have sent that before it could know, so it has some time to arrive.
        """
        self.is_last = True
        is_idle = self.cycle is None or self.cycle.response_complete
        self.loop.call_later(LAST_SECONDS, super().shutdown) if is_idle else super().shutdown()

    # Reading

    def data_received(self, data):
        self.held = self.held[self.place:] + data if self.held else data
        self.place = 0
        self.read_on()

    def read_on(self):
        """Give the parser what is held, until the client has to wait, and read more if nothing is left."""
        left = PIECES
        while self.held and left and not self.has_to_wait() and not self.transport.is_closing():
            self._parse(self._next_piece())
            left -= 1
        part = BODY if self.is_in_body else HEAD if self.no_body else None
        if self.transport.is_closing():
            self.held, self.place, part = b"", 0, None
        elif self.held:
            self.flow.pause_reading()
            if not left:  # other connections come first
                self.loop.call_soon(self.read_on)
        elif self.flow.read_paused and not self.has_to_wait():
            self.flow.resume_reading()
        if part is not self.late_part:
            self._expect(part)
        if self.held or part or self.counted or self.kept_bytes:
            self._count()

    def has_to_wait(self):
        """Whether the client has to wait for a reply to be made or taken, or for its body to be used."""
        if self.flow.write_paused:
            return True
        if self.cycle is None or self.cycle.response_complete:
            return False
        return not self.is_in_body or len(self.cycle.body) > HIGH_WATER_LIMIT

    def _next_piece(self):
        """What is held up to the next end of a head, so that the parser finds one request in it, or two at most."""
        start, most = self.place, self.place + PIECE_BYTES
        end = self.held.find(END, start, most)
        self.place = min(end + len(END) if end >= 0 else most, len(self.held))
        piece = memoryview(self.held)[start:self.place]
        if self.place == len(self.held):
            self.held, self.place = b"", 0
        return piece

    def _parse(self, piece):
        self.unread = len(piece)
        self.no_body += len(piece)
        super().data_received(piece)
        if (self.no_body > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS) and not self.transport.is_closing():
            self.refuse_head()

    def on_message_begin(self):
        self.no_body = self.unread  # what the piece has of an earlier request is its body, or an end of two bytes
        super().on_message_begin()

    def on_header(self, name, value):
        if len(self.headers) <= MAX_HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self):
        is_too_large = self.no_body > MAX_HEAD_BYTES and self._head_size() > MAX_HEAD_BYTES
        if is_too_large or len(self.headers) > MAX_HEADERS:
            self.refuse_head()
        elif self.parser.should_upgrade() and self._has_body():  # the parser would take the body for another request
            self.refuse(400, HEAD, "found a body and the wish for another protocol, expected one of the two")
        else:
            super().on_headers_complete()
            if self.is_last:
                self.cycle.keep_alive = False
            self.kept_bytes += HEADER_BYTES * len(self.headers)
            # Trailers come into a list that the application doesn't get. What it has, is only kept with the cycle.
            self.is_in_body, self.headers, self.scope, self.url = True, [], None, b""

    def _has_body(self):
        return any(name in (b"content-length", b"transfer-encoding") and value != b"0" for name, value in self.headers)

    def _head_size(self):
        """For a piece that has more than the head: the bytes of the head alone, nearly."""
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def on_body(self, body):
        self.no_body -= len(body)
        self.unread -= len(body)
        if not self.transport.is_closing():
            if not self.cycle.response_complete:
                self.kept_bytes += 2 * len(body)  # the application has another copy
            super().on_body(body)

    def on_message_complete(self):
        head_bytes, self.is_in_body, self.no_body = self.no_body, False, 0
        if self.late:
            self._expect(None)
        if self.transport.is_closing():
            return
        super().on_message_complete()
        if self.cycle.response_complete:  # before the body was: only now the connection is idle
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive,
                                                                self.timeout_keep_alive_handler)
        else:
            self.kept_bytes += head_bytes

    def _should_upgrade(self):  # whoever asks for another protocol is answered in this one
        return False

    def _unsupported_upgrade_warning(self):
        pass

    # Writing

    def on_response_complete(self):
        self.transport.flush()
        if self.cycle.response_complete:  # otherwise it's that of the next request, which has been parsed
            self.kept_bytes, self.cycle.scope, self.cycle.body = 0, None, bytearray()  # a connection may idle for long
        super().on_response_complete()
        if self.counted:
            self._count()

    def pause_writing(self):
        super().pause_writing()
        self._wait_for_reader()
        self._count()

    def resume_writing(self):
        self._stop_slow()
        super().resume_writing()
        self.read_on()

    # What takes too long

    def _expect(self, part):
        """Let the client have its time for a part of a request that has begun, or for none."""
        if self.late:
            self.late.cancel()
        self.late_part, self.late = part, None
        if part:
            self.late = self.loop.call_later(HEAD_SECONDS if part is HEAD else BODY_SECONDS, self._is_late, part)

    def _is_late(self, part):
        self.late_part = self.late = None
        if self.has_to_wait():
            self._expect(part)
        else:
            self.refuse(408, part, f"found no end of it after {HEAD_SECONDS:g} seconds, expected one")

    def _wait_for_reader(self):
        self.unsent = self.transport.get_write_buffer_size()
        self.slow = self.loop.call_later(UNREAD_SECONDS, self._is_unread)

    def _is_unread(self):
        if self.unsent - self.transport.get_write_buffer_size() < LEAST_READ:
            self.transport.abort()
        else:
            self._wait_for_reader()

    def _stop_slow(self):
        if self.slow:
            self.slow.cancel()
            self.slow = None

    # What takes too much

    def _count(self, size=None):
        """Count what is in memory for this connection; where it's too much in all, drop who has most."""
        if size is None:
            size = (len(self.held) - self.place + self.no_body + HEADER_BYTES * len(self.headers)
                    + self.kept_bytes)
            if self.flow.write_paused:
                size += self.transport.get_write_buffer_size()
        LimitedProtocol.all_counted += size - self.counted
        self.counted = size
        if self.all_counted > MAX_HELD_BYTES and size:
            max(self.connections | {self}, key=lambda connection: connection.counted).drop()

    def drop(self):
        self.held, self.place, self.no_body, self.kept_bytes = b"", 0, 0, 0
        self._count(0)
        if self.flow.write_paused:
            self.transport.abort()
        else:
            self.refuse(503, "server", f"found more than {MAX_HELD_BYTES} bytes waiting, expected fewer")

    # Refusals

    def send_400_response(self, message):
        self.refuse(400, HEAD, "found no HTTP/1.1 request, expected one")

    def refuse_head(self):
        self.refuse(431, HEAD, f"found more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers, expected fewer")

    def refuse(self, status, where, message):
        """Answer with a refusal and close the connection; where the request has its reply already, only close it."""
        self._expect(None)
        cycle = self.cycle
        if not (cycle and cycle.response_started and (self.is_in_body or not cycle.response_complete)):
            body = msgspec.json.encode(Refusal(Problem(status, where, message), ""))
            retry = "retry-after: 1\r\n" if status == 503 else ""
            self.transport.write(f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n{retry}"
                                 f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()
