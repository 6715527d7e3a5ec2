"""utils/serving/workers.py: workers that die are replaced, except where none of them has ever served."""

import pytest
import uvicorn

from utils.serving import workers


class FakeProcess:
    """A worker process as uvicorn's supervisor sees it, which dies at once unless it serves."""

    exitcodes, serves = [], False

    def __init__(self, config, sockets):
        self.pid, self.exitcode = 1, None

    def start(self):
        self.exitcode = None if self.serves else self.exitcodes.pop(0)

    def is_alive(self, timeout=5):
        return self.exitcode is None

    def is_ready(self, timeout=5):
        return self.exitcode is None

    def kill(self):
        pass

    join = kill


@pytest.fixture
def supervisor(monkeypatch):
    monkeypatch.setattr(workers.supervisor, "Process", FakeProcess)
    monkeypatch.setattr(workers.supervisor.signal, "signal", lambda *_: None)
    return workers.Supervisor(uvicorn.Config("x", workers=2))


def look(supervisor, times):
    for _ in range(times):
        supervisor.keep_subprocess_alive()


@pytest.mark.parametrize("exitcodes, told", [([-9] * 20, "signal 9"), ([1] * 20, "exit status 1")])
def test_workers_that_never_serve_end_the_server(supervisor, monkeypatch, exitcodes, told):
    monkeypatch.setattr(FakeProcess, "exitcodes", exitcodes)
    supervisor.init_processes()
    look(supervisor, 2)
    assert not supervisor.failure, "it may have been an accident"
    look(supervisor, 1)
    assert "6 workers" in supervisor.failure and told in supervisor.failure and supervisor.should_exit.is_set()


def test_a_worker_that_cannot_start_ends_the_server_at_once(supervisor, monkeypatch):
    monkeypatch.setattr(FakeProcess, "exitcodes", [3, 3])  # as uvicorn says that its application or port fails
    supervisor.init_processes()
    look(supervisor, 1)
    assert "exit status 3" in supervisor.failure


def test_once_one_has_served_they_are_replaced_for_ever(supervisor, monkeypatch):
    monkeypatch.setattr(FakeProcess, "exitcodes", [-9] * 40)
    monkeypatch.setattr(FakeProcess, "serves", True)
    supervisor.init_processes()
    look(supervisor, 1)
    monkeypatch.setattr(FakeProcess, "serves", False)
    for process in supervisor.processes:
        process.exitcode = -9
    look(supervisor, 15)
    assert not supervisor.failure and not supervisor.should_exit.is_set()
