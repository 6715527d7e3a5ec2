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


def model_memory(server):
    """MiB of the model in all workers together: the shared part, by the share of each, and their own memory."""
    shared = own = 0
    for process in workers_of(server):
        is_model = False
        for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
            name, _, value = line.partition(":")
            if "-" in name.split()[0]:  # the addresses of another mapping
                is_model = "/memfd:model_" in line
            if name == "Pss" and is_model:
                shared += int(value.split()[0]) / 1024
            if name == "Private_Dirty" and not is_model:
                own += int(value.split()[0]) / 1024
    return shared, own


def workers_of(server):
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def held_by(process):
    """The shared memory that a process holds: of one model, the weights and what is made of them."""
    found = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir() if link.is_symlink()]
    return {target for target in found if "/memfd:model_" in target}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    return write_random_model(tmp_path_factory.mktemp("large") / "model", items=ITEMS, hid_size=(UNITS,))


def test_the_weights_are_there_once(model_dir):
    own = {}
    for workers in 2, 4:
        server = Server(model_dir.parent, "--reload_seconds", 0.2, workers=workers)
        try:
            shared, own[workers] = model_memory(server)
            assert WEIGHTS < shared < 1.1 * (WEIGHTS + PACKED)
            answers = server.recommend([["item_1"], ["item_2"]])
            if workers == 4:
                survive(server, answers)
        finally:
            assert server.stop() == 0
    assert (own[4] - own[2]) / 2 < 0.75 * own[2], "of a worker"


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
    server.wait_for(lambda: {len(held_by(process)) for process in workers_of(server)} == {2})
    assert WEIGHTS < model_memory(server)[0] < 1.1 * (WEIGHTS + PACKED)
