import json
import os
import shutil

import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script, with_flags

TITLES = ["POP", "S-POP", "transitions", "Item-KNN", "V-SKNN"]


@pytest.fixture
def data(tiny_data, tmp_path):
    return shutil.copytree(tiny_data, tmp_path / "data")


@pytest.fixture
def baselines(data, run_here):
    usual = ["--train_dir", data / "train_data", "--test_dir", data / "test_data", "--vocab_path", data / "vocab.txt"]
    return lambda *arguments: run_here("baselines.py", *with_flags(usual, arguments))


def table_of(process):
    """The table that ends the output: each row's name, and its figures as a list."""
    rows = process.stdout.split("\n\n")[1].splitlines()
    return {row.split()[0]: [float(figure) for figure in row.split()[1:]] for row in rows[1:]}, rows[0].split()


def figures_of(process):
    """The figures of each line `baseline:NAME recall@20:... mrr@20:...`, by name."""
    lines = [line.split() for line in process.stdout.splitlines() if line.startswith("baseline:")]
    return {name.split(":")[1]: [float(word.split(":")[1]) for word in figures] for name, *figures, _ in lines}


def test_it_runs_as_a_user_runs_it_and_needs_no_paddle(data, tmp_path):
    (tmp_path / "path" / "paddle").mkdir(parents=True)
    (tmp_path / "path" / "paddle" / "__init__.py").write_text("raise ImportError('Paddle is imported')\n")
    before = files_below(data)
    process = assert_worked(run_script("baselines.py", "--topk", "5,20", cwd=data,
                                       env={**os.environ, "PYTHONPATH": str(tmp_path / "path")}))
    lines = process.stdout.splitlines()
    assert lines[0].startswith("train:train_data sessions:200 clicks:") and lines[0].endswith(" items:36")
    assert lines[1].startswith("test:test_data sessions:40 predictions:") and lines[1].endswith(" ties:standard")
    table, header = table_of(process)
    assert header == ["recall@5", "recall@20", "mrr@5", "mrr@20"]
    assert list(table) == TITLES and table == figures_of(process)
    assert all(line.split()[-1].startswith("time_cost(s):") for line in lines if line.startswith("baseline:"))
    assert table["POP"][0] < table["Item-KNN"][0] < table["transitions"][0]  # the tiny data are made of transitions
    assert files_below(data) == before


def test_the_methods_are_those_asked_for_in_that_order(baselines):
    process = assert_worked(baselines("--methods", "vsknn,pop,vsknn"))
    assert list(table_of(process)[0]) == ["V-SKNN", "POP"]


def test_its_figures_are_those_that_infer_prints(tiny_model, data, baselines):
    model = shutil.copytree(tiny_model, data / "model")
    arguments = ["--topk", "1,5", "--ties", "conservative"]
    infer = assert_worked(run_script("infer.py", "--model_dir", model, "--test_dir", data / "test_data", "--train_dir",
                                     data / "train_data", "--last_index", 2, *arguments))
    table = table_of(assert_worked(baselines(*arguments, "--methods", "pop,transitions")))[0]
    assert table == {name: figures for name, figures in table_of(infer)[0].items() if name in TITLES}


@pytest.mark.parametrize("setting", [("--itemknn_lambda", 0), ("--itemknn_alpha", 0), ("--vsknn_neighbours", 1),
                                     ("--vsknn_sample_size", 1), ("--vsknn_decay", "linear"),
                                     ("--vsknn_idf_weight", 100)])
def test_every_setting_reaches_its_method_and_no_other(baselines, setting):
    usual = table_of(assert_worked(baselines("--topk", "1,5")))[0]
    changed = table_of(assert_worked(baselines("--topk", "1,5", *setting)))[0]
    title = "V-SKNN" if "vsknn" in setting[0] else "Item-KNN"
    assert [name for name in TITLES if changed[name] != usual[name]] == [title]


def test_other_metrics_are_those_of_infer_too(data, baselines):
    flags = ["--methods", "pop,vsknn", "--metrics", "coverage,popularity,ndcg", "--topk", "1,5"]
    table, header = table_of(assert_worked(baselines(*flags)))
    assert header == [f"{metric}@{k}" for metric in ("coverage", "popularity", "ndcg") for k in (1, 5)]
    assert table["POP"][:3] == [0.0278, 0.1389, 1.0], "the same one of 36 items, the same five, the most popular one"
    assert table["V-SKNN"][0] > 0.3 and table["V-SKNN"][2] < 1


def test_unknown_clicks_that_the_conversion_left_out_are_told(data, baselines):
    from utils.data.vocabulary import checksum
    record = {"vocab_sha256": checksum(data / "vocab.txt"), "clicks_left_out": 17}
    (data / "test_data" / "text2paddle.json").write_text(json.dumps(record))
    assert " unknown_clicks_left_out:17 " in assert_worked(baselines("--methods", "pop")).stdout


@pytest.mark.parametrize("name", ["train", "test"])
def test_sessions_of_another_vocabulary_are_refused(data, baselines, name):
    (data / f"{name}_data" / "text2paddle.json").write_text(json.dumps({"vocab_sha256": "0" * 64}))
    assert_one_line_error(baselines(), f"--{name}_dir", "another vocab.txt", "000000000000")


@pytest.mark.parametrize("arguments, fragments", [
    (["--methods", "pop,knn"], ["--methods", "found 'knn'", "pop,spop,transitions,itemknn,vsknn"]),
    (["--methods", ""], ["--methods", "found ''"]),
    (["--topk", "0"], ["--topk", "found '0'"]),
    (["--metrics", "map"], ["--metrics", "found 'map'"]),
    (["--ties", "worst"], ["--ties", "worst", "conservative"]),
    (["--itemknn_alpha", "1.5"], ["--itemknn_alpha", "found '1.5'", "<= 1"]),
    (["--itemknn_lambda", "nan"], ["--itemknn_lambda", "found 'nan'", ">= 0"]),
    (["--vsknn_neighbours", "0"], ["--vsknn_neighbours", "found '0'", ">= 1"]),
    (["--vsknn_sample_size", "many"], ["--vsknn_sample_size", "found 'many'"]),
    (["--vsknn_idf_weight", "-1"], ["--vsknn_idf_weight", "found '-1'"]),
    (["--vsknn_decay", "none"], ["--vsknn_decay", "none", "linear"]),
    (["--train_dir", "nowhere"], ["--train_dir", "nowhere"]),
    (["--test_dir", "nowhere"], ["--test_dir", "nowhere"]),
    (["--vocab_path", "nowhere"], ["--vocab_path", "nowhere"]),
    (["--method", "pop"], ["--method"]),
])
def test_wrong_flags_end_with_one_line(baselines, arguments, fragments):
    assert_one_line_error(baselines(*arguments), "baselines.py: ", *fragments)


@pytest.mark.parametrize("name", ["train", "test"])
def test_an_index_that_no_item_has_is_named_with_its_line(data, baselines, name):
    (data / f"{name}_data" / "more.txt").write_text("1 2\n3 36\n")
    assert_one_line_error(baselines(), "more.txt:2", "found '36'", "0 to 35")


def test_test_sessions_of_one_click_have_nothing_to_predict(data, baselines):
    (data / "test_data" / "test.txt").write_text("1\n2\n")
    assert_one_line_error(baselines(), "--test_dir", "no session of two known clicks")


def test_training_sessions_of_one_click_still_give_popularity(data, baselines):
    (data / "train_data" / "train.txt").write_text("0\n0\n1\n")
    table = table_of(assert_worked(baselines()))[0]
    assert list(table) == TITLES and table["transitions"] == table["POP"] == table["Item-KNN"]
