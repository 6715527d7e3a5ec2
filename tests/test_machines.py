"""Training on two machines by Paddle's launcher, and a link between them that is cut."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, assert_worked, run_script

sys.path.insert(0, str(ROOT / "tests/training"))
from stopped_runs import flags, result  # noqa: E402


def may_make_links():
    """Whether this system lets users make network namespaces and links between them."""
    command = "ip link add first0 type veth peer name other0 && mount -t tmpfs none /run"
    return all(map(shutil.which, ["unshare", "ip", "bash"])) and not subprocess.run(
        ["unshare", "-rnm", "bash", "-c", command], capture_output=True).returncode


@pytest.mark.skipif(not may_make_links(), reason="this system lets no user make network namespaces (unshare, ip)")
def test_a_cut_link_ends_the_run_and_it_resumes(tiny_data, tmp_path):
    model_dir, more = tmp_path / "model", ["--pass_num", 20, "--batch_size", 2, "--save_seconds", 0.2]
    command = ["unshare", "-rnm", sys.executable, ROOT / "tests/two_machines.py", tmp_path / "logs", ROOT / "train.py",
               *flags(tiny_data, model_dir, *more)]
    patience = {"PADDLE_PG_TIMEOUT": "12000"}  # milliseconds, in place of 30 seconds
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300,
                             env={**os.environ, **patience})
    logs = {str(path.relative_to(tmp_path)): path.read_text(errors="replace") for path in tmp_path.glob("logs/*/*/w*")}
    assert process.returncode == 0, (process, logs)
    cut, resumed = (line.split()[1:] for line in process.stdout.splitlines())
    assert "0" not in cut[:2] and int(cut[2]) < 45 and resumed == ["0", "0"], (cut, resumed, logs)
    line = "found no answer from another process: it ended, or the link to it is cut; what was saved is whole"
    for machine, name in enumerate(["train.py", "train.py, process 1"]):
        assert f"{name}: {line}" in logs[f"logs/cut/{machine}/workerlog.0"], logs
    assert "finish training" in logs["logs/resumed/0/workerlog.0"]
    whole = assert_worked(run_script("train.py", *flags(tiny_data, tmp_path / "whole", *more), "--parallel", 1,
                                     "--num_devices", 2))
    assert "processes:2" in whole.stdout and result(model_dir) == result(tmp_path / "whole")
