"""The flags for what is trained on, as a user gives them, on both trainers."""

import json

import pytest
from conftest import assert_one_line_error, assert_worked, files_below, with_flags

from utils.data.sessions import read_sessions


def flags(data, model_dir, *more):
    usual = ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir,
             "--threads", 1, "--hid_size", 8, "--pass_num", 2]
    return with_flags(usual, more)


def config_of(model_dir):
    return json.loads((model_dir / "config.json").read_text(encoding="utf-8"))


def epochs_of(model_dir):
    records = map(json.loads, (model_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["event"] == "epoch"]


@pytest.mark.parametrize("script", ["train.py", "train_sample_neg.py"])
def test_what_is_left_out_is_said_and_the_validation_stays(tiny_data, tmp_path, run_here, script):
    more = ["--valid_fraction", 0.1]
    assert_worked(run_here(script, *flags(tiny_data, tmp_path / "all", *more)))
    more += ["--drop_one_item", 1, "--newest_sessions", 100, "--recency_half_life", 50]
    process = assert_worked(run_here(script, *flags(tiny_data, tmp_path / "some", *more)))
    lines = (tiny_data / "train_data/train.txt").read_text(encoding="utf-8").splitlines()[:180]
    several = [line for line in lines if len(set(line.split())) > 1]
    one = [line for line in lines if len(set(line.split())) == 1]
    old = several[:-100]
    clicks = [sum(len(line.split()) for line in part) for part in (one, old)]
    assert (f"left out of training: --drop_one_item: {len(one)} sessions, {clicks[0]} clicks; --newest_sessions: "
            f"{len(old)} sessions, {clicks[1]} clicks\n") in process.stdout
    expected = sum(max(0.5 ** (newer / 50), newer < 2) for newer in range(100))
    assert f"an epoch takes about {expected:.0f} of 100 sessions of several clicks (--recency" in process.stdout
    before, now = (config_of(tmp_path / name)["data"] for name in ("all", "some"))
    assert now["left_out"] == {"drop_one_item": {"sessions": len(one), "events": clicks[0]},
                               "newest_sessions": {"sessions": len(old), "events": clicks[1]}}
    assert now["sessions"] == 100 and "left_out" not in before
    assert all(now[name] == before[name] for name in ("validation_sha256", "sessions_sha256"))
    first, second = (epoch["predictions"] for epoch in epochs_of(tmp_path / "some"))
    assert first != second and max(first, second) < sum(len(line.split()) - 1 for line in several[-100:])


@pytest.mark.parametrize("script, more", [
    ("train.py", ["--look_back", 2]), ("train.py", ["--max_length", 4, "--window_overlap", 2]),
    ("train_sample_neg.py", ["--look_back", 2]), ("train_sample_neg.py", ["--look_back", 1, "--tune_cpu", 0]),
])
def test_windows_train_each_prediction_once_and_learn(tiny_data, tmp_path, run_here, script, more):
    process = assert_worked(run_here(script, *flags(tiny_data, tmp_path / "model", *more)))
    sessions = read_sessions(tiny_data / "train_data", 36, "--train_dir")
    first, second = epochs_of(tmp_path / "model")
    assert first["predictions"] == second["predictions"] == sessions.predictions
    assert second["loss"] < first["loss"] and "cut into windows of " in process.stdout


def test_several_directories_are_as_one(tiny_data, tmp_path, run_here):
    text = (tiny_data / "train_data/train.txt").read_text(encoding="utf-8").splitlines(True)
    for name, lines in ("old", text[:120]), ("new", text[120:]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.txt").write_text("".join(lines), encoding="utf-8")
    both = f"{tmp_path / 'old'},{tmp_path / 'new'}"
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "whole", "--valid_fraction", 0.1)))
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "parts", "--valid_fraction", 0.1, "--train_dir",
                                              both)))
    assert config_of(tmp_path / "whole")["data"] == config_of(tmp_path / "parts")["data"]
    for epoch in 1, 2:
        whole, parts = (tmp_path / name / f"epoch_{epoch}/model.safetensors" for name in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_a_name_with_a_comma_is_one_directory(tiny_data, tmp_path, run_here):
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a,b/train.txt").write_text("0 1 2\n3 4\n", encoding="utf-8")
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--train_dir", tmp_path / "a,b"))
    assert "sessions:2 events:5" in assert_worked(process).stdout


@pytest.mark.parametrize("more, fragments", [
    (["--look_back", 5, "--window_overlap", 2], ["--window_overlap", "--look_back"]),
    (["--look_back", 5, "--max_length", 4], ["--look_back", "--max_length 4"]),
    (["--max_length", 4, "--window_overlap", 4], ["--window_overlap: found 4"]),
    (["--window_overlap", 1000], ["--window_overlap: found 1000 with --max_length 1000"]),
    (["--window_overlap", -1], ["--window_overlap"]), (["--recency_half_life", "nan"], ["--recency_half_life"]),
    (["--recency_half_life", 1e-320], ["--recency_half_life"]),
    (["--newest_sessions", 1.5], ["--newest_sessions"]), (["--drop_one_item", 2], ["--drop_one_item"]),
    (["--train_dir", "a,,b"], ["--train_dir", "'a,,b'"]), (["--train_dir", "a,"], ["--train_dir"]),
    (["--train_dir", ""], ["--train_dir"]), (["--train_dir", "a,./a"], ["--train_dir", "twice"]),
    (["--train_dir", "a,b"], ["--train_dir", "found nothing at a"]),
])
def test_a_users_mistake_is_one_line(tiny_data, tmp_path, run_here, more, fragments):
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", *more))
    assert_one_line_error(process, *fragments)
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize("text, more", [
    ("1 1\n2 2 2\n", ["--drop_one_item", 1]), ("1 2\n3\n", ["--newest_sessions", 1])])
def test_nothing_left_to_train_on_is_one_line(tiny_data, tmp_path, run_here, text, more):
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    more = [*more, "--train_dir", tmp_path / "train.txt"]
    assert_one_line_error(run_here("train.py", *flags(tiny_data, tmp_path / "model", *more)), "--train_dir",
                          "no session of two clicks", "that is trained on")
    assert not (tmp_path / "model").exists()
