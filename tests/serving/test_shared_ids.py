"""utils/serving/shared_ids.py: the ids of a large catalogue are found as in a list and a dict."""

import numpy as np
import pytest
from conftest import write_random_model
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from utils.memory import own_room
from utils.serving import shared_ids as module
from utils.serving.model_reload import ServedModel
from utils.serving.shared_ids import SharedIds, SharedIndices, shared_ids
from utils.serving.shared_memory import SharedMemory


def room(*how):
    return own_room("", *how)


ANY = st.text() | st.sampled_from(["\ud800", "\udfff", "a b", "é", "日本", "\n", "0"])


@given(st.lists(ANY, min_size=1, unique=True), ANY)
@hypothesis_settings(max_examples=200)
def test_as_a_list_and_a_dict(item_ids, other):
    ids = SharedIds(item_ids, room)
    index_of, expected = SharedIndices(ids), {item_id: index for index, item_id in enumerate(item_ids)}
    assert list(ids) == list(index_of) == [ids[index] for index in range(len(ids))] == item_ids
    assert len(ids) == len(index_of) == len(item_ids)
    for item_id in [*item_ids, other, ""]:
        assert index_of.get(item_id) == expected.get(item_id) and (item_id in index_of) == (item_id in expected)
    assert dict(index_of) == expected and ids[np.int64(0)] == item_ids[0]
    with pytest.raises(IndexError):
        ids[len(item_ids)]


def test_few_stay_a_list_and_a_dict(monkeypatch):
    item_ids = ["b", "a"]
    assert shared_ids(item_ids, None) == (item_ids, {"b": 0, "a": 1})
    monkeypatch.setattr(module, "MANY", 2)
    assert type(shared_ids(item_ids, room)[0]) is SharedIds


def test_a_model_with_many_items_answers_the_same(tmp_path, monkeypatch):
    directory = write_random_model(tmp_path / "model")
    plain = ServedModel(directory)
    monkeypatch.setattr(module, "MANY", 1)
    for model in [ServedModel(directory, room=SharedMemory(tmp_path).room) for _ in range(2)]:
        assert type(model.item_ids) is SharedIds and list(model.item_ids) == plain.item_ids
        assert model.known(["item_3", "?", "item_49"]) == plain.known(["item_3", "?", "item_49"]) == [3, 49]
