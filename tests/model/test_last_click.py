"""--last_click: every way to compute it is net.py's, from training to answering, and older models do without."""

import numpy as np
import onnxruntime
import paddle
import pytest
from conftest import assert_one_line_error, assert_worked, with_flags
from forms import draw_weights, sessions_of, settings_of

from merge_models import merged_settings, merged_weights
from net import Network
from utils.data.batches import Batching
from utils.data.sessions import Sessions
from utils.losses import Loss
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.layout import LAST_CLICK
from utils.model.load import load_model
from utils.model.native_scorer import NativeScorer
from utils.model.network import put_weights
from utils.model.onnx_model import session_model
from utils.model.scorer import Scorer
from utils.training import proof as proof_module
from utils.training.objectives import AllItems, SharedNegatives
from utils.training.optimizers import Adagrad
from utils.training.proof import prove
from utils.training.trainer import Trainer

ITEMS = 23
LISTS = [[1, 2, 3, 4, 5, 6, 7], [3], [], [22, 0, 22]]
FORMS = [("shared", [6], True), ("shared", [5, 7], False)]


def drawn(form, seed=0):
    settings = settings_of(*form, last_click=True)
    return settings, draw_weights(settings, ITEMS, seed)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_scorers_score_as_net_does(form):
    settings, weights = drawn(form)
    network, (items, *_) = Network(ITEMS, settings), LISTS
    put_weights(network, weights)
    network.eval()
    with paddle.no_grad():
        states = network.hidden_states(paddle.to_tensor(items), [1] * len(items))
        expected = network.scores(states, network.item_matrix).numpy()
    prefixes = sessions_of([items[:clicks] for clicks in range(1, len(items) + 1)])
    for scorer in Scorer(settings, weights), NativeScorer(settings, weights):
        for found in scorer.packed_states(np.array(items), [1] * len(items)), scorer.after_sessions(prefixes):
            np.testing.assert_allclose(found, states.numpy(), rtol=0, atol=1e-5)
            np.testing.assert_allclose(scorer.scores(found), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_sessions_go_on_from_their_states(form):
    settings, weights = drawn(form)
    graph = session_model(settings, weights, 5, {}).SerializeToString()
    runtime = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for scorer in Scorer(settings, weights), NativeScorer(settings, weights):
        nothing = np.zeros((len(LISTS), scorer.state_size), np.float32)
        whole = scorer.replay(sessions_of(LISTS), nothing)
        begun = scorer.replay(sessions_of([items[:2] for items in LISTS]), nothing)
        after = scorer.replay(sessions_of([items[2:] for items in LISTS]), begun)
        np.testing.assert_allclose(after, whole, rtol=0, atol=1e-6)
        rest = np.array([[3, 4, 5, 6, 7], [-1] * 5, [-1] * 5, [-1, 22, -1, -1, -1]])
        states, scores = runtime.run(["new_states", "scores"], {"items": rest, "states": begun})
        np.testing.assert_allclose(states, whole, rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores, scorer.scores(scorer.last_layer(whole)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("more", [{}, {"emb_dropout": 0.3, "hid_dropout": 0.4},
                                  {"hid_dropout": 0.4, "through_time": False, "carry_dropped": True}], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("parallel", [True, False])
def test_fast_engines_train_it(kernels, monkeypatch, form, more, parallel):
    random, network = np.random.default_rng(5), Network(ITEMS, settings_of(*form, last_click=True, **more), seed=3)
    sessions = Sessions(random.integers(0, ITEMS, 200).astype(np.int32), np.array([0, 3, 60, 90, 91, 120, 200]))
    trainer = Trainer(network, sessions, Batching(parallel, 4),
                      SharedNegatives(network, Loss("ce"), np.arange(ITEMS), 9, 0.5, 1.0, parallel), Adagrad(0.1))
    assert prove(trainer, kernels)[1] == "engine:native loss:native optimizer:native"
    before = network.last_click.numpy()
    for batch in trainer.batches(random):
        assert np.isfinite(trainer.step(batch))
    assert (network.last_click.numpy() != before).all()
    monkeypatch.setattr(proof_module, "is_gpu", lambda: True)
    if form[2] and not (more.get("carry_dropped") and not parallel):
        trainer = Trainer(network, sessions, Batching(parallel, 4), AllItems(network), Adagrad(0.1))
        assert prove(trainer, None)[1] == "engine:fused loss:softmax optimizer:paddle"


def test_models_merge():
    pairs = [drawn(("shared", [6], True), seed) for seed in (1, 2, 3)]
    all_settings, all_weights = zip(*pairs)
    settings = merged_settings(all_settings)
    merged = Scorer(settings, merged_weights(all_weights, settings))
    scores = [scorer.scores(scorer.after_sessions(sessions_of(LISTS[:2])))
              for scorer in (*(Scorer(*pair) for pair in pairs), merged)]
    np.testing.assert_allclose(scores[3], np.mean(scores[:3], axis=0), atol=1e-5)


@pytest.fixture(scope="module")
def usual(tiny_data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("last_click")
    return ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt", "--hid_size", 8,
            "--pass_num", 1, "--batch_size", 10, "--threads", 1, "--neighbours", 0, "--overwrite", 1,
            "--model_dir", directory / "model"]


def test_a_model_is_trained_evaluated_asked_and_gone_on_from(usual, tiny_data, run_here, tmp_path):
    process = assert_worked(run_here("train_sample_neg.py", *with_flags(usual, ["--last_click", 1])))
    assert "engine:native loss:native optimizer:native\n" in process.stdout
    model_dir = usual[-1]
    settings, weights, _ = load_model(model_dir)
    assert settings.last_click and (weights[LAST_CLICK] != np.float32(0.1)).any()
    test = ["--test_dir", tiny_data / "test_data", "--model_dir", model_dir, "--last_index", 1, "--threads", 1]
    assert "recall@20:" in assert_worked(run_here("infer_sample_neg.py", *test)).stdout
    asked = assert_worked(run_here("recommend.py", "--model_dir", model_dir, "--topk", 5, "item_3", "item_1")).stdout
    scorer, (items, *_) = Scorer(settings, weights), [[3, 1]]
    item_ids = (tiny_data / "vocab.txt").read_text(encoding="utf-8").split()
    session = [item_ids.index(f"item_{item}") for item in items]
    best = np.argsort(-scorer.scores(scorer.after_sessions(sessions_of([session])))[0], kind="stable")
    assert [line.split("\t")[2] for line in asked.splitlines()] == [item_ids[item] for item in best[:5]]
    on = with_flags(usual, ["--init_from", model_dir, "--model_dir", tmp_path / "on"])
    on = [flag for flag in on if flag not in ("--hid_size", 8)]
    assert_worked(run_here("train_sample_neg.py", *on))
    assert load_model(tmp_path / "on")[0].last_click
    process = run_here("train_sample_neg.py", *on, "--last_click", 0)
    assert_one_line_error(process, "--last_click: found 0", "expected 1")

    config = checkpoint.read_config(tmp_path / "on")
    write_json(tmp_path / "on/config.json", {**config, "network": {**config["network"], "embedding": "separate"}})
    process = run_here("recommend.py", "--model_dir", tmp_path / "on", "item_3")
    assert_one_line_error(process, "(last_click with embedding separate)")


@pytest.mark.parametrize("flags", [["--embedding", "separate"], ["--embedding", "none"]])
def test_without_a_shared_matrix_it_is_refused(usual, run_here, flags):
    process = run_here("train.py", *with_flags(usual, ["--last_click", 1, *flags]))
    assert_one_line_error(process, f"--last_click: found 1 with --embedding {flags[1]}, expected 0")


def test_an_older_model_has_none(tiny_model, tmp_path):
    import shutil
    shutil.copytree(tiny_model, tmp_path / "old")
    config = checkpoint.read_config(tmp_path / "old")
    assert config["network"].pop("last_click") is False
    write_json(tmp_path / "old/config.json", config)
    assert load_model(tmp_path / "old")[0].last_click is False
