"""The port of a server belongs to one `serve.py`, although all of its workers listen at it."""

import socket
from contextlib import contextmanager

from utils.files import InputError


@contextmanager
def own_port(host, port):
    """Own a port during the block; InputError where another process listens at it, or owns it.

    Workers share the port by SO_REUSEPORT, so the system would share it with those of a second server too. This socket
    keeps that out. It is opened as one that shares nothing, which fails where any other socket is there. Then it stops
    listening, so that it gets no connections, and lets the workers' sockets come beside it.
    """
    try:
        owner = socket.create_server((host, port))  # with SO_REUSEADDR, or the last server's connections would count
    except OSError as error:
        raise InputError(f"--host, --port: found {host}:{port} not free ({error.strerror or error}), "
                         "expected an address to listen at") from None
    with owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            owner.shutdown(socket.SHUT_RD)
        except OSError:  # macOS, where it would go on listening: workers have to own the port by themselves
            owner.close()
        yield
