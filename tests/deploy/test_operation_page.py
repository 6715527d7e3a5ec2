"""The commands of docs/operation.md run the stack, here at other ports and with a model of random weights."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, write_random_model

sys.path.insert(0, str(ROOT / "benchmarks"))

from stack import Stack, program  # noqa: E402

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMETHEUS = "prometheus ", "curl --silent --retry 40 --retry-delay 1 --retry-connrefused 'localhost:9090"


def test_the_commands_of_the_page_run_the_stack(tmp_path):
    blocks = BLOCK.findall((ROOT / "docs" / "operation.md").read_text(encoding="utf-8"))
    stack_block, = (block for block in blocks if "redis-server" in block)
    others = [line for block in blocks if block is not stack_block for line in block.splitlines()]
    assert all(line.startswith(("SERVE_FLAGS=", "python benchmarks/")) for line in others), "they have their own tests"
    if missing := [name for name in ("redis-server", "nginx", "curl") if program(name) is None]:
        pytest.skip(f"no {missing[0]} on this machine")

    stack = Stack(tmp_path, tmp_path / "model_output")  # its copy of deploy/ has free ports
    write_random_model(tmp_path / "model_output")
    for name in "serve.py", "utils":
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "bin").mkdir()
    for name in "nginx", "redis-server", "prometheus":
        if program(name):
            (tmp_path / "bin" / name).symlink_to(program(name))
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    lines = [line for line in stack_block.splitlines() if program("prometheus") or not line.startswith(PROMETHEUS)]
    script = tmp_path / "page.sh"
    text = "\n".join(["set -e", *lines, "wait"])
    script.write_text(text.replace("serve.py ", f"serve.py --port {stack.ports['serve']} "))
    stack.put_ports_into(script)
    process = subprocess.run(["bash", script], cwd=tmp_path, text=True, timeout=120, capture_output=True,
                             env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    assert '"status":"alive"' in process.stdout and '"clicks":1' in process.stdout, process
    assert not program("prometheus") or '"status":"success"' in process.stdout
    assert "Traceback" not in process.stderr and "[emerg]" not in process.stderr, process.stderr
    assert (tmp_path / "run" / "gru4rec.rdb").exists(), "Redis saves its sessions when it is stopped"
    shutil.rmtree(tmp_path / "run")
