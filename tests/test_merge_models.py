"""merge_models.py: the joined network's scores are the mean of its models' scores, in every form of the network."""

import json
import shutil

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script

from utils.model.load import load_model
from utils.model.scorer import Scorer

FORMS = {
    "shared": [],
    "separate, two layers": ["--embedding", "separate", "--emb_size", 5, "--hid_size", "6,8", "--reset_gate", "before"],
    "none": ["--embedding", "none", "--reset_gate", "before"],
}


def train(tiny_data, model_dir, *more):
    assert_worked(run_script("train.py", "--train_dir", tiny_data / "train_data", "--model_dir", model_dir,
                             "--vocab_path", tiny_data / "vocab.txt", "--hid_size", 8, "--pass_num", 1,
                             "--batch_size", 10, "--threads", 1, *more))
    return model_dir


def states_after(scorer, session):
    states = scorer.before_first_click()
    for item in session:
        states = scorer.click(item, states)
    return states[-1]


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_the_mean_and_every_script_takes_it(tiny_data, tmp_path, form):
    models = [train(tiny_data, tmp_path / f"model_{seed}", "--seed", seed, *FORMS[form]) for seed in (1, 2, 3)]
    merged = tmp_path / "merged"
    process = assert_worked(run_script("merge_models.py", *models, "--model_dir", merged))
    assert process.stdout == f"model saved in {merged / 'epoch_1'}\n"
    session = [3, 1, 3, 20]
    scorers = [Scorer(*load_model(model_dir)[:2]) for model_dir in (*models, merged)]
    scores = [scorer.scores(states_after(scorer, session)) for scorer in scorers]
    assert np.abs(scores[0] - scores[1]).max() > 0.01
    np.testing.assert_allclose(scores[3], np.mean(scores[:3], axis=0), atol=1e-5)
    assert "recall@20:" in assert_worked(run_script("infer.py", "--test_dir", tiny_data / "test_data",
                                                    "--model_dir", merged, "--last_index", 1)).stdout
    assert assert_worked(run_script("recommend.py", "--model_dir", merged, "item_3")).stdout.count("\n") == 20


@pytest.mark.parametrize("change, fragments", [
    (lambda config: config["data"].update(vocab_sha256="0" * 64), ["vocab"]),
    (lambda config: config["network"].update(reset_after=False), ["reset_after"]),
])
def test_models_that_do_not_fit_are_refused(tiny_model, tmp_path, change, fragments):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    change(config)
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_one_line_error(run_script("merge_models.py", tiny_model, other, "--model_dir", tmp_path / "merged"), other,
                          *fragments)
    assert not (tmp_path / "merged").exists()


def test_wrong_arguments_end_in_one_line(tiny_model, tmp_path):
    before = files_below(tiny_model)
    for arguments, fragment in [([tiny_model], "at least two"), ([tiny_model, tmp_path / "none"], "config.json"),
                                ([tiny_model, tiny_model, "--epoch", 9], "epoch 9")]:
        assert_one_line_error(run_script("merge_models.py", *arguments, "--model_dir", tmp_path / "merged"), fragment)
    assert_one_line_error(run_script("merge_models.py", tiny_model, tiny_model, "--model_dir", tiny_model,
                                     "--overwrite", 1),
                          "one of the models")
    assert files_below(tiny_model) == before
