"""merge_models.py: the joined network's scores are the mean of its models' scores, in every form of the network."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script, with_flags

from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.load import load_model
from utils.model.popular import read_popular_record
from utils.model.scorer import Scorer
from utils.model.upkeep import hold_directory

FORMS = {
    "shared, vectors of one length": ["--score_scale", 30],
    "separate, two layers": ["--embedding", "separate", "--emb_size", 5, "--hid_size", "6,8", "--reset_gate", "before"],
    "none": ["--embedding", "none", "--reset_gate", "before"],
}


def train(run_here, tiny_data, model_dir, *more):
    usual = ["--train_dir", tiny_data / "train_data", "--model_dir", model_dir, "--vocab_path", tiny_data / "vocab.txt",
             "--hid_size", 8, "--pass_num", 1, "--batch_size", 10, "--threads", 1]
    assert_worked(run_here("train.py", *with_flags(usual, more)))
    return model_dir


def states_after(scorer, session):
    states = scorer.before_first_click()
    for item in session:
        states = scorer.click(item, states)
    return states[-1]


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_the_mean_and_every_script_takes_it(tiny_data, tmp_path, run_here, form):
    models = [train(run_here, tiny_data, tmp_path / f"model_{seed}", "--seed", seed, *FORMS[form])
              for seed in (1, 2, 3)]
    merged = tmp_path / "merged"
    process = assert_worked(run_here("merge_models.py", *models, "--model_dir", merged))
    assert process.stdout == f"model saved in {merged / 'epoch_1'}\n"
    assert read_popular_record(merged) == read_popular_record(models[0]) is not None
    session = [3, 1, 3, 20]
    scorers = [Scorer(*load_model(model_dir)[:2]) for model_dir in (*models, merged)]
    scores = [scorer.scores(states_after(scorer, session)) for scorer in scorers]
    assert np.abs(scores[0] - scores[1]).max() > 0.01
    np.testing.assert_allclose(scores[3], np.mean(scores[:3], axis=0), atol=1e-5)
    assert "recall@20:" in assert_worked(run_here("infer.py", "--test_dir", tiny_data / "test_data",
                                                    "--model_dir", merged, "--last_index", 1)).stdout
    assert assert_worked(run_here("recommend.py", "--model_dir", merged, "item_3")).stdout.count("\n") == 20


@pytest.mark.parametrize("change, fragments", [
    (lambda config: config["data"].update(vocab_sha256="0" * 64), ["vocab"]),
    (lambda config: config.update(joined={"weights": [1.0]}), ["joined"]),
    (lambda config: config.update(neighbours={"weight": 2}), ["weight"]),
])
def test_models_that_do_not_fit_are_refused(tiny_model, tmp_path, change, fragments, run_here):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    config = checkpoint.read_config(other)
    change(config)
    write_json(other / "config.json", config)
    assert_one_line_error(run_here("merge_models.py", tiny_model, other, "--model_dir", tmp_path / "merged"), other,
                          *fragments)
    assert not (tmp_path / "merged").exists()


def test_wrong_arguments_end_in_one_line(tiny_model, tmp_path, run_here):
    before, other = files_below(tiny_model), shutil.copytree(tiny_model, tmp_path / "other")
    for arguments, fragment in [([tiny_model], "at least two"),
                                ([tiny_model, tmp_path / "none"], ": MODEL_DIR: found no file"),
                                ([tiny_model, other, "--epoch", 9], "epoch 9")]:
        assert_one_line_error(run_here("merge_models.py", *arguments, "--model_dir", tmp_path / "merged"), fragment)
    assert_one_line_error(run_here("merge_models.py", tiny_model, tiny_model, "--model_dir", tiny_model,
                                     "--overwrite", 1),
                          "one of the models")
    assert files_below(tiny_model) == before


def test_the_same_model_twice_is_refused_however_it_is_named(tiny_model, tmp_path, run_here):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "loop").symlink_to("loop")
    for models in [other, other], [other, tmp_path / "link"], [other, tiny_model, f"{tmp_path}/./other/"]:
        process = run_here("merge_models.py", *models, "--model_dir", tmp_path / "merged")
        assert_one_line_error(process, f"found {models[-1]} twice")
    assert_one_line_error(run_here("merge_models.py", other, tmp_path / "loop", "--model_dir", tmp_path / "merged"),
                          tmp_path / "loop")
    assert_one_line_error(run_here("merge_models.py", other, tiny_model, "--model_dir", tmp_path / "link",
                                     "--overwrite", 1), "one of the models")
    assert not (tmp_path / "merged").exists()


def test_a_directory_where_a_run_is_at_work_is_refused(tiny_model, tmp_path, run_here):
    models = [tiny_model, shutil.copytree(tiny_model, tmp_path / "other")]
    at_work = shutil.copytree(tiny_model, tmp_path / "at_work")
    before = files_below(at_work)
    with hold_directory(at_work):
        process = run_here("merge_models.py", *models, "--model_dir", at_work, "--overwrite", 1)
    assert_one_line_error(process, "--model_dir: found another run at work")
    assert files_below(at_work) == before


def test_several_at_once_do_not_mix(tiny_model, tmp_path):
    models = [tiny_model, shutil.copytree(tiny_model, tmp_path / "other")]
    command = [sys.executable, ROOT / "merge_models.py", *models, "--model_dir", tmp_path / "merged", "--overwrite", 1]
    for _ in range(3):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(list(map(str, command)), **pipes) for _ in range(4)]
        for process in processes:
            output, errors = process.communicate(timeout=60)
            assert process.returncode in (0, 2) and "Traceback" not in errors
            assert process.returncode == 0 or "another run at work" in errors, errors
        assert 0 in [process.returncode for process in processes]
        load_model(tmp_path / "merged")
        assert sorted(path.name for path in (tmp_path / "merged").iterdir()) == [
        "config.json", "epoch_1", "popular.json", "vocab.txt"]


def test_a_full_disk_leaves_no_directory(tiny_model, tmp_path):
    models = [tiny_model, shutil.copytree(tiny_model, tmp_path / "other")]

    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    process = run_script("merge_models.py", *models, "--model_dir", tmp_path / "merged", preexec_fn=limit)
    assert_one_line_error(process, "File too large")
    assert not (tmp_path / "merged").exists()
