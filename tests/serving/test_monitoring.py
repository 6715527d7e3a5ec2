"""utils/serving/monitoring.py: workers count together where they can, and for themselves where they can't."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, WITHOUT_LINUX

from utils.files import InputError
from utils.serving import shared_directory

COUNT = """
import logging, os, sys
logging.basicConfig(format="%(message)s")
from utils.serving import monitoring
for number in range(int(sys.argv[1])):
    monitoring.count_request("GET", f"/{number}", 200, 0.001)
sys.stdout.write(monitoring.exposition()[0].decode())
"""


def count(directory, requests=1, system=None):
    """The sum of all requests that a new worker shows after it has counted some, and its log."""
    process = subprocess.run([sys.executable, "-c", COUNT, str(requests)], cwd=ROOT, capture_output=True, text=True,
                             env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(directory)} | (system or {}))
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if line.startswith("gru4rec_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines), process.stderr


def test_processes_count_together(tmp_path):
    assert [count(tmp_path)[0] for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("system", [{}, WITHOUT_LINUX], ids=["Linux", "another"])
def test_files_have_their_place_on_the_disk(tmp_path, system):
    """More series than were reserved make them larger."""
    assert count(tmp_path, system=system)[0] == 1
    for path in tmp_path.iterdir():
        assert path.stat().st_blocks * 512 >= path.stat().st_size >= 100_000
    assert count(tmp_path, 1500, system) == (1501, "")
    sizes = [path.stat() for path in tmp_path.iterdir()]
    assert max(size.st_size for size in sizes) > 1 << 20
    assert all(size.st_blocks * 512 >= size.st_size for size in sizes)


@pytest.mark.parametrize("system", [{}, WITHOUT_LINUX], ids=["Linux", "another"])
def test_without_a_directory_a_worker_counts_for_itself(tmp_path, system):
    for _ in range(2):
        found, log = count(tmp_path / "none", system=system | {"TMPDIR": str(tmp_path)})
        assert found == 1 and "metrics of this worker stay its own" in log
    (tmp_path / "file").write_text("")
    assert count(tmp_path / "file")[0] == 1


def test_a_directory_of_ours_is_made_again(tmp_path):
    from utils.serving.shared_directory import PREFIX
    assert [count(tmp_path / f"{PREFIX}x")[0] for _ in range(2)] == [1, 2]


def test_without_any_place_for_the_directory_it_says_so(monkeypatch, tmp_path):
    """As in a container whose file system can't be written and whose /dev/shm is small."""
    def nowhere():
        raise FileNotFoundError
    monkeypatch.setattr(shared_directory, "MEMORY", tmp_path)
    monkeypatch.setattr(shared_directory.tempfile, "gettempdir", nowhere)
    with shared_directory.shared_directory(1) as directory:
        assert directory.parent == tmp_path
    with pytest.raises(InputError, match="--session_memory: found no room for [0-9]+ MiB in "):
        with shared_directory.shared_directory(1 << 50):
            pass
