"""benchmarks/gpu.sh, which is meant for machines with a GPU, on a processor."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error


@pytest.fixture
def run_gpu_script(tmp_path):
    """A function of environment variables that runs gpu.sh where nvidia-smi lists nothing: its CompletedProcess."""
    smi = tmp_path / "programs/nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)

    def run(**variables):
        environment = {**os.environ, "PATH": f"{smi.parent}:{os.environ['PATH']}", **variables}
        return subprocess.run(["bash", ROOT / "benchmarks/gpu.sh"], env=environment, cwd=tmp_path, capture_output=True,
                              text=True, timeout=180)
    return run


@pytest.mark.parametrize("variables, found", [({}, "no GPU"), ({"USE_CUDA": "0"}, "USE_CUDA=0 without OUTPUT")])
def test_it_ends_in_one_line_before_it_installs_or_writes(run_gpu_script, variables, found):
    before = (ROOT / "docs/gpu.md").read_bytes()
    assert_one_line_error(run_gpu_script(**variables), f"gpu.sh: found {found}", "expected")
    assert (ROOT / "docs/gpu.md").read_bytes() == before and not (ROOT / ".venv-gpu/.installed").exists()


def test_it_runs_through_and_writes_its_page(run_gpu_script, tiny_data, tmp_path):
    """speed.py, which has tests of its own, only says its name here."""
    python = tmp_path / "environment/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase $1 in *speed.py) echo "speed.py $*"; exit;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    page = tmp_path / "page.md"
    process = run_gpu_script(USE_CUDA="0", OUTPUT=str(page), ENVIRONMENT=str(python.parent.parent),
                             TRAIN_DIR=str(tiny_data / "train_data"), VOCAB_PATH=str(tiny_data / "vocab.txt"))
    assert process.returncode == 0 and process.stderr == "" and process.stdout == f"wrote {page}\n", process
    text = page.read_text()
    assert "no GPU: this was a try" in text and "speed.py benchmarks/speed.py --use_cuda 0" in text
    assert re.findall(r"^(\w+\.py): the losses of (?:[1-9]\d*) steps differ by 0.0e\+00 at most.*: agree$", text,
                      re.MULTILINE) == ["train.py", "train_sample_neg.py"]
    assert text.count("predictions/s:") == 2 and "never killed, bit by bit" in text
    assert text.count("```") == 10 and re.search(r"on \d{4}-\d\d-\d\d, commit", text)
