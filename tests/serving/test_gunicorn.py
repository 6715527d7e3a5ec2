"""deploy/gunicorn.conf.py: gunicorn's workers serve as those of serve.py do, and it starts and stops as well."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, assert_one_line_error, free_port, write_random_model
from running_server import Load, wait_for_drain

CONFIGURATION = ROOT / "deploy" / "gunicorn.conf.py"


@pytest.fixture
def gunicorn(own_server):
    return lambda *flags, **environment: own_server(*flags, gunicorn=True, **environment)


def shared_by(server):
    """The directory that the workers share: gunicorn itself has a file in it open."""
    links = [os.readlink(link) for link in Path(f"/proc/{server.process.pid}/fd").iterdir()]
    directory, = {Path(link).parent for link in links if "/gru4rec_serve_" in link}
    assert directory.is_dir()
    return directory


def start_in_vain(*flags):
    return subprocess.run([sys.executable, "-m", "gunicorn", "-c", CONFIGURATION], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "SERVE_FLAGS": shlex.join(map(str, flags))})


def test_workers_share_sessions_metrics_and_connections_and_leave_nothing(gunicorn):
    server = gunicorn()
    directory = shared_by(server)
    assert [server.get("/v1/recommend", session_id="s", item_id="item_1", user_consent="true").json()["clicks"]
            for _ in range(8)] == list(range(1, 9))
    clients = [httpx.Client(base_url=server.url) for _ in range(40)]
    for number, client in enumerate(clients):  # all stay open
        client.get("/livez", headers={"x-request-id": f"spread-{number}"})
    server.wait_for(lambda: server.metrics()['gru4rec_requests_total{method="GET",route="/livez",status="200"}'] == 40)
    workers = [line["process"] for line in server.log_lines() if line.get("request_id", "").startswith("spread-")]
    assert len(set(workers)) == 2 and min(map(workers.count, workers)) >= 4
    too_large = clients[0].get("/v1/items", headers={"x": "y" * 70_000})
    assert too_large.status_code == 431, "the limits are those of serve.py"
    for client in clients:
        client.close()
    assert start_in_vain("--model_dir", server.model_dir, "--port", server.url.rpartition(":")[2]).returncode == 2
    assert server.stop() == 0 and not directory.exists()
    assert "Traceback" not in server.log_path.read_text()


def test_new_workers_and_killed_ones_and_a_stop_lose_no_request(gunicorn):
    server = gunicorn("--drain_seconds", 2)

    def loaded():
        return {line["process"] for line in server.log_lines() if line["message"] == "model loaded"}
    server.get("/v1/recommend", session_id="s", item_id="item_1", user_consent="true")
    os.kill(min(loaded()), signal.SIGKILL)
    server.wait_for(lambda: len(loaded()) == 3)
    with Load(server) as load:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for(lambda: len(loaded()) == 5)
        time.sleep(2.5)
        server.process.send_signal(signal.SIGTERM)
        wait_for_drain(server)
        click = server.get("/v1/recommend", session_id="s", item_id="item_2", user_consent="true").json()
        load.stopped.set()
    assert click["clicks"] == 2
    # The system resets a connection that it has taken for a worker, but not yet given to it, as that one stops.
    assert len(load.failures) <= 1 and all("reset by peer" in str(failure) for failure in load.failures)
    assert {response.status_code for response in load.responses} == {200}
    assert server.process.wait(timeout=30) == 0


def test_workers_stop_when_gunicorn_is_killed(gunicorn):
    server = gunicorn()
    directory = shared_by(server)
    server.process.kill()
    server.process.wait()

    def is_gone():
        try:
            return not server.client.get("/livez")
        except httpx.TransportError:
            return not directory.exists()
    server.wait_for(is_gone)


@pytest.mark.parametrize("flags, fragments", [
    (["--port", "x"], ["SERVE_FLAGS", "--port", "serve.py -h"]),
    (["--model_dir", "nowhere"], ["--model_dir", "nowhere"]),
    (["--session_store", "redis://127.0.0.1:1/0"], ["--session_store", "redis://127.0.0.1:1/0"])], ids=str)
def test_a_wrong_start_ends_with_one_line(tmp_path, flags, fragments):
    others = {"--model_dir": write_random_model(tmp_path / "model"), "--port": free_port()}
    flags = [*flags, *(f"{flag}={value}" for flag, value in others.items() if flag not in flags)]
    assert_one_line_error(start_in_vain(*flags), *fragments)
