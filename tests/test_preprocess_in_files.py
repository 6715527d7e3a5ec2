"""preprocess.py with clicks that take more than --memory."""

import resource
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script
from test_to_text import random_table

FEW = "--memory", "1e-6"  # GB: nothing fits


@pytest.fixture
def clicks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random_table(tmp_path / "clicks.tsv", 0, lambda number: 60 - number)
    return tmp_path


@pytest.mark.parametrize("flags", [["--out_dir"], ["--split_by", "start", "--to_text"]], ids=["splits", "text"])
def test_what_is_written_is_the_same_and_nothing_else_is_left(clicks, run_here, flags):
    flags = "--input", "clicks.tsv", "--min_support", 1, *flags
    assert_worked(run_here("preprocess.py", *flags, "in_memory"))
    process = assert_worked(run_here("preprocess.py", *flags, "in_files", *FEW))
    assert "take more than 0.0 GB of memory: preparing them in in_files/.clicks_" in process.stdout
    assert files_below("in_files") == files_below("in_memory")
    assert [path.name for path in (clicks / "in_files").iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("memory", ["-1", "nan", "much"])
def test_memory_is_a_number(clicks, run_here, memory):
    assert_one_line_error(run_here("preprocess.py", "--input", "clicks.tsv", "--memory", memory), "--memory: found")


def test_mistakes_that_are_found_late_are_one_line_and_leave_nothing(clicks, run_here):
    def error(*flags):
        return run_here("preprocess.py", "--input", "clicks.tsv", "--min_support", 1, "--to_text", "shop", *FEW, *flags)

    before = files_below(clicks)
    assert_one_line_error(error("--min_session_length", 9), "--min_session_length 9: left none of 150 sessions")
    assert_one_line_error(error("--test_days", 9), "--test_days 9: left no session for train_full of 3 days")
    assert files_below(clicks) == before
    with open("clicks.tsv", "a") as file:
        file.write("1\ta\n")
    assert_one_line_error(error(), f"clicks.tsv line {before['clicks.tsv'].count(10) + 1}: found 2 columns")
    assert list(files_below(clicks)) == ["clicks.tsv"] and not list((clicks / "shop").glob(".*"))


def test_without_duckdb_the_error_says_what_to_install(clicks, run_here, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    process = run_here("preprocess.py", "--input", "clicks.tsv", "--to_text", "shop", *FEW)
    assert_one_line_error(process, "found no Python package duckdb")
    assert list(files_below(clicks)) == ["clicks.tsv"]


def test_a_full_disk_leaves_the_old_files(clicks):
    (clicks / "rsc15_test.txt").write_text("of before")
    before = files_below(clicks)
    process = run_script("preprocess.py", "--input", "clicks.tsv", *FEW, cwd=clicks,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    assert_one_line_error(process, "preprocess.py: .clicks_", "File too large")
    assert files_below(clicks) == before and not list(clicks.glob(".clicks*"))


@pytest.mark.parametrize("number, status, line", [(signal.SIGTERM, 143, "preparing them in"),
                                                  (signal.SIGINT, 130, "read clicks.tsv")])
def test_stopping_leaves_nothing(clicks, number, status, line):
    (clicks / "clicks.tsv").write_text("SessionId\tItemId\tTime\n" + "".join(
        f"{click * 7919 % 100_003}\tp{click % 50}\t{click}\n" for click in range(1_000_000)))
    process = subprocess.Popen([sys.executable, ROOT / "preprocess.py", "--input", "clicks.tsv", "--to_text", "shop",
                                *FEW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while line not in (found := process.stdout.readline()):
        assert found, "it ended before it was stopped"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and errors.count("\n") == 1
    assert list(files_below(clicks)) == ["clicks.tsv"] and not list((clicks / "shop").glob(".*"))


def test_the_benchmark_compares_both_ways_and_measures_them(tmp_path):
    process = assert_worked(run_script("benchmarks/large_preparation.py", "--out_dir", tmp_path,
                                       "--click_counts", "9000", "--training", 0, *FEW))
    rows = [line.split("|")[1:-1] for line in process.stdout.splitlines() if line.startswith("| 9,000")]
    assert [row[1].strip() for row in rows] == ["make_clicks.py", "preprocess.py, all memory",
                                               "preprocess.py --memory 1e-06"]
    assert all(float(number) >= 0 for row in rows for number in row[2:])
    assert list(files_below(tmp_path)) == ["clicks-9000.parquet"]
