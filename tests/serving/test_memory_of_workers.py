"""However many workers serve.py has, the weights are in memory once, and a reload leaves nothing of the old ones."""

import os
import signal
from pathlib import Path

import pytest
from conftest import write_random_model
from running_server import Server

from utils.model import checkpoint

ITEMS, UNITS, MIB = 100_000, 64, 1 << 20
WEIGHTS = ITEMS * (UNITS + 1) * 4 / MIB
PACKED = ITEMS * (UNITS / 2 + 4 + 4 + 3 * 4 / 16) / MIB
IDS = ITEMS * (8 + 4 + 4 + len("item_99999")) / MIB


def model_memory(server):
    """MiB of the model in all workers together: of what several have, each counts its share (PSS)."""
    found = 0
    for process in workers_of(server):
        is_model = False
        for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
            name, _, value = line.partition(":")
            if "-" in name.split()[0]:  # the addresses of another mapping
                is_model = "/memfd:model_" in line
            if name == "Pss" and is_model:
                found += int(value.split()[0]) / 1024
    return found


def workers_of(server):
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def held_by(process):
    """The shared memory that a process holds: of one model, the weights, what is made of them, and the item ids."""
    found = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()]
    return {target for target in found if "/memfd:model_" in target}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("large") / "model", items=ITEMS, hid_size=(UNITS,))


@pytest.mark.parametrize("workers", [2, 4])
def test_the_weights_are_there_once(model_dir, workers):
    server = Server(model_dir.parent, "--reload_seconds", 0.2, workers=workers)
    try:
        assert WEIGHTS < model_memory(server) < 1.05 * (WEIGHTS + PACKED + IDS)
        answers = server.recommend([["item_1"], ["item_2"]])
        if workers == 4:
            survive(server, answers)
    finally:
        assert server.stop() == 0


def survive(server, answers):
    """Kill a worker, spoil the file that is served, and load other weights."""
    os.kill(int(workers_of(server)[0]), signal.SIGKILL)
    server.wait_for(lambda: server.workers_with_model() == 4 and len(workers_of(server)) == 4)
    os.truncate(server.model_dir / "epoch_1" / checkpoint.MODEL, 1000)
    for _ in range(8):
        assert server.recommend([["item_1"], ["item_2"]]) == answers
    write_random_model(server.model_dir, seed=1, items=ITEMS, hid_size=(UNITS,), epoch=2)
    server.wait_for(lambda: server.workers_with_model("model/epoch_2") == 4)
    for _ in range(8):
        assert server.recommend([["item_1"], ["item_2"]]) != answers
    server.wait_for(lambda: {len(held_by(process)) for process in workers_of(server)} == {3})
    assert WEIGHTS < model_memory(server) < 1.05 * (WEIGHTS + PACKED + IDS)
