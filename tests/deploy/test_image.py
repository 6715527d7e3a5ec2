"""deploy/Dockerfile: its steps, run where there is no Docker, and the server that results from them."""

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, free_port, write_random_model
from image import Image, stages

SESSIONS = {"sessions": [["item_1", "item_2"], ["item_3"]], "k": 5}
LIMIT = 250e6  # bytes that the image may add to its base
# This Python may be in root's home, so that is another directory here, which others may read.
OPEN = 'mount --bind "$0" /mnt; mount -t tmpfs -o mode=755 none /root; mkdir -p "$0"; mount --bind /mnt "$0";'
READ_ONLY = ["unshare", "--mount", "sh", "-ec",
             OPEN * sys.base_prefix.startswith("/root/") + 'mount -o remount,bind,ro /; exec "$@"', sys.base_prefix]
NOBODY = ["setpriv", "--reuid", "65532", "--regid", "65532", "--clear-groups"]

built_once = pytest.mark.skipif(np.__version__ < "2", reason="the image has packages of its own: once is enough")


@pytest.fixture(scope="module")
def image():
    """The server's image, in a directory that any user may read."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        image = Image("serve", Path(directory))
        write_random_model(image.root / "model", items=300, hid_size=(16,))
        yield image


class Container:
    """A process started as Docker starts the image's entry point: with its environment and nothing else."""

    def __init__(self, image, *words, before=(), **environment):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        flags = [f"--port={self.port}", f"--model_dir={image.root / 'model'}", "--workers=2", "--session_memory=16"]
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*before, *image.entry, *words], stderr=subprocess.PIPE, text=True, cwd=image.root,
            env={"PATH": "/usr/bin:/bin", **image.environment, "SERVE_FLAGS": " ".join(flags), **environment})

    def __enter__(self):
        while not self.is_ready():
            if self.process.poll() is not None:
                pytest.fail(self.process.communicate()[1])
            assert time.monotonic() - self.began < 60
            time.sleep(0.01)
        self.processor_seconds = sum(map(processor_seconds, [self.process.pid, *children_of(self.process.pid)]))
        return self

    def is_ready(self):
        try:
            return self.get("/ping") == b""
        except OSError:
            return False

    def get(self, path, data=None, kind="application/json"):
        request = urllib.request.Request(self.url + path, data, {"content-type": kind} if data else {})
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.read()

    def __exit__(self, *error):
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        _, self.errors = self.process.communicate(timeout=60)
        self.stopped_after = time.monotonic() - began

    def scoring(self):
        return {json.loads(line)["scoring"] for line in self.errors.splitlines() if "model loaded" in line}


def children_of(process):
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def processor_seconds(process):
    """What a process has taken so far; the time on the clock depends on who else runs."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def works(command):
    return shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True).returncode == 0


# The file

def test_the_base_is_named_by_its_digest_and_steps_have_the_exec_form():
    lines = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").splitlines()
    argument, = [line for line in lines if line.startswith("ARG ")]
    assert re.fullmatch(r"ARG PYTHON=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", argument)
    found = stages()
    assert list(found)[-1] == "serve", "what is built where no target is named"
    assert all(base == "${PYTHON}" or base in found for base, _ in found.values())
    for stage in "serve", "train":
        entry, = [rest for name, rest in found[stage][1] if name == "ENTRYPOINT"]
        assert json.loads(entry)[-1].endswith("deploy/start.py")
    assert [name for name, _ in found["serve"][1]].count("RUN") == 0, "no compiler, no package manager's work"


def test_what_the_steps_copy_is_let_through_and_exists():
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*"
    allowed = [line[1:] for line in ignored if line.startswith("!")]
    copied = [source for _, steps in stages().values() for name, rest in steps if name == "COPY"
              and not rest.startswith("--from") for source in rest.split()[:-1]]
    for source in copied:
        assert (ROOT / source).exists() and any(fnmatch.fnmatch(source, pattern) for pattern in allowed), source
    for pattern in allowed:
        assert any(fnmatch.fnmatch(source, pattern) for source in copied), pattern


# What its steps make

@built_once
def test_it_holds_no_paddle_and_no_compiler_and_little_else(image):
    files = [path for path in image.place("/opt/gru4rec").rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.name for path in image.place("/opt/gru4rec/python").glob("lib/python3*/site-packages/*")}
    assert {"numpy", "uvicorn", "pyarrow"} <= names and not {"paddle", "pip", "setuptools"} & names
    assert not {"train.py", "tests", "compile_native.py"} & {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < LIMIT
    libraries = [path.name for path in files if path.parent.name == "gru4rec-paddle" and path.suffix == ".so"]
    assert sorted(name.partition("-")[0] for name in libraries) == ["neighbours"] * 3 + ["scoring"] * 3


@built_once
def test_sagemaker_starts_it_asks_and_stops_it(image):
    """As its documentation says: the word serve, GET /ping within two seconds, POST /invocations, SIGTERM.

    It starts fast, with libraries for this processor, though no compiler is in its path.
    """
    with Container(image, "serve", PATH="") as running:
        assert running.processor_seconds < 2
        began, asked = time.monotonic(), json.dumps(SESSIONS).encode()
        assert running.get("/ping") == b"" and time.monotonic() - began < 2
        expected = json.loads(running.get("/v1/recommend", asked))
        assert json.loads(running.get("/invocations", asked)) == expected and len(expected["answers"]) == 2
        assert json.loads(running.get("/invocations", asked + b"\n", "application/jsonlines")) == expected
        rows = running.get("/invocations", b"item_1,item_2\nitem_3\n" * 200, "text/csv").decode().splitlines()
        assert len(rows) == 400 and [row.split(",")[:5] for row in rows[:2]] == [
            answer["items"] for answer in expected["answers"]]
        assert json.loads(running.get("/v2/health/ready"))["ready"]
        check = [word.replace("8080", str(running.port)) for word in image.check]
        assert subprocess.run(check).returncode == 0
    assert running.process.returncode == 0 and running.stopped_after < 30
    assert running.scoring() == {"native:yes"}
    assert subprocess.run(check, capture_output=True).returncode != 0


@built_once
@pytest.mark.skipif(not works(READ_ONLY) or not works(NOBODY), reason="only root may try it")
def test_it_runs_as_any_user_on_a_read_only_file_system(image):
    """/dev/shm alone can be written there."""
    with Container(image, before=[*READ_ONLY, *NOBODY]) as running:
        assert int(Path(f"/proc/{running.process.pid}/status").read_text().split("Uid:")[1].split()[0]) == 65532
        for _ in range(2):
            live = json.loads(running.get("/v1/recommend?session_id=a&item_id=item_1&user_consent=true"))
        assert live["clicks"] == 2 and b"gru4rec_requests_total" in running.get("/metrics")
    assert running.process.returncode == 0 and running.scoring() == {"native:yes"}
    assert '"level":"error"' not in running.errors


@built_once
@pytest.mark.parametrize("words, fragment", [
    (["train"], "--target train"), (["serve", "--epoch", "3"], "no finished epoch 3"),
    (["server"], "server"), (["--model_dir", "/nowhere"], "found twice")])
def test_mistakes_end_it_with_one_line(image, words, fragment):
    container = Container(image, *words)
    _, errors = container.process.communicate(timeout=60)
    assert container.process.returncode == 2 and errors.count("\n") == 1 and fragment in errors


@built_once
def test_another_level_has_libraries_too(image):
    """Those that a processor with AVX2 alone picks, and one with less."""
    program = ("import sys; from utils.native import compiling; from utils.model import native_scorer\n"
               "compiling._processor = lambda *names: [sys.argv[1]]\n"
               "print(compiling.level_flags(), native_scorer.native_library()[1])")
    for flags, expected in {"flags : avx avx2 bmi1 bmi2 f16c fma movbe": "['-march=x86-64-v3'] native:yes",
                            "flags : sse2": "[] native:yes"}.items():
        process = subprocess.run([image.entry[0], "-c", program, flags], capture_output=True, text=True,
                                 cwd=image.place("/opt/gru4rec/app"), env={"PATH": "", **image.environment})
        assert process.stdout.strip() == expected, process
