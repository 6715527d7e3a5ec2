"""utils/serving/shared_memory.py: one copy for all processes, which nobody can change, and which none leaves behind."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, write_random_model

from utils.data.sessions import Sessions
from utils.files import InputError
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.load import load_scorer
from utils.model.neighbours import remember
from utils.model.neighbours_file import write_neighbours
from utils.serving import shared_memory
from utils.serving.shared_memory import SharedMemory

SIZE = 3 << 20
HOLD = """
import sys, time
from utils.serving.shared_memory import SharedMemory
def fill(data):
    if sys.argv[2] == "hang":
        print("filling", flush=True)
        time.sleep(600)
    data[:] = 7
room = SharedMemory(sys.argv[1]).room("key", 3 << 20, fill, "")
print(room[0], flush=True)
time.sleep(600)
"""


def fill_with(number, calls=None):
    def fill(data):
        if calls is not None:
            calls.append(number)
        data[:] = number
    return fill


def room_of(directory, number, key="key", calls=None):
    return SharedMemory(directory).room(key, SIZE, fill_with(number, calls), "")


def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def links(directory):
    return [path for path in Path(directory).iterdir() if path.is_symlink()]


@pytest.fixture
def other_process(tmp_path):
    """Start a process that has the room, or hangs while it fills it."""
    started = []

    def start(how):
        started.append(subprocess.Popen([sys.executable, "-c", HOLD, tmp_path, how], cwd=ROOT, text=True,
                                        stdout=subprocess.PIPE))
        assert started[-1].stdout.readline().strip() == {"hold": "7", "hang": "filling"}[how]
        return started[-1]
    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_it_is_filled_once_and_stays_as_it_is(tmp_path):
    calls = []
    first, second = room_of(tmp_path, 1, calls=calls), room_of(tmp_path, 2, calls=calls)
    assert calls == [1] and (second == 1).all() and len(second) == SIZE
    with pytest.raises(ValueError):
        first[0] = 3
    with pytest.raises(ValueError):
        first.flags.writeable = True
    for link in links(tmp_path):
        with pytest.raises(PermissionError), open(link, "r+b") as file:
            file.truncate(5)
        with pytest.raises(PermissionError), open(link, "r+b", buffering=0) as file:
            file.write(b"x")
    assert (first == 1).all() and (room_of(tmp_path, 4, key="other") == 4).all()


def test_nothing_is_left_when_the_last_array_is_gone(tmp_path):
    before, room = descriptors(), room_of(tmp_path, 1)
    part = room[5:100].view(np.uint8)
    del room
    assert len(links(tmp_path)) == 1
    del part
    assert descriptors() == before and not links(tmp_path)
    assert (room_of(tmp_path, 2) == 2).all()


def test_it_outlives_whoever_filled_it(tmp_path, other_process):
    process = other_process("hold")
    room = room_of(tmp_path, 1)
    kill(process)
    assert (room == 7).all() and (room_of(tmp_path, 2) == 7).all(), "by the link of this process"
    assert len(links(tmp_path)) == 1, "those of the other one are gone"
    del room
    assert (room_of(tmp_path, 3) == 3).all()


def test_a_process_that_is_killed_while_it_fills_it_keeps_nobody_waiting(tmp_path, other_process):
    process = other_process("hang")
    kill(process)
    assert (room_of(tmp_path, 1) == 1).all() and len(links(tmp_path)) == 1


def test_one_that_hangs_keeps_others_waiting_for_a_while(tmp_path, other_process, monkeypatch, caplog):
    monkeypatch.setattr(shared_memory, "PATIENCE", 0.1)
    other_process("hang")
    assert (room_of(tmp_path, 1) == 1).all() and not links(tmp_path)
    assert "took more than" in caplog.records[0].reason


def test_what_can_not_be_filled_leaves_nothing(tmp_path):
    def fail(data):
        raise InputError("found a damaged file")
    before = descriptors()
    with pytest.raises(InputError, match="damaged"):
        SharedMemory(tmp_path).room("key", SIZE, fail, "")
    assert descriptors() == before and not links(tmp_path)
    assert (room_of(tmp_path, 1) == 1).all()
    with pytest.raises(InputError, match="found much, which takes at least 1.0 PiB"):
        SharedMemory(tmp_path).room("key", 1 << 50, fail, "found much")


@pytest.mark.parametrize("target", ["/dev/null", "/proc/1/fd/0", "file", "memory"])
def test_links_to_something_else_are_not_followed(tmp_path, target):
    """As when another process got the number of one that was killed."""
    (tmp_path / "file").write_bytes(bytes(SIZE))
    memory = os.memfd_create("model_other")
    os.ftruncate(memory, SIZE)
    kept = room_of(tmp_path, 1)
    link, = links(tmp_path)
    link.unlink()
    link.symlink_to({"file": tmp_path / "file", "memory": f"/proc/self/fd/{memory}"}.get(target, target))
    found = room_of(tmp_path, 2)
    assert (found == 2).all() and (room_of(tmp_path, 3) == 2).all() and (kept == 1).all()
    os.close(memory)


def test_without_it_each_worker_has_its_own(tmp_path, monkeypatch, caplog):
    assert (room_of(tmp_path / "missing", 1) == 1).all()
    monkeypatch.delattr(os, "memfd_create")
    assert (room_of(tmp_path, 2) == 2).all() and (room_of(tmp_path, 3) == 3).all()
    assert [record.message for record in caplog.records] == ["model in this worker's own memory"] * 3
    assert "missing" in caplog.records[0].reason and "memfd_create" in caplog.records[1].reason


@pytest.mark.parametrize("form", [{}, {"embedding": "separate"}, {"scale": 20.0}, {"compiler": False},
                                  {"neighbours": True}], ids=str)
def test_a_model_there_answers_to_the_last_bit_as_one_here(tmp_path, form, monkeypatch):
    scale, compiler, neighbours = (form.pop(name, usual) for name, usual in [
        ("scale", 0), ("compiler", True), ("neighbours", False)])
    if not compiler:
        monkeypatch.setattr("utils.model.load.native_library", lambda: (None, ""))
    model = write_random_model(tmp_path / "model", items=300, **form)
    config = checkpoint.read_config(model)
    write_json(model / "config.json", config | {"network": config["network"] | {"score_scale": scale}})
    sessions = Sessions(np.arange(60, dtype=np.int32), np.arange(0, 61, 4))
    if neighbours:
        write_neighbours(model, remember(sessions, 300), 0.5)
        config = checkpoint.read_config(model)
    room = SharedMemory(tmp_path).room
    scorers = [load_scorer(model)[0], *(load_scorer(model, room=room)[0] for _ in range(2))]
    assert len(links(tmp_path)) == 2 * (1 + compiler + 2 * neighbours)
    expected, *others = ([(items.tolist(), scores.tobytes()) for items, scores in scorer.best(
        scorer.after_sessions(sessions), [9] * 15, [()] * 15, [None] * 15)] for scorer in scorers)
    assert others == [expected] * 2
    write_json(model / "config.json", config | {"network": config["network"] | {"score_scale": 3.0}})
    other = load_scorer(model, room=room)[0]
    assert other.item_matrix.tobytes() != scorers[0].item_matrix.tobytes(), "another network of the same weights"
