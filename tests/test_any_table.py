"""A shop's table as it comes, with everything that such tables have: three commands lead to a recommendation."""

import csv
import datetime
import json
import random

import pytest
from conftest import assert_one_line_error, assert_worked, files_below, with_flags
from running_server import Server

from utils.data.item_ids import escape

ITEMS = ["red shoes, size 41", "żółw", 'the "best" mug', "C:\\images\\7", "0042", "蓝色 帽子", " padded ", "\\{20}",
         "p-8", "p-9", "=1+1", "line\nbreak"]
ZONES = [(0, "Z"), (0, ""), (0, " UTC"), (2, "+02:00"), (-5, "-0500"), (5.5, "+05:30")]
COLUMNS = ["event id", "visitor", "product", "type", "clicked at"]
FLAGS = ["--session_column", "visitor", "--item_column", "product", "--time_column", "clicked at",
         "--event_column", "type", "--events", "view,addtocart", "--session_gap", 1800, "--drop_repeats", 1]
SMALL = ["--hid_size", 8, "--pass_num", 1, "--batch_size", 16, "--neg_size", 16, "--threads", 1]


def date(seconds, draw):
    """One of the forms in which shops write the same moment."""
    hours, zone = draw.choice(ZONES)
    moment = datetime.datetime(2026, 11, 1) + datetime.timedelta(seconds=seconds, hours=hours)
    return moment.isoformat(draw.choice("T "), draw.choice(["seconds", "milliseconds"])) + zone


def shop_rows(draw):
    """Rows of visits in 20 days: two events of three are clicks, one row of 30 comes twice, one of 40 lacks a value."""
    rows = []
    for visit in range(600):
        second, item = draw.randrange(20 * 86_400), draw.randrange(len(ITEMS))
        for _ in range(draw.randint(1, 6)):
            item = (item + draw.choice([1, 1, 1, 2])) % len(ITEMS)
            row = [len(rows), f"anna & {visit % 150}", ITEMS[item], draw.choice(["view", "addtocart", "scroll"]),
                   date(second, draw)]
            if draw.random() < 1 / 40:
                row[draw.choice([1, 2, 4])] = draw.choice(["", "  "])
            rows += [row] * (1 + (draw.random() < 1 / 30))
            second += draw.randint(1, 300)
    draw.shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A directory with shop.csv, lines of which end as on Windows, and the rows in it."""
    directory, rows = tmp_path_factory.mktemp("shop"), shop_rows(random.Random(1))
    with open(directory / "shop.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return directory, rows


def test_a_shops_table_leads_to_recommendations_and_a_server_by_three_commands(shop, run_here, monkeypatch):
    directory, rows = shop
    monkeypatch.chdir(directory)
    process = assert_worked(run_here("preprocess.py", "--input", "shop.csv", *FLAGS, "--skip_bad", 1000,
                                     "--to_text", "shop"))
    bad = [row for row in rows if row[3] != "scroll" and not all(map(str.strip, row[1:]))]
    listed = list(csv.reader((directory / "shop/bad_rows.csv").read_text(encoding="utf-8").splitlines()))
    assert f"left out {len(bad)} bad rows, listed in shop/bad_rows.csv" in process.stdout
    assert len(listed) == len(bad) + 1
    assert f"--events view,addtocart: left out {sum(row[3] == 'scroll' for row in rows)} rows" in process.stdout

    assert_worked(run_here("train_sample_neg.py", "--train_dir", "shop/train_data", "--vocab_path", "shop/vocab.txt",
                           "--model_dir", "model", *SMALL))

    process = assert_worked(run_here("recommend.py", "--model_dir", "model", "--format", "json", *ITEMS))
    answer = json.loads(process.stdout)["items"]
    assert sorted(answer) == sorted(ITEMS)
    process = assert_worked(run_here("recommend.py", "--model_dir", "model", *ITEMS))
    table = list(csv.reader(process.stdout.splitlines(keepends=True), delimiter="\t"))
    assert [row[2] for row in table] == answer

    (directory / "sessions.txt").write_text(" ".join(map(escape, ITEMS)) + "\n", encoding="utf-8")
    of_file = run_here("recommend.py", "--model_dir", "model", "--sessions", "sessions.txt")
    assert assert_worked(of_file).stdout == process.stdout

    server = Server(directory)
    try:
        assert server.recommend([ITEMS], k=20)[0]["items"] == answer
        reply = server.get("/v1/recommend", session_id="anna & 1", item_id="蓝色 帽子", user_consent="true", k=20)
        assert sorted(reply.json()["items"]) == sorted({*ITEMS} - {"蓝色 帽子"})  # the item that is looked at
        assert reply.json()["unknown_items"] == 0
        assert set(server.get("/v1/items", prefix="the ").json()["items"]) == {'the "best" mug'}
    finally:
        assert server.stop() == 0


def test_the_three_steps_give_the_same_files(shop, run_here, monkeypatch, tmp_path):
    directory, _ = shop
    monkeypatch.chdir(tmp_path)
    flags = ["--input", directory / "shop.csv", *FLAGS, "--skip_bad", 1000]
    assert_worked(run_here("preprocess.py", *flags, "--to_text", "text"))
    assert_worked(run_here("preprocess.py", *flags, "--out_dir", "splits", "--prefix", ""))
    assert_worked(run_here("convert_format.py", "--train_input", "splits/train_full.txt", "--train_output",
                           "raw_train/train.txt", "--test_input", "splits/test.txt", "--test_output",
                           "raw_test/test.txt"))
    assert_worked(run_here("text2paddle.py", "raw_train", "raw_test", "steps/train_data", "steps/test_data",
                           "steps/vocab.txt"))
    (tmp_path / "text/bad_rows.csv").rename(tmp_path / "steps/bad_rows.csv")
    assert (tmp_path / "steps/bad_rows.csv").read_bytes() == (tmp_path / "splits/bad_rows.csv").read_bytes()
    (tmp_path / "steps/bad_rows.csv").unlink()
    assert files_below(tmp_path / "text") == files_below(tmp_path / "steps")


def test_without_skip_bad_the_first_bad_row_is_named_and_the_others_are_counted(shop, run_here, monkeypatch, tmp_path):
    directory, rows = shop
    monkeypatch.chdir(tmp_path)
    bad = sum(row[3] != "scroll" and not all(map(str.strip, row[1:])) for row in rows)
    flags = "--input", directory / "shop.csv", *FLAGS, "--to_text", "shop"
    process = run_here("preprocess.py", *flags)
    assert_one_line_error(process, "shop.csv line ", f"; {bad - 1} more bad rows (--skip_bad {bad} leaves them out)")
    process = run_here("preprocess.py", *flags, "--skip_bad", bad - 1)
    assert_one_line_error(process, f"--skip_bad {bad - 1}: found {bad} bad rows, expected at most {bad - 1}; the first")
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize("flags, message", [
    (["--input", "clicks.csv", "clicks.csv"], "--input: found the same path twice"),
    (["--input", "clicks.csv", "--input", "./clicks.csv"], "--input: found the same path twice"),
    (["--input", ""], "--input: found an empty name"),
    (["--input", "empty"], "--input: found no files in the directory"),
    (["--input", "."], "--to_text: found a place to write to within the directory --input ."),
    (["--input", "a", "b", "--fetch", 1], "--fetch 1: found 2 files in --input"),
    (["--input", "mac.csv"], "mac.csv line 1: found a carriage return within the line"),
    (["--input", "bad.csv", "--skip_bad", 9], "bad.csv: found nothing but bad rows, 1 of them"),
    (["--to_text", ""], "--to_text: found an empty name"), (["--events", "view"], "found one without the other"),
    (["--event_column", "type"], "found one without the other"),
    (["--event_column", "ItemId", "--events", "view"], "--event_column: found 'ItemId', which --item_column names"),
    (["--encoding", "klingon"], "--encoding: found 'klingon', expected an encoding"),
    (["--encoding", "rot13"], "--encoding: found 'rot13', expected an encoding"),
    (["--skip_bad", -1], "--skip_bad: found '-1'"),
])
def test_a_users_mistake_is_one_line_and_changes_no_file(tmp_path, run_here, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name, text in [("clicks", "1,a,5\n"), ("mac", "1,a,5\r"), ("bad", "1,,5\n")]:
        header = "SessionId,ItemId,Time" + text[-1]
        (tmp_path / f"{name}.csv").write_bytes((header + text).encode())
    before = files_below(tmp_path)
    process = run_here("preprocess.py", *with_flags(["--input", "clicks.csv", "--to_text", "shop"], flags))
    assert_one_line_error(process, message)
    assert files_below(tmp_path) == before
