"""What all tests share: running scripts as a user does, and tiny data and a tiny model to run them on.

Plain functions are imported (`from conftest import run_script`); fixtures are arguments.
"""

import asyncio
import contextlib
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from utils import device

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_LINUX = {"PYTHONPATH": str(ROOT / "tests" / "without_linux")}  # an environment: sitecustomize.py there says why
os.environ.setdefault("OMP_NUM_THREADS", "1")  # everything here is tiny
device.tune_mkl()  # before any test loads Paddle: runs in this process must repeat to the last bit, as a user's do
os.environ.pop("CI", None)  # with it pytest shows whole differences, and takes hours for those of two files of weights
# a shell that starts tests in the background has them ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")

ALONE = {"test_connections", "test_endure", "test_serve_attack"}  # they watch the clock, and a busy machine is slow


def pytest_collection_modifyitems(items):
    """Mark the tests that need the machine for themselves: test.sh runs the others two at a time."""
    for item in items:
        if item.path.stem in ALONE:
            item.add_marker("alone")


def run_script(name, *arguments, cwd=None, timeout=120, **kw):
    """Run a top-level script as a user does; its CompletedProcess with stdout and stderr as text."""
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(command, **{"cwd": cwd, "timeout": timeout, "capture_output": True, "text": True, **kw})


def with_flags(defaults, given):
    """A list of flags each with its value, without those that are given as well, and then what is given.

    A script refuses a flag that comes twice.
    """
    names = {str(word).partition("=")[0] for word in given}
    pairs = zip(defaults[::2], defaults[1::2])
    return [word for flag, value in pairs if flag not in names for word in (flag, value)] + list(given)


def assert_one_line_error(process, *fragments):
    """The process ended as a user's mistake must: status 2 and one line on stderr, with each of `fragments` in it."""
    assert process.returncode == 2, process
    assert process.stderr.count("\n") == 1 and process.stderr.endswith("\n"), process.stderr
    assert "Traceback" not in process.stderr, process.stderr
    for fragment in fragments:
        assert str(fragment) in process.stderr, (fragment, process.stderr)


def assert_worked(process):
    """The process ended well and had nothing to complain about."""
    assert process.returncode == 0 and process.stderr == "", process
    return process


def files_below(directory):
    """Every file below `directory`, hidden ones too, by its relative path: a failed script must not change them."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(Path(directory).rglob("*"))
            if path.is_file()}


def refusal(response, status):
    """The error of a response, which must be of this status and in the form of all refusals."""
    assert response.status_code == status and response.headers["content-type"] == "application/json", response.text
    body = response.json()
    assert body["error"]["status"] == status and body["request_id"] == response.headers["x-request-id"]
    return body["error"]


def free_port():
    """A TCP port of this machine that nobody listens at, and below those that the system gives to clients."""
    draw = random.SystemRandom()
    while True:
        port = draw.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def write_random_model(model_dir, seed=0, items=50, epoch=1, hid_size=(8,), embedding="shared", reset_after=True):
    """A model directory of random weights, or one more epoch of it; its items are item_0, item_1 ... No Paddle."""
    from utils.data.vocabulary import checksum
    from utils.model import checkpoint, upkeep
    from utils.model.layout import NetworkSettings, weight_shapes
    settings = NetworkSettings(list(hid_size), hid_size[-1], embedding, reset_after)
    if not (model_dir / "config.json").exists():
        model_dir.mkdir(parents=True)
        vocabulary = model_dir / "vocab.new"
        vocabulary.write_text("".join(f"item_{item}\n" for item in range(items)), encoding="utf-8")
        config = {"network": settings.as_dict(), "data": {"vocab_sha256": checksum(vocabulary)}}
        upkeep.start_run(model_dir, config, vocabulary, overwrite=False)
        vocabulary.unlink()
    random = np.random.default_rng(seed)
    weights = {name: random.normal(0, 0.7, shape).astype(np.float32)
               for name, shape in weight_shapes(settings, items).items()}
    checkpoint.save_epoch(model_dir, epoch, weights, {"none": np.zeros(1, np.float32)}, {})
    return model_dir


@pytest.fixture
def redis_url():
    """The address of a Redis server of our own, without any session yet."""
    if not shutil.which("redis-server"):
        pytest.skip("no redis-server on this machine")
    for _ in range(3):  # another process may take the port before Redis does
        port = free_port()
        command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--loglevel", "warning"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            if not answers(server, port):
                continue
            yield f"redis://127.0.0.1:{port}/0"
            server.terminate()
            return
    pytest.fail("redis-server doesn't start")


def answers(server, port):
    """Whether a server that was just started takes connections, before it ends or 20 s have passed."""
    deadline = time.monotonic() + 20
    while server.poll() is None and time.monotonic() < deadline:
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", port)) == 0:
                return server.poll() is None
        time.sleep(0.05)
    server.kill()
    return False


@pytest.fixture(scope="session")
def kernels():
    """The C++ for training, compiled."""
    import paddle

    from utils.native.kernels import load
    return load(Path(paddle.__file__).parent)


@pytest.fixture(params=["native", "paddle"])
def kernels_or_none(request):
    """Both ways to compute: the C++ for training, and None for Paddle's operations alone."""
    return request.getfixturevalue("kernels") if request.param == "native" else None


@pytest.fixture
def run_here(capsys, monkeypatch):
    """Like `run_script`, but within this process: for many runs of a script that takes seconds to load Paddle."""
    def run(name, *arguments, cwd="."):
        capsys.readouterr()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", [str(ROOT / name), *map(str, arguments)])
            patch.setattr(sys, "path", [str((ROOT / name).parent), *sys.path])
            patch.setattr(os, "environ", os.environ.copy())
            try:
                runpy.run_path(sys.argv[0], run_name="__main__")
                status = 0
            except SystemExit as end:
                status = end.code or 0
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        return subprocess.CompletedProcess(sys.argv, status, *capsys.readouterr())
    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server (running_server.Server) that several tests share."""
    from running_server import Server
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    assert server.stop() == 0


@pytest.fixture
def own_server(tmp_path):
    """Start a server that the test may change."""
    from running_server import Server
    started = []

    def start(*flags, **environment):
        started.append(Server(tmp_path, *flags, **environment))
        return started[-1]
    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def with_client(tmp_path):
    """Run an async function with an httpx client of an application of serve.py's in this process, and its Api."""
    import httpx

    from utils.serving.http_api import ServerSettings, create_application

    def run(function, model=True, **settings):
        if model and not (tmp_path / "model").exists():
            write_random_model(tmp_path / "model")
        settings = ServerSettings(**{"model_dir": str(tmp_path / "model"), "session_store": str(tmp_path / "store"),
                                     **settings})

        async def with_it():
            application = create_application(settings)
            api = application.application.router.lifespan_context.__self__
            transport = httpx.ASGITransport(application, raise_app_exceptions=False)
            async with api.lifespan(None), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                while model and api.slot.model is None:
                    await asyncio.sleep(0.01)
                return await function(client, api)
        return asyncio.run(with_it())
    return run


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A directory with vocab.txt, train_data/ and test_data/: 36 items, 200 and 40 sessions. Copy it to change it."""
    directory = tmp_path_factory.mktemp("tiny_data")
    random, item_count = np.random.default_rng(7), 36
    successors = random.integers(item_count, size=(item_count, 2))

    def session():
        items = [int(item_count * random.random() ** 2)]
        for _ in range(random.geometric(0.25) - 1):
            follows = random.random() < 0.8
            items.append(int(successors[items[-1], random.integers(2)] if follows else random.integers(item_count)))
        return " ".join(map(str, items)) + "\n"

    (directory / "vocab.txt").write_text("".join(f"item_{number}\n" for number in range(item_count)), encoding="utf-8")
    for name, sessions in [("train_data/train.txt", 200), ("test_data/test.txt", 40)]:
        (directory / name).parent.mkdir()
        (directory / name).write_text("".join(session() for _ in range(sessions)), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def tiny_model(tiny_data, tmp_path_factory):
    """A model directory that train.py wrote: two epochs on `tiny_data` with 8 units. Copy it to change it."""
    model_dir = tmp_path_factory.mktemp("tiny_model") / "model"
    assert_worked(run_script("train.py", "--train_dir", tiny_data / "train_data", "--model_dir", model_dir,
                             "--vocab_path", tiny_data / "vocab.txt", "--hid_size", 8, "--pass_num", 2,
                             "--batch_size", 10, "--threads", 1))
    return model_dir


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of `tiny_data`, to change."""
    return shutil.copytree(tiny_data, tmp_path / "data")


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of `tiny_model`, to change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def infer(run_here, data, model):
    """infer.py of the two epochs of `model` on the test sessions of `data`; further flags win."""
    usual = ["--test_dir", data / "test_data", "--model_dir", model, "--last_index", 2, "--threads", 1, "--tune_cpu", 0]
    return lambda *flags: run_here("infer.py", *with_flags(usual, flags))


@pytest.fixture
def model_dir(tmp_path):
    """A model directory in which a run has begun that has no epoch yet."""
    from utils.model import upkeep
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    directory = tmp_path / "model"
    upkeep.start_run(directory, {"data": {}}, tmp_path / "vocab.txt", overwrite=False)
    return directory
