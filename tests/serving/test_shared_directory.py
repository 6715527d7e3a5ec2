"""utils/serving/shared_directory.py: what a killed server left in memory goes, what belongs to a living one stays."""

import subprocess
import sys

import pytest
from conftest import ROOT

from utils.serving import shared_directory as shared


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "MEMORY", tmp_path)
    return tmp_path


def test_directories_of_killed_servers_are_deleted_and_no_others(memory):
    program = (f"import os, pathlib, signal, sys; sys.path.insert(0, {str(ROOT)!r})\n"
               "from utils.serving import shared_directory as shared\n"
               "shared.MEMORY = pathlib.Path(sys.argv[1])\n"
               "with shared.shared_directory(0): os.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([sys.executable, "-c", program, memory])
    (left,) = memory.iterdir()
    for name in "gru4rec_serve_without_owner", "another":
        (memory / name).mkdir()
    (memory / "gru4rec_serve_file").write_text("")
    with shared.shared_directory(0) as first:
        assert first.parent == memory and not left.exists()
        with shared.shared_directory(0) as second:
            assert first.exists() and second.exists()
        assert first.exists() and not second.exists()
    assert sorted(path.name for path in memory.iterdir()) == ["another", "gru4rec_serve_file",
                                                              "gru4rec_serve_without_owner"]
