"""utils/model/upkeep.py: a run begins where none is, alone, and what a killed one left goes."""

import errno

import numpy as np
import pytest

from utils.files import InputError
from utils.model import checkpoint, upkeep
from utils.model.upkeep import hold_directory

WEIGHTS = {"bias": np.ones(3, np.float32)}


def save(model_dir, epoch):
    checkpoint.save_epoch(model_dir, epoch, WEIGHTS, {}, {})


def save_last(model_dir, epoch):
    checkpoint.save_last(model_dir, WEIGHTS, {}, {"progress": {"epoch": epoch}})


def test_a_run_is_not_overwritten_unasked(model_dir, tmp_path):
    save(model_dir, 1)
    with pytest.raises(InputError, match="overwrite"):
        upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=False)
    assert checkpoint.finished_epochs(model_dir) == [1]
    (model_dir / ".epoch_2.abc.tmp").mkdir()
    (model_dir / "notes.txt").touch()
    upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=True)
    assert sorted(path.name for path in model_dir.iterdir()) == ["config.json", "notes.txt", "vocab.txt"]


def test_an_edited_net_py_is_kept_and_goes_with_its_run(model_dir, tmp_path):
    (tmp_path / "edited.py").write_text("edited")
    upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=True, net=tmp_path / "edited.py")
    assert (model_dir / "net.py").read_text() == "edited"
    upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=True)
    assert not (model_dir / "net.py").exists()


def test_no_net_py_is_deleted_that_no_run_left(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text("a user's own")
    with pytest.raises(InputError, match="found net.py in .* that no training of this project put there"):
        upkeep.require_room(tmp_path, overwrite=True)
    upkeep.write_json(tmp_path / "config.json", {"format": checkpoint.FORMAT})
    monkeypatch.setattr(upkeep, "NET", tmp_path / "net.py")
    with pytest.raises(InputError, match="where net.py is"):
        upkeep.require_room(tmp_path, overwrite=True)


def test_a_directory_with_somebody_elses_vocabulary_is_refused(tmp_path):
    """Such as the repository itself, by --model_dir . """
    (tmp_path / "vocab.txt").write_text("precious\n", encoding="utf-8")
    with pytest.raises(InputError, match="no training of this project"):
        upkeep.start_run(tmp_path, {}, tmp_path / "vocab.txt", overwrite=True)
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8") == "precious\n"


@pytest.mark.parametrize("name", ["epoch_1/param", "config.json"])
def test_a_directory_with_somebody_elses_model_is_refused(tmp_path, name):
    """Such as model_recall20/epoch_1 of Paddle's old example."""
    path = tmp_path / "model" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(InputError, match=name.split("/")[0]):
        upkeep.start_run(tmp_path / "model", {}, tmp_path / "vocab.txt", overwrite=True)
    assert path.read_text(encoding="utf-8") == "{}"


@pytest.mark.parametrize("finished, last, stays", [([1, 2], 2, False), ([1, 2], 1, False), ([1, 2], 3, True),
                                                   ([], 1, True)])
def test_last_goes_where_its_epoch_is_finished(model_dir, finished, last, stays):
    save_last(model_dir, last)
    for epoch in finished:
        save(model_dir, epoch)
    upkeep.clean_up(model_dir)
    assert (model_dir / "last").exists() == stays and checkpoint.finished_epochs(model_dir) == finished
    assert not list(model_dir.glob(".*"))


def test_a_damaged_last_is_left_to_be_named(model_dir, tmp_path):
    save_last(model_dir, 1), save(model_dir, 1)
    (model_dir / "last/state.json").write_text("{")
    upkeep.clean_up(model_dir)
    assert (model_dir / "last").exists()
    upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=True)
    assert sorted(path.name for path in model_dir.iterdir()) == ["config.json", "vocab.txt"]


def test_epochs_without_a_state_are_not_deleted_unasked(model_dir, tmp_path):
    save(model_dir, 1), save_last(model_dir, 2)
    (model_dir / "epoch_1/state.json").unlink(), (model_dir / "last/state.json").unlink()
    assert upkeep.unreadable(model_dir) == [model_dir / "epoch_1", model_dir / "last"]
    with pytest.raises(InputError, match="found another run"):
        upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=False)
    assert (model_dir / "epoch_1" / checkpoint.MODEL).exists()
    upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=True)
    assert upkeep.unreadable(model_dir) == []


def test_links_in_the_place_of_epochs_lead_to_nothing_else_being_deleted(model_dir, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (model_dir / "epoch_1").symlink_to(precious), (model_dir / "epoch_2").symlink_to("epoch_2")
    upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=True)
    assert sorted(path.name for path in model_dir.iterdir()) == ["config.json", "vocab.txt"]
    assert (precious / "file").exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, capsys):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(upkeep.fcntl, "flock", no_locks)
    with hold_directory(tmp_path / "model"):
        assert (tmp_path / "model").is_dir()
    assert "can't be locked (No locks available)" in capsys.readouterr().err


def test_a_new_directory_goes_where_nothing_was_saved_in_it(tmp_path):
    for is_new, name, is_saved in [(True, "a/b", False), (False, "c", False), (True, "d", True)]:
        model_dir = tmp_path / name
        if not is_new:
            model_dir.mkdir()
        with pytest.raises(KeyboardInterrupt), hold_directory(model_dir):
            (tmp_path / "vocab.txt").write_text("x\n")
            upkeep.start_run(model_dir, {}, tmp_path / "vocab.txt", overwrite=False)
            if is_saved:
                checkpoint.save_epoch(model_dir, 1, {}, {}, {})
            raise KeyboardInterrupt
        assert model_dir.exists() == (is_saved or not is_new)


def test_files_of_others_keep_a_new_directory(tmp_path):
    with pytest.raises(OSError), hold_directory(tmp_path / "model"):
        (tmp_path / "model/notes.txt").touch()
        raise OSError
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["notes.txt"]


def test_a_directory_that_is_removed_while_another_run_waits_is_made_anew(tmp_path, monkeypatch):
    """Else that run would hold the lock of a directory that no longer has a name."""
    model_dir, flock, removed = tmp_path / "model", upkeep.fcntl.flock, []

    def slow_flock(*arguments):
        if not removed:
            removed.append(model_dir.rmdir())
        flock(*arguments)

    monkeypatch.setattr(upkeep.fcntl, "flock", slow_flock)
    with hold_directory(model_dir):
        assert model_dir.is_dir()
        with pytest.raises(InputError, match="another run"), hold_directory(model_dir):
            pass
