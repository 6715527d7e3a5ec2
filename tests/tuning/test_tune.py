"""tune.py as a user runs it: a true search, and every wrong input, which ends in one line before any training."""

import json
import sys

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script, with_flags
from searches import flags

SPACE = {"base_lr": {"_type": "loguniform", "_value": [0.05, 0.4]}, "hid_size": {"_type": "choice", "_value": [6, 8]}}


def test_a_search_finds_settings_that_its_trainer_takes(tiny_data, tmp_path, run_here):
    (tmp_path / "base.json").write_text('{"pass_num": 2, "batch_size": 20}', encoding="utf-8")
    command = flags(tiny_data, tmp_path / "study", SPACE, trials=2, valid_fraction=0.2)
    process = assert_worked(run_script("tune.py", *command))
    assert [line.partition(": recall@20:")[0] for line in process.stdout.splitlines()[2:4]] == ["trial 0", "trial 1"]
    for name in "history.png", "importance.png", "parallel_coordinates.png":
        assert (tmp_path / "study" / name).read_bytes().startswith(b"\x89PNG")
    best = json.loads((tmp_path / "study/best.json").read_text(encoding="utf-8"))
    assert best["pass_num"] == 2 and best["batch_size"] == 20 and best["loss"] == "ce"
    last = process.stdout.splitlines()[-1].split()
    number, figure = last[2].rstrip(","), float(last[3].partition(":")[2].rstrip(";"))
    [metrics] = (tmp_path / f"study/trials/000{number}").glob("model_1/metrics.jsonl")
    recorded = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    assert max(record["recall@20"] for record in recorded if record["event"] == "epoch") == pytest.approx(figure,
                                                                                                          abs=1e-4)
    assert list((tmp_path / f"study/trials/000{number}").glob("model_1/epoch_*/model.safetensors"))
    before = files_below(tmp_path / "study/trials")
    assert_worked(run_here("tune.py", *command))  # it is finished: nothing is done again
    assert files_below(tmp_path / "study/trials") == before


def in_space(name, kind, *values):
    return {name: {"_type": kind, "_value": list(values)}}


@pytest.mark.parametrize("space, fragments", [
    (in_space("hid_units", "choice", 8), ["found 'hid_units', expected names of flags as train_sample_neg.py -h"]),
    (in_space("model_dir", "choice", "x"), ["found 'model_dir'", "tune.py sets"]),
    (in_space("hid_dropout", "uniform", 0, 1.5), ["--hid_dropout", "'1.5'", "hid_dropout=1.5"]),
    (in_space("hid_dropout", "normal", 0.3, 0.2), ["--hid_dropout", "found '-0.318"]),
    (in_space("batch_size", "uniform", 16, 64), ["--batch_size", "'16.0'", "an integer"]),
    (in_space("base_lr", "choice", 0.1, "fast"), ["--base_lr", "'fast'", "a number"]),
    (in_space("loss", "choice", "ce", "hinge"), ["--loss", "'hinge'"]),
    (in_space("loss", "choice", "ce", "bpr") | in_space("label_smoothing", "uniform", 0, 0.2),
     ["--label_smoothing: found 0.2 with --loss bpr", "that was with --loss=bpr --label_smoothing=0.2"]),
    ("{", ["--space", "no JSON object"])])
def test_a_space_that_the_trainer_refuses(tiny_data, tmp_path, run_here, space, fragments):
    command = flags(tiny_data, tmp_path / "study")
    (tmp_path / "study.json").write_text(space if isinstance(space, str) else json.dumps(space), encoding="utf-8")
    assert_one_line_error(run_here("tune.py", *command), "study.json", *fragments)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("more, fragments", [
    (["--trials", 0], ["--trials", "'0'"]), (["--workers", 3], ["--workers: found 3 with 1 threads"]),
    (["--valid_fraction", 0], ["--valid_fraction: found 0"]), (["--folds", 11], ["--folds", "none to train on"]),
    (["--folds", 2, "--valid_dir", "test_data"], ["--folds", "--valid_dir"]),
    (["--valid_fraction", 0.2, "--valid_dir", "test_data"], ["--valid_fraction", "--valid_dir"]),
    (["--pruner", "best"], ["--pruner"]), (["--watch", "train_loss"], ["--watch"]),
    (["--train_dir", "none"], ["--train_dir", "none"]), (["--valid_dir", "none"], ["--valid_dir", "none"]),
    (["--vocab_path", "none"], ["none"]), (["--vocab_path", "small.txt"], ["train.txt:", "item indices from 0 to 1"]),
    (["--space", "none"], ["--space", "none"]), (["--first", "none"], ["--first", "none"]),
    (["--first", "settings.json"], ["--first: found 'hid' in settings.json"]),
    (["--base", "settings.json"], ["--base: found 'hid' in settings.json"]),
    (["--base", "data.json"], ["--base data.json", "'train_dir'", "tune.py sets"]),
    (["--script", "train.py"], ["--space", "'loss'", "train.py -h"]),
    (["--study_dir", "train_data"], ["--study_dir: found sessions"]),
    (["--study_dir", "other"], ["--study_dir: found other with other files"]),
    (["--study_dir", "small.txt"], ["--study_dir", "small.txt"]), (["--study_dir", "broken"], ["study.db", "database"]),
    (["--study_dir", "a{b}"], ["--study_dir", "{}?"])], ids=str)
def test_other_wrong_inputs(tiny_data, tmp_path, run_here, monkeypatch, more, fragments):
    monkeypatch.chdir(tmp_path)
    for name in "train_data", "test_data":
        (tmp_path / name).symlink_to(tiny_data / name)
    for name, text in [("small.txt", "a\nb\n"), ("settings.json", '{"hid": 1}'), ("data.json", '{"train_dir": "x"}'),
                       ("other/notes.txt", "x"), ("broken/study.db", "x" * 5000)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    before = files_below(tmp_path)
    usual = flags(tiny_data, tmp_path / "study")[:-1]  # without --first, which takes several
    process = run_here("tune.py", *with_flags(usual, more))
    assert_one_line_error(process, *fragments)
    changed = files_below(tmp_path)
    assert {name: changed[name] for name in before} == before and not list(tmp_path.rglob("trials"))


def test_without_optuna_one_line_says_what_to_install(tiny_data, tmp_path, run_here, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    process = run_here("tune.py", *flags(tiny_data, tmp_path / "study"))
    assert_one_line_error(process, "optuna", "requirements-tune.txt")


def test_the_space_in_settings_holds_the_defaults_and_the_official_settings(run_here, tmp_path):
    from utils.tuning.space import all_parameters, drawn_for, read_space
    from utils.tuning.trainer_flags import parse, read_settings, require_possible, whole_settings
    path = ROOT / "settings/search.json"
    space, _ = read_space(path)
    require_possible(space, {}, "train_sample_neg.py", path)
    defaults = drawn_for(space, vars(parse("train_sample_neg.py", {})))
    assert {of.key for of in all_parameters(space) if "bpr-max" not in of.key} == set(defaults)
    for name in "official_xe", "official_bpr_max", "reference_bpr", "reference_ce":
        settings = read_settings(ROOT / f"settings/{name}.json", "train_sample_neg.py", "--first")
        whole = whole_settings("train_sample_neg.py", settings)
        assert parse("train_sample_neg.py", whole) == parse("train_sample_neg.py", settings)
    (tmp_path / "whole.json").write_text(json.dumps(whole), encoding="utf-8")
    assert read_settings(tmp_path / "whole.json", "train_sample_neg.py", "--first") == whole
