"""convert_format.py as a user runs it."""

import gzip
import resource

import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script, with_flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HEADER = "SessionId\tItemId\tTime\n"


@pytest.fixture
def convert(run_here):
    return lambda directory, *flags: run_here("convert_format.py", *flags, cwd=directory)


def test_without_flags_it_converts_the_files_of_preprocess(tmp_path):
    rows = "1\ta\t20.500\n1\tb\t21.000\n2\tc\t10.250\n2\ta\t11.000\n2\ta\t12.000\n"
    (tmp_path / "rsc15_train_tr.txt").write_text(HEADER + rows)
    (tmp_path / "rsc15_test.txt").write_text(HEADER + "9\tb\t1\n9\ta\t2\n")
    process = assert_worked(run_script("convert_format.py", cwd=tmp_path))
    assert (tmp_path / "rsc15_train_tr_paddle.txt").read_text() == "c a a\na b\n"
    assert (tmp_path / "rsc15_test_paddle.txt").read_text() == "b a\n"
    assert process.stdout == ("rsc15_train_tr_paddle.txt: 2 sessions, 5 events, 3 items; "
                              "1970-01-01T00:00:10Z to 1970-01-01T00:00:21Z\n"
                              "rsc15_test_paddle.txt: 1 session, 2 events, 2 items; "
                              "1970-01-01T00:00:01Z to 1970-01-01T00:00:02Z\n")


def test_newest_days_leave_out_older_training_sessions_alone(tmp_path, convert):
    day = 86_400
    rows = "".join(f"{session}\ta\t{session * day}\n{session}\tb\t{session * day + 9}\n" for session in range(4))
    for name in "in", "test":
        (tmp_path / name).write_text(HEADER + rows + f"9\tc\t0\n9\ta\t{2 * day}\n")
    process = assert_worked(convert(tmp_path, "--train_input", "in", "--train_output", "out", "--test_input", "test",
                                    "--test_output", "test_out", "--newest_days", 1))
    assert (tmp_path / "out").read_text() == "a b\na b\n"
    assert (tmp_path / "test_out").read_text() == "a b\nc a\na b\na b\na b\n"
    assert "--newest_days 1: left out 3 sessions, 6 events, 1 item\n" in process.stdout


def test_names_and_columns_by_flag_and_gzip(tmp_path, convert):
    clicks = b"who,what,when\nu,a,2019-10-01 00:00:05 UTC\nv,b,2019-10-01 00:00:03 UTC\n"
    (tmp_path / "in.gz").write_bytes(gzip.compress(clicks))
    assert_worked(convert(tmp_path, "--train_input", "in.gz", "--train_output", "sub/out.txt", "--test_input", "",
                          "--session_column", "who", "--item_column", "what", "--time_column", "when"))
    assert (tmp_path / "sub/out.txt").read_text() == "b\na\n"
    assert sorted(files_below(tmp_path)) == ["in.gz", "sub/out.txt"]


def test_input_need_not_be_grouped_and_ties_keep_their_order(tmp_path, convert):
    (tmp_path / "in").write_text(HEADER + "2\tb\t5\n1\tx\t5\n2\ta\t5\n1\tz\t4\n2\tc\t4\n3\tq\t4\n")
    assert_worked(convert(tmp_path, "--train_input", "in", "--train_output", "out", "--test_input", ""))
    assert (tmp_path / "out").read_text() == "z x\nc b a\nq\n"


@given(rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=200))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_plain_python(tmp_path_factory, convert, rows):
    directory = tmp_path_factory.mktemp("convert")
    (directory / "in").write_text(HEADER + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    assert_worked(convert(directory, "--train_input", "in", "--train_output", "out", "--test_input", ""))
    sessions = {}
    for session, item, seconds in sorted(rows, key=lambda row: (row[0], row[2])):
        sessions.setdefault(session, []).append((seconds, item))
    in_order = sorted(sessions.values(), key=lambda clicks: clicks[0][0])
    assert (directory / "out").read_text() == "".join(" ".join(str(item) for _, item in clicks) + "\n"
                                                      for clicks in in_order)


@pytest.mark.parametrize("content, flags, message", [
    ("", [], "in: found an empty file"), (HEADER, [], "in: found no row"),
    (HEADER + "1\ta\t1\n1\tb\n", [], "in line 3: found 2 columns"),
    (HEADER + "1\ta\tx\n", [], "in line 2: found 'x' as Time"),
    (HEADER + "1\ta\t1\n", ["--train_output", "in"], "would be overwritten"),
    (HEADER + "1\ta\t1\n", ["--train_output", "."], "expected a file to write"),
    (HEADER + "1\ta\t1\n", ["--test_input", "missing"], "--test_input: found no file missing"),
    (HEADER + "1\ta\t1\n", ["--train_input", ""], "--train_input"),
    (HEADER + "1\ta\t1\n", ["--item_column", "item"],
     "in line 1: found the columns 'SessionId, ItemId, Time', expected one"),
])
def test_a_users_mistake_is_one_line_and_changes_no_file(tmp_path, content, flags, message, convert):
    (tmp_path / "in").write_text(content)
    (tmp_path / "out").write_text("of before")
    before = files_below(tmp_path)
    usual = ["--train_input", "in", "--train_output", "out", "--test_input", ""]
    assert_one_line_error(convert(tmp_path, *with_flags(usual, flags)), message)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("flags, message", [
    (["--train_output", "train"], "--train_output: found train, where --train_input would be overwritten"),
    (["--train_output", "test"], "--train_output: found test, where --test_input would be overwritten"),
    (["--test_output", "./train"], "--test_output: found ./train, where --train_input would be overwritten"),
    (["--test_output", "link"], "--test_output: found link, where --train_input would be overwritten"),
    (["--test_output", "new"], "--test_output: found new, which --train_output writes, too"),
    (["--train_output", "converted/new"], "--train_output: found sessions in converted (text2paddle.json)"),
    (["--test_output", "converted/new"], "--test_output: found sessions in converted (text2paddle.json)"),
])
def test_no_output_takes_the_place_of_an_input_or_of_the_other(tmp_path, flags, message, convert):
    for name in "train", "test":
        (tmp_path / name).write_text(HEADER + "1\ta\t1\n")
    (tmp_path / "link").symlink_to("train")
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "text2paddle.json").write_text("{}")
    before = files_below(tmp_path)
    usual = ["--train_input", "train", "--train_output", "new", "--test_input", "test", "--test_output", "new_test"]
    assert_one_line_error(convert(tmp_path, *with_flags(usual, flags)), message)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("wrong", ["train", "test"])
def test_where_one_input_is_wrong_neither_output_is_written(tmp_path, wrong, old, convert):
    for name in "train", "test":
        (tmp_path / name).write_text(HEADER + ("1\ta\n" if name == wrong else "1\ta\t1\n"))
        if old:
            (tmp_path / f"{name}.out").write_text("of before")
    before = files_below(tmp_path)
    assert_one_line_error(convert(tmp_path, "--train_input", "train", "--train_output", "train.out",
                                  "--test_input", "test", "--test_output", "test.out"), f"{wrong} line 2: found 2")
    assert files_below(tmp_path) == before


def test_a_full_disk_names_the_file_and_leaves_both_old_ones(tmp_path):
    for name, sessions in [("train", 1000), ("test", 1)]:
        (tmp_path / name).write_text(HEADER + "".join(f"{session}\titem\t1\n" for session in range(sessions)))
        (tmp_path / f"{name}.out").write_text("of before")
    before = files_below(tmp_path)
    process = run_script("convert_format.py", "--train_input", "train", "--train_output", "train.out", "--test_input",
                      "test", "--test_output", "test.out",
                      cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    assert_one_line_error(process, "train.out: File too large")
    assert files_below(tmp_path) == before


def test_a_full_disk_leaves_the_old_file(tmp_path):
    (tmp_path / "in").write_text(HEADER + "".join(f"{session}\titem\t1\n" for session in range(1000)))
    (tmp_path / "out").write_text("of before")
    before = files_below(tmp_path)
    process = run_script("convert_format.py", "--train_input", "in", "--train_output", "out", "--test_input", "",
                      cwd=tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)))
    assert_one_line_error(process, "out: File too large")
    assert files_below(tmp_path) == before
