import json
import os
import re
import shutil

import numpy as np
import pytest
from changed_models import edit_config, resave
from conftest import assert_one_line_error, assert_worked, files_below, run_script

from utils.data.vocabulary import checksum
from utils.model.checked_json import write_json
from utils.model.checkpoint import read_config
from utils.model.directory import net_checksum


def model_lines(process):
    return [line for line in process.stdout.splitlines() if line.startswith("model:")]


def recorded(model, event="test"):
    lines = (model / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def figures_of(process):
    """The figures of each epoch as printed, a list of dicts."""
    return [dict(word.split(":") for word in line.split()[1:-1]) for line in model_lines(process)]


# What a user sees

def test_as_a_user_runs_it(tiny_data, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model_output")
    flags = ["--test_dir", f"{tiny_data}/test_data/", "--model_dir", "model_output/", "--start_index", 1,
             "--last_index", 2]
    process = assert_worked(run_script("infer.py", *flags, "--use_cuda", 0, "--threads", 1, cwd=tmp_path))
    device_line, test_line, *lines = process.stdout.splitlines()
    assert device_line.startswith("device:cpu paddle:") and "threads:1" in device_line
    assert re.fullmatch(r"test:\S+ sessions:\d+ predictions:\d+ items:36 unknown_clicks_left_out:0 ties:standard",
                        test_line)
    assert len(lines) == 2
    for epoch, line in enumerate(lines, start=1):
        pattern = rf"model:model_output/epoch_{epoch} recall@20:0\.\d{{4}} mrr@20:0\.\d{{4}} time_cost\(s\):\d+\.\d\d"
        assert re.fullmatch(pattern, line), line


def test_the_test_line_counts_what_is_in_the_files(data, infer):
    lengths = [len(line.split()) for line in (data / "test_data" / "test.txt").read_text().splitlines()]
    line = assert_worked(infer()).stdout.splitlines()[1]
    assert f" sessions:{len(lengths)} predictions:{sum(length - 1 for length in lengths)} " in line


def test_the_figures_go_to_metrics_jsonl(model, data, infer):
    process = assert_worked(infer("--topk", "1,20", "--ties", "median"))
    records = recorded(model)
    assert [record["epoch"] for record in records] == [1, 2]
    for record, printed in zip(records, figures_of(process)):
        assert {name: f"{record[name]:.4f}" for name in printed} == printed
        assert record["ties"] == "median" and record["test_dir"] == str(data / "test_data")
        assert record["predictions"] > 100 and record["unknown_clicks_left_out"] == 0 and record["time_cost"] > 0
    assert len(recorded(model, "epoch")) == 2  # what train.py wrote is still there
    assert_worked(infer())
    assert len(recorded(model)) == 4


def test_cutoffs_come_in_order_and_grow(infer):
    for figures in figures_of(assert_worked(infer("--topk", "20,1,5"))):
        assert list(figures) == ["recall@1", "recall@5", "recall@20", "mrr@1", "mrr@5", "mrr@20"]
        values = [float(value) for value in figures.values()]
        assert values[:3] == sorted(values[:3]) and values[3:] == sorted(values[3:]) and values[0] == values[3]
        assert all(mrr <= recall for recall, mrr in zip(values[:3], values[3:]))


def test_a_cutoff_of_all_items_recalls_everything(infer):
    found = figures_of(assert_worked(infer("--topk", "36")))
    assert [figures["recall@36"] for figures in found] == ["1.0000", "1.0000"]


def test_training_on_has_made_the_model_better(infer):
    first, second = figures_of(assert_worked(infer("--topk", "5")))
    assert float(second["recall@5"]) > float(first["recall@5"]) > 5 / 36 * 1.5


def test_tie_modes_order_the_figures_of_a_constant_model(model, infer):
    resave(model, lambda weights: {name: 0 * values for name, values in weights.items()})
    shutil.rmtree(model / "epoch_2")
    figures = {}
    for ties in "standard", "conservative", "median":
        process = assert_worked(infer("--last_index", 1, "--ties", ties))
        assert process.stdout.splitlines()[1].endswith(f"ties:{ties}")
        figures[ties] = figures_of(process)[0]
    assert figures["standard"] == {"recall@20": "1.0000", "mrr@20": "1.0000"}  # why the mode is printed
    assert figures["conservative"] == {"recall@20": "0.0000", "mrr@20": "0.0000"}
    assert figures["median"] == {"recall@20": "1.0000", "mrr@20": f"{1 / 18.5:.4f}"}


def test_the_figures_do_not_depend_on_the_batch_size(model, infer):
    for batch_size in 1, 2, 7, 512:
        assert_worked(infer("--batch_size", batch_size, "--topk", "1,5,20"))
    names = [f"{name}@{k}" for name in ("recall", "mrr") for k in (1, 5, 20)]
    found = [tuple(record[name] for name in names) for record in recorded(model)]
    assert found == found[:2] * 4


def test_one_file_is_as_good_as_a_directory(data, infer):
    whole = figures_of(assert_worked(infer()))
    assert figures_of(assert_worked(infer("--test_dir", data / "test_data" / "test.txt"))) == whole
    text = (data / "test_data" / "test.txt").read_text()
    (data / "test_data" / "test.txt").write_text(text[:text.index("\n", 200) + 1])
    (data / "test_data" / "test2.txt").write_text(text[text.index("\n", 200) + 1:])
    assert figures_of(assert_worked(infer())) == whole


def test_missing_epochs_are_named_and_skipped(model, infer):
    shutil.copytree(model / "epoch_2", model / "epoch_5")
    (model / "epoch_3").mkdir()  # without a state.json it is none
    process = infer("--last_index", 9)
    assert process.returncode == 0
    assert process.stderr == f"infer.py: {model}: skipped epochs that are not there: 3 to 4, 6 to 9\n"
    assert [line.split()[0] for line in model_lines(process)] == [f"model:{model}/epoch_{epoch}" for epoch in (1, 2, 5)]


@pytest.mark.parametrize("flag", ["--test_dir", "--train_dir"])
def test_nothing_else_is_said_beside_a_wrong_directory(infer, flag):
    assert_one_line_error(infer(flag, "nowhere", "--last_index", 9), f"infer.py: {flag}: found nothing at nowhere")


def test_all_epochs_are_evaluated_unless_some_are_asked_for(tiny_data, model, run_here):
    shutil.copytree(model / "epoch_2", model / "epoch_12")
    infer = lambda *flags: run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", model, *flags)
    for flags, epochs in [([], [1, 2, 12]), (["--start_index", 3], [12]), (["--epoch", 2], [2]),
                          (["--epoch", 0], [12])]:
        process = infer(*flags)
        assert process.stderr == "" or flags == ["--start_index", 3]
        assert [line.split()[0] for line in model_lines(process)] == [f"model:{model}/epoch_{each}" for each in epochs]
    process = infer("--epoch", 3)
    assert_one_line_error(process, f"--epoch: found no finished epoch 3 in {model}, expected one of 1, 2, 12")


def test_an_absurd_range_of_epochs_takes_no_time(infer):
    process = infer("--start_index", 2, "--last_index", 2**31 - 1)
    assert process.returncode == 0 and "skipped epochs that are not there: 3 to 2147483647" in process.stderr
    assert len(model_lines(process)) == 1


def test_a_model_of_another_net_py_is_evaluated_with_one_warning(model, infer):
    plain = assert_worked(infer())
    edit_config(model, net_sha256="0" * 64)
    process = infer()
    assert process.returncode == 0 and figures_of(process) == figures_of(plain)
    assert process.stderr.count("\n") == 1 and "another net.py" in process.stderr and str(model) in process.stderr
    edit_config(model, network_is_known=False, net_sha256=net_checksum())
    assert figures_of(assert_worked(infer())) == figures_of(plain), "net.py evaluates whatever it defines"


def test_weights_that_another_net_py_has_are_one_line_that_says_how_to_go_on(model, infer, run_here):
    resave(model, lambda weights: weights | {"head.weight": np.zeros([8, 8], np.float32)})
    (model / "net.py").write_text("raise SystemExit('nothing runs this')")
    begin = (f"{model}: trained with another net.py than the one here, which has other weights (found float32 [8, 8] "
             "head.weight, expected none); ")
    for net, how in [("0" * 64, "its own had the SHA-256 000000000000..."),
                     (checksum(model / "net.py"), f"to go on with its own, put {model / 'net.py'} in place of net.py")]:
        edit_config(model, network_is_known=False, net_sha256=net)
        assert_one_line_error(infer("--last_index", 1), begin + how)
        assert_one_line_error(run_here("recommend.py", "--model_dir", model, "--epoch", 1, "item_1"), begin + how)
    edit_config(model, network_is_known=True)
    (model / "net.py").unlink()
    assert_one_line_error(infer("--last_index", 1), begin + "its own computed what net.py computes as it comes")


def test_the_other_model_of_another_net_py_is_refused_in_one_line(tiny_model, model, infer):
    resave(model, lambda weights: weights | {"head.weight": np.zeros([8, 8], np.float32)}, epoch=2)
    edit_config(model, network_is_known=False, net_sha256="0" * 64)
    process = infer("--model_dir", tiny_model, "--against", model)
    assert_one_line_error(process, f"{model}: trained with another net.py than the one here, which has other weights")


def test_a_model_of_before_net_py_had_a_checksum_gets_no_warning(model, infer):
    config = read_config(model)
    assert config.pop("network_is_known") is True and config.pop("net_sha256") == net_checksum()
    write_json(model / "config.json", config)
    assert len(figures_of(assert_worked(infer()))) == 2


def test_the_count_of_unknown_clicks_is_repeated(data, model, infer):
    record = {"vocab_sha256": checksum(data / "vocab.txt"), "clicks_left_out": 17}
    (data / "test_data" / "text2paddle.json").write_text(json.dumps(record))
    assert " unknown_clicks_left_out:17 " in assert_worked(infer()).stdout
    assert recorded(model)[0]["unknown_clicks_left_out"] == 17


def test_the_vocabulary_of_the_test_sessions_may_be_checked(data, infer):
    assert_worked(infer("--vocab_path", data / "vocab.txt"))


def test_baselines_are_added_as_a_table(data, infer):
    process = assert_worked(infer("--train_dir", data / "train_data", "--topk", "1,5"))
    header, *rows = process.stdout.splitlines()[-5:]
    assert header.split() == ["recall@1", "recall@5", "mrr@1", "mrr@5"]
    assert [row.split()[0] for row in rows] == ["POP", "transitions", "epoch_1", "epoch_2"]
    table = {row.split()[0]: [float(value) for value in row.split()[1:]] for row in rows}
    assert table["epoch_2"] == [float(value) for value in figures_of(process)[1].values()]
    assert table["POP"][1] < table["transitions"][1]  # the tiny data are made of transitions


def test_a_model_directory_that_cannot_be_written_keeps_nobody_from_the_figures(model, infer):
    (model / "metrics.jsonl").unlink()
    (model / "metrics.jsonl").mkdir()
    process = infer()
    assert process.returncode == 0 and len(model_lines(process)) == 2
    assert process.stderr == 2 * f"infer.py: {model}/metrics.jsonl: figures are not recorded (Is a directory)\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_model_directory_keeps_nobody_from_the_figures(model, infer):
    (model / "metrics.jsonl").chmod(0o444)
    model.chmod(0o555)
    process = infer()
    model.chmod(0o755)
    assert process.returncode == 0 and len(model_lines(process)) == 2
    assert "figures are not recorded (Permission denied)" in process.stderr


def test_nothing_else_in_the_model_directory_changes(model, infer):
    before = files_below(model)
    assert_worked(infer())
    after = files_below(model)
    assert after.pop("metrics.jsonl").startswith(before.pop("metrics.jsonl"))
    assert after == before


# Wrong flags

@pytest.mark.parametrize("flags, fragments", [
    (["--topk", "0"], ["--topk", "'0'"]),
    (["--topk", "5,x"], ["--topk", "'5,x'"]),
    (["--ties", "best"], ["--ties", "best", "standard"]),
    (["--batch_size", "0"], ["--batch_size", "an integer >= 1"]),
    (["--start_index", "0"], ["--start_index", "an integer >= 1"]),
    (["--start_index", "3"], ["--start_index: found 3, expected at most --last_index 2"]),
    (["--epoch", "1"], ["--epoch: found 1 with --last_index, expected one of them"]),
    (["--start_index", "3", "--last_index", "4"],
     ["--model_dir: found none of the epochs 3 to 4", "epochs there: 1, 2"]),
    (["--use_cuda", "2"], ["--use_cuda"]),
    (["--no_such_flag"], ["--no_such_flag", "infer.py -h lists the flags"]),
])
def test_a_wrong_flag_is_one_line(infer, flags, fragments):
    assert_one_line_error(infer(*flags), *fragments)


def test_a_gpu_that_is_not_there_is_one_line(tiny_data, tiny_model):
    process = run_script("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", tiny_model, "--use_cuda", 1,
                         env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert_one_line_error(process, "--use_cuda 1: found ", "--use_cuda 0")


# Wrong test sessions

@pytest.mark.parametrize("contents, fragments", [
    (b"", ["--test_dir: found no session in"]),
    (b"\n\n", ["--test_dir: found no session in"]),
    (b"1\n2\n", ["--test_dir: found no session of two known clicks in"]),
    (b"1 2\n3 36\n", ["test.txt:2: found '36', expected item indices from 0 to 35"]),
    (b"1 2\nitem_3 4\n", ["test.txt:2: found 'item_3'"]),
    (b"\x89PNG\r\n\x1a\n\x00\x00", ["test.txt:1: found "]),
    (np.random.default_rng(1).bytes(1000), ["test.txt:1: found "]),
])
def test_test_sessions_that_are_none_are_one_line(data, model, infer, contents, fragments):
    (data / "test_data" / "test.txt").write_bytes(contents)
    before = files_below(model)
    assert_one_line_error(infer(), *fragments)
    assert files_below(model) == before


def test_a_missing_or_empty_test_directory_is_one_line(tmp_path, infer):
    assert_one_line_error(infer("--test_dir", tmp_path / "absent"), "--test_dir: found nothing at")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(infer("--test_dir", tmp_path / "empty"), "--test_dir: found no session files in")


@pytest.mark.parametrize("flag, name", [("--test_dir", "test_data"), ("--train_dir", "train_data")])
def test_sessions_of_another_vocabulary_are_one_line(data, infer, flag, name):
    (data / name / "text2paddle.json").write_text('{"vocab_sha256": "0123456789abcdef"}')
    assert_one_line_error(infer(flag, data / name), f"{flag}: found sessions in {data / name}", "another vocab.txt")


@pytest.mark.parametrize("contents, fragment", [(b"a\nb\n", "another vocabulary"), (b"", "another voc"),
                                                (None, "no file")])
def test_another_vocabulary_is_one_line(tmp_path, infer, contents, fragment):
    if contents is not None:
        (tmp_path / "vocab.txt").write_bytes(contents)
    assert_one_line_error(infer("--vocab_path", tmp_path / "vocab.txt"), "--vocab_path: found", fragment)
    assert_one_line_error(infer("--vocab_path", tmp_path), "--vocab_path: found the directory")


# Wrong model directories

def test_what_is_no_model_directory_is_one_line(tmp_path, data, infer):
    for path in tmp_path / "absent", data, data / "vocab.txt":
        assert_one_line_error(infer("--model_dir", path), path, "config.json")


def test_a_run_without_a_finished_epoch_is_one_line(model, infer):
    for epoch in 1, 2:
        (model / f"epoch_{epoch}" / "state.json").unlink()
    assert_one_line_error(infer(), "--model_dir: found none of the epochs 1 to 2", "epochs there: none")
