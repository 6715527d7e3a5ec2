"""utils/serving/model_reload.py: a new model is loaded, tried and swapped in; a broken one changes nothing."""

import asyncio
import os
from functools import partial

import numpy as np
import pytest
from conftest import write_random_model

from utils.data.vocabulary import checksum
from utils.files import InputError
from utils.serving.model_reload import ModelSlot, ServedModel, signature_of


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
    assert model.name == "model/epoch_1" and model.checksum == checksum(directory / "epoch_1" / "model.safetensors")
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
