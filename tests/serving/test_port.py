"""utils/serving/port.py: one server owns a port, whose workers share it, and a restart gets it at once."""

import socket

import pytest
from conftest import free_port

from utils.files import InputError
from utils.serving.port import own_port


def listen(host, port):
    """A socket as a worker's."""
    worker = socket.socket()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        worker.setsockopt(socket.SOL_SOCKET, option, 1)
    worker.bind((host, port))
    worker.listen(100)
    worker.setblocking(False)
    return worker


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_nobody_else_gets_a_port_with_or_without_workers(host):
    port = free_port()

    def assert_taken():
        for other in ("127.0.0.1", "0.0.0.0"):
            with pytest.raises(InputError, match=f"--host, --port: found {other}:{port} not free"), \
                    own_port(other, port):
                pass
    with own_port(host, port):
        assert_taken()
        workers = [listen(host, port) for _ in range(3)]
        assert_taken()
        workers.pop().close()
        assert_taken()
    assert_taken()  # a parent that is gone, whose workers are still there
    for worker in workers:
        worker.close()
    with own_port(host, port), listen(host, port):
        pass


def test_another_address_of_the_machine_is_another_port():
    port = free_port()
    with own_port("127.0.0.1", port), own_port("127.0.0.2", port):
        pass


def test_all_connections_reach_the_workers():
    port = free_port()
    with own_port("127.0.0.1", port), listen("127.0.0.1", port) as one, listen("127.0.0.1", port) as two:
        clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(60)]
        taken = [accept_all(worker) for worker in (one, two)]
        assert len(taken[0]) + len(taken[1]) == 60 and min(map(len, taken)) > 5
        for connection in (*taken[0], *taken[1], *clients):
            connection.close()


def test_a_restart_gets_the_port_while_old_connections_linger():
    port = free_port()
    for _ in range(3):
        with own_port("127.0.0.1", port), listen("127.0.0.1", port) as worker:
            clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(5)]
            for connection in accept_all(worker):
                connection.close()  # first on this side, where the system then remembers it for a minute
        for client in clients:
            assert client.recv(1) == b""
            client.close()


def accept_all(worker):
    found = []
    while True:
        try:
            found.append(worker.accept()[0])
        except BlockingIOError:
            return found


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_here(host):
    with pytest.raises(InputError, match="--host, --port"), own_port(host, free_port()):
        pass
