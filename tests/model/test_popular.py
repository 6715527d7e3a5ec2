"""utils/model/popular.py: what the newest sessions clicked most, as trainers write it and answers read it."""

import json
import shutil

import numpy as np
import pytest
from conftest import write_random_model
from forms import sessions_of
from hypothesis import given
from hypothesis import strategies as st

from utils.data.selection import Selection
from utils.data.sessions import read_sessions
from utils.files import InputError
from utils.model import popular
from utils.model.checked_json import write_json
from utils.model.popular import POPULAR, Popular, count_popular, read_popular, read_popular_record

RECORD = {"sessions": 2, "items": [3, 1], "clicks": [5, 2], "first_clicks": [0, 2]}


@pytest.fixture
def model(tmp_path):
    return write_random_model(tmp_path / "model", items=6)


@given(lists=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5), min_size=1, max_size=12),
       newest=st.integers(1, 14))
def test_counts_are_those_of_the_newest_sessions(lists, newest):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(popular, "NEWEST", newest)
        found = count_popular(sessions_of(lists), 9)
    clicks = [item for items in lists[-newest:] for item in items]
    firsts = [items[0] for items in lists[-newest:]]
    assert found == {
        "sessions": min(newest, len(lists)),
        "items": (items := sorted(set(clicks), key=lambda item: (-clicks.count(item), item))),
        "clicks": [clicks.count(item) for item in items], "first_clicks": [firsts.count(item) for item in items]}


def test_only_the_most_clicked_are_kept(monkeypatch):
    monkeypatch.setattr(popular, "MOST", 2)
    assert count_popular(sessions_of([[1, 2, 2, 3, 3, 3]]), 9) | {"sessions": 0} == {
        "sessions": 0, "items": [3, 2], "clicks": [3, 2], "first_clicks": [0, 0]}


def test_a_training_writes_what_a_model_then_says(tiny_data, tiny_model):
    sessions = read_sessions(tiny_data / "train_data", 36, "--train_dir")
    found = read_popular(tiny_model, 36)
    assert found.clicks.tolist() == np.bincount(sessions.items, minlength=36).tolist()
    assert found.first_clicks.tolist() == np.bincount(sessions.items[sessions.offsets[:-1]], minlength=36).tolist()
    assert json.loads((tiny_model / POPULAR).read_text())["sessions"] == 200


def test_the_most_clicked_first():
    found = Popular(np.array([1, 5, 0, 5, 2], np.float32), np.array([3, 0, 0, 0, 1], np.float32))

    def best(*asked):
        items, clicks = found.best(*asked)
        assert clicks.tolist() == found[asked[0]][items].tolist()
        return items.tolist()
    assert best(False, 9, (), None) == [1, 3, 4, 0, 2] and best(False, 2, [1], None) == [3, 4]
    assert best(True, 3, [4], None) == [0, 1, 2]
    assert best(False, 9, [3], [4, 3, 2, 2]) == [4, 2] and best(False, 3, (), []) == []
    assert best(False, 2, [3], Selection(np.array([True, False, True, True, True]))) == [4, 0]


def test_a_model_of_an_older_version_has_none(model):
    assert read_popular(model, 6) is None


@pytest.mark.parametrize("change", [
    {"items": [3, 6]}, {"items": [3, -1]}, {"items": [3, 3]}, {"items": [3]}, {"clicks": [5, -1]}, {"clicks": [5]},
    {"clicks": [5, 2.5]}, {"clicks": [5, True]}, {"items": "31"}, {"first_clicks": [2**31, 0]}, {"sessions": None},
    {"more": 1}], ids=str)
def test_counts_that_cannot_be_are_refused(model, change):
    write_json(model / POPULAR, RECORD)
    assert read_popular(model, 6).clicks.tolist() == [0, 2, 0, 5, 0, 0]
    write_json(model / POPULAR, RECORD | change)
    with pytest.raises(InputError, match=POPULAR):
        read_popular(model, 6)


@pytest.mark.parametrize("spoil", [
    lambda path: path.write_text("{"), lambda path: path.write_text("[]"),
    lambda path: path.write_text(path.read_text().replace("5", "6")),
    lambda path: (path.unlink(), path.mkdir()), lambda path: (path.unlink(), path.symlink_to("nowhere"))],
    ids=["cut off", "no object", "changed", "directory", "broken link"])
def test_a_file_that_is_not_as_it_was_written_is_refused(model, spoil):
    write_json(model / POPULAR, RECORD)
    spoil(model / POPULAR)
    with pytest.raises(InputError):
        read_popular_record(model)


def test_a_new_run_has_its_own(tiny_model, tmp_path):
    from utils.model import upkeep
    model_dir = shutil.copytree(tiny_model, tmp_path / "model")
    upkeep.start_run(model_dir, {}, tiny_model / "vocab.txt", overwrite=True)
    assert not (model_dir / POPULAR).exists()
    upkeep.start_run(model_dir, {}, tiny_model / "vocab.txt", overwrite=True, popular=RECORD)
    assert read_popular_record(model_dir) == RECORD
    upkeep.discard_run(model_dir)
    assert not model_dir.exists()
