"""serve.py goes on, loses nothing, leaves nothing: with new and broken models, signals, killed workers and parents."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import httpx
from conftest import write_random_model
from running_server import ITEMS


class Load:
    """Asks all the time, by several connections, while the block runs; the responses, and the models that gave them."""

    def __init__(self, server):
        self.server, self.stopped, self.responses, self.failures = server, threading.Event(), [], []

    def __enter__(self):
        self.threads = [threading.Thread(target=self.ask) for _ in range(4)]
        for thread in self.threads:
            thread.start()
        return self

    def ask(self):
        with httpx.Client(base_url=self.server.url, timeout=30) as client:
            while not self.stopped.is_set():
                try:
                    self.responses.append(client.post("/v1/recommend", json={"sessions": [["item_1", "item_2"]]}))
                except httpx.HTTPError as error:
                    self.failures.append(error)

    def __exit__(self, *error):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def models(self):
        return {response.json()["model"]["name"] for response in self.responses}


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
    assert live["scores"] == server.recommend([["item_1", "item_2"]])[0]["scores"], "live sessions are replayed"
    assert [line["level"] for line in server.log_lines() if line["message"] == "model refused"] == ["error"] * 2


def test_a_network_that_only_paddle_knows_takes_the_place_of_another(own_server):
    server = own_server("--reload_seconds", 0.2, "--drain_seconds", 1.5, PATH=os.environ["PATH"])
    with Load(server) as load:
        config = json.loads((server.model_dir / "config.json").read_text())
        (server.model_dir / "config.json").write_text(json.dumps(config | {"network_is_known": False}))
        write_random_model(server.model_dir, seed=1, items=ITEMS, hid_size=(16,), epoch=2)
        server.wait_for(lambda: server.workers_with_model("model/epoch_2") == 2)
    assert not load.failures and {response.status_code for response in load.responses} == {200}
    scoring = [line["scoring"] for line in server.log_lines() if line["message"] == "model loaded"]
    assert scoring[:2] == ["native:yes"] * 2 and all("Paddle" in way for way in scoring[2:]) and len(scoring) == 4
    server.process.send_signal(signal.SIGTERM)  # whose handler is lost as Paddle loads, and must be put back
    time.sleep(0.7)
    assert [server.get("/readyz").status_code for _ in range(3)] == [503] * 3
    assert server.process.wait(timeout=30) == 0
    assert "Traceback" not in server.log_path.read_text()


def test_stopping_it_loses_no_request_and_leaves_nothing(own_server):
    server = own_server("--drain_seconds", 1.5)
    directory = server.model_dir.parent
    with Load(server) as load:
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.7)
        draining = [server.get("/readyz").status_code for _ in range(3)]
        load.stopped.set()
    assert draining == [503] * 3 and not load.failures
    assert {response.status_code for response in load.responses} == {200}
    assert server.process.wait(timeout=30) == 0
    assert sorted(path.name for path in directory.iterdir()) == ["log", "model"]
    assert "Traceback" not in server.log_path.read_text()


def test_a_worker_that_dies_is_replaced(own_server):
    server = own_server()
    worker = server.log_lines()[0]["process"]
    os.kill(worker, signal.SIGKILL)
    loaded = lambda: {line["process"] for line in server.log_lines() if line["message"] == "model loaded"}
    server.wait_for(lambda: len(loaded()) == 3)
    server.wait_for(lambda: server.workers_with_model() == 2)
    assert server.recommend([["item_1"]])


def test_workers_stop_with_their_parent_and_leave_nothing(own_server):
    server = own_server()
    directory, = (Path(word.removeprefix("PROMETHEUS_MULTIPROC_DIR="))
                  for word in environment_of(server.log_lines()[0]["process"])
                  if word.startswith("PROMETHEUS_MULTIPROC_DIR="))
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


def environment_of(process):
    return Path(f"/proc/{process}/environ").read_text().split("\0")


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
