"""utils/training/initial.py and --init_from: a run that goes on from another model, with other items and sessions."""

import importlib
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script, write_random_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from small_runs import ITEMS, NETWORKS, make_network, make_trainer, shared, train_epoch, weights_of
from stopped_runs import flags, result, stopping_after

from utils.data.batches import Batching
from utils.data.sessions import Sessions
from utils.model import checkpoint
from utils.model.layout import ITEM_MATRIX
from utils.training.initial import InitialModel, find_initial, load_initial, pairs_with_known, put_means
from utils.training.optimizers import Adagrad, Adam

OPTIMIZERS = {"Adagrad": lambda: Adagrad(0.1), "momentum": lambda: Adagrad(0.1, 0.3), "Adam": lambda: Adam(0.01)}


def trainer_of(settings, optimizer="Adagrad"):
    network = make_network(settings)
    trainer = make_trainer(network, shared(network), Batching(False, 6), None)
    trainer.optimizer = OPTIMIZERS[optimizer]()
    return trainer


def saved(trainer, directory):
    checkpoint.save_epoch(directory, 1, trainer.weights(), trainer.optimizer_state(), {})
    return directory / "epoch_1"


def initial(epoch_dir, items, row_of):
    sha256 = checkpoint.read_state(epoch_dir)["files"][checkpoint.MODEL]["sha256"]
    return InitialModel(epoch_dir, items, np.array(row_of), [], sha256, {})


# Rows and state

@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", ["shared", "separate", "none"])
def test_items_keep_their_rows_and_state_wherever_they_are_now(tmp_path, network, optimizer):
    before = trainer_of(NETWORKS[network], optimizer)
    train_epoch(before)
    row_of = np.random.default_rng(2).permutation(ITEMS)
    row_of[[3, 8]] = -1
    trainer = trainer_of(NETWORKS[network], optimizer)
    trainer.sessions = Sessions(np.array([3, 8, 5], np.int32), np.array([0, 2, 3]))  # 3 and 8 have no known neighbour
    drawn = weights_of(trainer.network)
    weights, state = load_initial(initial(saved(before, tmp_path), ITEMS, row_of), trainer)
    known, by_item = row_of >= 0, {ITEM_MATRIX, trainer.input_matrix}
    for name, values in before.weights().items():
        expected = values if name not in by_item else np.where(known[:, None], values[row_of], drawn[name])
        np.testing.assert_array_equal(weights[name], expected, err_msg=name)
    before_state = before.optimizer_state()
    assert state.keys() == before_state.keys()
    for key, values in before_state.items():
        is_by_item = key.rpartition(".")[0] in by_item
        np.testing.assert_array_equal(state[key], values[row_of] * known[:, None] if is_by_item else values, key)
    trainer.put_weights(weights)
    trainer.optimizer.restore(state)
    trainer.sessions = before.sessions
    assert np.isfinite(train_epoch(trainer)).all()


@pytest.mark.parametrize("network", ["shared", "separate", "none"])
def test_new_items_begin_as_the_mean_of_their_known_neighbours(tmp_path, network):
    before, trainer = trainer_of(NETWORKS[network]), trainer_of(NETWORKS[network])
    trainer.sessions = Sessions(np.array([5, 3, 9, 8, 8, 3, 5, 7], np.int32), np.array([0, 3, 3, 7, 8]))
    row_of = np.arange(ITEMS)
    row_of[[3, 8]] = -1
    weights, state = load_initial(initial(saved(before, tmp_path), ITEMS, row_of), trainer)
    for name in {ITEM_MATRIX, trainer.input_matrix}:
        rows = before.weights()[name]
        np.testing.assert_allclose(weights[name][3], (rows[5] + rows[9] + rows[5]) / 3, rtol=1e-6)
        np.testing.assert_array_equal(weights[name][8], weights_of(trainer.network)[name][8], "no known neighbour")
        np.testing.assert_array_equal(weights[name][[5, 7, 9]], rows[[5, 7, 9]])
    assert not state


@given(sessions=st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=8), known=st.sets(
    st.integers(0, 9)), at_once=st.sampled_from([1, 3, 100]))
def test_pairs_and_means_are_those_of_a_loop(sessions, known, at_once):
    items = [item for session in sessions for item in session]
    flat = Sessions(np.array(items, np.int32), np.cumsum([0, *map(len, sessions)]))
    is_known = np.isin(np.arange(10), list(known))
    rows = np.random.default_rng(0).random((10, 2)).astype(np.float32)
    expected, beside = rows.copy(), {}
    for session in sessions:
        for first, second in [*zip(session, session[1:]), *zip(session[1:], session)]:
            if first not in known and second in known:
                beside.setdefault(first, []).append(second)
    for item, neighbours in beside.items():
        expected[item] = rows[neighbours].mean(axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.training.initial.PAIRS_AT_ONCE", at_once)
        put_means(rows, *pairs_with_known(flat, is_known))
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


@pytest.mark.parametrize("then, now, kept", [("Adagrad", "momentum", True), ("momentum", "Adagrad", True),
                                             ("Adam", "Adagrad", False), ("Adagrad", "Adam", False)])
def test_another_optimiser_keeps_what_both_have(tmp_path, capsys, then, now, kept):
    before, trainer = trainer_of(NETWORKS["shared"], then), trainer_of(NETWORKS["shared"], now)
    train_epoch(before)
    weights, state = load_initial(initial(saved(before, tmp_path), ITEMS, np.arange(ITEMS)), trainer)
    assert ("optimizer_state:kept" in capsys.readouterr().out) == kept == bool(state)
    if kept:
        np.testing.assert_array_equal(state["item_matrix.sum"], before.optimizer_state()["item_matrix.sum"])
        assert {key.rpartition(".")[2] for key in state} == set(trainer.optimizer.kinds)
        trainer.optimizer.restore(state)
    trainer.put_weights(weights)
    assert np.isfinite(train_epoch(trainer)).all()


@given(now=st.lists(st.integers(0, 60), min_size=2, max_size=40, unique=True))
def test_items_are_found_by_their_ids(tmp_path_factory, now):
    model_dir = tmp_path_factory.getbasetemp() / "found_by_ids"
    if not model_dir.exists():
        write_random_model(model_dir)
    if all(item >= 50 for item in now):
        now[0] = 7
    found = find_initial(model_dir, [f"item_{item}" for item in now])
    assert found.row_of.tolist() == [item if item < 50 else -1 for item in now]
    assert found.gone == [f"item_{item}" for item in range(50) if item not in now]


def test_the_best_epoch_by_validation_is_taken_and_else_the_last(tiny_model, tmp_path):
    ids = (tiny_model / "vocab.txt").read_text().split()
    assert find_initial(tiny_model, ids).epoch_dir.name == "epoch_2"
    validated = shutil.copytree(tiny_model, tmp_path / "model")
    trainer_weights = load_file(validated / "epoch_2/model.safetensors")
    shutil.rmtree(validated / "epoch_2")
    checkpoint.save_epoch(validated, 2, trainer_weights, {}, {"best": {"epoch": 1, "watched": "mrr@20", "value": 0.1}})
    assert find_initial(validated, ids).epoch_dir.name == "epoch_1"


def test_a_network_of_other_weights_is_refused(tmp_path):
    before = trainer_of(NETWORKS["shared"])
    trainer = trainer_of(replace(NETWORKS["shared"], hid_size=[5, 7]))
    with pytest.raises(Exception, match="--init_from: .*epoch_1/model.safetensors: found float32 .*, expected"):
        load_initial(initial(saved(before, tmp_path), ITEMS, np.arange(ITEMS)), trainer)


# Runs

@pytest.fixture
def tomorrow(tiny_data, tmp_path):
    """Sessions of another day, on 33 of the 36 items in another order, and two new ones."""
    ids = [f"item_{item}" for item in np.random.default_rng(4).permutation(36)[:33]] + ["new_1", "new_2"]
    directory = tmp_path / "tomorrow"
    (directory / "train_data").mkdir(parents=True)
    (directory / "vocab.txt").write_text("".join(f"{item_id}\n" for item_id in ids))
    random = np.random.default_rng(6)
    lines = [" ".join(map(str, random.integers(len(ids), size=random.integers(2, 7)))) for _ in range(120)]
    (directory / "train_data" / "train.txt").write_text("\n".join(lines) + "\n")
    return directory


def from_model(tomorrow, model, model_dir, *more):
    """A quick run that goes on from `model`; its network comes from there."""
    given = flags(tomorrow, model_dir, "--init_from", model, *more)
    place = given.index("--hid_size")
    return given[:place] + given[place + 2:]


def rows_by_id(model_dir, epoch):
    rows = load_file(model_dir / f"epoch_{epoch}" / checkpoint.MODEL)[ITEM_MATRIX]
    return dict(zip((model_dir / "vocab.txt").read_text().split(), rows, strict=True))


@pytest.mark.parametrize("more", [[], ["--tune_cpu", 0]])
def test_one_pass_and_another_from_there_equal_two_passes(tiny_data, tmp_path, run_here, more):
    more = ["--lr_end", 1, "--hid_dropout", 0, "--valid_fraction", 0, *more]
    for model, passes in [("whole", 2), ("first", 1)]:
        assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / model, *more, "--pass_num", passes)))
    more = [*more, "--init_from", tmp_path / "first", "--pass_num", 1]
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "second", *more)))
    for name in checkpoint.MODEL, checkpoint.OPTIMIZER:
        assert (tmp_path / "second/epoch_1" / name).read_bytes() == (tmp_path / "whole/epoch_2" / name).read_bytes()


def test_what_is_kept_and_what_is_new_is_logged_and_recorded(tiny_model, tomorrow, tmp_path, run_here):
    more = ["--base_lr", 0, "--valid_fraction", 0, "--pass_num", 1]
    process = assert_worked(run_here("train_sample_neg.py", *from_model(tomorrow, tiny_model, tmp_path / "model",
                                                                        "--neg_size", 16, *more)))
    assert f"init_from:{tiny_model}/epoch_2 known_items:33 new_items:2 gone_items:3 optimizer_state:kept" in (
        process.stdout)
    before, after = rows_by_id(tiny_model, 2), rows_by_id(tmp_path / "model", 1)
    gone = sorted(before.keys() - after.keys())
    assert len(gone) == 3 and all(item_id in process.stdout for item_id in gone)
    assert all((after[item_id] == before[item_id]).all() for item_id in before.keys() & after.keys())
    assert sorted(after.keys() - before.keys()) == ["new_1", "new_2"] and after["new_1"].any()
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["init_from"] == {
        "epoch_dir": f"{tiny_model}/epoch_2", "known_items": 33, "new_items": 2, "gone_items": 3,
        "weights_sha256": checkpoint.read_state(tiny_model / "epoch_2")["files"][checkpoint.MODEL]["sha256"]}
    then = json.loads((tiny_model / "config.json").read_text())["network"]
    assert [config["network"][name] for name in ("hid_size", "hid_dropout")] == [[8], then["hid_dropout"]]


@pytest.mark.parametrize("script", ["train.py", "train_sample_neg.py"])
def test_an_update_has_defaults_of_its_own_and_flags_win_over_them(tiny_model, script, tmp_path):
    parse = importlib.import_module(script.removesuffix(".py")).parse_arguments
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"base_lr": 0.3}))
    trained, given = parse([]), ["--init_from", str(tiny_model), "--config", str(config), "--hid_dropout", "0.3"]
    update = parse(given)
    assert (update.pass_num, update.base_lr, update.lr_end, update.hid_dropout) == (1, 0.3, 1.0, 0.3)
    assert (update.hid_size, update.emb_size, update.batch_size) == ([8], 8, trained.batch_size)
    assert parse([]) == trained, "nothing of it stays"


@pytest.mark.parametrize("script, more", [("train.py", []), ("train_sample_neg.py", ["--neg_size", 16])])
def test_stopped_and_resumed_equals_uninterrupted(tiny_model, tomorrow, tmp_path, run_here, script, more):
    assert_worked(run_here(script, *from_model(tomorrow, tiny_model, tmp_path / "whole", *more)))
    again = from_model(tomorrow, tiny_model, tmp_path / "stopped", "--resume", 1, *more)
    with stopping_after(3):
        assert run_here(script, *again).returncode == 143
    process = assert_worked(run_here(script, *again))
    assert "resumed from" in process.stdout and result(tmp_path / "stopped") == result(tmp_path / "whole")


def test_a_run_is_not_resumed_from_another_model(tiny_data, tiny_model, tomorrow, tmp_path, run_here):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    assert_worked(run_here("train.py", *from_model(tomorrow, tiny_model, tmp_path / "model", "--pass_num", 1)))
    more = ["--pass_num", 1, "--resume", 1]
    assert_worked(run_here("train.py", *from_model(tomorrow, other, tmp_path / "model", *more)))  # moved, but the same
    shutil.rmtree(other / "epoch_2")
    process = run_here("train.py", *from_model(tomorrow, other, tmp_path / "model", *more))
    assert_one_line_error(process, "--resume 1", "--init_from", "(the run: ")


def test_validation_counts_items_that_the_model_knows_already(tiny_model, tomorrow, tmp_path, run_here):
    (tomorrow / "train_data/train.txt").write_text("0 1\n" * 9 + "5 6 34 0\n")
    process = assert_worked(run_here("train.py", *from_model(tomorrow, tiny_model, tmp_path / "model")))
    assert "validation sessions:1 predictions:2 unknown_clicks_left_out:1" in process.stdout


def test_several_processes_and_split_items_begin_with_the_same(tiny_model, tomorrow, tmp_path, run_here):
    more = ["--base_lr", 0, "--valid_fraction", 0, "--pass_num", 1]
    assert_worked(run_here("train.py", *from_model(tomorrow, tiny_model, tmp_path / "alone", *more)))
    two = ["--parallel", 1, "--num_devices", 2, "--split_items", 1]
    assert_worked(run_script("train.py", *from_model(tomorrow, tiny_model, tmp_path / "split", *more, *two)))
    alone, split = (load_file(tmp_path / run / "epoch_1" / checkpoint.MODEL) for run in ("alone", "split"))
    assert alone.keys() == split.keys() and all((alone[name] == split[name]).all() for name in alone)


@pytest.mark.parametrize("more, fragments", [
    (["--init_from", "nowhere"], ["--init_from: ", "nowhere/config.json"]),
    (["--model_dir", "yesterday", "--overwrite", 1], ["--init_from: found yesterday", "which is --model_dir"]),
    (["--hid_size", "9"], ["--hid_size: found 9", "expected 8"]),
    (["--hid_size", "8,8"], ["--hid_size: found 8,8", "expected 8"]),
    (["--embedding", "separate"], ["--embedding: found separate", "expected shared"]),
    (["--emb_size", 9], ["--emb_size: found 9", "expected 8"]),
    (["--score_scale", 16], ["--score_scale: found 16", "expected 0"]),
    (["--reset_gate", "before"], ["--reset_gate: found before", "expected after"]),
    (["--vocab_path", "count.txt"], ["--init_from: found nothing but the number of items in --vocab_path"]),
    (["--vocab_path", "others.txt"], ["--init_from: found none of the items of --vocab_path"]),
])
def test_what_does_not_fit_ends_in_one_line(tiny_model, tomorrow, tmp_path, run_here, monkeypatch, more, fragments):
    monkeypatch.chdir(tmp_path)
    os.symlink(tiny_model, "yesterday")
    (tmp_path / "count.txt").write_text("35\n")
    (tmp_path / "others.txt").write_text("".join(f"other_{item}\n" for item in range(35)))
    before = files_below(tiny_model)
    given = from_model(tomorrow, "yesterday", "model")
    for flag in [word for word in more if str(word).startswith("--")]:
        if flag in given:
            place = given.index(flag)
            del given[place:place + 2]
    process = run_here("train.py", *given, *more)
    process.stderr = process.stderr.splitlines(keepends=True)[-1]  # a vocab.txt of a number alone has a warning too
    assert_one_line_error(process, *fragments)
    assert files_below(tiny_model) == before and not (tmp_path / "model").exists()


def test_a_damaged_model_is_refused_and_an_older_run_is_still_there(tiny_model, tomorrow, tmp_path, run_here):
    model_dir = shutil.copytree(tiny_model, tmp_path / "model")
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    path = broken / "epoch_2" / checkpoint.OPTIMIZER
    path.write_bytes(path.read_bytes()[:-1])
    process = run_here("train.py", *from_model(tomorrow, broken, model_dir, "--overwrite", 1))
    assert_one_line_error(process, "--init_from: ", path, "truncated or changed")
    assert files_below(model_dir) == files_below(tiny_model)
