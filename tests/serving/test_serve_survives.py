"""serve.py goes on, loses nothing, leaves nothing: with new and broken models, signals, killed workers and parents.

And with what the workers share damaged, deleted, or on a full disk.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from conftest import write_random_model
from running_server import ITEMS, Load, Server, wait_for_drain

from utils.model import checkpoint
from utils.model.checked_json import write_json


def test_a_new_model_without_a_lost_request_and_a_broken_one_refused(own_server):
    server = own_server("--reload_seconds", 0.2, "--log", "errors")
    server.get("/v1/recommend", session_id="s", item_id="item_1", user_consent="true")
    with Load(server) as load:
        time.sleep(0.3)
        write_random_model(server.model_dir, seed=1, items=ITEMS, hid_size=(16,), epoch=2)
        server.wait_for(lambda: server.workers_with_model("model/epoch_2") == 2)
        swapped = len(load.responses)
        broken = write_random_model(server.model_dir.parent / "broken", seed=2, items=ITEMS, hid_size=(16,),
                                    epoch=3) / "epoch_3"
        (broken / "model.safetensors").write_bytes(b"broken")
        shutil.move(broken, server.model_dir / "epoch_3")
        server.wait_for(lambda: server.metrics().get('gru4rec_reloads_total{result="refused"}') == 2)
        time.sleep(0.3)
    assert not load.failures and {response.status_code for response in load.responses} == {200}
    assert len(load.responses) > 50
    assert load.models() == {"model/epoch_1", "model/epoch_2"}
    assert {response.json()["model"]["name"] for response in load.responses[swapped + 8:]} == {"model/epoch_2"}
    live = server.get("/v1/recommend", session_id="s", item_id="item_2", user_consent="true").json()
    whole = server.recommend([["item_1", "item_2"]], exclude_clicked="last")
    assert live["scores"] == whole[0]["scores"], "live sessions are replayed"
    assert [line["level"] for line in server.log_lines() if line["message"] == "model refused"] == ["error"] * 2


def test_a_network_that_only_paddle_knows_takes_the_place_of_another(own_server):
    server = own_server("--reload_seconds", 0.2, "--drain_seconds", 2, PATH=os.environ["PATH"])
    with Load(server) as load:
        config = checkpoint.read_config(server.model_dir)
        write_json(server.model_dir / "config.json", config | {"network_is_known": False})
        write_random_model(server.model_dir, seed=1, items=ITEMS, hid_size=(16,), epoch=2)
        server.wait_for(lambda: server.workers_with_model("model/epoch_2") == 2)
    assert not load.failures and {response.status_code for response in load.responses} == {200}
    scoring = [line["scoring"] for line in server.log_lines() if line["message"] == "model loaded"]
    # A worker that looks between the two writes above loads the first epoch once more.
    assert scoring[:2] == ["native:yes"] * 2 and all("Paddle" in way for way in scoring[2:]) and len(scoring) >= 4
    server.process.send_signal(signal.SIGTERM)  # whose handler is lost as Paddle loads, and must be put back
    wait_for_drain(server)
    assert server.process.wait(timeout=30) == 0
    assert "Traceback" not in server.log_path.read_text()


def test_stopping_it_loses_no_request_and_leaves_nothing(own_server):
    server = own_server("--drain_seconds", 2)
    directory = server.model_dir.parent
    with Load(server) as load:
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        wait_for_drain(server)
        load.stopped.set()
    assert not load.failures
    assert {response.status_code for response in load.responses} == {200}
    assert server.process.wait(timeout=30) == 0
    assert sorted(path.name for path in directory.iterdir()) == ["log", "model"]
    assert "Traceback" not in server.log_path.read_text()


def test_a_worker_that_dies_is_replaced(own_server):
    server = own_server()
    worker = server.log_lines()[0]["process"]
    os.kill(worker, signal.SIGKILL)
    server.wait_for(lambda: len(loaded_by(server)) == 3)
    server.wait_for(lambda: server.workers_with_model() == 2)
    assert server.recommend([["item_1"]])


def test_a_worker_that_dies_while_it_is_asked_for_a_sign_of_life_is_replaced_at_once(own_server):
    server = own_server()
    worker = server.log_lines()[0]["process"]
    os.kill(worker, signal.SIGSTOP)
    time.sleep(1.2)  # its parent asks twice a second, and waits 30 seconds
    os.kill(worker, signal.SIGKILL)
    server.wait_for(lambda: len(loaded_by(server)) == 3, seconds=15)


def test_workers_stop_with_their_parent_and_leave_nothing(own_server):
    server = own_server()
    directory = shared_by(server)
    assert (directory / "sessions.sqlite").exists()
    server.process.kill()
    server.process.wait()

    def is_gone():
        try:
            server.client.get("/livez")
        except httpx.ConnectError:
            return True
        except httpx.TransportError:  # as it stops
            pass
        return False
    server.wait_for(is_gone)
    assert not directory.exists()


def loaded_by(server):
    """The processes that loaded a model so far."""
    return {line["process"] for line in server.log_lines() if line["message"] == "model loaded"}


def environment_of(process):
    return Path(f"/proc/{process}/environ").read_text().split("\0")


def shared_by(server):
    """The directory that the workers share."""
    directory, = (word.removeprefix("PROMETHEUS_MULTIPROC_DIR=")
                  for word in environment_of(server.log_lines()[0]["process"])
                  if word.startswith("PROMETHEUS_MULTIPROC_DIR="))
    return Path(directory)


# What the workers share

def click(server):
    """The reply to a click of a live session."""
    return server.get("/v1/recommend", session_id="s", item_id="item_1", user_consent="true")


def assert_survives(server, live_after):
    """Kill both workers, one after the other; the server goes on, with statuses `live_after` for clicks in the end."""
    for number in range(2):
        before = loaded_by(server)
        with Load(server) as load:
            os.kill(min(before) if number else max(before), signal.SIGKILL)
            server.wait_for(lambda: len(loaded_by(server)) > len(before))
            time.sleep(0.2)
        assert {response.status_code for response in load.responses} == {200} and len(load.responses) > 20
    assert server.process.poll() is None
    for _ in range(20):
        assert server.recommend([["item_1"]]) and server.get("/metrics").status_code == 200
    server.wait_for(lambda: [click(server).status_code for _ in range(6)] == [live_after] * 6)
    assert "Traceback" not in server.log_path.read_text()


def spoil_file(directory):
    with open(directory / "sessions.sqlite", "r+b") as file:
        file.write(random.Random(0).randbytes(20_000))


def delete_files(directory):
    for path in directory.iterdir():
        path.unlink()


@pytest.mark.parametrize("spoil", [spoil_file, delete_files, shutil.rmtree])
def test_spoilt_files_stop_no_worker_and_no_replacement(own_server, spoil):
    server = own_server("--log", "errors")
    assert [click(server).json()["clicks"] for _ in range(3)] == [1, 2, 3]
    directory = shared_by(server)
    spoil(directory)
    assert_survives(server, 200)
    assert {line["message"] for line in server.log_lines()} - {"model loaded", "request"} == {
        spoil_file: {"session store replaced, its live sessions are lost"}, delete_files: set(),
        shutil.rmtree: {"shared directory made again"}}[spoil]
    assert directory.is_dir() and click(server).json()["clicks"] > 1
    assert server.stop() == 0 and not directory.exists()


IN_SMALL_MEMORY = [shutil.which("unshare"), "--user", "--map-root-user", "--mount", shutil.which("sh"), "-c",
                   f'{shutil.which("mount")} -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]
CAN_MOUNT = IN_SMALL_MEMORY[0] and not subprocess.run([*IN_SMALL_MEMORY, shutil.which("true")],
                                                      capture_output=True).returncode


@pytest.mark.skipif(not CAN_MOUNT, reason="this machine doesn't let us mount a file system of our own")
def test_a_full_memory_file_system_stops_no_worker_and_no_replacement(tmp_path):
    server = Server(tmp_path, "--session_memory", 8, "--log", "errors", before=IN_SMALL_MEMORY)
    try:
        assert shared_by(server).parent == Path("/dev/shm") and click(server).status_code == 200
        fill = Path(f"/proc/{server.log_lines()[0]['process']}/root/dev/shm/fill")  # as that process sees it
        with pytest.raises(OSError, match="No space"), open(fill, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        assert_survives(server, 503)
        messages = {line["message"] for line in server.log_lines()}
        assert "metrics of this worker stay its own" in messages
        Path(f"/proc/{max(loaded_by(server))}/root/dev/shm/fill").unlink()
        server.wait_for(lambda: [click(server).status_code for _ in range(6)] == [200] * 6)
    finally:
        server.stop()


def test_connections_are_spread_over_the_workers(own_server):
    server = own_server()
    clients = [httpx.Client(base_url=server.url) for _ in range(40)]
    for number, client in enumerate(clients):  # all stay open
        client.get("/livez", headers={"x-request-id": f"spread-{number}"})

    def workers():
        return [line["process"] for line in server.log_lines() if line.get("request_id", "").startswith("spread-")]
    server.wait_for(lambda: len(workers()) == 40)
    for client in clients:
        client.close()
    assert len(set(workers())) == 2 and min(map(workers().count, workers())) >= 4
