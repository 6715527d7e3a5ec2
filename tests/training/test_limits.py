"""utils/training/limits.py: what takes more memory than there is, and which flag made a training diverge."""

import numpy as np
import pytest

from utils import memory
from utils.data.sessions import Sessions
from utils.files import InputError
from utils.model.layout import NetworkSettings
from utils.training.limits import (
    flag_to_blame,
    require_memory_for_network,
    require_memory_for_steps,
    require_memory_for_windows,
)
from utils.training.settings import Data

SESSIONS = Sessions(np.zeros(5000, np.int32), np.arange(0, 5001, 5))  # 1000 sessions of 4 predictions


@pytest.fixture(autouse=True)
def one_gibibyte(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1 << 30)


@pytest.mark.parametrize("items, hid_size, fits", [
    (100_000, [100], True), (1_000_000, [100], False), (1000, [2000], True), (1000, [100_000], False),
    (10**9, [1], False), (1000, [100, 5000], False)])
def test_a_network(items, hid_size, fits):
    settings, data = NetworkSettings(hid_size, hid_size[-1]), Data(["train_data"], "shop/vocab.txt")
    if fits:
        return require_memory_for_network(items, settings, data)
    with pytest.raises(InputError, match=f"--vocab_path shop/vocab.txt, --hid_size .*: found a network of {items} "):
        require_memory_for_network(items, settings, data)


@pytest.mark.parametrize("flags, flag", [
    ({"neg_size": 2048}, None), ({"neg_size": 20_000_000}, None), ({"neg_size": 2_000_000_000}, "--neg_size"),
    ({"neg_size": 1000, "negatives": "tiled", "batch_size": 100}, None),
    ({"neg_size": 100_000, "negatives": "tiled", "batch_size": 100}, "--neg_size"),
    ({"neg_size": 100_000, "negatives": "tiled", "batch_size": 10}, None),
    ({"batch_size": 2**62}, None), ({"batch_size": 2**62, "hid": 10_000}, "--batch_size"),
    ({"batch_size": 10, "hid": 10_000}, None), ({"batch_size": 2**62, "hid": 10_000, "use_cuda": 1}, None),
    ({"batch_size": 2**62, "hid": 10_000, "batching": "parallel"}, None),
    ({"batch_size": 2**62, "hid": 30_000, "batching": "parallel"}, "--batch_size")], ids=str)
def test_a_step(flags, flag):
    hid_size = [flags.pop("hid", 100)]
    if flag is None:
        return require_memory_for_steps(SESSIONS, hid_size, flags)
    with pytest.raises(InputError, match=f"{flag}: found {flags[flag[2:]]}, which takes at least"):
        require_memory_for_steps(SESSIONS, hid_size, flags)


def test_windows():
    sessions = Sessions(np.zeros(200_001, np.int32), np.array([0, 200_001]))
    require_memory_for_windows(sessions, Data(["train_data"], "vocab.txt", 1000, 900))
    with pytest.raises(InputError, match="--window_overlap, --look_back: found windows of 199000000 clicks together"):
        require_memory_for_windows(sessions, Data(["train_data"], "vocab.txt", 1000, 999))


USUAL = {"base_lr": 0.1, "lr_end": 0.1, "emb_lr_x": 10.0, "gru_lr_x": 1.0, "fc_lr_x": 1.0, "logq": 1.0, "bpreg": 0.5}


@pytest.mark.parametrize("changes, blamed", [
    ({}, "--base_lr 0.1"), ({"base_lr": 1e9}, "--base_lr 1e+09"), ({"base_lr": 5.0}, "--base_lr 5"),
    ({"lr_end": 1e6}, "--lr_end 1e+06"), ({"emb_lr_x": 1e4}, "--emb_lr_x 10000"), ({"fc_lr_x": 99.0}, "--fc_lr_x 99"),
    ({"logq": 50.0}, "--logq 50"), ({"bpreg": 1e5}, "--bpreg 100000"),
    ({"base_lr": 3.0, "logq": 1e6}, "--logq 1e+06"), ({"base_lr": 1e9, "lr_end": 20.0}, "--base_lr 1e+09")], ids=str)
def test_the_flag_farthest_above_what_is_usual_is_blamed(changes, blamed):
    assert flag_to_blame(USUAL | changes) == blamed
    without = {name: value for name, value in (USUAL | changes).items() if name != "bpreg" or "bpreg" in changes}
    assert flag_to_blame(without | {"seed": 1e12, "train_dir": "x"}) == blamed
