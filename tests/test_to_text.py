"""preprocess.py --to_text: the same files as the three steps preprocess.py, convert_format.py and text2paddle.py."""

import json
import resource

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script

HEADER = "SessionId\tItemId\tTime\n"
DAY = 86_400


def random_table(path, seed, session_ids):
    """Clicks of 150 sessions in four days, many of which start at the same time; some items are only in the last day.

    Session 0 is on the first day.
    """
    random = np.random.default_rng(seed)
    rows = []
    for session in range(150):
        start = DAY * int(random.integers(4)) * (session > 0) + int(random.integers(3))
        newest = 20 if start >= 3 * DAY else 12
        rows += [(session_ids(session), f"p{random.integers(newest)}", start + click)
                 for click in range(random.integers(1, 6) + (session == 0))]
    path.write_text(HEADER + "".join(f"{session}\t{item}\t{time}\n" for session, item, time in rows))


def three_steps(run_here, directory, *flags):
    assert_worked(run_here("preprocess.py", "--out_dir", "splits", *flags))
    assert_worked(run_here("convert_format.py", "--train_input", "splits/rsc15_train_full.txt", "--train_output",
                           "raw_train/train.txt", "--test_input", "splits/rsc15_test.txt", "--test_output",
                           "raw_test/test.txt"))
    assert_worked(run_here("text2paddle.py", "raw_train", "raw_test", directory / "train_data",
                           directory / "test_data", directory / "vocab.txt"))


@pytest.mark.parametrize("session_ids", [
    lambda number: 200 - number, lambda number: f"s{number}",
    lambda number: "word" if number == 0 else number,  # the test has integers alone
], ids=["integers", "words", "both"])
@pytest.mark.parametrize("flags", [(), ("--split_by", "start"), ("--min_session_length", 1, "--newest_fraction", 0.7),
                                   ("--session_gap", 2, "--drop_repeats", 1)],
                         ids=["by_end", "by_start", "short", "gap"])
def test_to_text_gives_the_bytes_of_the_three_steps(tmp_path, run_here, monkeypatch, session_ids, flags):
    monkeypatch.chdir(tmp_path)
    random_table(tmp_path / "clicks.tsv", 1, session_ids)
    flags = "--input", "clicks.tsv", "--min_support", 1, *flags
    three_steps(run_here, tmp_path / "steps", *flags)
    assert_worked(run_here("preprocess.py", "--to_text", "text", *flags))
    assert files_below("text") == files_below("steps")


@pytest.fixture
def clicks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random_table(tmp_path / "clicks.tsv", 0, str)
    return tmp_path


def to_text(run_here, *flags):
    return run_here("preprocess.py", "--input", "clicks.tsv", "--min_support", 1, "--to_text", "shop", *flags)


def test_it_says_what_it_wrote_and_replaces_what_it_wrote_before(clicks, run_here):
    process = assert_worked(to_text(run_here, "--split_by", "start"))
    record = json.loads((clicks / "shop/test_data/text2paddle.json").read_text())
    assert record["clicks_left_out"] > 0
    assert (f"shop/test_data/test.txt: {record['sessions']} sessions, {record['events']} events; "
            "1970-01-04T00:00:00Z to 1970-01-04T00:00:06Z; left out "
            f"{record['sessions_left_out']} sessions, {record['clicks_left_out']} clicks") in process.stdout
    assert_worked(to_text(run_here, "--test_days", 2))
    assert json.loads((clicks / "shop/test_data/text2paddle.json").read_text()) != record
    assert sorted(files_below(clicks / "shop")) == ["test_data/test.txt", "test_data/text2paddle.json",
                                                    "train_data/text2paddle.json", "train_data/train.txt", "vocab.txt"]


@pytest.mark.parametrize("flags, message", [
    (["--out_dir", "x"], "--to_text: found it with --out_dir, expected one of them"),
    (["--prefix", "x"], "--to_text: found it with --prefix"),
    (["--test_days", 9], "--test_days 9: left no session for train_full"),
])
def test_a_users_mistake_is_one_line_and_changes_no_file(clicks, run_here, flags, message):
    assert_worked(to_text(run_here))
    before = files_below(clicks)
    assert_one_line_error(to_text(run_here, *flags), message)
    assert files_below(clicks) == before


def test_no_sessions_of_anyone_else_are_mixed_in_or_overwritten(clicks, run_here):
    (clicks / "shop/train_data").mkdir(parents=True)
    (clicks / "shop/train_data/stranger.txt").write_text("1 2\n")
    assert_one_line_error(to_text(run_here), "--to_text: found stranger.txt in shop/train_data")
    (clicks / "shop/train_data/stranger.txt").unlink()
    (clicks / "shop/text2paddle.json").write_text("{}")
    assert_one_line_error(to_text(run_here), "--to_text: found sessions in shop")
    (clicks / "shop/text2paddle.json").unlink()
    (clicks / "clicks.tsv").rename(clicks / "shop/vocab.txt")
    process = run_here("preprocess.py", "--input", "shop/vocab.txt", "--to_text", "shop")
    assert_one_line_error(process, "--to_text: found shop/vocab.txt, where --input would be overwritten")
    process = run_here("preprocess.py", "--input", "shop/vocab.txt", "--to_text", "shop/vocab.txt")
    assert_one_line_error(process, "--to_text: found a file at shop/vocab.txt, expected a directory")


def test_too_little_to_choose_from_or_to_test_is_an_error(clicks, run_here):
    days = "".join(f"{day}\ta\t{day * DAY * 2}\n{day}\ta\t{day * DAY * 2 + 1}\n" for day in range(3))
    (clicks / "clicks.tsv").write_text(HEADER + days)
    assert_one_line_error(to_text(run_here), "found 1 item in the training sessions, expected at least 2")
    (clicks / "clicks.tsv").write_text(HEADER + days.replace("a", "b", 1) + f"9\tc\t{DAY * 9}\n9\td\t{DAY * 9}\n")
    assert_one_line_error(to_text(run_here, "--split_by", "start"), "--test_days 1: left no session of two known items")
    assert sorted(files_below(clicks)) == ["clicks.tsv"]


def test_a_full_disk_leaves_the_old_files(clicks, run_here):
    assert_worked(to_text(run_here))
    (clicks / "clicks.tsv").write_text(HEADER + "".join(
        f"{session}\tp{session % 50}\t{session * 100}\n" * 2 for session in range(3000)))
    before = files_below(clicks)
    process = run_script("preprocess.py", "--input", "clicks.tsv", "--to_text", "shop", cwd=clicks,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)))
    assert_one_line_error(process, "shop/train_data/train.txt: File too large")
    assert files_below(clicks) == before
