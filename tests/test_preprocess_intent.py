"""preprocess.py --to_intent as a user runs it."""

import re

import py7zr
import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script

from utils.intent.sessions import read_intent_sessions, read_intent_vocabularies

DAY = 86_400
CLICKS = "".join(f"{session},2014-04-{1 + session % 9:02}T10:5{click}:09.{session:03}Z,{item},{category}\n"
                 for session in range(1, 41) for click, (item, category) in
                 enumerate([(11, 0), (12, "S"), (13, 3)][:1 + session % 3]))
# Every fourth session buys item 11, an item that it didn't click, and once more a minute later.
BUYS = "".join(f"{session},2014-04-{1 + session % 9:02}T10:59:{second}.000Z,{item},{price},{quantity}\n"
               for session in range(4, 41, 4)
               for second, item, price, quantity in [("01", 11, 1046, 1), ("02", 99, 0, 0), ("58", 11, "", "")])


@pytest.fixture
def yoochoose(tmp_path):
    (tmp_path / "yoochoose-clicks.dat").write_text(CLICKS)
    (tmp_path / "yoochoose-buys.dat").write_text(BUYS)
    with py7zr.SevenZipFile(tmp_path / "yoochoose-data.7z", "w") as file:
        for name in ("yoochoose-buys.dat", "yoochoose-clicks.dat"):
            file.write(tmp_path / name, name)
    return tmp_path


@pytest.fixture
def prepare(run_here):
    """Run `preprocess.py --to_intent DIRECTORY` with further flags."""
    return lambda directory, *flags: run_here("preprocess.py", "--to_intent", directory, *flags)


def parts_of(directory):
    vocabularies = read_intent_vocabularies(directory, "")
    return [read_intent_sessions(directory / part, vocabularies, "") for part in ("train", "valid", "test")]


def test_yoochoose_files_and_archive_are_split_by_time(yoochoose, prepare):
    process = assert_worked(prepare(yoochoose / "a", "--input", yoochoose / "yoochoose-clicks.dat", "--buys",
                                    yoochoose / "yoochoose-buys.dat", "--min_support", 1, "--test_days", 0.9))
    assert_worked(run_script("preprocess.py", "--input", yoochoose / "yoochoose-data.7z", "--min_support", 1,
                             "--test_days", 0.9, "--to_intent", yoochoose / "b"))
    assert files_below(yoochoose / "a") == files_below(yoochoose / "b")
    assert sorted(files_below(yoochoose / "a")) == [
        "categories.txt", "test/buys.tsv", "test/clicks.tsv", "train/buys.tsv", "train/clicks.tsv", "valid/buys.tsv",
        "valid/clicks.tsv", "vocab.txt"]
    assert (yoochoose / "a/categories.txt").read_text() == "0\nS\n3\n"
    assert (yoochoose / "a/vocab.txt").read_text() == "11\n12\n13\n"
    parts = parts_of(yoochoose / "a")
    ids = [set(map(int, part.session_ids.to_pylist())) for part in parts]
    assert ids[2] == {session for session in range(1, 41) if session % 9 == 8}
    assert ids[1] == {session for session in range(1, 41) if session % 9 == 7}
    assert set.union(*ids) == set(range(1, 41))
    for part, numbers in zip(parts, map(sorted, ids)):
        assert part.buys.tolist() == [session % 4 == 0 for session in numbers]
        assert set(part.bought_count[part.buys]) == {2}
        assert part.lengths().tolist() == [1 + session % 3 for session in numbers]
    assert re.search(r"a/test: 4 sessions, 12 clicks; \d{4}-.*Z to .*Z; 1 session with 3 purchases \(25.00%\)",
                     process.stdout)


def test_the_hash_of_the_id_decides_wherever_the_session_stands(yoochoose, prepare):
    both = "--buys", yoochoose / "yoochoose-buys.dat", "--split_by", "hash", "--test_fraction", 0.35
    assert_worked(prepare(yoochoose / "a", "--input", yoochoose / "yoochoose-clicks.dat", *both))
    lines = CLICKS.splitlines(keepends=True)
    (yoochoose / "reversed.dat").write_text("".join(lines[::-1]))
    assert_worked(prepare(yoochoose / "b", "--input", yoochoose / "reversed.dat", *both))
    ids = [[part.session_ids.to_pylist() for part in parts_of(yoochoose / name)] for name in "ab"]
    assert ids[0] == ids[1] and sorted(map(int, sum(ids[0], []))) == list(range(1, 41))
    assert all(len(part) > 4 for part in ids[0])


@pytest.fixture
def events(tmp_path):
    """Visitors as of RetailRocket: milliseconds, an event column; each comes back a day later without buying."""
    rows = []
    for visitor in range(30):
        start = 1000 * DAY * visitor
        rows.append((start, visitor, "view", "x", ""))
        rows.append((start + 5000, visitor, "addtocart" if visitor % 2 else "view", "y", ""))
        if visitor % 2:
            rows.append((start + 9000, visitor, "transaction", "y", visitor))
            rows.append((start + 10000, visitor, "view", "z", ""))
        rows.append((start + 1000 * DAY, visitor, "view", "z", ""))
        rows.append((start, visitor, "login", "", ""))
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    (tmp_path / "events.csv").write_text("timestamp,visitorid,event,itemid,transactionid\n" + text)
    return tmp_path / "events.csv"


def retail_rocket(path):
    return ["--input", path, "--session_column", "visitorid", "--item_column", "itemid", "--time_column", "timestamp",
            "--time_unit", "ms", "--event_column", "event", "--events", "view,addtocart", "--min_support", 1,
            "--buy_events", "transaction", "--session_gap", 1800, "--category_column", "event", "--test_days", 3]


def test_a_table_with_an_event_column(events, tmp_path, prepare):
    process = assert_worked(prepare(tmp_path / "out", *retail_rocket(events)))
    assert "left out 15 clicks at or after their session's first purchase, 0 sessions" in process.stdout
    assert "left out 30 rows" in process.stdout  # logins
    parts = parts_of(tmp_path / "out")
    assert sum(len(part) for part in parts) == 60 and sum(part.buys.sum() for part in parts) == 15
    for part in parts:
        assert (part.lengths()[part.buys] == 2).all()  # without the click after the purchase
    assert (tmp_path / "out/categories.txt").read_text() == "view\naddtocart\n"


def test_bad_rows_are_counted_over_clicks_and_purchases(yoochoose, prepare):
    (yoochoose / "buys.dat").write_text(BUYS + "40,never,11,0,0\n")
    (yoochoose / "clicks.dat").write_text(CLICKS + "40,,11,0\n")
    both = "--input", yoochoose / "clicks.dat", "--buys", yoochoose / "buys.dat"
    assert_one_line_error(prepare(yoochoose / "out", *both), "clicks.dat line 81", "found '' as Time")
    assert_one_line_error(prepare(yoochoose / "out", *both, "--skip_bad", 1), "--skip_bad 1: found 2 bad rows")
    assert files_below(yoochoose / "out") == {}
    assert_worked(prepare(yoochoose / "out", *both, "--skip_bad", 2))
    assert (yoochoose / "out/bad_rows.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("flags, fragment", [
    (["--input", "clicks"], "--to_intent: found no purchases, expected --buys FILE"),
    (["--input", "clicks", "--buys", "nowhere"], "--buys: found no file"),
    (["--input", "clicks", "--buys", "clicks"], "--buys: found a file that --input reads"),
    (["--input", "folder", "--buys", "buys"], "--buys: found a file that --input reads"),
    (["--input", "clicks", "--buys", "buys", "--to_text", "d"], "--to_intent: found it with --to_text"),
    (["--input", "clicks", "--buys", "buys", "--drop_repeats", "1"], "--to_intent: found it with --drop_repeats"),
    (["--input", "clicks", "--buys", "buys", "--split_by", "start"], "--split_by start"),
    (["--input", "clicks", "--buys", "buys", "--split_by", "hash", "--test_days", "2"], "--test_days"),
    (["--input", "clicks", "--buys", "buys", "--test_fraction", ".2"], "--test_fraction: found it with --split_by end"),
    (["--input", "clicks", "--buys", "buys", "--event_column", "event", "--events", "view"], "no header"),
    (["--input", "clicks", "--buy_events", "sale", "--event_column", "event", "--events", "view"], "no header"),
    (["--input", "clicks", "--buy_events", "sale"], "--buy_events: found it without --event_column"),
    (["--input", "clicks", "--buy_events", "a", "--event_column", "event", "--events", "a,b"], "found 'a'"),
    (["--input", "clicks", "--buys", "buys", "--buy_events", "sale"], "--buys: found it with --buy_events"),
    (["--input", "clicks", "--buys", "buys", "--min_support", "99"], "--min_support 99"),
    (["--input", "clicks", "--buys", "buys", "--test_days", "9"], "--test_days 9: left"),
    (["--input", "clicks", "--buys", "others"], "no click before a purchase"),
])
def test_mistakes_end_with_one_line(yoochoose, flags, fragment, prepare):
    (yoochoose / "others").write_text("".join(f"9{line}\n" for line in BUYS.splitlines()))
    places = {"folder": yoochoose, "clicks": yoochoose / "yoochoose-clicks.dat",
              "buys": yoochoose / "yoochoose-buys.dat"}
    flags = [places.get(word, yoochoose / word if word in ("nowhere", "others", "d") else word) for word in flags]
    assert_one_line_error(prepare(yoochoose / "out", *flags), fragment)
    assert not (yoochoose / "out").exists() or files_below(yoochoose / "out") == {}


def test_flags_of_purchases_need_to_intent(yoochoose, run_here):
    for flags in (["--buys", "x"], ["--category_column", "c"], ["--split_by", "hash"], ["--test_fraction", ".1"]):
        assert_one_line_error(run_here("preprocess.py", "--input", yoochoose / "yoochoose-clicks.dat", *flags),
                              "without --to_intent")


def test_the_sample_with_a_known_rule(tmp_path, prepare):
    assert_worked(run_script("make_sample.py", "--intent", tmp_path / "raw", "--session_count", 600))
    process = assert_worked(prepare(tmp_path / "out", "--input", tmp_path / "raw/clicks.tsv", "--buys",
                                    tmp_path / "raw/buys.tsv", "--category_column", "Category", "--split_by", "hash"))
    late = int(process.stdout.split("left out ")[1].split()[0])
    assert late > 0 and sum(len(part) for part in parts_of(tmp_path / "out")) == 600
    assert_worked(run_script("make_sample.py", "--intent", tmp_path / "again", "--session_count", 600))
    assert files_below(tmp_path / "raw") == files_below(tmp_path / "again")
