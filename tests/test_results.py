"""The pictures of results are those of the recorded runs, can be read, and stand in the docs; the runs are recorded."""

import json
import re
import sys
from itertools import combinations

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, run_script, write_random_model

from utils.files import InputError
from utils.plotting import results
from utils.plotting.pictures import DARK, LIGHT
from utils.runlog import read_records

PICTURES = ROOT / "docs/pictures"
NAMES = sorted(path.stem for path in PICTURES.glob("*.svg") if not path.stem.endswith("_dark"))
PICTURE = re.compile(r'<picture><source media="\(prefers-color-scheme: dark\)" srcset="(\S+)_dark\.svg">\n'
                     r'<img alt="([^"]+)" src="(\S+)\.svg"></picture>')


@pytest.fixture
def benchmark(monkeypatch):
    """A function of a name that imports this script of benchmarks/."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return __import__


def test_the_pictures_are_those_of_the_recorded_runs(tmp_path, run_here):
    assert_worked(run_here("benchmarks/draw_results.py", "--out_dir", tmp_path))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files == {path.name: path.read_bytes() for path in PICTURES.iterdir()}, "run benchmarks/draw_results.py"


def test_labels_hide_no_other_and_stay_on_the_page(benchmark):
    for name, draw in benchmark("draw_results").pictures_of(ROOT / "benchmarks/recorded").items():
        figure = draw(DARK)
        [axis] = figure.axes
        boxes = {text.get_text(): text.get_window_extent() for text in axis.texts}
        assert len(boxes) == len(axis.lines), "each line has a label"
        for (one, of_one), (other, of_other) in combinations(boxes.items(), 2):
            assert not of_one.overlaps(of_other), (name, one, other)
        for text, box in boxes.items():
            assert figure.bbox.x0 < box.x0 and box.x1 < figure.bbox.x1, (name, text)
            assert figure.bbox.y0 < box.y0 and box.y1 < figure.bbox.y1, (name, text)


def test_every_picture_stands_in_the_docs_for_light_and_dark_pages():
    shown = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        found = PICTURE.findall(text)
        assert len(found) == text.count("<img") == text.count("<picture>"), page
        for dark, alternative, light in found:
            assert dark == light and len(alternative.split()) > 4, light
            path = (page.parent / f"{light}.svg").resolve()
            assert path.parent == PICTURES, light
            shown.append(path.stem)
    assert set(shown) == set(NAMES) and len(NAMES) > 5


def test_a_figure_below_the_axis_is_named_there():
    record = {"data": "a shop", "predictions": 1000, "series": [
        {"name": "V-SKNN", "points": [{"processor_seconds": 2, "recall@20": 0.1234}]},
        {"name": "train.py", "points": [{"processor_seconds": 3, "recall@20": 0.5},
                                        {"processor_seconds": 6, "recall@20": 0.61239}]},
        {"name": "another", "note": "elsewhere", "points": [{"processor_seconds": 60, "recall@20": 0.55}]}]}
    [axis] = results.quality(record, "recall@20", 0.4, LIGHT).axes
    assert [text.get_text() for text in axis.texts] == [
        "V-SKNN .1234 (below the axis)", "train.py .6124", "another .5500\nelsewhere"]
    low, line, _ = axis.lines
    assert 0.4 < low.get_ydata()[0] < 0.41 and axis.get_ylim()[0] == 0.4
    assert line.get_xydata().tolist() == [[3, 0.5], [6, 0.61239]]


@pytest.fixture
def recall(benchmark, run_here, tiny_data, tmp_path, monkeypatch):
    """A function that runs record_recall.py with small trainings within this process; `calls` has its scripts."""
    module = benchmark("record_recall")

    def call(runs, *words):
        record.calls.append(words[0])
        lines = assert_worked(run_here(*words)).stdout.splitlines()
        at_epochs = [10.0 * line.startswith("epoch:") for line in lines]
        return lines, [sum(at_epochs[:place + 1]) for place, at in enumerate(at_epochs) if at], 25.0

    def record(*flags):
        record.calls = []
        words = ["--data_dir", tiny_data, "--name", "tiny", "--record", tmp_path / "tiny.json", "--out_dir",
                 tmp_path / "models", "--train_flags", "--hid_size 8 --pass_num 2", *flags]
        monkeypatch.setattr(sys, "argv", ["record_recall.py", *map(str, words)])
        module.main()
        return json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))

    monkeypatch.setattr(module.Runs, "call", call)
    return record


def test_recall_is_recorded_with_the_time_that_it_took(recall, tmp_path):
    content = recall()
    assert [series["name"] for series in content["series"]] == [
        "S-POP", "Item-KNN", "item transitions", "V-SKNN", "train_sample_neg.py", "official settings", "train.py",
        "4 joined"]
    points = {series["name"]: series["points"] for series in content["series"]}
    assert [point["processor_seconds"] for point in points["train.py"]] == [15, 25], "what comes after counts too"
    assert points["V-SKNN"][0]["processor_seconds"] == 25 and points["4 joined"][0]["processor_seconds"] == 5 * 25
    tests = [record for record in read_records(tmp_path / "models/train.py") if record["event"] == "test"]
    assert [point["recall@20"] for point in points["train.py"]] == [
        pytest.approx(record["recall@20"], abs=1e-5) for record in tests]
    content["series"] = [series for series in content["series"] if series["name"] != "V-SKNN"]
    (tmp_path / "tiny.json").write_text(json.dumps(content))
    assert recall()["series"][-1]["name"] == "V-SKNN" and recall.calls == ["baselines.py"]
    with pytest.raises(InputError, match="--record: found seed 1 in .*tiny.json, expected 2, or a file that"):
        recall("--seed", "2")


def test_speed_is_recorded_once_for_each_number_of_items(benchmark, tmp_path, monkeypatch):
    module, asked = benchmark("record_catalogue"), []
    model_dir = write_random_model(tmp_path / "model", items=30)
    (tmp_path / "test.txt").write_text("1 2 3 1 5\n4 29\n")

    def answers_of(options, directory, items):
        asked.append((directory.name, len((directory / "model/vocab.txt").read_text().split())))
        return {"p50_ms": 1.5, "answers_per_second": 900.0}

    monkeypatch.setattr(module, "answers_of", answers_of)
    monkeypatch.setattr(module, "SESSIONS", 300)
    flags = ["--model_dir", model_dir, "--test_dir", tmp_path / "test.txt", "--item_counts", "60,100", "--seconds", 0.1,
             "--softmax_items", 60, "--record", tmp_path / "speed.json", "--out_dir", tmp_path / "models"]
    monkeypatch.setattr(sys, "argv", ["record_catalogue.py", *map(str, flags)])
    module.main()
    content = json.loads((tmp_path / "speed.json").read_text())
    assert {series["name"]: [point["items"] for point in series["points"]] for series in content["series"]} == {
        "with the memory": [60, 100], "the network alone": [60, 100], "train_sample_neg.py": [60, 100],
        "train.py": [60]}
    assert asked == [("60_1", 60), ("60_0", 60), ("100_1", 100), ("100_0", 100)]
    training = content["series"][2]["points"]
    assert all(0 < point["from"] <= point["predictions_per_second"] <= point["to"] for point in training)
    module.main()
    assert len(asked) == 4 and json.loads((tmp_path / "speed.json").read_text()) == content
    axes = [axis for figures in benchmark("draw_results").GROWTH.values() if "p99_ms" not in figures
            for axis in results.growth(content, figures, LIGHT).axes]
    assert [text.get_text() for text in axes[1].texts] == ["with the memory: 900", "the network alone: 900"]


def test_what_can_not_be_recorded_or_drawn_ends_in_one_line(tmp_path):
    record = ["--name", "x", "--record", tmp_path / "x.json"]
    assert_one_line_error(run_script("benchmarks/record_recall.py", "--data_dir", tmp_path, *record), "--data_dir",
                          "vocab.txt")
    assert_one_line_error(run_script("benchmarks/draw_results.py", "--recorded", tmp_path), "--recorded", "stated.json")
