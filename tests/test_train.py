"""train.py as a user runs it: log lines, files, determinism, wrong input, and being killed."""

import hashlib
import json
import os
import re
import shutil

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script, with_flags
from safetensors.numpy import load_file

from utils import memory
from utils.model import checkpoint


def flags(data, model_dir, *more):
    """A quick run on `data`; later flags win."""
    usual = ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir,
             "--threads", 1, "--hid_size", 8, "--pass_num", 1, "--batch_size", 10]
    return with_flags(usual, more)


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def weights(model_dir, epoch):
    return load_file(model_dir / f"epoch_{epoch}" / "model.safetensors")


def test_the_references_command_line_works_as_it_stands(tiny_data, tmp_path):
    for name in ("train_data", "vocab.txt"):
        (tmp_path / name).symlink_to(tiny_data / name)
    arguments = "--train_dir train_data --use_cuda 0 --batch_size 50 --model_dir model_output --print_batch 2".split()
    process = assert_worked(run_script("train.py", *arguments, cwd=tmp_path))
    lines = process.stdout.splitlines()
    assert lines[0].startswith("device:cpu ")
    way = "native" if lines[0].endswith("native:yes") else "paddle"
    assert f"engine:{way} loss:{way} optimizer:{way}" in lines[:lines.index("epoch_1 start")]
    assert "epoch_1 start" in lines and "epoch_10 start" in lines and lines[-1] == "finish training"
    assert any(re.fullmatch(r"step:2 ppl:\d+\.\d{3}", line) for line in lines)
    assert any(re.match(r"epoch:10 num_steps:\d+ time_cost\(s\):\d+\.\d{6} ", line) for line in lines)
    assert "model saved in model_output/epoch_10" in lines
    assert checkpoint.finished_epochs(tmp_path / "model_output") == list(range(1, 11))


def test_the_model_directory_is_complete(tiny_data, tiny_model):
    config = json.loads((tiny_model / "config.json").read_text(encoding="utf-8"))
    assert config["network"]["hid_size"] == [8] and config["data"]["items"] == 36
    assert config["options"]["batch_size"] == 10
    assert config["network_is_known"] is True and config["loss"] == "ce" and config["loss_is_sampled"] is False
    assert config["net_sha256"] == hashlib.sha256((ROOT / "net.py").read_bytes()).hexdigest()
    assert (tiny_model / "vocab.txt").read_bytes() == (tiny_data / "vocab.txt").read_bytes()
    records = [json.loads(line) for line in lines_of(tiny_model / "metrics.jsonl")]
    assert [record["epoch"] for record in records if record["event"] == "epoch"] == [1, 2]
    assert records[1]["loss"] < records[0]["loss"]
    assert not list(tiny_model.rglob("*.tmp"))
    optimizer = load_file(tiny_model / "epoch_2" / "optimizer.safetensors")
    assert {name.removesuffix(".sum") for name in optimizer} == set(weights(tiny_model, 2))


def test_every_session_counts_in_every_epoch(tiny_data, tiny_model):
    """Also those of the last, incomplete batch: the reference dropped them."""
    lengths = [len(line.split()) for line in lines_of(tiny_data / "train_data/train.txt")]
    records = list(map(json.loads, lines_of(tiny_model / "metrics.jsonl")))
    epochs = [record for record in records if record["event"] == "epoch"]
    assert len(epochs) == 2
    for record in epochs:
        assert record.get("predictions", 0) == sum(length - 1 for length in lengths)
        assert record["num_steps"] == -(-sum(length > 1 for length in lengths) // 10)


def test_one_seed_one_thread_identical_weights_and_metrics(tiny_data, tiny_model, tmp_path, run_here):
    def run(name, *more):
        assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / name, "--pass_num", 2, *more)))

    def record(model_dir):
        return [(r["loss"], r["num_steps"]) for r in map(json.loads, lines_of(model_dir / "metrics.jsonl"))
                if r["event"] == "epoch"]

    run("same"), run("other", "--seed", 2), run("shuffled", "--shuffle", 1)
    same, before = (path / "epoch_2/model.safetensors" for path in (tmp_path / "same", tiny_model))
    assert same.read_bytes() == before.read_bytes()
    assert record(tmp_path / "same") == record(tiny_model)
    for other in ("other", "shuffled"):
        assert record(tmp_path / other) != record(tiny_model)


@pytest.mark.parametrize("more", [
    ["--embedding", "separate", "--emb_size", 5], ["--hid_size", "6,8"], ["--reset_gate", "before"],
    ["--emb_dropout", 0.2, "--hid_dropout", 0], ["--label_smoothing", 0.1],
    ["--embedding", "separate", "--init_range", 0.04, "--emb_lr_x", 10, "--base_lr", 0.01],
])
def test_options_train_and_can_be_evaluated(tiny_data, tmp_path, more, run_here):
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--pass_num", 3, *more)))
    losses = [json.loads(line)["loss"] for line in lines_of(tmp_path / "model/metrics.jsonl")]
    assert losses[2] < losses[0]
    process = run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", tmp_path / "model",
                         "--last_index", 3)
    assert assert_worked(process).stdout.count("recall@20:") == 3


def test_without_the_tuning_paddle_computes_everything(tiny_data, tmp_path, run_here):
    process = assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--tune_cpu", 0)))
    assert "engine:paddle loss:softmax optimizer:paddle" in process.stdout.splitlines()


def test_long_sessions_are_cut_and_told(tiny_data, tmp_path, run_here):
    process = assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--max_length", 2)))
    cut = sum(len(line.split()) > 3 for line in lines_of(tiny_data / "train_data/train.txt"))
    assert f"cut into windows of 2 predictions: {cut} sessions" in process.stdout
    record = json.loads((tmp_path / "model/metrics.jsonl").read_text(encoding="utf-8"))
    assert record["predictions"] == sum(len(line.split()) - 1 for line in lines_of(tiny_data / "train_data/train.txt"))


def test_enable_ce_stops_each_epoch_early(tiny_data, tmp_path, run_here):
    more = ["--enable_ce", "--step_num", 3, "--is_local", 1]
    process = assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", *more)))
    assert "epoch:1 num_steps:3 " in process.stdout


def test_a_lone_count_as_vocabulary_is_accepted_with_a_warning(tiny_data, tmp_path, run_here):
    (tmp_path / "count.txt").write_text("36\n", encoding="utf-8")
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--vocab_path", tmp_path / "count.txt"))
    assert process.returncode == 0 and process.stderr.count("\n") == 1 and "number of items" in process.stderr
    assert_worked(run_here("infer.py", "--test_dir", tiny_data / "test_data", "--model_dir", tmp_path / "model",
                             "--last_index", 1))


def test_a_second_run_needs_overwrite(tiny_data, tiny_model, tmp_path, run_here):
    model_dir = shutil.copytree(tiny_model, tmp_path / "model")
    before = files_below(model_dir)
    assert_one_line_error(run_here("train.py", *flags(tiny_data, model_dir)), "--model_dir", "--overwrite 1")
    assert files_below(model_dir) == before
    assert_worked(run_here("train.py", *flags(tiny_data, model_dir, "--overwrite", 1)))
    assert checkpoint.finished_epochs(model_dir) == [1]


@pytest.mark.parametrize("script", ["train.py", "train_sample_neg.py"])
def test_what_is_not_there_is_refused_before_paddle_loads(tiny_data, tiny_model, tmp_path, run_here, script):
    for flag, path in [("--train_dir", "nowhere"), ("--vocab_path", "nowhere"), ("--valid_dir", "nowhere"),
                       ("--model_dir", tiny_model)]:
        process = run_here(script, *with_flags(flags(tiny_data, tmp_path / "model"), [flag, path]))
        assert_one_line_error(process, f"{flag}: found ")
        assert process.stdout == "", "the first line comes when Paddle has loaded"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


WRONG_SESSIONS = {
    "an empty file": ("", ["no session"]),
    "binary junk": (bytes(range(256)), ["train.txt:1", "item indices"]),
    "a word": ("1 2\n3 four 5\n", ["train.txt:2", "'four'"]),
    "a negative index": ("1 2\n3 -4\n", ["train.txt:2", "'-4'"]),
    "an index out of range": ("1 2\n\n3 36 5\n", ["train.txt:3", "'36'", "0 to 35"]),
    "a huge index": ("1 2\n3 99999999999999999999999\n", ["train.txt:2"]),
    "sessions of one click": ("1\n2\n", ["two clicks"]),
}


@pytest.mark.parametrize("name", WRONG_SESSIONS)
def test_wrong_sessions_end_in_one_line(tiny_data, tmp_path, name, run_here):
    content, fragments = WRONG_SESSIONS[name]
    write(tmp_path / "train_data/train.txt", content)
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--train_dir", tmp_path / "train_data"))
    assert_one_line_error(process, *fragments)
    assert not (tmp_path / "model").exists()


WRONG_VOCABULARIES = {
    "an empty file": ("", ["vocab.txt", "empty"]),
    "binary junk": (bytes(range(128, 256)), ["vocab.txt", "UTF-8"]),
    "an empty line": ("a\n\nb\n", ["vocab.txt:2"]),
    "an id twice": ("a\nb\na\n", ["vocab.txt:3", "line 1"]),
    "too few items": ("a\nb\n", ["train.txt:", "0 to 1"]),
}


@pytest.mark.parametrize("name", WRONG_VOCABULARIES)
def test_wrong_vocabularies_end_in_one_line(tiny_data, tmp_path, name, run_here):
    content, fragments = WRONG_VOCABULARIES[name]
    write(tmp_path / "vocab.txt", content)
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--vocab_path", tmp_path / "vocab.txt"))
    assert_one_line_error(process, *fragments)
    assert not (tmp_path / "model").exists()


LARGE_COUNTS = {"one too large for any machine": 999_999_999, "one whose weights are too large": 40_000_000}


@pytest.fixture
def little_memory(monkeypatch):
    """A machine with 16 GiB left, whatever this one has."""
    monkeypatch.setattr(memory, "available", lambda: 16 << 30)


@pytest.mark.parametrize("name", LARGE_COUNTS)
def test_a_lone_count_that_is_too_large_ends_in_one_line(tiny_data, tmp_path, run_here, little_memory, name):
    write(tmp_path / "vocab.txt", f"{LARGE_COUNTS[name]}\n")
    more = ["--vocab_path", tmp_path / "vocab.txt", "--hid_size", 1000]
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", *more))
    *warnings, error = process.stderr.splitlines()
    assert process.returncode == 2 and len(warnings) < 2 and str(LARGE_COUNTS[name]) in error
    assert str(tmp_path / "vocab.txt") in error and "of memory, expected at most the" in error
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("script, more, fragments", [
    ("train.py", ["--hid_size", "100000"], ["--hid_size 100000"]),
    ("train_sample_neg.py", ["--hid_size", "9999,9999,9999,9999,9999"], ["--hid_size 9999,9999"]),
    ("train_sample_neg.py", ["--neg_size", 2_000_000_000], ["--neg_size"]),
    ("train_sample_neg.py", ["--neg_size", 200_000_000, "--batching", "sessions", "--negatives", "tiled"],
     ["--neg_size"])], ids=str)
def test_what_takes_more_memory_than_there_is_ends_in_one_line_at_once(tiny_data, tmp_path, run_here, little_memory,
                                                                       script, more, fragments):
    process = run_here(script, *flags(tiny_data, tmp_path / "model", *more))
    assert_one_line_error(process, *fragments)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("flag, target, found", [
    ("--vocab_path", "/dev/zero", "the device"), ("--vocab_path", "pipe", "the pipe"),
    ("--vocab_path", "loop", "leads to itself"), ("--train_dir", "/dev/zero", "--train_dir"),
    ("--train_dir", "pipe", "--train_dir"), ("--train_dir", "loop", "--train_dir"),
    ("--valid_dir", "loop", "--valid_dir"), ("--valid_dir", "pipe", "--valid_dir"),
    ("--config", "/dev/zero", "--config"), ("--config", "pipe", "--config"), ("--config", "loop", "--config"),
    ("--model_dir", "/dev/zero", "--model_dir"), ("--model_dir", "pipe", "--model_dir"),
    ("--model_dir", "loop", "--model_dir")])
def test_what_is_no_file_ends_in_one_line_at_once(tiny_data, tmp_path, run_here, flag, target, found):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", flag, tmp_path / target))
    assert_one_line_error(process, found, tmp_path / target)


@pytest.mark.parametrize("more, fragments", [
    (["--train_dir", "nowhere"], ["--train_dir", "nowhere"]),
    (["--vocab_path", "nowhere"], ["--vocab_path", "nowhere"]),
    (["--vocab_path", "."], ["--vocab_path", "directory"]),
    (["--num_devices", 2], ["--num_devices: found 2 with --parallel 0"]),
    (["--batch_size", 0], ["--batch_size", "'0'", ">= 1"]),
    (["--base_lr", "nan"], ["--base_lr", "'nan'"]),
    (["--hid_dropout", 1], ["--hid_dropout", "< 1"]),
    (["--hid_size", "8,x"], ["--hid_size", "'8,x'"]),
    (["--emb_size", 9], ["--emb_size", "--embedding separate"]),
    (["--no_such_flag", 1], ["--no_such_flag"]),
    (["--use_cuda", 2], ["--use_cuda", "'2'"]),
])
def test_wrong_flags_end_in_one_line(tiny_data, tmp_path, more, fragments, run_here):
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", *more), cwd=tmp_path)
    assert_one_line_error(process, *fragments)
    assert not (tmp_path / "model").exists()


def test_use_cuda_without_cuda_ends_in_one_line(tiny_data, tmp_path, run_here):
    import paddle
    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        pytest.skip("this machine can")
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--use_cuda", 1))
    assert_one_line_error(process, "--use_cuda 1", "expected")


def test_sessions_of_another_vocabulary_are_refused(tiny_data, tmp_path, run_here):
    shutil.copytree(tiny_data / "train_data", tmp_path / "train_data")
    write(tmp_path / "train_data/text2paddle.json", '{"vocab_sha256": "0123456789abcdef"}')
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", "--train_dir", tmp_path / "train_data"))
    assert_one_line_error(process, "--train_dir", "another vocab.txt")


def test_no_model_is_written_among_sessions(tiny_data, tmp_path, run_here):
    shutil.copytree(tiny_data / "test_data", tmp_path / "data")
    shutil.copytree(ROOT / "train_data", tmp_path / "train_data")
    before = files_below(tmp_path)
    for name in "train.py", "train_sample_neg.py":
        for directory, found in [("data", "test.txt"), ("train_data", "text2paddle.json")]:
            process = run_here(name, *flags(tiny_data, tmp_path / directory))
            assert_one_line_error(process, "--model_dir: found sessions in", found)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("more, flag", [
    (["--base_lr", 1e38], "--base_lr 1e+38"), (["--lr_end", 1e38], "--lr_end 1e+38"),
    (["--emb_lr_x", 1e38, "--base_lr", 1], "--emb_lr_x 1e+38")])
def test_a_loss_that_overflows_ends_in_one_line_that_names_the_flag(tiny_data, tmp_path, run_here, more, flag):
    process = run_here("train.py", *flags(tiny_data, tmp_path / "model", *more))
    assert_one_line_error(process, f"train.py: {flag}: found ", "step")
    assert not list(tmp_path.iterdir()), "there was nothing to keep"


DIVERGING = {
    "train.py": [["--base_lr", 1e9], ["--lr_end", 1e9], ["--emb_lr_x", 1e8]],
    "train_sample_neg.py": [["--base_lr", 1e6], ["--logq", 1e5], ["--loss", "bpr-max", "--base_lr", 100],
                            ["--fc_lr_x", 1e8, "--embedding", "separate"],
                            ["--batching", "sessions", "--negatives", "tiled", "--base_lr", 1e6, "--tune_cpu", 0]],
}


@pytest.mark.parametrize("script, more", [(script, more) for script, cases in DIVERGING.items() for more in cases],
                         ids=str)
def test_a_loss_far_above_that_of_random_guesses_is_one_warning_that_names_the_flag(
        tiny_data, tmp_path, run_here, script, more):
    sampled = ["--neg_size", 16] * (script != "train.py")
    process = run_here(script, *flags(tiny_data, tmp_path / "model", "--pass_num", 2, *sampled, *more))
    flag = next(flag for flag in more if flag in ("--base_lr", "--lr_end", "--emb_lr_x", "--fc_lr_x", "--logq"))
    assert process.returncode == 0 and process.stdout.endswith("finish training\n")
    assert process.stderr.count("\n") == 1, process.stderr
    assert re.fullmatch(rf"{script}: {flag} \S+: found a loss of \S+ in epoch 1, expected one below that of random "
                        r"guesses, \S+; lower it\n", process.stderr)


@pytest.mark.parametrize("more", [
    ["--base_lr", 0], ["--loss", "bpr-max"], ["--loss", "top1"], ["--loss", "bpr"], ["--base_lr", 0, "--batch_size", 1],
    ["--logq", 2], ["--tune_cpu", 0, "--base_lr", 0], ["--neg_size", 0, "--loss", "top1-max", "--base_lr", 0],
    ["--batching", "sessions", "--negatives", "tiled", "--base_lr", 0],
    ["--batching", "sessions", "--label_smoothing", 0.9]], ids=str)
def test_a_loss_like_that_of_random_guesses_is_none(tiny_data, tmp_path, run_here, more):
    defaults = [] if "--neg_size" in more else ["--neg_size", 16]
    assert_worked(run_here("train_sample_neg.py", *flags(tiny_data, tmp_path / "model", *defaults, *more)))


def limited_to(size):
    """For subprocess's preexec_fn: writing beyond `size` bytes fails, as on a full disk."""
    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return limit


def test_a_full_disk_ends_in_one_line_and_leaves_nothing_half_written(tiny_data, tmp_path):
    more = flags(tiny_data, tmp_path / "model", "--hid_size", 16)
    process = run_script("train.py", *more, preexec_fn=limited_to(5000))
    assert_one_line_error(process, "epoch_1", "File too large")
    assert not list(tmp_path.iterdir())


def test_a_directory_that_was_there_and_its_files_stay(tiny_data, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/notes.txt").write_text("precious")
    process = run_script("train.py", *flags(tiny_data, tmp_path / "model", "--base_lr", 1e38))
    assert_one_line_error(process, "--base_lr")
    assert (tmp_path / "model/notes.txt").read_text() == "precious"
