"""The pipelines of reproduce/, and demo.sh's steps, run as they stand on small data."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script


def run_pipeline(name, *arguments, **environment):
    """Run reproduce/NAME with this interpreter first in PATH and one epoch."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(ROOT / "reproduce" / name), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300,
                             env={**os.environ, "PATH": path, "EPOCHS": "1", **environment})
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return process.stdout


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    """RSC15's raw form: the real file that RSC15_CLICKS names, or one that is made."""
    if "RSC15_CLICKS" in os.environ:
        return Path(os.environ["RSC15_CLICKS"])
    path = tmp_path_factory.mktemp("clicks") / "yoochoose-clicks.dat"
    command = [sys.executable, ROOT / "benchmarks/make_clicks.py", "--click_count", "60000", "--output", path]
    subprocess.run(command, check=True, capture_output=True)
    return path


def test_full_rsc15_from_the_raw_file(clicks, tmp_path):
    output = run_pipeline("rsc15.sh", clicks, tmp_path / "out")
    assert f"model:{tmp_path}/out/model/epoch_1 recall@20:" in output and "POP" in output


def test_purchase_intent_from_the_raw_files(tmp_path):
    command = [sys.executable, ROOT / "benchmarks/make_clicks.py", "--click_count", "60000", "--output",
               tmp_path / "yoochoose-clicks.dat", "--buys_output", tmp_path / "yoochoose-buys.dat"]
    subprocess.run(command, check=True, capture_output=True)
    output = run_pipeline("intent.sh", tmp_path, tmp_path / "out")
    assert f"model:{tmp_path}/out/model/epoch_1 auc:" in output
    said = (tmp_path / "out/solution.dat").read_text().splitlines()
    assert all(";" in line for line in said)


@pytest.fixture(scope="module")
def splits(clicks, tmp_path_factory):
    """The training and the test sessions."""
    directory = tmp_path_factory.mktemp("splits")
    assert_worked(run_script("preprocess.py", "--input", clicks, "--out_dir", directory, "--newest_fraction", 0.3))
    return directory / "rsc15_train_full.txt", directory / "rsc15_test.txt"


@pytest.mark.parametrize("name", ["rsc15_64.sh", "rsc15_64_reference.sh", "sampled.sh", "best.sh", "official_xe.sh",
                                  "official_bpr_max.sh", "reference_bpr.sh", "reference_ce.sh"])
def test_pipelines_from_split_files(name, splits, tmp_path):
    output = run_pipeline(name, *splits, tmp_path / "out")
    assert f"model:{tmp_path}/out/model/epoch_1 recall@20:" in output
    assert "transitions" in output or not name.startswith("rsc15")


@pytest.mark.parametrize("path", sorted(path.name for path in (ROOT / "reproduce").glob("*.sh")
                                         if path.name not in ("common.sh", "intent.sh", "rsc15.sh")))
def test_pipelines_without_arguments_say_their_usage(path):
    process = subprocess.run(["bash", str(ROOT / "reproduce" / path)], capture_output=True, text=True, timeout=60)
    assert_one_line_error(process, f"usage: bash reproduce/{path} TRAIN TEST")


@pytest.mark.parametrize("arguments, fragment", [
    ([], "usage: bash setup.sh"), (["environment"], "usage: bash setup.sh"),
    (["environment", "nowhere.txt"], "no file nowhere.txt"),
    (["kept", "requirements.txt"], "no virtual environment"),
    (["requirements.txt", "requirements.txt"], "no virtual environment"),
])
def test_setup_deletes_nothing_but_a_virtual_environment(tmp_path, arguments, fragment):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/precious").touch()
    (tmp_path / "requirements.txt").touch()
    before = files_below(tmp_path)
    command = ["bash", str(ROOT / "setup.sh"), *arguments]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert_one_line_error(process, fragment)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("command, line", [
    ("test.sh x", "test.sh: found x, expected 2.6.2 or 3.3.1, then flags of pytest or files in tests/"),
    ("test.sh 2.6.2 tests/test_none.py", "test.sh: found tests/test_none.py, expected"),
    ("lock.sh", "lock.sh: found no uv, expected it: pip install uv"),
])
def test_other_shell_scripts_say_what_they_miss(tmp_path, command, line):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    process = subprocess.run([shutil.which("bash"), *command.split()], cwd=ROOT, env={"PATH": str(tmp_path)},
                             capture_output=True, text=True, timeout=60)
    assert_one_line_error(process, line)
