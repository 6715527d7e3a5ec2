"""train_sample_neg.py and infer_sample_neg.py as a user runs them."""

import json
import re

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, run_script, with_flags
from safetensors.numpy import load_file


def flags(data, model_dir, *more):
    usual = ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir,
             "--threads", 1, "--hid_size", 8, "--pass_num", 3, "--neg_size", 16]
    return with_flags(usual, more)


def losses(model_dir):
    lines = (model_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["loss"] for record in map(json.loads, lines) if record["event"] == "epoch"]


def options_of(model_dir):
    return json.loads((model_dir / "config.json").read_text(encoding="utf-8"))["options"]


VARIANTS = {
    "own settings": [],
    "reference bpr": ["--config", ROOT / "settings/reference_bpr.json", "--neg_size", 5],
    "reference ce": ["--config", ROOT / "settings/reference_ce.json", "--neg_size", 5],
    "official xe": ["--config", ROOT / "settings/official_xe.json", "--batch_size", 8],
    "official bpr-max": ["--config", ROOT / "settings/official_bpr_max.json", "--batch_size", 8],
    "bpr": ["--loss", "bpr"],
    "top1": ["--loss", "top1"],
    "top1-max, scaled scores": ["--loss", "top1-max", "--score_scale", 8],
    "bpr-max in whole sessions": ["--batching", "sessions", "--loss", "bpr-max", "--batch_size", 8],
    "bpr-max without the native library": ["--loss", "bpr-max", "--tune_cpu", 0],
    "smoothed, separate, adam": ["--label_smoothing", 0.1, "--embedding", "separate", "--optimizer", "adam",
                                 "--batch_size", 8, "--lr_schedule", "constant"],
    "no embedding, two layers": ["--embedding", "none", "--hid_size", "8,6", "--reset_gate", "before", "--grad_cap", 1],
    "whole sessions, drawn negatives alone": ["--batching", "sessions", "--batch_size", 8],
    "whole sessions, targets as negatives": ["--batching", "sessions", "--batch_size", 8, "--in_batch", 1,
                                             "--group_batches", 5],
    "dropped states carried": ["--batching", "sessions", "--batch_size", 8, "--through_time", 0, "--carry_dropped", 1],
    "targets only, parallel": ["--neg_size", 0, "--batching", "parallel", "--batch_size", 8, "--momentum", 0.2,
                               "--hid_size", "6,8"],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_trains_and_can_be_evaluated(tiny_data, tmp_path, name, run_here):
    process = assert_worked(run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "model", *VARIANTS[name])))
    assert process.stdout.rstrip().endswith("finish training")
    found = losses(tmp_path / "model")
    assert found[2] < found[0]
    process = assert_worked(run_here("infer_sample_neg.py", "--test_dir", tiny_data / "test_data/",
                                        "--model_dir", tmp_path / "model", "--last_index", 3))
    assert process.stdout.count(" recall@20:") == 3


@pytest.mark.parametrize("more", [[], ["--batching", "parallel", "--batch_size", 8, "--hid_dropout", 0.3]])
def test_one_seed_one_thread_identical_weights(tiny_data, tmp_path, run_here, more):
    for name, seed, run in (("first", 1, run_script), ("again", 1, run_here), ("other", 2, run_here)):
        assert_worked(run("train_sample_neg.py", *flags(tiny_data, tmp_path / name, "--seed", seed, *more)))
    read = lambda name: (tmp_path / name / "epoch_3/model.safetensors").read_bytes()
    assert read("first") == read("again") != read("other")
    assert losses(tmp_path / "first") == losses(tmp_path / "again")


def test_only_rows_of_sampled_or_clicked_items_move(tiny_data, tmp_path, run_here):
    """Of 36 items, those that no session holds stay as they were drawn when nothing is sampled."""
    (tmp_path / "train.txt").write_text("1 2 3\n3 1\n", encoding="utf-8")
    run = lambda name, lr: assert_worked(run_here("train_sample_neg.py", *flags(
        tiny_data, tmp_path / name, "--train_dir", tmp_path / "train.txt", "--neg_size", 0, "--base_lr", lr)))
    run("moved", 0.1), run("still", 0)
    read = lambda name: load_file(tmp_path / name / "epoch_3/model.safetensors")["item_matrix"]
    moved, still = read("moved"), read("still")
    changed = (moved != still).any(axis=1)
    assert changed[[1, 2, 3]].all() and changed.sum() == 3


@pytest.mark.parametrize("text, more", [
    ("0 1\n", []),  # one session
    ("0 0 0\n", []),  # one item
    ("0 1 2\n1 2\n", ["--batching", "parallel", "--batch_size", 32]),  # fewer sessions than slots
    ("0 1 2\n1 2\n", ["--neg_size", 5000]),  # more negatives than items
    ("0 1\n", ["--config", ROOT / "settings/reference_bpr.json", "--neg_size", 3]),
    ("0 0 0\n", ["--config", ROOT / "settings/reference_ce.json", "--neg_size", 3]),
    ("0 1\n", ["--loss", "bpr", "--neg_size", 3]),
    ("0 0 0\n", ["--loss", "bpr-max", "--neg_size", 3]),
    ("0 1 2\n", ["--batching", "parallel", "--neg_size", 2]),
    ("0 1\n2 3\n4 5\n", ["--neg_size", 0, "--batch_size", 2, "--loss", "bpr-max"]),  # one target in the last batch
    ("0 1\n2 3\n4 5\n", ["--neg_size", 0, "--batch_size", 2, "--label_smoothing", 0.1, "--score_scale", 0]),
])
def test_tiny_data_works(tiny_data, tmp_path, text, more, run_here):
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    more = flags(tiny_data, tmp_path / "model", "--train_dir", tmp_path / "train.txt", *more)
    assert_worked(run_here("train_sample_neg.py", *more))


@pytest.mark.parametrize("text, more", [
    ("0 1 2\n", ["--batching", "parallel"]),
    ("0 1 2\n3\n", ["--batching", "parallel"]),
    ("0 1 2\n3 4\n", ["--batching", "parallel", "--batch_size", 1]),
    ("0 1\n3\n", []),
    ("0 1\n3 4\n", ["--batch_size", 1]),
])
def test_nothing_to_compare_with_is_said(tiny_data, tmp_path, text, more, run_here):
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    more = flags(tiny_data, tmp_path / "model", "--train_dir", tmp_path / "train.txt", "--neg_size", 0, *more)
    process = run_here("train_sample_neg.py", *more)
    assert_one_line_error(process, "--neg_size 0", "two sessions")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("more, fragments", [
    (["--loss", "hinge"], ["--loss", "hinge"]),
    (["--negatives", "tiled", "--neg_size", 0], ["--neg_size"]),
    (["--negatives", "tiled", "--batching", "parallel", "--logq", 0], ["--negatives"]),
    (["--negatives", "tiled", "--batching", "sessions", "--logq", 1], ["--logq"]),
    (["--candidate_dropout", 0.1], ["--candidate_dropout"]),
    (["--loss", "top1", "--label_smoothing", 0.1], ["--label_smoothing"]),
    (["--batching", "sessions", "--carry_dropped", 1], ["--carry_dropped", "--through_time 0"]),
    (["--neg_size", 0, "--in_batch", 0], ["--neg_size", "--in_batch 1"]),
    (["--negatives", "tiled", "--in_batch", 1], ["--in_batch"]),
    (["--fc_lr_x", 2], ["--fc_lr_x"]),
    (["--embedding", "none", "--emb_lr_x", 2], ["--emb_lr_x"]),
    (["--embedding", "none", "--emb_size", 5], ["--emb_size"]),
    (["--sample_alpha", -1], ["--sample_alpha"]),
    (["--optimizer", "lion"], ["--optimizer", "lion"]),
    (["--batching", "parallel", "--shuffle", 1], ["--shuffle"]),
    (["--batching", "parallel", "--group_batches", 20], ["--group_batches"]),
    (["--config", "nowhere.json"], ["--config", "nowhere.json"]),
    (["--config", "vocab.txt"], ["--config", "vocab.txt"]),
    (["--config", "strange.json"], ["strange.json", "no_such_flag"]),
])
def test_wrong_flags_end_in_one_line(tiny_data, tmp_path, more, fragments, run_here):
    (tmp_path / "vocab.txt").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "strange.json").write_text('{"no_such_flag": 1}', encoding="utf-8")
    process = run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "model", *more), cwd=tmp_path)
    assert_one_line_error(process, *fragments)
    assert not (tmp_path / "model").exists()


def test_flags_beside_a_config_win(tiny_data, tmp_path, run_here):
    assert_worked(run_here("train_sample_neg.py", "--config", ROOT / "settings/official_xe.json",
                             *flags(tiny_data, tmp_path / "model", "--pass_num", 1)))
    options = options_of(tmp_path / "model")
    expected = {"pass_num": 1, "neg_size": 16, "momentum": 0.2, "loss": "ce"}
    assert {name: options[name] for name in expected} == expected


@pytest.mark.parametrize("more, logq", [
    ([], 1), (["--loss", "bpr-max"], 0), (["--negatives", "tiled", "--batching", "sessions"], 0),
    (["--logq", 0.5], 0.5), (["--loss", "top1", "--logq", 1], 1)])
def test_the_correction_is_by_default_that_of_cross_entropy_alone(tiny_data, tmp_path, run_here, more, logq):
    assert_worked(run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "model", "--pass_num", 1, *more)))
    assert options_of(tmp_path / "model")["logq"] == logq


def test_to_name_the_default_loss_changes_nothing(tiny_data, tmp_path, run_here):
    assert_worked(run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "default")))
    assert_worked(run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "named", "--loss", "ce")))
    for name in ("model", "optimizer"):
        default, named = ((tmp_path / run / f"epoch_3/{name}.safetensors").read_bytes() for run in ("default", "named"))
        assert default == named
    assert losses(tmp_path / "default") == losses(tmp_path / "named")
    found = options_of(tmp_path / "named")
    assert {**found, "model_dir": str(tmp_path / "default")} == options_of(tmp_path / "default")


@pytest.mark.parametrize("loss", ["bpr", "bpr-max", "top1", "top1-max"])
def test_another_loss_changes_nothing_else_but_the_correction_and_the_scale(tiny_data, tmp_path, run_here, loss):
    for name, more in (("ce", []), ("other", ["--loss", loss])):
        assert_worked(run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / name, "--pass_num", 1, *more)))
    default, other = options_of(tmp_path / "ce"), options_of(tmp_path / "other")
    assert {name for name in default if default[name] != other[name]} == {"loss", "logq", "score_scale",
                                                                              "model_dir"}
    assert (other["loss"], other["logq"], other["score_scale"], other["negatives"]) == (loss, 0, 0, "shared")


@pytest.mark.parametrize("loss", ["bpr", "ce"])
def test_the_reference_comes_by_its_settings(tiny_data, tmp_path, run_here, loss):
    """Paddle's old example: negatives of each position's own, and the reset gate before the product."""
    assert_worked(run_here("train_sample_neg.py", "--config", ROOT / f"settings/reference_{loss}.json",
                           *flags(tiny_data, tmp_path / "model", "--pass_num", 1)))
    found = options_of(tmp_path / "model")
    expected = {"loss": loss, "negatives": "tiled", "batching": "sessions", "reset_gate": "before", "logq": 0,
                "candidate_dropout": 0.2, "optimizer": "adagrad", "in_batch": 0, "emb_dropout": 0.2, "base_lr": 0.01}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("more, described", [
    ([], "loss:ce negatives:shared neg_size:16 in_batch:1 sample_alpha:0.5 logq:1.0"),
    (["--loss", "bpr"], "loss:bpr negatives:shared neg_size:16 in_batch:1 sample_alpha:0.5 logq:0.0"),
    (["--loss", "top1-max", "--batching", "sessions", "--logq", 0.5, "--sample_alpha", 1],
     "loss:top1-max negatives:shared neg_size:16 in_batch:0 sample_alpha:1.0 logq:0.5"),
    (["--config", ROOT / "settings/reference_bpr.json"], "loss:bpr negatives:tiled neg_size:16 candidate_dropout:0.2"),
])
def test_the_log_says_what_the_loss_is_taken_over(tiny_data, tmp_path, run_here, more, described):
    """Its mean is logged by its name: over a sample of the items, exp(loss) is no perplexity."""
    more = flags(tiny_data, tmp_path / "model", "--print_batch", 2, *more)
    process = assert_worked(run_here("train_sample_neg.py", *more))
    lines, name = process.stdout.splitlines(), described.split()[0].removeprefix("loss:")
    assert described in lines[:lines.index("epoch_1 start")]
    assert any(re.fullmatch(rf"step:2 {name}:\d+\.\d{{4}}", line) for line in lines)
    assert "ppl" not in process.stdout
    config = json.loads((tmp_path / "model/config.json").read_text(encoding="utf-8"))
    assert config["loss"] == name and config["loss_is_sampled"] is True
    way = "native" if "native:yes" in lines[0] else "paddle"
    assert f"engine:{way} loss:{way} optimizer:{way}" in lines


def test_sampled_ranks_stand_in_no_table_with_full_ones(tiny_data, tiny_model, run_here):
    process = run_here("infer_sample_neg.py", "--test_dir", tiny_data / "test_data", "--model_dir", tiny_model,
                         "--train_dir", tiny_data / "train_data", "--sampled", 5)
    assert_one_line_error(process, "--train_dir", "--sampled")


def test_sampled_metrics_come_with_a_warning_and_don_t_depend_on_the_batch_size(tiny_data, tiny_model, run_here):
    def run(*more):
        return run_here("infer_sample_neg.py", "--test_dir", tiny_data / "test_data", "--model_dir", tiny_model,
                          "--last_index", 2, "--topk", "1,5", *more)

    def figures(process):
        return [line.split(" time_cost")[0] for line in process.stdout.splitlines() if line.startswith("model:")]

    sampled, again = run("--sampled", 5, "--batch_size", 1), run("--sampled", 5, "--batch_size", 64)
    assert sampled.returncode == 0 and sampled.stderr.count("\n") == 1 and "don't compare" in sampled.stderr
    assert figures(sampled) == figures(again) != figures(run())
    assert figures(sampled) != figures(run("--sampled", 5, "--seed", 2))
