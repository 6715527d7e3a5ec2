"""What connections to serve.py may cost its workers: little memory, few descriptors, and nobody is locked out."""

import os
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import write_random_model
from running_server import ITEMS

MOST_GROWTH = 64 << 20


def port_of(server):
    return int(server.url.rpartition(":")[2])


def workers_of(server):
    return [line["process"] for line in server.log_lines() if line["message"] == "model loaded"]


@contextmanager
def little_growth(server):
    """No worker takes much more memory within the block than before it."""
    def memory():
        return [int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                for worker in workers_of(server)]
    for path in ("/openapi.json", "/livez", "/metrics") * 4:
        server.get(path)
    before, most = memory(), []
    yield lambda: most.append(max(now - then for now, then in zip(memory(), before)))
    assert max(most) < MOST_GROWTH, [size >> 20 for size in most]
    assert server.recommend([["item_1"]])


def send_all(connection, block, blocks):
    """Send blocks until the server doesn't take them any more; whether it took all of them."""
    connection.settimeout(0.5)
    with suppress(ConnectionError, TimeoutError):
        for _ in range(blocks):
            connection.sendall(block)
        return True
    return False


@pytest.mark.parametrize("block", [b"a: b\r\n" * 10_000, b"a" * 60_000])
def test_trailers_without_end_take_no_memory(server, block):
    with little_growth(server) as look:
        for _ in range(4):  # whichever worker it is
            with socket.create_connection(("127.0.0.1", port_of(server))) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n")
                assert not send_all(connection, block, 40_000_000 // len(block))
                look()


@pytest.mark.parametrize("path", ["/openapi.json", "/livez", "/v1/items?k=300"])
def test_pipelining_without_reading_takes_no_memory(server, path):
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    with little_growth(server) as look:
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", port_of(server))) as connection:
                send_all(connection, request * 1000, 30_000_000 // len(request) // 1000)
                look()


def test_slow_bodies_lock_nobody_out_and_leave_descriptors_for_a_new_model(own_server):
    """600 connections where a worker may open 230 files: they are refused or closed, and a model can be loaded."""
    with_few_files = "/bin/sh", "-c", 'ulimit -n 230; exec "$@"', "sh"
    server = own_server("--reload_seconds", 0.2, "--log", "errors", before=with_few_files)
    workers, began = workers_of(server), time.monotonic()
    connections = []
    for _ in range(600):
        connections.append(socket.create_connection(("127.0.0.1", port_of(server))))
        with suppress(ConnectionError):
            connections[-1].sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nx")
    write_random_model(server.model_dir, seed=1, items=ITEMS, hid_size=(16,), epoch=2)
    server.wait_for(lambda: len(workers_of(server)) == 4, 8)
    assert time.monotonic() - began < 10, "before the slow ones have had their time"
    assert max(len(os.listdir(f"/proc/{worker}/fd")) for worker in workers) < 150
    replies = [reply_of(connection) for connection in connections]
    assert 400 < sum(reply.startswith(b"HTTP/1.1 503") or not reply for reply in replies) < 600
    time.sleep(max(began + 12 - time.monotonic(), 0))
    assert [server.get("/livez").status_code for _ in range(20)] == [200] * 20
    assert not [line for line in server.log_lines() if line["level"] == "error"]
    for connection in connections:
        connection.close()


def reply_of(connection):
    with suppress(OSError):
        connection.settimeout(0.05)
        return connection.recv(100)
    return b""


def test_a_limit_of_its_own(own_server):
    server = own_server("--max_connections", 5)
    connections = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(40)]
    replies = [reply_of(connection) for connection in connections]
    assert sum(reply.startswith(b"HTTP/1.1 503") for reply in replies) >= 30
    for connection in connections:
        connection.close()
    server.wait_for(lambda: server.get("/livez").status_code == 200, 5)
