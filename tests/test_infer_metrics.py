"""infer.py beyond recall and MRR: other metrics, intervals, a second model, and the file of each prediction."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import assert_one_line_error, assert_worked, files_below, with_flags, write_random_model

from utils.evaluation import inference
from utils.evaluation.metrics import METRICS
from utils.model.checked_json import write_json
from utils.model.checkpoint import read_config


@pytest.fixture
def infer(run_here, tiny_data, model):
    """infer.py of the last epoch of `model`; further flags win."""
    usual = ["--test_dir", tiny_data / "test_data", "--model_dir", model, "--start_index", 2, "--last_index", 2,
             "--threads", 1, "--tune_cpu", 0]
    return lambda *flags: run_here("infer.py", *with_flags(usual, flags))


def line_of(process, kind):
    """The figures of the only line that begins with `kind`, a dict of text."""
    line, = [line for line in process.stdout.splitlines() if line.startswith(kind + ":")]
    return dict(word.split(":") for word in line.split()[1:])


def last_record(model):
    return json.loads((model / "metrics.jsonl").read_text().splitlines()[-1])


def predictions_of(path):
    return pq.read_table(path).to_pydict()


# Metrics

def test_every_metric_is_printed_in_its_order_and_recorded(tiny_data, model, infer):
    process = assert_worked(infer("--metrics", ",".join(METRICS), "--topk", "1,5", "--train_dir",
                                  tiny_data / "train_data"))
    printed = line_of(process, "model")
    assert list(printed)[:-1] == [f"{metric}@{k}" for metric in METRICS for k in (1, 5)]
    assert {name: f"{last_record(model)[name]:.4f}" for name in list(printed)[:-1]} == dict(list(printed.items())[:-1])
    assert printed["hit@5"] == printed["recall@5"] and printed["ndcg@1"] == printed["mrr@1"] == printed["recall@1"]
    assert 0 < float(printed["coverage@1"]) < float(printed["coverage@5"]) <= 1
    rows = {line.split()[0]: line.split()[1:] for line in process.stdout.splitlines()[-3:]}
    assert list(rows) == ["POP", "transitions", "epoch_2"] and rows["epoch_2"] == list(printed.values())[:-1]
    assert rows["POP"][METRICS.index("popularity") * 2] == "1.0000", "its first item is the most popular one"


def test_recall_and_mrr_are_recorded_whatever_is_asked_for_and_do_not_depend_on_it(model, infer):
    assert_worked(infer())
    plain = last_record(model)
    process = assert_worked(infer("--metrics", "coverage"))
    assert list(line_of(process, "model")) == ["coverage@20", "time_cost(s)"]
    assert {name: last_record(model)[name] for name in ("recall@20", "mrr@20")} == \
        {name: plain[name] for name in ("recall@20", "mrr@20")}
    assert "coverage@20" not in plain and "intervals" not in plain and "against" not in plain


def test_lists_of_several_blocks_give_the_same(model, infer, tmp_path, monkeypatch, tiny_data):
    flags = ["--metrics", "coverage,novelty", "--train_dir", tiny_data / "train_data", "--per_prediction"]
    whole = line_of(assert_worked(infer(*flags, tmp_path / "whole.parquet")), "model")
    monkeypatch.setattr(inference, "LISTED", 300)
    blocks = line_of(assert_worked(infer(*flags, tmp_path / "blocks.parquet")), "model")
    assert whole | {"time_cost(s)": 0} == blocks | {"time_cost(s)": 0}
    assert pq.read_metadata(tmp_path / "blocks.parquet").num_row_groups > 3
    assert predictions_of(tmp_path / "blocks.parquet") == predictions_of(tmp_path / "whole.parquet")


# Intervals and the other model

def test_intervals_are_around_the_figures_and_repeat(model, infer):
    flags = ["--intervals", 1, "--metrics", "recall,coverage,ndcg", "--topk", "5"]
    process = assert_worked(infer(*flags))
    figures, intervals = line_of(process, "model"), line_of(process, "intervals")
    assert list(intervals) == ["recall@5", "ndcg@5", "level", "sessions", "draws"]
    for name in "recall@5", "ndcg@5":
        low, high = map(float, intervals[name].split(".."))
        assert low < float(figures[name]) < high < low + 0.4
        assert last_record(model)["intervals"][name] == pytest.approx([low, high], abs=6e-5)
    assert line_of(assert_worked(infer(*flags)), "intervals") == intervals
    assert line_of(assert_worked(infer(*flags, "--seed", 2)), "intervals") != intervals


def test_another_model_is_evaluated_and_compared(model, infer, tmp_path):
    worse = write_random_model(tmp_path / "worse", items=36)  # its vocab.txt is that of tiny_data
    before = files_below(worse)
    process = assert_worked(infer("--against", worse, "--topk", "5", "--draws", 999))
    ours, theirs = (line_of(process, kind) for kind in ("model", "against"))
    assert f"against:{worse}/epoch_1 " in process.stdout
    found = last_record(model)["against"]
    assert (found["model_dir"], found["epoch"]) == (str(worse), 1)
    assert list(found["difference"]) == ["recall@5", "mrr@5"]
    for name, of_metric in found["difference"].items():
        assert of_metric["difference"] == pytest.approx(float(ours[name]) - float(theirs[name]), abs=1e-4)
        assert 0 < of_metric["from"] < of_metric["difference"] < of_metric["to"] and of_metric["p"] == 0.001
        row, = [line.split()[1:] for line in process.stdout.splitlines() if line.startswith(name)]
        assert list(map(float, row)) == pytest.approx(list(of_metric.values()), abs=6e-5)
    assert files_below(worse) == before
    same = assert_worked(infer("--against", model, "--metrics", "ndcg"))
    assert last_record(model)["against"]["difference"]["ndcg@20"]["p"] == 1 and "against:" in same.stdout


# The file of each prediction

def test_the_file_of_each_prediction(tiny_data, infer, tmp_path):
    path = tmp_path / "new" / "predictions.parquet"
    process = assert_worked(infer("--per_prediction", path, "--topk", "1,5", "--ties", "median"))
    found = predictions_of(path)
    lines = (tiny_data / "test_data" / "test.txt").read_text().splitlines()
    expected = [(number, position, f"item_{item}") for number, line in enumerate(lines)
                for position, item in enumerate(line.split()) if position]
    assert list(zip(found["session"], found["position"], found["target"])) == expected
    figures = line_of(process, "model")
    assert f"{np.mean(np.array(found['rank']) <= 5):.4f}" == figures["recall@5"]
    for target, rank, best in zip(found["target"], found["rank"], found["best"]):
        assert len(best) == len(set(best)) == 5
        assert (best.index(target) + 1 if target in best else 6) == min(rank, 6)


def test_items_that_are_only_counted_have_their_index(infer, model, tmp_path):
    from utils.data.vocabulary import checksum
    (model / "vocab.txt").write_text("36\n")
    write_json(model / "config.json", read_config(model) | {"data": {"vocab_sha256": checksum(model / "vocab.txt")}})
    assert_worked(infer("--per_prediction", tmp_path / "p.parquet"))
    assert set(sum(predictions_of(tmp_path / "p.parquet")["best"], [])) <= set(map(str, range(36)))


def test_a_full_disk_leaves_no_file_and_the_old_one(infer, tmp_path, monkeypatch):
    path = tmp_path / "p.parquet"
    path.write_bytes(b"old")

    def write_table(self, table):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    assert_one_line_error(infer("--per_prediction", path), path, "No space left on device")
    assert path.read_bytes() == b"old" and sorted(tmp_path.iterdir()) == [tmp_path / "model", path]


# Wrong flags

@pytest.mark.parametrize("flags, fragments", [
    (["--metrics", "recall,map"], ["--metrics", "found 'map'", "recall,mrr,ndcg"]),
    (["--metrics", ""], ["--metrics", "found ''"]),
    (["--metrics", "novelty"], ["--metrics: found novelty without --train_dir"]),
    (["--metrics", "coverage", "--intervals", "1"], ["--metrics: found coverage alone"]),
    (["--metrics", "coverage", "--against", "model"], ["--metrics: found coverage alone"]),
    (["--intervals", "2"], ["--intervals"]),
    (["--draws", "5"], ["--draws", "an integer >= 100"]),
    (["--against", "nowhere"], ["--against: found no file nowhere"]),
    (["--per_prediction", "p.csv"], ["--per_prediction: found p.csv", ".parquet"]),
    (["--per_prediction", "p.parquet", "--start_index", "1"], ["--per_prediction: found 2 epochs", "--epoch"]),
    (["--per_prediction", "{test}/p.parquet"], ["--per_prediction: found", "read as sessions"]),
])
def test_wrong_flags_end_in_one_line(tiny_data, model, infer, flags, fragments):
    before = files_below(tiny_data) | files_below(model)
    flags = [flag.format(test=tiny_data / "test_data") for flag in flags]
    assert_one_line_error(infer(*flags), "infer.py: ", *fragments)
    assert files_below(tiny_data) | files_below(model) == before


def test_a_model_of_another_vocabulary_is_refused(infer, tmp_path):
    other = write_random_model(tmp_path / "other", items=35)
    assert_one_line_error(infer("--against", other), "--against: found another vocab.txt", other)


@pytest.mark.parametrize("flags", [["--metrics", "coverage"], ["--per_prediction", "p.parquet"]])
def test_lists_among_sampled_items_are_refused(tiny_data, tiny_model, run_here, flags):
    process = run_here("infer_sample_neg.py", "--test_dir", tiny_data / "test_data", "--model_dir", tiny_model,
                       "--sampled", 5, *flags)
    assert_one_line_error(process, "--sampled: found 5 with ", flags[0])
