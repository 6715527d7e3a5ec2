"""plot.py as a user runs it, and the figures behind its pictures."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script

from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.model.directory import net_checksum
from utils.plotting.breakdown import COUNTS, GROUPINGS, Ranks, by_count, by_share, recall_by_group, run_ranks
from utils.plotting.pictures import loss_kinds
from utils.plotting.runs import FULL_LOSS, Run, read_runs, setting_differences


@pytest.fixture
def models(tiny_data, tmp_path, run_here):
    """Two model directories of the same name, the first with validation and with figures of the test."""
    train = lambda place, *more: assert_worked(run_here(
        "train.py", "--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt",
        "--model_dir", place / "model", "--threads", 1, "--pass_num", 3, "--batch_size", 10, *more))
    train(tmp_path / "a", "--valid_fraction", 0.2, "--hid_size", 8)
    train(tmp_path / "b", "--hid_size", "6,4")
    assert_worked(run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", tmp_path / "a/model",
                           "--start_index", 1, "--last_index", 3))
    return [tmp_path / "a/model", tmp_path / "b/model"]


def picture_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def cells_of(page):
    """The texts of the table cells and summaries of a page that any parser can read."""
    class Cells(HTMLParser):
        found, inside = [], False

        def handle_starttag(self, tag, attributes):
            self.inside = tag in ("td", "th", "summary")

        def handle_data(self, data):
            self.found += [data] if self.inside else []

    parser = Cells()
    parser.feed(page)
    return parser.found


def test_pictures_and_page(models, tiny_data, tmp_path):
    process = assert_worked(run_script("plot.py", *models, "--test_dir", tiny_data / "test_data", "--out_dir", "plots",
                                       "--projector_items", 10, cwd=tmp_path))
    output = tmp_path / "plots"
    assert re.findall(r"written: (\S+)", process.stdout) == [
        "plots/curves.png", "plots/breakdown.png", "plots/report.html", "plots/projector"]
    for name in ("curves.png", "breakdown.png"):
        assert picture_size(output / name)[0] == 1800
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == 4 and page.count("(prefers-color-scheme: dark)") == 3
    assert not re.search(r"""(src|href|srcset)=["'](?!data:)|@import|url\(""", page)  # it needs nothing else
    cells = cells_of(page)
    place = cells.index("--hid_size")
    assert cells[place + 1:place + 3] == ["8", "6,4"] and "a/model" in cells
    assert "--seed" in cells[cells.index("a/model"):]
    assert "--seed" not in cells[place:cells.index("a/model", place)]  # among those that differ
    vectors = (output / "projector/b/model/tensors.tsv").read_text().splitlines()
    assert [len(line.split("\t")) for line in vectors] == [4] * 10
    assert (output / "projector/a/model/metadata.tsv").read_text().split() == [f"item_{number}" for number in range(10)]
    config = (output / "projector/projector_config.pbtxt").read_text()
    assert re.findall(r'_path: "(.*)"', config) == [f"{run}/model/{name}.tsv" for run in "ab"
                                                    for name in ("tensors", "metadata")]


def test_one_run_without_any_figures_but_the_loss(models, tmp_path, run_here):
    assert_worked(run_here("plot.py", models[1], "--out_dir", tmp_path / "plots"))
    page = (tmp_path / "plots/report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "plots/breakdown.png").exists() and "Settings that differ" not in page


def test_the_same_runs_give_the_same_files(models, tmp_path, run_here):
    for name in ("first", "again"):
        assert_worked(run_here("plot.py", *models, "--out_dir", tmp_path / name))
    for name in ("curves.png", "report.html"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_names_and_settings_can_not_break_the_page(models, tmp_path, run_here):
    model_dir = shutil.copytree(models[0], tmp_path / "<script>alert(1)<")
    config = checkpoint.read_config(model_dir)
    config["options"]["train_dir"] = "<b>&\"'"
    write_json(model_dir / "config.json", config)
    assert_worked(run_here("plot.py", model_dir, "--out_dir", tmp_path / "plots"))
    page = (tmp_path / "plots/report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>" not in page and "&lt;b&gt;&amp;" in page


def test_runs_are_read_as_they_were_recorded(models):
    first, second = read_runs(models)
    assert (first.name, second.name) == ("a/model", "b/model")
    assert [record["epoch"] for record in first.epochs] == [1, 2, 3] and sorted(first.tests) == [1, 2, 3]
    assert not second.tests
    seconds = np.cumsum([record["time_cost"] for record in first.epochs])
    assert [record["seconds"] for record in first.epochs] == pytest.approx(seconds.tolist())
    assert first.best in (1, 2, 3) and second.best is None
    differences = setting_differences([first, second])
    assert differences["--hid_size"] == ["8", "6,4"] and differences["--valid_fraction"] == ["0.2", "0.0"]
    assert "--seed" not in differences and "--model_dir" not in differences
    assert setting_differences([first, first]) == {}
    edited = replace(second, config=second.config | {"net_sha256": "0" * 64, "network_is_known": False})
    assert setting_differences([first, edited])["net.py"] == [net_checksum()[:12], "000000000000, edited"]


def test_the_breakdown_is_that_of_infers_ranks(models, tiny_data):
    """Ranks by NumPy are those by Paddle, and the groups together give the recall that infer.py recorded."""
    run = read_runs(models[:1])[0]
    found = run_ranks(run, tiny_data / "test_data")
    assert np.mean(found.ranks <= 20) == pytest.approx(run.tests[run.best]["recall@20"], abs=1e-9)
    sessions = [line.split() for line in (tiny_data / "test_data/test.txt").read_text().splitlines()]
    assert found.lengths.tolist() == [len(session) for session in sessions for _ in session[1:]]
    assert found.positions.tolist() == [place for session in sessions for place in range(1, len(session))]
    assert found.shares.tolist() == pytest.approx([(int(item) + 1) / 36 for session in sessions
                                                   for item in session[1:]])
    for grouping in GROUPINGS.values():
        groups = recall_by_group(found, grouping, 20)
        hits = sum(group.recall * group.predictions for group in groups)
        assert sum(group.predictions for group in groups) == len(found.ranks)
        assert hits == pytest.approx(np.sum(found.ranks <= 20))


def test_a_network_that_only_paddle_knows_has_the_same_breakdown(models, tiny_data):
    run = read_runs(models[:1])[0]
    expected = run_ranks(run, tiny_data / "test_data")
    write_json(models[0] / "config.json", checkpoint.read_config(models[0]) | {"network_is_known": False})
    found = run_ranks(run, tiny_data / "test_data")
    assert np.mean(found.ranks == expected.ranks) > 0.98  # scores that differ by rounding may change places
    assert found.positions.tolist() == expected.positions.tolist()


def test_groups():
    numbers, labels = by_count(np.array([1, 5, 6, 7, 8, 15, 16, 900]))
    assert [labels[number] for number in numbers] == ["1", "5", "6–7", "6–7", "8–10", "11–15", "> 15", "> 15"]
    assert len(labels) == len(COUNTS) + 1
    numbers, labels = by_share(np.array([0.001, 0.01, 0.02, 0.5, 0.51, 1.0]))
    assert [labels[number] for number in numbers] == ["0–1 %", "0–1 %", "1–5 %", "20–50 %", "50–100 %", "50–100 %"]
    found = Ranks(np.array([1.0, 30.0, 2.0]), np.array([1, 1, 2]), np.array([3, 3, 3]), np.ones(3))
    first, second = recall_by_group(found, GROUPINGS["clicks seen before"], 20)
    assert first[:3] == ("1", 2, 0.5) and first.error == pytest.approx(np.sqrt(0.125)) and second[:3] == ("2", 1, 1.0)


@pytest.mark.parametrize("name", ["nothing", "no_records", "no_sessions"])
def test_wrong_input_ends_in_one_line(models, tmp_path, run_here, name):
    arguments, fragment = {"nothing": ([tmp_path / "nowhere"], "plot.py: MODEL_DIR: found no file"),
                           "no_records": ([models[1]], "metrics.jsonl"),
                           "no_sessions": ([models[0], "--test_dir", "nowhere"], "--test_dir")}[name]
    if name == "no_records":
        (models[1] / "metrics.jsonl").unlink()
    assert_one_line_error(run_here("plot.py", *arguments, "--out_dir", tmp_path / "plots"), fragment)
    assert not (tmp_path / "plots/report.html").exists()


@pytest.mark.parametrize("wrong", ["sessions", "weights"])
def test_all_is_read_before_the_first_file_is_written(models, tiny_data, tmp_path, run_here, wrong):
    """The breakdown and the projector are made last; what is wrong with them shows before curves.png is there."""
    flags = ["--projector_items", 10]
    if wrong == "sessions":
        (tmp_path / "test.txt").write_text("1 2\n3 what\n")
        flags = ["--test_dir", tmp_path / "test.txt"]
    else:
        for path in models[1].glob("epoch_*/model.safetensors"):
            path.write_bytes(b"no weights")
    process = run_here("plot.py", *models, *flags, "--out_dir", tmp_path / "plots")
    assert_one_line_error(process, "what" if wrong == "sessions" else "model.safetensors")
    assert "written" not in process.stdout and not (tmp_path / "plots").exists()


def test_nothing_is_written_among_sessions(models, tiny_data, tmp_path, run_here):
    shutil.copytree(tiny_data / "test_data", tmp_path / "test_data")
    (tmp_path / "test_data" / "text2paddle.json").write_text('{"vocab_sha256": "abc"}')
    before = files_below(tmp_path / "test_data")
    process = run_here("plot.py", models[0], "--out_dir", tmp_path / "test_data")
    assert_one_line_error(process, "--out_dir: found sessions")
    assert files_below(tmp_path / "test_data") == before


def test_a_place_that_is_taken_is_refused_before_the_runs_are_read(tmp_path, run_here):
    (tmp_path / "file").touch()
    assert_one_line_error(run_here("plot.py", "nowhere", "--out_dir", tmp_path / "file"), "--out_dir", "found a file")


def test_the_same_directory_twice_is_refused(models, run_here):
    assert_one_line_error(run_here("plot.py", models[0], f"{models[0]}/../model"), "MODEL_DIR", "twice")


def test_a_link_that_leads_to_itself_is_one_line(models, tmp_path, run_here):
    (tmp_path / "loop").symlink_to("loop")
    assert_one_line_error(run_here("plot.py", models[0], tmp_path / "loop", "--out_dir", tmp_path / "plots"), "loop")


def a_run(script, loss=None, validated=False):
    epochs = [{"epoch": 1, "loss": 1.0, "seconds": 1.0, **({"valid_loss": 2.0} if validated else {})}]
    options = {"loss": loss, "neg_size": 16} if loss else {}
    return Run("run", None, {"script": script, "options": options}, epochs, {}, None)


@pytest.mark.parametrize("runs, kinds", [
    ([a_run("train.py")], [FULL_LOSS]),
    ([a_run("train_sample_neg.py", "ce")], ["ce over samples"]),
    ([a_run("train_sample_neg.py", "ce", validated=True)], ["ce over samples", FULL_LOSS]),
    ([a_run("train.py"), a_run("train_sample_neg.py", "bpr"), a_run("train.py")], [FULL_LOSS, "bpr over samples"]),
])
def test_a_loss_over_samples_has_no_axis_in_common_with_one_over_all_items(runs, kinds):
    assert loss_kinds(runs) == kinds


def test_config_json_says_what_the_loss_is(tiny_data, tmp_path, run_here):
    flags = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt", "--pass_num", 1]
    assert_worked(run_here("train_sample_neg.py", *flags, "--model_dir", tmp_path / "bpr", "--loss", "bpr"))
    assert_worked(run_here("train.py", *flags, "--model_dir", tmp_path / "full"))
    runs = read_runs([tmp_path / "bpr", tmp_path / "full"])
    assert [run.loss_name for run in runs] == ["bpr over samples", FULL_LOSS]
