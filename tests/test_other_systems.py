"""Systems and processors that lack something of Linux on x86: what takes its place, or the one line that says so."""

import os
import re
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, WITHOUT_LINUX, assert_one_line_error, assert_worked, free_port, run_script
from packaging.requirements import Requirement
from running_server import draw_sessions
from safetensors.numpy import load_file

import serve
from utils import memory
from utils.native import kernels
from utils.process import processors
from utils.serving.port import own_port

SCRIPTS = sorted([*ROOT.glob("*.sh"), *(ROOT / "reproduce").glob("*.sh")])


def test_the_server_answers_without_what_only_linux_has(own_server):
    server = own_server(**WITHOUT_LINUX)
    session = [click for clicks in draw_sessions(5) for click in clicks][:8]
    for number, click in enumerate(session):  # each by any of the two workers
        live = server.get("/v1/recommend", session_id="a", item_id=click, user_consent="true",
                          exclude_clicked="none").json()
        [whole] = server.recommend([session[:number + 1]])
        assert live["items"] == whole["items"] and live["clicks"] == number + 1
    assert server.metrics()['gru4rec_requests_total{method="POST",route="/v1/recommend",status="200"}'] == len(session)
    process = run_script("serve.py", "--model_dir", server.model_dir, "--port", server.url.rpartition(":")[2],
                         env=os.environ | WITHOUT_LINUX)
    assert_one_line_error(process, "--host, --port: found", "not free")
    assert server.stop() == 0
    said = [(line["level"], line["message"]) for line in server.log_lines() if line["level"] != "info"]
    assert set(said) == {("warning", "model in this worker's own memory")}


def train(tiny_data, model_dir, run, **more):
    """Run train_sample_neg.py; its log and the weights."""
    process = assert_worked(run("train_sample_neg.py", "--train_dir", tiny_data / "train_data", "--vocab_path",
                                tiny_data / "vocab.txt", "--model_dir", model_dir, "--hid_size", 8, "--pass_num", 1,
                                "--neg_size", 16, "--threads", 1, "--hid_dropout", 0, **more))
    return process.stdout, load_file(model_dir / "epoch_1" / "model.safetensors")


def test_training_without_what_only_linux_has_and_without_mkl(tiny_data, tmp_path, run_here, monkeypatch):
    log, expected = train(tiny_data, tmp_path / "linux", run_here)
    assert " native:yes\n" in log and "engine:native loss:native optimizer:native\n" in log
    other, found = train(tiny_data, tmp_path / "other", run_script, env=os.environ | WITHOUT_LINUX)
    assert re.match(r"device:cpu paddle:[0-9.]+ threads:1 native:yes\n", other)
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name], weights, rtol=0, atol=1e-4)
    monkeypatch.setattr(kernels, "LIBRARIES", ["libmkl_of_x86.so"])
    log, found = train(tiny_data, tmp_path / "arm64", run_here)
    assert " native:no(this_Paddle_has_no_libmkl_of_x86.so)\n" in log
    assert "\nengine:paddle loss:softmax optimizer:paddle\n" in log
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name], weights, rtol=0, atol=1e-3)


def test_processors_where_the_system_does_not_tell_which(monkeypatch):
    assert processors() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1


def test_only_linux_spreads_connections_over_workers(monkeypatch):
    monkeypatch.setattr(serve, "processors", lambda: 6)
    assert serve.worker_count(SimpleNamespace(workers=0)) == 6
    monkeypatch.setattr(sys, "platform", "darwin")
    assert [serve.worker_count(SimpleNamespace(workers=workers)) for workers in (0, 3)] == [1, 3]


@pytest.mark.parametrize("platform, largest", [("linux", 300 << 10), ("darwin", 300 << 20)])
def test_the_peak_of_memory_is_in_the_unit_of_the_system(monkeypatch, platform, largest):
    monkeypatch.setattr(memory.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=largest))
    monkeypatch.setattr(sys, "platform", platform)
    assert memory.peak_memory() == 300


def test_a_socket_that_cannot_stop_listening_leaves_the_port_to_the_workers(monkeypatch):
    def fail(*arguments):
        raise OSError
    monkeypatch.setattr(socket.socket, "shutdown", fail)
    port = free_port()
    with own_port("127.0.0.1", port), socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", port))
        worker.listen()
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                worker.accept()[0].close()


@pytest.mark.parametrize("system, machine, version", [
    ("linux", "x86_64", "3.3.1"), ("linux", "aarch64", "3.2.2"), ("darwin", "arm64", "3.3.1"),
    ("darwin", "x86_64", "3.0.0"), ("win32", "AMD64", "3.3.1")])
def test_each_system_has_one_paddle(system, machine, version):
    """As docs/devices.md says."""
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    lines = re.findall(r"^paddlepaddle.*?(?= \\$)", pinned, re.MULTILINE)
    environment = {"sys_platform": system, "platform_machine": machine}
    [found] = [each for each in map(Requirement, lines) if not each.marker or each.marker.evaluate(environment)]
    assert str(found.specifier) == f"=={version}"


@pytest.mark.parametrize("arguments, fragment", [
    (["chek"], "found the arguments chek"), (["check", "x"], "check x"), (["check"], "found no uv"),
    ([], "found no uv")])
def test_lock_says_in_one_line_what_is_wrong(tmp_path, arguments, fragment):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))  # there is nothing else, so no uv
    process = subprocess.run([shutil.which("bash"), ROOT / "lock.sh", *arguments], env={"PATH": str(tmp_path)},
                             capture_output=True, text=True, timeout=60)
    assert_one_line_error(process, "lock.sh: ", fragment)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_need_nothing_that_macos_lacks(path):
    """Its bash is 3.2, and its tools are those of BSD."""
    lacking = r"mapfile|readarray|declare -A|local -n|\$\{\w+(,|\^|@)|\|&|&>>|coproc|wait -n|\[\[ -v|sha256sum|nproc" \
              r"|readlink -f|realpath|sed -i|date -d|stat -c|sort -V|grep -P|xargs -r|/proc/|timeout "
    text = path.read_text(encoding="utf-8")
    assert not re.findall(lacking, text)
    for name in re.findall(r"\b(\w+)=\(\)", text):  # with `set -u`, bash 3.2 takes an empty array for one never set
        assert re.search(rf"for .*; do\s+{name}\+=\(", text) or not re.search(rf"\$\{{{name}\[@\]\}}", text)
