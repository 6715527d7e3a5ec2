"""utils/model/checkpoint.py: epochs appear whole or not at all, and nothing foreign is loaded."""

import json

import numpy as np
import pytest

from utils.files import InputError
from utils.model import checkpoint
from utils.runlog import append_record

WEIGHTS = {"matrix": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}
SHAPES = {"matrix": [2, 3], "bias": [3]}


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    directory = tmp_path / "model"
    checkpoint.start_run(directory, {"data": {}}, tmp_path / "vocab.txt", overwrite=False)
    return directory


def save(model_dir, epoch):
    checkpoint.save_epoch(model_dir, epoch, WEIGHTS, {"matrix.moment": WEIGHTS["matrix"]}, {"loss": 1.5})


def test_saved_weights_come_back(model_dir):
    save(model_dir, 1)
    loaded = checkpoint.load_weights(model_dir, 1, SHAPES)
    assert all((loaded[name] == WEIGHTS[name]).all() for name in WEIGHTS)
    state = json.loads((model_dir / "epoch_1" / "state.json").read_text(encoding="utf-8"))
    assert state["epoch"] == 1 and state["loss"] == 1.5
    assert set(state["files"]) == {checkpoint.MODEL, checkpoint.OPTIMIZER}
    assert checkpoint.read_config(model_dir)["format"] == checkpoint.FORMAT
    assert (model_dir / "vocab.txt").read_text(encoding="utf-8") == "a\nb\n"


def test_epochs_are_counted_when_their_last_file_is_there(model_dir):
    for epoch in (10, 2):
        save(model_dir, epoch)
    (model_dir / "epoch_3").mkdir()
    (model_dir / "epoch_x").mkdir()
    (model_dir / "epoch_x" / checkpoint.STATE).touch()
    assert checkpoint.finished_epochs(model_dir) == [2, 10]


@pytest.mark.parametrize("failing", [checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.STATE])
def test_a_failure_while_saving_leaves_no_trace(model_dir, monkeypatch, failing):
    save(model_dir, 1)
    write = checkpoint.write_atomically

    def fail(path, mode="w"):
        if path.name == failing:
            raise OSError(28, "No space left on device", str(path))
        return write(path, mode)

    monkeypatch.setattr(checkpoint, "write_atomically", fail)
    with pytest.raises(OSError):
        save(model_dir, 2)
    assert sorted(path.name for path in model_dir.iterdir()) == ["config.json", "epoch_1", "vocab.txt"]
    assert checkpoint.finished_epochs(model_dir) == [1]


def test_a_run_is_not_overwritten_unasked(model_dir, tmp_path):
    save(model_dir, 1)
    with pytest.raises(InputError, match="overwrite"):
        checkpoint.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=False)
    assert checkpoint.finished_epochs(model_dir) == [1]
    (model_dir / ".epoch_2.abc.tmp").mkdir()
    (model_dir / "notes.txt").touch()
    checkpoint.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=True)
    assert sorted(path.name for path in model_dir.iterdir()) == ["config.json", "notes.txt", "vocab.txt"]


def rewrite_checksum(directory):
    """Make state.json agree with a changed model.safetensors, as a hostile sender would."""
    import hashlib
    state = json.loads((directory / "state.json").read_text(encoding="utf-8"))
    data = (directory / checkpoint.MODEL).read_bytes()
    state["files"][checkpoint.MODEL] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (directory / "state.json").write_text(json.dumps(state), encoding="utf-8")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 60, -1])
def test_truncated_weights_are_refused(model_dir, length):
    save(model_dir, 1)
    path = model_dir / "epoch_1" / checkpoint.MODEL
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match="truncated or changed"):
        checkpoint.load_weights(model_dir, 1, SHAPES)
    rewrite_checksum(path.parent)
    with pytest.raises(InputError, match="no safetensors file"):
        checkpoint.load_weights(model_dir, 1, SHAPES)


def test_a_flipped_bit_is_found(model_dir):
    save(model_dir, 1)
    path = model_dir / "epoch_1" / checkpoint.MODEL
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="truncated or changed"):
        checkpoint.load_weights(model_dir, 1, SHAPES)


def test_a_pickle_is_refused_and_not_run(model_dir, tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "it_ran"), "w")

    save(model_dir, 1)
    path = model_dir / "epoch_1" / checkpoint.MODEL
    path.write_bytes(pickle.dumps(Hostile()))
    rewrite_checksum(path.parent)
    with pytest.raises(InputError, match="no safetensors file"):
        checkpoint.load_weights(model_dir, 1, SHAPES)
    assert not (tmp_path / "it_ran").exists()


def test_weights_of_another_network_are_refused(model_dir):
    save(model_dir, 1)
    with pytest.raises(InputError, match="shapes"):
        checkpoint.load_weights(model_dir, 1, {**SHAPES, "matrix": [3, 3]})


def test_a_directory_with_somebody_elses_vocabulary_is_refused(tmp_path):
    """Such as the repository itself, by --model_dir . """
    (tmp_path / "vocab.txt").write_text("precious\n", encoding="utf-8")
    with pytest.raises(InputError, match="no training of this project"):
        checkpoint.start_run(tmp_path, {}, tmp_path / "vocab.txt", overwrite=True)
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8") == "precious\n"


@pytest.mark.parametrize("name", ["epoch_1/param", "config.json"])
def test_a_directory_with_somebody_elses_model_is_refused(tmp_path, name):
    """Such as model_recall20/epoch_1 of Paddle's old example."""
    path = tmp_path / "model" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(InputError, match=name.split("/")[0]):
        checkpoint.start_run(tmp_path / "model", {}, tmp_path / "vocab.txt", overwrite=True)
    assert path.read_text(encoding="utf-8") == "{}"


def test_a_line_that_a_crash_cut_off_stays_alone(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo', encoding="utf-8")
    append_record(tmp_path, {"epoch": 3})
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[1] == '{"epo' and json.loads(lines[2])["epoch"] == 3 and len(lines) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', "\x00\x01"])
def test_a_foreign_config_is_refused(model_dir, text):
    (model_dir / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="config.json"):
        checkpoint.read_config(model_dir)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"files": {}}', '{"files": []}'])
def test_a_foreign_state_is_refused(model_dir, text):
    save(model_dir, 1)
    (model_dir / "epoch_1" / "state.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="state.json"):
        checkpoint.load_weights(model_dir, 1, SHAPES)


def test_arrays_of_any_type_and_shape_come_back_uncopied(model_dir):
    """Uncopied, since the library's copying holds up all other threads of a server: seconds for gigabytes."""
    random = np.random.default_rng(0)
    saved = {name: random.integers(0, 2, shape).astype(name) for name, shape in [
        ("bool", (3,)), ("int8", (5, 1)), ("uint8", (2, 2)), ("int16", (3,)), ("int32", (7,)), ("uint64", (1,)),
        ("int64", ()), ("float16", (3, 3)), ("float32", (0, 4)), ("float64", (2, 3, 2))]}
    checkpoint.save_epoch(model_dir, 1, WEIGHTS, saved, {})
    weights, found, _ = checkpoint.load_checkpoint(model_dir / "epoch_1", SHAPES)
    assert found.keys() == saved.keys()
    for name, values in saved.items():
        assert found[name].dtype == values.dtype and found[name].shape == values.shape
        np.testing.assert_array_equal(found[name], values)
    assert not any(values.flags.owndata or values.flags.writeable for values in weights.values())
