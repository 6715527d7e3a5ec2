"""utils/model/load.py: what a model directory gives, and that nothing foreign is loaded."""

import os
import shutil

import numpy as np
import pytest
from conftest import write_random_model

from utils.data.vocabulary import checksum
from utils.files import InputError
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.directory import choose_epoch, read_settings
from utils.model.layout import ANSWERING, weight_shapes
from utils.model.load import load_model, load_scorer
from utils.model.native_scorer import NativeScorer, native_library
from utils.model.scorer import Scorer


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of `tiny_model`, to change."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def assert_refused(model_dir, *fragments, epoch=None):
    with pytest.raises(InputError) as error:
        load_scorer(model_dir, epoch)
    for fragment in (*fragments, "expected"):
        assert str(fragment) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def edit_network(model, **changes):
    config = checkpoint.read_config(model)
    write_json(model / "config.json", config | {"network": config["network"] | changes})


def resave(model, change):
    """Save the last epoch anew, its weights as `change` returns them."""
    weights = checkpoint.load_weights(model, 2, weight_shapes(read_settings(model, checkpoint.read_config(model)), 36))
    shutil.rmtree(model / "epoch_2")
    checkpoint.save_epoch(model, 2, {name: change(values) for name, values in weights.items()}, {}, {})


# What is loaded

def test_the_last_epoch_is_the_default(model):
    assert choose_epoch(model) == 2 and choose_epoch(model, 1) == 1
    last, first = load_scorer(model)[0], load_scorer(model, 1)[0]
    assert (last.item_vectors == load_scorer(model, 2)[0].item_vectors).all()
    assert (last.item_vectors != first.item_vectors).any()
    (model / "epoch_2" / "state.json").unlink()
    assert choose_epoch(model) == 1


def test_cpp_answers_where_it_can_be_compiled_and_numpy_elsewhere(tmp_path, monkeypatch):
    model = write_random_model(tmp_path / "model")
    scorer, _ = load_scorer(model)
    assert type(scorer) is NativeScorer and scorer.way == native_library()[1] == "native:yes"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", str(tmp_path))
    native_library.cache_clear()
    try:
        scorer, _ = load_scorer(model)
        assert type(scorer) is Scorer and scorer.way == native_library()[1] == "native:no(no C++ compiler)"
    finally:
        native_library.cache_clear()


def test_settings_weights_and_item_ids(model):
    settings, weights, item_ids = load_model(model, 1)
    assert settings == read_settings(model, checkpoint.read_config(model)) and settings.hid_size == [8]
    assert {name: list(values.shape) for name, values in weights.items()} == weight_shapes(settings, 36)
    assert item_ids == [f"item_{number}" for number in range(36)]


# What can't be loaded

def make_huge(path):
    """A file of 4 TiB, of holes: it takes no space."""
    path.touch()
    os.truncate(path, 1 << 42)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "epoch_2/state.json", "epoch_2/model.safetensors"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), make_huge],
                         ids=["pipe", "endless", "huge"])
def test_what_no_program_could_read_to_its_end(model, name, make):
    (model / name).unlink()
    make(model / name)
    assert_refused(model, model / name)


def test_links_that_lead_to_themselves(model, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    assert_refused(tmp_path / "loop", tmp_path / "loop")
    for name in "vocab.txt", "config.json":
        (model / name).unlink(), (model / name).symlink_to(name)
        assert_refused(model, model / name, "leads to itself")
    (model / "epoch_2/state.json").unlink(), (model / "epoch_2/state.json").symlink_to("state.json")
    assert choose_epoch(model) == 1


@pytest.mark.parametrize("value", [5, None, [], {"a": 1}, True], ids=str)
def test_a_vocabularys_checksum_of_a_wrong_type(model, value):
    config = checkpoint.read_config(model)
    config["data"]["vocab_sha256"] = value
    write_json(model / "config.json", config)
    assert_refused(model, model / "config.json", "checksum of vocab.txt")


def test_epochs_that_are_not_there(model):
    assert_refused(model, "--epoch", "3", "1, 2", epoch=3)
    for epoch in 1, 2:
        shutil.rmtree(model / f"epoch_{epoch}")
    assert_refused(model, "--model_dir", model)


@pytest.mark.parametrize("changes", [
    {"hid_size": []}, {"hid_size": [0]}, {"hid_size": [8.0]}, {"hid_size": ["8"]}, {"hid_size": 8},
    {"hid_size": [True]}, {"hid_size": [9]}, {"emb_size": 9}, {"color": "red"}, {"hid_size": None},
    {"emb_size": "8"}, {"emb_size": -1}, {"embedding": "triple"}, {"embedding": []},
    {"reset_after": 1}, {"reset_after": None}, {"reset_after": "after"}, {"hid_size": {"8": 1}}, {"hid_size": [[8]]},
    {"embedding": ["shared"]}, {"embedding": {}}, {"embedding": "none", "emb_size": "8"}, {"through_time": "yes"},
    {"carry_dropped": 1}, {"hid_dropout": "much"}, {"hid_dropout": -0.1}, {"hid_dropout": float("nan")},
    {"init_range": None}, {"emb_lr_x": True}, {"gru_lr_x": []}, {"label_smoothing": float("inf")},
    {"score_scale": -1}, {"score_scale": "16"}], ids=str)
def test_settings_that_no_network_has(model, changes):
    edit_network(model, **changes)
    assert_refused(model, model / "config.json", "network settings")


@pytest.mark.parametrize("name", ANSWERING)
def test_settings_that_are_missing(model, name):
    config = checkpoint.read_config(model)
    del config["network"][name]
    write_json(model / "config.json", config)
    assert_refused(model, model / "config.json", name)


def test_settings_of_an_older_model(model):
    config = checkpoint.read_config(model)
    assert config["network"].pop("score_scale") == 0
    write_json(model / "config.json", config)
    assert load_model(model)[0].score_scale == 0


@pytest.mark.parametrize("network", [None, [], "shared", {}], ids=str)
def test_a_config_without_a_network(model, network):
    write_json(model / "config.json", checkpoint.read_config(model) | {"network": network})
    assert_refused(model, model / "config.json", "network settings")


@pytest.mark.parametrize("changes", [
    {"hid_size": [9], "emb_size": 9}, {"hid_size": [8, 8]}, {"embedding": "separate", "emb_size": 9},
    {"embedding": "none"}], ids=str)
def test_weights_of_another_network(model, changes):
    edit_network(model, **changes)
    assert_refused(model, model / "epoch_2" / "model.safetensors", "as config.json and vocab.txt say")


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_truncated_weights(model, kept):
    path = model / "epoch_2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert_refused(model, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, -1e20])
def test_weights_that_are_not_finite_numbers(model, value):
    def spoil(values):
        values = values.copy()
        values.flat[-1] = value
        return values
    resave(model, spoil)
    assert_refused(model, model / "epoch_2" / "model.safetensors", "without overflow")


@pytest.mark.parametrize("precision", ["float64", "float16", "int32", "bool", "complex64"])
def test_weights_of_another_type(model, precision):
    resave(model, lambda values: values.astype(precision))
    assert_refused(model, model / "epoch_2" / "model.safetensors", precision)


def test_another_vocabulary_than_in_training(model):
    with open(model / "vocab.txt", "a", encoding="utf-8") as file:
        file.write("one_more\n")
    assert_refused(model, model / "vocab.txt", "SHA-256")
    config = checkpoint.read_config(model)
    config["data"]["vocab_sha256"] = checksum(model / "vocab.txt")
    write_json(model / "config.json", config)
    assert_refused(model, "as config.json and vocab.txt say")
    write_json(model / "config.json", config | {"data": {}})
    assert_refused(model, model / "config.json", "checksum")
    (model / "vocab.txt").unlink()
    assert_refused(model, model / "vocab.txt")
