"""utils/serving/model_reload.py: a new model is loaded, tried and swapped in; a broken one changes nothing."""

import asyncio
import gc
import io
import os
import shutil
import weakref
from functools import partial

import numpy as np
import pytest
from conftest import write_random_model

from utils.data.vocabulary import checksum
from utils.files import InputError
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.serving.model_reload import ModelChanged, ModelSlot, ServedModel, signature_of


@pytest.fixture
def directory(tmp_path):
    return write_random_model(tmp_path / "model")


def slot_of(directory, epoch=None):
    """A slot, and the list of (loaded, before) names that it reports."""
    changes = []
    slot = ModelSlot(partial(ServedModel, directory, epoch), partial(signature_of, directory, epoch),
                     lambda model, before: changes.append((model and model.name, before and before.name)))
    return slot, changes


def look(slot):
    return asyncio.run(slot.look())


def test_name_and_checksum(directory):
    model = ServedModel(directory)
    assert model.name == "model/epoch_1"
    assert model.weights_checksum == checksum(directory / "epoch_1" / "model.safetensors")
    assert model.item_ids[7] == "item_7" and model.index_of["item_7"] == 7


def test_a_new_epoch_takes_the_place_of_the_last(directory):
    slot, changes = slot_of(directory)
    assert look(slot) and not look(slot)
    first = slot.model
    write_random_model(directory, seed=1, epoch=2)
    assert look(slot) and not look(slot)
    assert slot.model.checksum != first.checksum and slot.model.name == "model/epoch_2"
    assert changes == [("model/epoch_1", None), ("model/epoch_2", "model/epoch_1")]


def test_a_link_to_another_directory(directory, tmp_path):
    other, link = write_random_model(tmp_path / "other", seed=3, items=60), tmp_path / "current"
    link.symlink_to(directory)
    slot, _ = slot_of(link)
    assert look(slot) and slot.model.name == "model/epoch_1"
    (tmp_path / "next").symlink_to(other)
    os.replace(tmp_path / "next", link)
    assert look(slot) and slot.model.name == "other/epoch_1" and len(slot.model.item_ids) == 60


# One model in the place of another while it is loaded

def with_items_reversed(directory, other, seed=None):
    """A model like another one, but with the vocabulary in reverse order, and with other weights if there is a seed."""
    shutil.copytree(directory, other)
    lines = (directory / "vocab.txt").read_text().splitlines(keepends=True)
    (other / "vocab.txt").write_text("".join(reversed(lines)))
    config = checkpoint.read_config(directory)
    write_json(other / "config.json", config | {"data": {"vocab_sha256": checksum(other / "vocab.txt")}})
    if seed is not None:
        shutil.rmtree(other / "epoch_1")
        write_random_model(other, seed=seed)
    return other


def identity(model):
    """What must belong together."""
    return (model.weights_checksum, model.checksum, model.item_ids[0], model.item_ids[-1],
            model.scorer.item_matrix.tobytes())


@pytest.fixture
def at_opening(monkeypatch):
    """Call a function just before the so many-th file is opened; returns a list of the paths that were opened."""
    def call(place, function):
        opened = []

        def wrapped(before):
            def opening(path, *arguments, **more):
                opened.append(str(path))
                if len(opened) == place:
                    function()
                return before(path, *arguments, **more)
            return opening
        monkeypatch.undo()
        for module in (os, io):
            monkeypatch.setattr(module, "open", wrapped(module.open))
        return opened
    return call


def test_a_link_that_is_switched_while_it_is_followed(directory, tmp_path, at_opening):
    """Whenever that is, one whole model is loaded, under its own name."""
    other, link = with_items_reversed(directory, tmp_path / "other", seed=3), tmp_path / "current"
    either = [identity(ServedModel(directory)), identity(ServedModel(other))]
    (tmp_path / "next").symlink_to(other)
    opened, place, found = [""], 0, []
    while place <= len(opened):
        place += 1
        link.unlink(missing_ok=True)
        link.symlink_to(directory)
        shutil.copy(tmp_path / "next", tmp_path / "switched", follow_symlinks=False)
        opened = at_opening(place, lambda: os.replace(tmp_path / "switched", link))
        model = ServedModel(link)
        found.append(either.index(identity(model)))
        assert model.name == ("model/epoch_1", "other/epoch_1")[found[-1]]
    assert len(found) > 4 and len([path for path in opened if "epoch_1" in path]) >= 2


def test_a_link_that_is_switched_right_after_the_weights_were_read(directory, tmp_path, monkeypatch):
    from utils.serving import model_reload
    other, link = write_random_model(tmp_path / "other", seed=3), tmp_path / "current"
    link.symlink_to(directory)
    load = model_reload.load_scorer

    def load_and_switch(*arguments, **more):
        found = load(*arguments)
        link.unlink()
        link.symlink_to(other)
        return found
    monkeypatch.setattr(model_reload, "load_scorer", load_and_switch)
    model = ServedModel(link)
    assert model.name == "model/epoch_1"
    assert model.weights_checksum == checksum(directory / "epoch_1" / "model.safetensors")


def test_a_directory_that_is_replaced_while_it_is_read(directory, tmp_path, at_opening):
    """It is loaded whole, or refused, and looked at again."""
    first = shutil.copytree(directory, tmp_path / "first")
    second = with_items_reversed(directory, tmp_path / "second", seed=3)
    either = [identity(ServedModel(first)), identity(ServedModel(second))]

    def replace():
        shutil.move(directory, tmp_path / "gone")
        shutil.copytree(second, directory)
    opened, place, refused = [""], 0, 0
    while place <= len(opened):
        place += 1
        shutil.rmtree(directory)
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        shutil.copytree(first, directory)
        slot, changes = slot_of(directory)
        opened = at_opening(place, replace)
        if not look(slot):
            refused += 1
            assert changes == [(None, None)] and look(slot)
        assert identity(slot.model) in either
        if (tmp_path / "gone").exists():
            look(slot)
            assert identity(slot.model) == either[1]
    assert refused >= 2


def test_a_model_that_changed_is_said_to_have(directory, monkeypatch, caplog):
    from utils.serving import model_reload
    load = model_reload.load_scorer

    def load_and_touch(*arguments, **more):
        os.utime(directory / "vocab.txt", (1, 1))
        return load(*arguments)
    monkeypatch.setattr(model_reload, "load_scorer", load_and_touch)
    with pytest.raises(ModelChanged, match="changed while they were read"):
        ServedModel(directory)
    slot, _ = slot_of(directory)
    assert look(slot), "the time is the same by now"


def test_states_belong_to_weights_vocabulary_and_network(directory, tmp_path):
    model, same = ServedModel(directory), ServedModel(shutil.copytree(directory, tmp_path / "same"))
    assert model.checksum == same.checksum and model.weights_checksum == same.weights_checksum
    reversed_items = ServedModel(with_items_reversed(directory, tmp_path / "reversed"))
    config = checkpoint.read_config(directory)
    config["network"]["reset_after"] = False
    write_json(shutil.copytree(directory, tmp_path / "before") / "config.json", config)
    resets_before = ServedModel(tmp_path / "before")
    assert {model.weights_checksum, reversed_items.weights_checksum, resets_before.weights_checksum} == {
        model.weights_checksum}
    assert len({model.checksum, reversed_items.checksum, resets_before.checksum}) == 3


def test_an_epoch_that_was_asked_for_stays(directory):
    slot, _ = slot_of(directory, epoch=1)
    assert look(slot)
    write_random_model(directory, seed=1, epoch=2)
    assert not look(slot) and slot.model.name == "model/epoch_1"


def truncate(directory):
    path = directory / "epoch_2" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def change_vocabulary(directory):
    (directory / "vocab.txt").write_text("another\n")


def remove_weights(directory):
    (directory / "epoch_2" / "model.safetensors").unlink()


@pytest.mark.parametrize("spoil", [truncate, change_vocabulary, remove_weights])
def test_a_broken_model_is_refused_once_and_the_old_one_serves_on(directory, spoil, caplog):
    slot, changes = slot_of(directory)
    look(slot)
    before = slot.model
    write_random_model(directory, seed=1, epoch=2)
    spoil(directory)
    for _ in range(3):
        assert not look(slot)
    assert slot.model is before and changes[1:] == [(None, "model/epoch_1")]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["model refused"]


def test_a_refusal_keeps_no_model_in_memory(directory):
    slot, _ = slot_of(directory)
    look(slot)
    first = weakref.ref(slot.model)
    gc.disable()  # which would remove it sooner or later
    try:
        write_random_model(directory, seed=1, epoch=2)
        os.truncate(directory / "epoch_2" / checkpoint.MODEL, 1000)
        assert not look(slot) and first()
        write_random_model(directory, seed=1, epoch=3)
        assert look(slot) and not first()
    finally:
        gc.enable()


def test_no_model_then_one(tmp_path):
    slot, changes = slot_of(tmp_path / "model")
    assert not look(slot) and slot.model is None
    write_random_model(tmp_path / "model")
    assert look(slot) and changes == [(None, None), ("model/epoch_1", None)]


def test_watching_goes_on_after_a_failure(directory, caplog):
    slot, _ = slot_of(directory)
    calls, load = [], slot.load

    def fail_first():
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of the blue")
        return load()
    slot.load = fail_first

    async def watch():
        watcher = asyncio.create_task(slot.watch(0.01))
        for _ in range(200):
            await asyncio.sleep(0.01)
            if calls:
                slot.signature = lambda: "changed"
            if slot.model:
                break
        watcher.cancel()
    asyncio.run(watch())
    assert slot.model and "looking for a new model failed" in caplog.text


def test_weights_that_answer_nothing_finite_are_refused(directory, monkeypatch):
    from utils.model.scorer import Scorer
    monkeypatch.setattr(Scorer, "best", lambda self, *asked: [(np.arange(1), np.full(1, np.nan, np.float32))])
    with pytest.raises(InputError, match="finite scores"):
        ServedModel(directory)


def test_similar_items_have_the_largest_cosines(directory):
    model = ServedModel(directory)
    vectors = model.scorer.item_vectors / np.linalg.norm(model.scorer.item_vectors, axis=1, keepdims=True)
    expected = vectors @ vectors[4]
    best, cosines = model.similar(4, 10)
    assert 4 not in best and best.tolist() == [item for item in np.argsort(-expected) if item != 4][:10]
    np.testing.assert_allclose(cosines, expected[best], atol=1e-6)
    assert len(model.similar(4, 1000)[0]) == 49


def test_a_link_to_itself_is_no_failure(tmp_path):
    (tmp_path / "model").symlink_to("model")
    assert "model" in signature_of(tmp_path / "model")
    epoch = write_random_model(tmp_path / "other") / "epoch_1"
    (epoch / "state.json").unlink()
    (epoch / "state.json").symlink_to("state.json")
    assert isinstance(signature_of(tmp_path / "other"), str)  # what is wrong, for the log
