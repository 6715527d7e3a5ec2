"""The benchmarks of answers run and print what they promise."""

import re

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, run_script, write_random_model
from test_intent_route import write_intent_model

from utils.data.sessions import read_sessions
from utils.model.load import load_scorer
from utils.model.neighbours import remember
from utils.model.neighbours_file import write_neighbours


@pytest.fixture
def large(tmp_path, run_here):
    """The flags for a model that was enlarged to 200 items, and sessions of these."""
    directory = write_random_model(tmp_path / "small", items=30)
    sessions = [[1, 2, 29, 1], [0], [3, 3, 5, 7, 7, 3], [29] * 5]
    (tmp_path / "test.txt").write_text("".join(" ".join(map(str, session)) + "\n" for session in sessions))
    remembered = remember(read_sessions(tmp_path / "test.txt", 30, ""), 30)
    write_neighbours(directory, remembered, 0.25)
    assert_worked(run_here("benchmarks/enlarge_model.py", "--model_dir", directory, "--test_dir", tmp_path / "test.txt",
                           "--item_count", 200, "--spread", 0, "--out_dir", tmp_path / "large"))
    model, text = tmp_path / "large" / "model", tmp_path / "large" / "sessions.txt"
    source = np.arange(200) * 30 // 200  # the item that each new one was made from
    written = [list(map(int, line.split())) for line in text.read_text().splitlines()]
    assert [source[session].tolist() for session in written] == sessions
    assert written[2][0] == written[2][1] == written[2][5] and written[2][3] == written[2][4]
    (small, _), (scorer, item_ids) = load_scorer(directory), load_scorer(model)
    np.testing.assert_array_equal(scorer.item_matrix, small.item_matrix[source])
    assert len(item_ids) == 200 and scorer.memory.weight == 0.25
    assert len(scorer.memory.neighbours.offsets) == len(sessions) + 1
    process = run_here("benchmarks/enlarge_model.py", "--model_dir", directory, "--test_dir", tmp_path / "test.txt",
                       "--item_count", 200, "--out_dir", tmp_path / "large")
    assert_one_line_error(process, "--out_dir")
    return ["--model_dir", model, "--test_dir", text, "--session_length", 4]


def test_a_model_of_fewer_items_has_the_first_ones_and_their_clicks(tmp_path, run_here):
    directory, text = write_random_model(tmp_path / "small", items=30), tmp_path / "test.txt"
    text.write_text("1 2 29 1\n29 29\n10 9 0\n")
    write_neighbours(directory, remember(read_sessions(text, 30, ""), 30), 0.25)
    assert_worked(run_here("benchmarks/enlarge_model.py", "--model_dir", directory, "--test_dir", text, "--item_count",
                           10, "--spread", 0, "--out_dir", tmp_path / "few"))
    (small, _), (few, item_ids) = load_scorer(directory), load_scorer(tmp_path / "few/model")
    assert len(item_ids) == 10 and (tmp_path / "few/sessions.txt").read_text() == "1 2 1\n9 0\n"
    np.testing.assert_array_equal(few.item_matrix, small.item_matrix[:10])
    assert len(few.memory.neighbours.offsets) == 3


@pytest.mark.parametrize("form", ["post", "get", "intent"])
def test_load(form, large, tmp_path):
    model_flags, served = large, f"200 items, {large[1]}"
    if form == "get":
        model_flags, served = ["--item_count", 200, "--hid_size", 8], "200 items, 8 units"
    elif form == "intent":
        model_dir = write_intent_model(tmp_path / "intent")
        model_flags, served = ["--model_dir", model_dir], f"12 items, {model_dir}"
    process = assert_worked(run_script("benchmarks/serve_load.py", *model_flags, "--rates", "20,50",
                                       "--seconds", 1, "--form", form, "--workers", 1))
    machine, model, titles, *lines, memory = process.stdout.splitlines()
    assert memory.startswith("memory of the server with its 1 workers: ") and 20 < int(memory.split()[-2]) < 500
    assert "GFLOP/s" in machine and f"{served}, {form}" in model
    for rate, line in zip([20, 50], lines, strict=True):
        figures = dict(zip(titles.split(), map(float, line.split()), strict=True))
        assert figures["asked/s"] == rate and 0.4 * rate < figures["done/s"] < 2.5 * rate and figures["failed"] == 0
        assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"] + 0.1


def test_load_of_purchase_intent_needs_its_model():
    process = run_script("benchmarks/serve_load.py", "--form", "intent")
    assert_one_line_error(process, "--form: found intent", "--model_dir")


def test_scoring(tmp_path):
    model = write_random_model(tmp_path / "model", items=300)
    (tmp_path / "test.txt").write_text("1 2 3\n5 299 4 4\n7\n")
    process = assert_worked(run_script("benchmarks/scoring.py", "--model_dir", model,
                                       "--test_dir", tmp_path / "test.txt", "--topk", 300, "--batch_size", 2))
    machine, *scorers, same = process.stdout.splitlines()
    assert "300 items, 8 units, 5 predictions, batches of 2" in machine
    assert [line.split()[:2] for line in scorers] == [["NumPy", "recall@300:1.0000"], ["native", "recall@300:1.0000"]]
    assert same.startswith("the same items in the same order: ")


def test_filtering(run_here):
    process = assert_worked(run_here("benchmarks/filtering.py", "--item_count", 1000, "--hid_size", 8, "--rounds", 3))
    machine, table, *ratios = process.stdout.splitlines()
    assert "1000 items, 8 units" in machine and "1000 rows and 4 fields" in table and len(ratios) == 2
    for rows, line in zip((1, 8), ratios):
        shares = [float(share) for share in re.findall(r"\d+% ([\d.]+)", line)]
        assert line.startswith(f"{rows} at a time") and len(shares) == 3 and min(shares) > 0


def test_popular(run_here, tiny_data):
    flags = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt"]
    sessions, titles, *rows = assert_worked(run_here("benchmarks/popular.py", *flags)).stdout.splitlines()
    assert sessions.startswith("20 sessions of 200 predicted")
    counted, *recalls = map(float, rows[-1].split())
    assert counted == 180 and len(recalls) == 4 and all(0.3 < recall <= 1 for recall in recalls)


def test_capacity():
    process = assert_worked(run_script("benchmarks/capacity.py", "--catalogues", "300x8", "--workers", 1, "--seconds",
                                       1))
    machine, titles, line = process.stdout.splitlines()
    items, units, workers, start, at_rest, at_load, reload, many, few = map(float, line.split())
    assert "sessions of 5 clicks" in machine and (items, units, workers) == (300, 8, 1)
    assert 0 < start < 60 and 10 < at_rest < 500 and at_rest <= reload + 1 and many > 100 and few > 10


@pytest.mark.parametrize("text", ["300", "300x8x2"])
def test_catalogues_that_are_none(run_here, text):
    assert_one_line_error(run_here("benchmarks/capacity.py", "--catalogues", text), "--catalogues", "ITEMSxUNITS")
