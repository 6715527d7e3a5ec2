"""train_intent.py and infer_intent.py as users run them: what they write, resuming, and wrong inputs in one line."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, run_script, with_flags
from purchases import write_data

from utils import sources
from utils.intent.model import load_intent_model
from utils.model import checkpoint
from utils.model.checked_json import write_json


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("intent") / "data")


def flags(data, model_dir, *more):
    """A quick run of two epochs."""
    usual = ["--train_dir", data / "train", "--valid_dir", data / "valid", "--model_dir", model_dir, "--threads", 1,
             "--hid_size", 4, "--emb_size", 3, "--category_size", 2, "--head_size", 3, "--min_item_sessions", 2,
             "--pass_num", 2, "--networks", 2, "--batch_size", 16, "--print_batch", 3]
    return with_flags(usual, more)


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A finished model directory."""
    model_dir = tmp_path_factory.mktemp("intent_model") / "model"
    assert_worked(run_script("train_intent.py", *flags(data, model_dir)))
    return model_dir


def test_a_model_is_trained_and_measured(data, model, tmp_path, run_here):
    found = load_intent_model(model)
    assert found.is_known and found.categories == ["c1", "c2", "c3"]
    records = [json.loads(line) for line in (model / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["epoch"] for record in records if record["event"] == "epoch"] == [1, 2]
    assert {"auc", "score", "valid_loss", "session_threshold"} < records[0].keys()
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    outputs = {name: tmp_path / name for name in ("submission", "per_session", "picture")}
    process = assert_worked(run_here("infer_intent.py", "--model_dir", copy, "--test_dir", data / "test", "--draws",
                                     100, *(word for name, path in outputs.items() for word in (f"--{name}", path))))
    record = json.loads((copy / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert record["event"] == "test" and record["intervals"]["auc"][0] <= record["auc"] <= record["intervals"]["auc"][1]
    assert f"auc:{record['auc']:.4f}" in process.stdout
    assert outputs["picture"].read_bytes().startswith(b"\x89PNG")
    rows = [line.split("\t") for line in outputs["per_session"].read_text(encoding="utf-8").splitlines()]
    assert rows[0] == ["SessionId", "Probability", "Items"] and len(rows) == 61
    said = {row[0]: {pair.rpartition(":")[0] for pair in row[2].split(",")} for row in rows[1:]
            if float(row[1]) >= found.session_threshold}
    submitted = dict(line.split(";") for line in outputs["submission"].read_text(encoding="utf-8").splitlines())
    assert submitted.keys() == said.keys() and all(set(items.split(",")) <= said[session]
                                                   for session, items in submitted.items())


@pytest.mark.parametrize("more", [[], ["--bidirectional", 1, "--optimizer", "official", "--valid_dir", "",
                                       "--valid_fraction", 0.2]])
def test_stopped_and_resumed_equals_uninterrupted(data, tmp_path, run_here, more):
    from training.stopped_runs import stopping_after
    assert_worked(run_here("train_intent.py", *flags(data, tmp_path / "whole", *more)))
    for steps in (3, 6, 1000):
        with stopping_after(steps):
            process = run_here("train_intent.py", *flags(data, tmp_path / "stopped", "--resume", 1, *more))
    assert process.returncode == 0
    whole, stopped = (checkpoint.load_any_weights(tmp_path / name, 2) for name in ("whole", "stopped"))
    for name, values in whole.items():
        np.testing.assert_array_equal(stopped[name], values, err_msg=name)


def test_item_vectors_begin_as_those_of_another_model(data, tiny_model, tmp_path, run_here):
    process = assert_worked(run_here("train_intent.py", *flags(data, tmp_path / "model", "--init_from", tiny_model)[:8],
                                     "--init_from", tiny_model, "--pass_num", 1, "--base_lr", 1e-30))
    assert "known_items:12 new_items:0" in process.stdout
    found, recommender = load_intent_model(tmp_path / "model"), checkpoint.load_any_weights(tiny_model, 2)
    expected = recommender["item_matrix"][:, :-1]
    for row, item_id in enumerate(found.item_ids):
        there = expected[int(item_id.removeprefix("item_"))]
        np.testing.assert_allclose(found.weights["members.1.items"][row], there, atol=1e-6)


def test_the_network_learns_a_rule(tmp_path, run_here):
    """Sessions that click an item twice buy it, four times in five."""
    data = write_data(tmp_path / "data", 400)
    process = assert_worked(run_here("train_intent.py", *flags(data, tmp_path / "model", "--pass_num", 4, "--hid_size",
                                                               8, "--head_size", 8, "--base_lr", 0.01)))
    best = max(json.loads(line)["auc"] for line in (tmp_path / "model/metrics.jsonl").read_text().splitlines())
    assert best > 0.8, process.stdout


@pytest.mark.parametrize("more, fragments", [
    (["--train_dir", "nowhere/train"], ["--train_dir", "nowhere"]),
    (["--valid_dir", "nowhere"], ["--valid_dir", "nowhere"]),
    (["--valid_fraction", 0.2], ["--valid_fraction", "--valid_dir"]),
    (["--bidirectional", 1, "--prefix_weight", 0.5], ["--prefix_weight: found 0.5 with --bidirectional 1"]),
    (["--resume", 1, "--overwrite", 1], ["--resume"]), (["--hid_size", 0], ["--hid_size", "'0'"]),
    (["--init_from", "nowhere"], ["--emb_size: found 3 with --init_from"]),
    (["--base_lr", 1e30, "--optimizer", "sgd"], ["--base_lr", "lower it"])])
def test_wrong_flags(data, tmp_path, run_here, more, fragments):
    more = more if "nowhere" not in map(str, more) else [word if word != "nowhere" else tmp_path / "nowhere"
                                                         for word in more]
    assert_one_line_error(run_here("train_intent.py", *flags(data, tmp_path / "model", *more)), *fragments)
    assert not (tmp_path / "model").exists()


def test_no_epoch_is_chosen_by_a_figure_that_is_none(tmp_path, run_here):
    data = write_data(tmp_path / "data")
    bought = [line.split("\t") for line in (data / "valid/buys.tsv").read_text().splitlines()[1:]]
    (data / "valid/buys.tsv").write_text("SessionId\tItemId\tTime\n" + "".join(
        f"{session}\tnever_clicked\t{time}\n" for session, _, time in bought), encoding="utf-8")
    process = run_here("train_intent.py", *flags(data, tmp_path / "model", "--watch", "item_auc"))
    assert_one_line_error(process, "--watch item_auc: found 0 bought ones", "valid")
    assert not (tmp_path / "model").exists()


def test_what_is_measured_is_neither_overwritten_nor_learned_from(data, model, tmp_path, run_here):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    clicks = copy / "test/clicks.tsv"
    run = ["infer_intent.py", "--model_dir", model, "--test_dir", copy / "test"]
    assert_one_line_error(run_here(*run, "--per_session", clicks), "--per_session", "where --test_dir would be")
    assert clicks.read_bytes() == (data / "test/clicks.tsv").read_bytes()
    for flag in "--picture", "--submission":  # long before they are written
        process = run_here("infer_intent.py", "--model_dir", "nowhere", flag, tmp_path)
        assert_one_line_error(process, f"{flag} {tmp_path}: found a directory")
    for flag, directories in (("--valid_dir", ["train", "test"]), ("--train_dir", ["test", "valid"])):
        named = [copy / f"../data/{name}" for name in directories]
        assert_one_line_error(run_here(*run, "--train_dir", named[0], "--valid_dir", named[1]),
                              f"{flag}: found --test_dir")


def test_ids_that_could_not_be_read_back_are_not_written(data, model, tmp_path, run_here):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    clicks = copy / "test/clicks.tsv"
    clicks.write_text(clicks.read_text(encoding="utf-8").replace("item_1\t", "item,1\t"), encoding="utf-8")
    process = run_here("infer_intent.py", "--model_dir", model, "--test_dir", copy / "test", "--draws", 100,
                       "--per_session", tmp_path / "scores.tsv")
    assert_one_line_error(process, "--per_session: found the id 'item,1'")
    assert not (tmp_path / "scores.tsv").exists()


def test_wrong_models(data, model, tiny_model, tmp_path, run_here):
    test = ["--test_dir", data / "test"]
    assert_one_line_error(run_here("infer_intent.py", *test, "--model_dir", tiny_model), "another kind of model",
                          "train_intent.py")
    assert_one_line_error(run_here("recommend.py", "--model_dir", model, "item_1"), "a model of purchase intent")
    assert_one_line_error(run_here("infer_intent.py", *test, "--model_dir", tmp_path / "none"), "--model_dir")
    assert_one_line_error(run_here("infer_intent.py", *test, "--model_dir", model, "--epoch", 9), "--epoch", "1, 2")
    assert_one_line_error(run_here("infer_intent.py", *test, "--model_dir", model, "--train_dir", data / "train"),
                          "--valid_dir")
    assert_one_line_error(run_here("infer_intent.py", *test, "--model_dir", model, "--submission", tmp_path / "a",
                                   "--per_session", tmp_path / "a"), "--per_session")
    damaged = tmp_path / "damaged"
    shutil.copytree(model, damaged)
    config = json.loads((damaged / "config.json").read_text(encoding="utf-8"))
    for wrong in ({"hid_size": 5}, {"hid_size": "5"}, {"head_size": -1}, {"unknown": 1}):
        network = config["intent"]["network"] | wrong
        write_json(damaged / "config.json", {**config, "intent": {**config["intent"], "network": network}})
        assert_one_line_error(run_here("infer_intent.py", *test, "--model_dir", damaged), damaged)


def test_an_edited_network_is_measured_by_paddle_and_not_served(data, model, tmp_path, run_here, monkeypatch):
    import net
    real = net.Head.forward
    monkeypatch.setattr(net.Head, "forward", lambda head, known: real(head, known) + 1)
    process = run_here("train_intent.py", *flags(data, tmp_path / "model"))
    assert process.returncode == 0 and "serve.py refuses it" in process.stderr
    assert_worked(run_here("infer_intent.py", "--model_dir", tmp_path / "model", "--test_dir", data / "test", "--draws",
                           100))
    from utils.files import InputError
    from utils.serving.intent_model import ServedIntent
    with pytest.raises(InputError, match="edited in net.py"):
        ServedIntent(tmp_path / "model")


@pytest.mark.parametrize("owner, method, edited, fragment", [
    ("IntentNetwork", "forward", lambda real: lambda network, batch: [3 * odds for odds in real(network, batch)],
     "mean of what its members say"),
    ("IntentMember", "forward", lambda real: lambda member, batch, rows=None: real(member, batch, rows if rows is None
                                                                                   else rows + 1), "given item_rows"),
    ("IntentMember", "forward", lambda real: lambda member, batch, rows=None: [
        odds + member.items.sum() for odds in real(member, batch, rows)], "reads its items beside")])
def test_what_is_trained_is_what_is_evaluated(data, tmp_path, run_here, monkeypatch, owner, method, edited, fragment):
    import net
    monkeypatch.setattr(getattr(net, owner), method, edited(getattr(getattr(net, owner), method)))
    assert_one_line_error(run_here("train_intent.py", *flags(data, tmp_path / "model")), "net.py", fragment)
    assert not (tmp_path / "model").exists()


def twice_later_states(real):
    """An edited DynamicGRU.forward: only a session's second state is another one."""
    import paddle

    def forward(gru, gates, rows_per_step, before):
        states, last = real(gru, gates, rows_per_step, before)
        first = rows_per_step[0]
        return (paddle.concat([states[:first], 2 * states[first:]]) if len(states) > first else states), last
    return forward


@pytest.mark.parametrize("owner, method, edited", [
    ("DynamicGRU", "forward", twice_later_states),
    ("DynamicGRU", "step", lambda real: lambda gru, inputs, before:
     real(gru, inputs, before) + gru.bias[:before.shape[1]])])  # which is 0 at first
def test_any_edit_is_found_whatever_the_first_sessions(data, tmp_path, run_here, monkeypatch, owner, method, edited):
    import net
    one_click = tmp_path / "data"
    shutil.copytree(data, one_click)
    header, *rows = (data / "train/clicks.tsv").read_text(encoding="utf-8").splitlines()
    sessions = list(dict.fromkeys(row.split("\t")[0] for row in rows))
    kept = [row for place, row in enumerate(rows) if row.split("\t")[0] not in sessions[:8]
            or row.split("\t")[0] != rows[place - 1].split("\t")[0]]
    (one_click / "train/clicks.tsv").write_text("\n".join([header, *kept, ""]), encoding="utf-8")
    monkeypatch.setattr(getattr(net, owner), method, edited(getattr(getattr(net, owner), method)))
    process = run_here("train_intent.py", *flags(one_click, tmp_path / "model", "--networks", 1))
    assert process.returncode == 0 and "serve.py refuses it" in process.stderr


def test_an_edit_that_no_number_shows_is_found_in_the_source(data, tmp_path, run_here, monkeypatch):
    monkeypatch.setattr(sources, "edits", lambda definitions: ["net.py: Head.forward edited"] * (
        definitions == [sources.INTENT]))
    process = run_here("train_intent.py", *flags(data, tmp_path / "model", "--networks", 1, "--pass_num", 1))
    assert process.returncode == 0 and "net.py: Head.forward edited: infer_intent.py" in process.stderr
    assert checkpoint.read_config(tmp_path / "model")["network_is_known"] is False


def test_tune_searches_its_settings(data, tmp_path):
    space = {"base_lr": {"_type": "loguniform", "_value": [0.001, 0.01]}}
    (tmp_path / "space.json").write_text(json.dumps(space), encoding="utf-8")
    (tmp_path / "base.json").write_text('{"pass_num": 1, "hid_size": 4, "batch_size": 64}', encoding="utf-8")
    command = ["--script", "train_intent.py", "--space", tmp_path / "space.json", "--base", tmp_path / "base.json",
               "--train_dir", data / "train", "--study_dir", tmp_path / "study", "--trials", 1, "--threads", 1]
    process = assert_worked(run_script("tune.py", *command, "--valid_dir", data / "valid"))
    assert "auc:" in process.stdout.splitlines()[-1]
    best = json.loads((tmp_path / "study/best.json").read_text(encoding="utf-8"))
    assert best["hid_size"] == 4 and (ROOT / "settings/search_intent.json").exists()
