"""What all tests share: running scripts as a user does, and tiny data and a tiny model to run them on.

Plain functions are imported (`from conftest import run_script`); fixtures are arguments.
"""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that tests import net and utils as the scripts do
os.environ.setdefault("OMP_NUM_THREADS", "1")  # everything here is tiny

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def run_script(name, *arguments, cwd=None, timeout=120, **kw):
    """Run a top-level script as a user does; its CompletedProcess with stdout and stderr as text."""
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(command, **{"cwd": cwd, "timeout": timeout, "capture_output": True, "text": True, **kw})


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
    """Every file below `directory`, hidden ones too, by its relative path: what a failed script must not have changed."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(Path(directory).rglob("*")) if path.is_file()}


@pytest.fixture
def native_library_as(monkeypatch):
    """A function that puts utils/native.cc in use, or out of use, for the rest of the test."""
    from utils import native

    def put(in_use):
        monkeypatch.setattr(native, "_library", native._library)  # so that what it was comes back afterwards
        if in_use:
            assert native.load() == "native:yes"
        else:
            native._library = None
    return put


@pytest.fixture(params=["native", "paddle"])
def native_or_paddle(request, native_library_as):
    """Both ways to compute: by utils/native.cc, and by Paddle's operations alone."""
    native_library_as(request.param == "native")


@pytest.fixture
def run_here(capsys, monkeypatch):
    """Like `run_script`, but within this process: for many runs of a script that takes seconds to load Paddle."""
    def run(name, *arguments):
        capsys.readouterr()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [str(ROOT / name), *map(str, arguments)])
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
    assert_worked(run_script("train.py", "--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt",
                             "--model_dir", model_dir, "--hid_size", 8, "--pass_num", 2, "--batch_size", 10, "--threads", 1))
    return model_dir
