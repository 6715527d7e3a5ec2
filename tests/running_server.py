"""A real server for tests of serve.py: two workers, a model of random weights. Its fixtures are in conftest.py."""

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
from conftest import ROOT, free_port, write_random_model

ITEMS = 300


class Server:
    """serve.py, or gunicorn with its workers, and a model of random weights; started and stopped."""

    def __init__(self, directory, *flags, before=(), workers=2, gunicorn=False, **environment):
        self.model_dir, self.log_path = directory / "model", directory / "log"
        if not self.model_dir.exists():
            write_random_model(self.model_dir, items=ITEMS, hid_size=(16,))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        # a new connection for each request, so that any worker may answer
        self.client = httpx.Client(base_url=self.url, headers={"connection": "close"}, timeout=30)
        flags = list(map(str, ["--model_dir", self.model_dir, "--port", port, "--workers", workers, *flags]))
        command = [*before, sys.executable, ROOT / "serve.py", *flags]
        if gunicorn:
            command = [*before, sys.executable, "-m", "gunicorn", "-c", ROOT / "deploy" / "gunicorn.conf.py"]
            environment["SERVE_FLAGS"] = shlex.join(flags)
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log,
                                            env={"PATH": "", "TMPDIR": str(directory), **environment})
        self.wait_for(lambda: self.workers_with_model() == workers)

    def workers_with_model(self, name="model/epoch_1"):
        try:
            return self.metrics().get(f'gru4rec_model_workers{{name="{name}"', 0)
        except httpx.HTTPError:
            assert self.process.poll() is None, self.log_path.read_text()
            return 0

    def wait_for(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.05)

    def get(self, path, **query):
        return self.client.get(path, params=query)

    def recommend(self, sessions, **more):
        response = self.client.post("/v1/recommend", json={"sessions": sessions, **more})
        assert response.status_code == 200, response.text
        return response.json()["answers"]

    def metrics(self):
        """Every sample by its name and labels, without the checksum of models."""
        text = self.client.get("/metrics").text
        samples = [line.rpartition(" ")[::2] for line in text.splitlines() if not line.startswith("#")]
        return {re.sub(r',sha256.*', "", name): float(value) for name, value in samples}

    def log_lines(self):
        """The whole lines so far: a worker may be in the midst of writing the last one."""
        whole, _, _ = self.log_path.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    def stop(self):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def wait_for_drain(server):
    """Wait until all workers of a server that was told to stop say so."""
    server.wait_for(lambda: [server.get("/readyz").status_code for _ in range(4)] == [503] * 4, 10)


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


def draw_sessions(count, seed=0, unknown=5):
    random = np.random.default_rng(seed)
    return [[f"item_{item}" for item in random.integers(ITEMS + unknown, size=random.integers(1, 12))]
            for _ in range(count)]
