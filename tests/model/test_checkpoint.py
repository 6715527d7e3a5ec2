"""utils/model/checkpoint.py: epochs appear whole or not at all, and nothing foreign is loaded."""

import json
import os

import numpy as np
import pytest

from utils.files import InputError
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.runlog import append_record

WEIGHTS = {"matrix": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(3, np.float32)}
SHAPES = {"matrix": [2, 3], "bias": [3]}


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


def rewrite_checksum(directory):
    """Make state.json agree with a changed model.safetensors, as a hostile sender would."""
    import hashlib
    state = checkpoint.read_state(directory)
    data = (directory / checkpoint.MODEL).read_bytes()
    state["files"][checkpoint.MODEL] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_json(directory / "state.json", state)


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
    with pytest.raises(InputError, match=r"found float32 .* matrix, expected float32 \[3, 3\], as config.json"):
        checkpoint.load_weights(model_dir, 1, {**SHAPES, "matrix": [3, 3]})
    with pytest.raises(InputError, match=r"found no first, expected float32 \[1\], and 1 more that differ, as"):
        checkpoint.load_weights(model_dir, 1, {"first": [1], "second": [1], **SHAPES})


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


# What is no checkpoint

@pytest.mark.parametrize("name", [checkpoint.STATE, checkpoint.MODEL])
def test_a_pipe_a_device_or_a_loop_in_the_place_of_a_file_is_refused_at_once(model_dir, name):
    save(model_dir, 1)
    path = model_dir / "epoch_1" / name
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(name), os.mkdir):
        path.unlink()
        make(path)
        with pytest.raises(InputError, match=f"found .*{name}, expected a file"):
            checkpoint.load_weights(model_dir, 1, SHAPES)
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.touch()


def test_weights_of_another_size_are_not_even_read(model_dir):
    save(model_dir, 1)
    path = model_dir / "epoch_1" / checkpoint.MODEL
    os.truncate(path, 1 << 42)
    with pytest.raises(InputError, match="found 4398046511104 bytes that don't match state.json, expected"):
        checkpoint.load_weights(model_dir, 1, SHAPES)
    state = checkpoint.read_state(path.parent)
    state["files"][checkpoint.MODEL]["bytes"] = 1 << 42
    write_json(path.parent / checkpoint.STATE, state)
    with pytest.raises(InputError, match="which takes at least 4.0 TiB of memory"):
        checkpoint.load_weights(model_dir, 1, SHAPES)


STATE_OF_WRONG_TYPES = [
    {"epoch": "1"}, {"epoch": 1.0}, {"epoch": True}, {"epoch": None}, {"files": []}, {"files": None},
    {"files": {checkpoint.MODEL: 5}}, {"files": {checkpoint.MODEL: {"bytes": "5", "sha256": "x"}}},
    {"files": {checkpoint.MODEL: {"bytes": 5, "sha256": 5}}}, {"best": 1}, {"best": {"epoch": "1"}},
    {"best": {"epoch": [1]}}, {"best": {"epoch": True}}, {"best": {"epoch": 1, "watched": 5}},
    {"best": {"epoch": 1, "value": "high"}}, {"progress": []}, {"progress": {"epoch": "1"}},
    {"progress": {"recent": 5}}, {"progress": {"best": {"epoch": {}}}}]


@pytest.mark.parametrize("changes", STATE_OF_WRONG_TYPES, ids=str)
@pytest.mark.parametrize("has_checksum", [True, False])
def test_a_state_of_wrong_types_is_refused_and_names_the_value(model_dir, changes, has_checksum):
    save(model_dir, 1)
    path = model_dir / "epoch_1" / checkpoint.STATE
    state = checkpoint.read_state(path.parent) | changes
    write_json(path, state) if has_checksum else path.write_text(json.dumps(state))
    for read in (lambda: checkpoint.best_epoch(model_dir), lambda: checkpoint.load_weights(model_dir, 1, SHAPES)):
        with pytest.raises(InputError, match=r"state.json: found .* for '\w+', expected an?y? ") as error:
            read()
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("changes", [{"data": []}, {"data": None}, {"options": "none"}, {"versions": 3}, {"script": {}},
                                     {"net_sha256": 12}, {"loss": ["ce"]}, {"loss_is_sampled": 0}, {"merged": "a"}],
                         ids=str)
def test_a_config_of_wrong_types_is_refused_and_names_the_value(model_dir, changes):
    write_json(model_dir / "config.json", checkpoint.read_config(model_dir) | changes)
    with pytest.raises(InputError, match=f"config.json: found .* for '{next(iter(changes))}', expected "):
        checkpoint.read_config(model_dir)


# Checksums of the JSON files

@pytest.mark.parametrize("name, read", [
    ("config.json", checkpoint.read_config),
    ("epoch_1/state.json", lambda model_dir: checkpoint.read_state(model_dir / "epoch_1"))])
def test_a_flipped_bit_of_a_json_file_is_found_or_changes_nothing(model_dir, name, read):
    save(model_dir, 1)
    path = model_dir / name
    whole, expected, found = path.read_bytes(), read(model_dir), 0
    key = whole.index(b'"sha256": "', whole.rindex(b"}") - 100)  # its own checksum, with this name
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            same = read(model_dir)
        except InputError as error:
            assert name in str(error) and len(str(error).splitlines()) == 1
            found += 1
        else:
            if key <= bit // 8 < key + 8:  # without the name, it is a file of an older version
                same = {name: value for name, value in same.items() if name in expected}
            assert same == expected, bit
    assert found > 0.8 * 8 * len(whole)


def test_model_directories_without_these_checksums_go_on_working(model_dir):
    save(model_dir, 1)
    for path in model_dir / "config.json", model_dir / "epoch_1/state.json":
        record = json.loads(path.read_text())
        assert len(record.pop("sha256")) == 64
        path.write_text(json.dumps(record))
    assert checkpoint.read_config(model_dir)["format"] == checkpoint.FORMAT
    assert checkpoint.load_weights(model_dir, 1, SHAPES).keys() == WEIGHTS.keys()


def test_the_optimisers_state_must_fit_the_weights(model_dir):
    arrays = {"matrix.sum": WEIGHTS["matrix"], "steps": np.array([3]), "running.0": np.zeros((5, 2), np.float32)}
    checkpoint.require_optimizer_of(model_dir, arrays, SHAPES)
    for wrong in WEIGHTS["bias"], WEIGHTS["matrix"].astype(np.float64), WEIGHTS["matrix"].T:
        with pytest.raises(InputError, match=r"optimizer.safetensors: found .* for matrix.sum, expected float32 .2, 3"):
            checkpoint.require_optimizer_of(model_dir, arrays | {"matrix.sum": wrong}, SHAPES)
