"""infer.py of a model directory that is damaged or foreign: one line, and no figure."""

import shutil

import numpy as np
import pytest
from changed_models import edit_config, resave
from conftest import assert_one_line_error


def other_byte(contents, position):
    """`contents` with another byte at `position` than the one there; a digit, so that text stays text."""
    changed = bytearray(contents)
    changed[position] = ord("8") if changed[position] == ord("7") else ord("7")
    return bytes(changed)


DAMAGES = {
    "deleted": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "halved": lambda path: path.write_bytes(path.read_bytes()[:path.stat().st_size // 2]),
    "changed": lambda path: path.write_bytes(other_byte(path.read_bytes(), -9)),
    "binary": lambda path: path.write_bytes(np.random.default_rng(1).bytes(5000)),
    "text": lambda path: path.write_text("not what you expected\n"),
    "a list": lambda path: path.write_text("[1, 2]"),
    "an object": lambda path: path.write_text("{}"),
    "a number": lambda path: path.write_text("36\n"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "epoch_1/state.json", "epoch_1/model.safetensors"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_that_names_it(model, infer, name, damage):
    DAMAGES[damage](model / name)
    process = infer("--last_index", 1)
    # this file is what makes an epoch a finished one
    is_unfinished = (name, damage) in [("epoch_1/state.json", "deleted")]
    assert_one_line_error(process, "found none of the epochs 1 to 1" if is_unfinished else model / name)
    assert "model:" not in process.stdout


def test_a_file_of_another_epoch_is_one_line(model, infer):
    shutil.copy(model / "epoch_2" / "model.safetensors", model / "epoch_1")
    assert_one_line_error(infer(), "epoch_1/model.safetensors", "truncated or changed")


@pytest.mark.parametrize("network", [
    None, [], {}, "text", 7, {"hid_size": [8]}, {"hid_size": 8, "emb_size": 8}, {"hid_size": [], "emb_size": 8},
    {"hid_size": ["8"], "emb_size": 8}, {"hid_size": [8.5], "emb_size": 8}, {"hid_size": [-8], "emb_size": 8},
    {"hid_size": [0], "emb_size": 8}, {"hid_size": [8], "emb_size": None},
    {"hid_size": [8], "emb_size": 8, "color": "red"},
    {"hid_size": [8], "emb_size": 9}, {"hid_size": [9], "emb_size": 9},
    {"hid_size": [8], "emb_size": 8, "init_range": -1},
    {"hid_size": [8], "emb_size": 8, "init_range": "wide"}, {"hid_size": [8], "emb_size": 8, "shared": False},
    {"hid_size": [8, 8], "emb_size": 8},
])
def test_network_settings_that_are_not_those_of_the_weights_are_one_line(model, infer, network):
    edit_config(model, network=network)
    assert_one_line_error(infer(), model)


@pytest.mark.parametrize("changes", [{"data": None}, {"data": []}, {"data": {}}, {"data": {"vocab_sha256": 5}},
                                     {"format": "other"}, {"format": None}])
def test_a_foreign_config_is_one_line(model, infer, changes):
    edit_config(model, **changes)
    assert_one_line_error(infer(), model)


def test_weights_that_are_not_finite_are_one_line(model, infer):
    resave(model, lambda weights: {name: values * np.float32("nan") for name, values in weights.items()})
    process = infer()
    assert_one_line_error(process, model / "epoch_1", "not finite numbers")
    assert "model:" not in process.stdout


@pytest.mark.parametrize("change", [
    lambda weights: {},
    lambda weights: {name: values for name, values in weights.items() if "bias" not in name},
    lambda weights: {name: values[:-1] for name, values in weights.items()},
    lambda weights: {name: values.astype(np.float64) for name, values in weights.items()},
    lambda weights: {name: values.astype(np.int32) for name, values in weights.items()},
    lambda weights: {**weights, "more": np.zeros(3, np.float32)},
], ids=["none", "no biases", "other shapes", "float64", "int32", "one more"])
def test_weights_of_another_network_are_one_line(model, infer, change):
    resave(model, change)
    assert_one_line_error(infer(), model / "epoch_1" / "model.safetensors")
