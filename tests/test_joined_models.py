"""merge_models.py with models of different forms, weights and a memory of neighbours, and what the scripts then do."""

import json
import shutil

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, files_below, write_random_model

from utils.data.sessions import choose, read_sessions
from utils.files import InputError
from utils.model import checkpoint
from utils.model.joined import JoinedScorer
from utils.model.load import load_scorer
from utils.model.neighbours import remember
from utils.model.neighbours_file import write_neighbours
from utils.plotting.breakdown import run_ranks
from utils.plotting.runs import read_runs
from utils.serving.model_reload import ServedModel, signature_of
from utils.training.initial import network_of

ITEMS = 36  # as in tiny_data, whose vocab.txt is the same
SESSION = ["item_3", "item_1", "item_3", "item_20"]
RETURNS = [0.4, -0.2, 0.4, 0.8]


@pytest.fixture
def models(tmp_path):
    return [write_random_model(tmp_path / "shared", 1, ITEMS),
            write_random_model(tmp_path / "two_layers", 2, ITEMS, hid_size=(5, 8), embedding="separate")]


@pytest.fixture
def training(tiny_data):
    return tiny_data / "train_data"


@pytest.fixture
def merge(run_here, tmp_path):
    """merge_models.py into the directory `model`, which is returned with the process."""
    return lambda *arguments: (run_here("merge_models.py", *arguments, "--model_dir", tmp_path / "model"),
                               tmp_path / "model")


def with_memory(model, training, weight=0.4, newest=None):
    """The model with a memory of all training sessions, or of so many of the newest."""
    sessions = read_sessions(training, ITEMS, "--train_dir")
    numbers = np.arange(len(sessions.lengths))[-(newest or 0):]
    write_neighbours(model, remember(choose(sessions, numbers), ITEMS), weight, RETURNS)
    return model


def test_as_a_user_does_it(models, training, tiny_data, merge, run_here, with_client, monkeypatch):
    with_memory(models[0], training)
    process, model = merge(*models, "--weights", "3,1", "--neighbours_from", training, "--neighbours_weight", 0.2)
    assert assert_worked(process).stdout == f"model saved in {model / 'epoch_1'}\n"
    for path in models:
        shutil.rmtree(path)  # nobody needs another file
    scorer, _ = load_scorer(model)
    np.testing.assert_allclose([*scorer.weights, scorer.memory.weight], [0.6, 0.2, 0.2])
    np.testing.assert_allclose(scorer.memory.returns, 0.75 * np.array(RETURNS))  # the other model has none

    infer = run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", model, "--last_index", 1,
                     "--topk", 1, "--metrics", "recall,coverage", "--intervals", 1, "--draws", 100, "--against",
                     model / "epoch_1/model_1", "--per_prediction", model.parent / "each.parquet", "--threads", 1,
                     "--tune_cpu", 0)
    assert f"model:{model / 'epoch_1'} recall@1:0." in assert_worked(infer).stdout
    assert "epoch_1 less" in infer.stdout and (model.parent / "each.parquet").exists()
    sampled = run_here("infer_sample_neg.py", "--test_dir", tiny_data / "test_data", "--model_dir", model,
                       "--last_index", 1, "--topk", 5, "--sampled", 10, "--threads", 1, "--tune_cpu", 0)
    assert "recall@5:0." in sampled.stdout

    flags = ["--model_dir", model, "--topk", 5, "--format", "json", "--exclude", "last"]
    recommended = json.loads(assert_worked(run_here("recommend.py", *flags, *SESSION)).stdout)
    assert len(recommended["items"]) == 5 and max(recommended["scores"]) < 0

    monkeypatch.setattr("utils.serving.http_api.SAVING", 0)  # the state is kept after every click

    async def ask(client, api):
        whole = await client.post("/v1/recommend", json={"sessions": [SESSION], "k": 5, "exclude_clicked": "last"})
        clicks = [await client.get("/v1/recommend", params={"session_id": "a", "item_id": item, "user_consent": "true",
                                                            "k": 5}) for item in SESSION]
        similar = await client.get("/v1/similar", params={"item_id": "item_3", "k": 3})
        return whole.json(), clicks[-1].json(), similar
    whole, live, similar = with_client(ask)
    for answer in (whole["answers"][0], live):
        assert answer["items"] == recommended["items"] and answer["scores"] == recommended["scores"]
    assert len(similar.json()["items"]) == 3


def test_models_of_one_form_become_one_network_with_the_memory(models, training, merge, tmp_path):
    other = write_random_model(tmp_path / "other", 3, ITEMS)
    process, model = merge(models[0], other, "--neighbours_from", training)
    assert_worked(process)
    scorer, _ = load_scorer(model)
    assert len(scorer.scorers) == 1 and scorer.scorers[0].hid_size == [16] and scorer.memory.weight == 0.3
    assert_worked(merge(models[0], "--neighbours_from", training, "--overwrite", 1)[0])
    assert load_scorer(model)[0].scorers[0].hid_size == [8]
    assert_worked(merge(models[0], other, "--overwrite", 1)[0])
    assert not isinstance(load_scorer(model)[0], JoinedScorer) and not (model / checkpoint.NEIGHBOURS).exists()


def test_the_memory_that_models_have_is_kept_once(models, training, merge):
    with_memory(models[0], training, 0.4)
    process, model = merge(*models, "--weights", "1,3")
    assert_worked(process)
    scorer, _ = load_scorer(model)
    np.testing.assert_allclose([*scorer.weights, scorer.memory.weight], [0.15, 0.75, 0.1])
    np.testing.assert_allclose(scorer.memory.returns, 0.25 * np.array(RETURNS))
    with_memory(models[1], training, 0.2)
    assert_worked(merge(*models, "--overwrite", 1)[0])
    assert load_scorer(model)[0].memory.weight == pytest.approx(0.3)
    with_memory(models[1], training, 0.2, newest=30)
    before = files_below(model)
    assert_one_line_error(merge(*models, "--overwrite", 1)[0], models[1], "another memory")
    assert files_below(model) == before
    assert_worked(merge(*models, "--overwrite", 1, "--neighbours_from", training)[0])


def test_wrong_arguments_end_in_one_line(models, training, tiny_data, merge, tmp_path):
    (tmp_path / "other.txt").write_text("0 99\n", encoding="utf-8")
    for arguments, fragments in [
            ([models[0]], ["at least two"]),
            ([*models, "--weights", "1"], ["--weights", "found 1 for 2"]),
            ([*models, "--weights", "1,0"], ["--weights", "'0'"]),
            ([*models, "--weights", "1,a"], ["--weights", "'a'"]),
            ([*models, "--neighbours_weight", 0.3], ["--neighbours_weight", "without"]),
            ([*models, "--neighbours_from", training, "--neighbours_weight", 1], ["--neighbours_weight", "'1'"]),
            ([*models, "--neighbours_from", tmp_path / "none"], ["--neighbours_from", "none"]),
            ([*models, "--neighbours_from", tmp_path / "other.txt"], ["other.txt:1", "'99'"])]:
        process, model = merge(*arguments)
        assert_one_line_error(process, *fragments)
        assert not model.exists()


def test_what_needs_one_network_says_so(models, training, merge, run_here, tmp_path):
    model = merge(*models)[1]
    for flag in "--item_vectors", "--onnx":
        process = run_here("export.py", "--model_dir", model, flag,
                           tmp_path / f"items.{'npy' if flag[2] == 'i' else 'onnx'}")
        assert_one_line_error(process, "joined models", model, "epoch_1")
    assert_one_line_error(run_here("merge_models.py", model, models[0], "--model_dir", tmp_path / "more"), model,
                          "joined models")
    with pytest.raises(InputError, match="joined models"):
        network_of(model)
    with_memory(model, training)
    assert_one_line_error(run_here("export.py", "--model_dir", model, "--onnx", tmp_path / "model.onnx"),
                          "joined models")
    with_memory(models[0], training)
    process = run_here("export.py", "--model_dir", models[0], "--item_vectors", tmp_path / "items.npy", "--onnx",
                       tmp_path / "model.onnx")
    assert process.returncode == 0 and process.stderr.count("\n") == 1 and "memory of neighbours" in process.stderr
    assert np.load(tmp_path / "items.npy").shape == (ITEMS, 9)


def test_a_server_sees_that_a_model_has_got_a_memory(models, training):
    before = signature_of(models[0])
    assert signature_of(models[0]) == before
    with_memory(models[0], training)
    assert signature_of(models[0]) != before and ServedModel(models[0]).scorer.memory.weight == 0.4
    (models[0] / checkpoint.NEIGHBOURS).write_bytes(b"")
    with pytest.raises(InputError, match=checkpoint.NEIGHBOURS):
        ServedModel(models[0])


def test_the_breakdown_of_a_model_with_a_memory_has_the_ranks_of_infer(tiny_model, tiny_data, training, tmp_path):
    from utils.evaluation.joined_ranks import load, model_ranks
    from utils.evaluation.ranks import Way
    model, test_dir = with_memory(shutil.copytree(tiny_model, tmp_path / "model"), training), tiny_data / "test_data"
    found = run_ranks(read_runs([model])[0], test_dir)
    sessions = read_sessions(test_dir, ITEMS, "--test_dir")
    expected = model_ranks(load(model, 2), sessions, Way(64))
    assert np.mean(found.ranks == expected) > 0.98  # scores that differ by rounding may change places
    assert np.mean(run_ranks(read_runs([tiny_model])[0], test_dir).ranks == expected) < 0.9
