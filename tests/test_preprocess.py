"""preprocess.py as a user runs it."""

import functools
import gzip
import hashlib
import http.server
import re
import resource
import signal
import subprocess
import sys
import threading

import py7zr
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script, with_flags

DAY = 86_400
PARTS = "train_full", "test", "train_tr", "train_valid"
SMALL = "--min_support", 1, "--min_session_length", 1  # so that a few clicks are left


def write_clicks(path, sessions):
    """A TSV of sessions {id: [(item, seconds), ...]} in this order."""
    lines = [f"{session}\t{item}\t{seconds}\n" for session, clicks in sessions.items() for item, seconds in clicks]
    path.write_text("SessionId\tItemId\tTime\n" + "".join(lines), encoding="utf-8")
    return path


def read_parts(directory, prefix="rsc15_"):
    """The four files as {part: {session: items}}, in the order of the files."""
    parts = {}
    for part in PARTS:
        header, *lines = (directory / f"{prefix}{part}.txt").read_text(encoding="utf-8").splitlines()
        assert header == "SessionId\tItemId\tTime"
        sessions = parts.setdefault(part, {})
        for line in lines:
            session, item, _ = line.split("\t")
            sessions.setdefault(session, []).append(item)
    return parts


@pytest.fixture
def preprocess(run_here):
    return lambda directory, *flags, **kw: run_here("preprocess.py", "--out_dir", directory, *flags, **kw)


@pytest.fixture
def four_sessions(tmp_path):
    """Four sessions of two clicks on items a and b, two days apart, from second 0."""
    return write_clicks(tmp_path / "clicks.tsv", {day + 1: [("a", 2 * day * DAY), ("b", 2 * day * DAY + 5)]
                                                  for day in range(4)})


YOOCHOOSE = "".join(f"{session},2014-04-0{1 + 2 * (session % 5)}T10:5{click}:09.{session:03}Z,{item},0\n"
                    for session in range(20, 0, -1) for click, item in enumerate([11, 12, 13][:1 + session % 3]))


@pytest.fixture
def archive(tmp_path):
    """A yoochoose-data.7z with several files, as the real one has."""
    with py7zr.SevenZipFile(tmp_path / "yoochoose-data.7z", "w") as file:
        for name, text in [("yoochoose-buys.dat", "no"), ("yoochoose-clicks.dat", YOOCHOOSE),
                           ("dataset-README.txt", "no")]:
            file.writestr(text, name)
    return tmp_path / "yoochoose-data.7z"


def test_the_default_is_the_official_rsc15_split_of_the_archive(archive, tmp_path):
    process = assert_worked(run_script("preprocess.py", cwd=tmp_path))
    names = ["rsc15_test.txt", "rsc15_train_full.txt", "rsc15_train_tr.txt", "rsc15_train_valid.txt",
             "yoochoose-data.7z"]
    assert sorted(files_below(tmp_path)) == names
    parts = read_parts(tmp_path)
    # Session s has 1 + s % 3 clicks, and those of one click go. A higher s % 5 is newer: 4 is test, 3 validation.
    sessions = [session for session in range(1, 21) if session % 3]
    assert {part: list(map(int, found)) for part, found in parts.items()} == {
        "train_full": [s for s in sessions if s % 5 < 4], "test": [s for s in sessions if s % 5 == 4],
        "train_tr": [s for s in sessions if s % 5 < 3], "train_valid": [s for s in sessions if s % 5 == 3]}
    assert parts["test"]["14"] == ["11", "12", "13"]
    assert (tmp_path / "rsc15_test.txt").read_text().splitlines()[1] == "4\t11\t1397040609.004"
    assert re.search(r"read yoochoose-data.7z: 20 sessions, 41 clicks, 3 items", process.stdout)
    assert re.search(r"--min_session_length 2: removed 6 sessions, 6 clicks, 0 items", process.stdout)
    assert "rsc15_test.txt: 3 sessions, 7 events, 3 items; 2014-04-09T10:50:09Z to " in process.stdout


def test_the_unpacked_and_the_gzipped_file_give_the_same(archive, tmp_path, preprocess):
    (tmp_path / "yoochoose-clicks.dat").write_text(YOOCHOOSE)
    (tmp_path / "clicks.gz").write_bytes(gzip.compress(YOOCHOOSE.encode()))
    for name in ("yoochoose-data.7z", "yoochoose-clicks.dat", "clicks.gz"):
        assert_worked(preprocess(tmp_path / f"of_{name}", "--input", tmp_path / name))
    assert files_below(tmp_path / "of_clicks.gz") == files_below(tmp_path / "of_yoochoose-clicks.dat") == files_below(
        tmp_path / "of_yoochoose-data.7z")


def test_columns_separator_and_prefix_by_flag(tmp_path, preprocess):
    (tmp_path / "shop.csv").write_text("when;product;price;who\n" + "".join(
        f"{2000 * DAY * day + 250 * click};p{click};1,5;u{day}\n" for day in range(3) for click in range(2)))
    assert_worked(preprocess(tmp_path, "--input", tmp_path / "shop.csv", "--session_column", "who",
                             "--item_column", "product", "--time_column", "when", "--time_unit", "ms",
                             "--separator", ";", "--prefix", "shop_", "--min_support", 2))
    assert read_parts(tmp_path, "shop_") == {"train_full": {"u0": ["p0", "p1"], "u1": ["p0", "p1"]},
                                             "test": {"u2": ["p0", "p1"]},
                                             "train_tr": {"u0": ["p0", "p1"]}, "train_valid": {"u1": ["p0", "p1"]}}
    test = (tmp_path / "shop_test.txt").read_text()
    assert test == "SessionId\tItemId\tTime\nu2\tp0\t345600.000\nu2\tp1\t345600.250\n"


def test_whole_seconds_are_written_without_decimals(four_sessions, tmp_path, preprocess):
    assert_worked(preprocess(tmp_path, "--input", four_sessions, *SMALL))
    assert (tmp_path / "rsc15_train_valid.txt").read_text() == "SessionId\tItemId\tTime\n3\ta\t345600\n3\tb\t345605\n"


def test_test_days_may_be_many_or_a_fraction(four_sessions, tmp_path, preprocess):
    for days in (0.5, 1.99):
        assert_worked(preprocess(tmp_path, "--input", four_sessions, *SMALL, "--test_days", days))
        parts = read_parts(tmp_path)
        assert (list(parts["test"]), list(parts["train_valid"])) == (["4"], ["3"])
    # a session that ends just so long before the last one is test
    for days, name in [(2, "train_tr"), (6, "train_full")]:
        process = preprocess(tmp_path, "--input", four_sessions, *SMALL, "--test_days", days)
        assert_one_line_error(process, f"--test_days {days}: left no session for {name}")


@pytest.mark.parametrize("memory", [0, 1e-6], ids=["in_memory", "in_files"])
def test_wrong_dates_that_make_the_test_are_named(tmp_path, preprocess, memory):
    sessions = {day * 100 + number: [("a", day * DAY + number), ("b", day * DAY + number)]
                for day in range(3) for number in range(50)}
    flags = *SMALL, "--test_days", 0.5, "--memory", memory, "--input"
    process = assert_worked(preprocess(tmp_path, *flags, write_clicks(tmp_path / "right.tsv", sessions)))
    assert "150 sessions, 300 clicks, 2 items; 1970-01-01T00:00:00Z to 1970-01-03T00:00:49Z\n" in process.stdout
    wrong = {999: [("a", 2 * DAY), ("b", 40 * 365 * DAY)]}  # it ends late, and its first click is among the others
    process = preprocess(tmp_path, *flags, write_clicks(tmp_path / "wrong.tsv", sessions | wrong))
    assert process.returncode == 0 and process.stderr == (
        "preprocess.py: --test_days 0.5: found no click from 1970-01-03T00:00:49Z to 2009-12-22T00:00:00Z; are the "
        "newest dates right, 1970-01-03T00:00:49Z, 1970-01-03T00:00:49Z, 2009-12-22T00:00:00Z?\n")
    assert "rsc15_test.txt: 1 session, 2 events, 2 items; 1970-01-03T00:00:00Z to 2009-12-22" in process.stdout
    many = {number: [("a", number % 2 * DAY), ("b", number % 2 * DAY)] for number in range(2000)}
    many |= {9999: [("a", 3 * DAY), ("b", 3 * DAY)]}
    process = preprocess(tmp_path, *flags, write_clicks(tmp_path / "few.tsv", many))
    assert process.returncode == 0 and "found only 1 prediction of 2,001 in the test; are" in process.stderr
    assert "there already, will be replaced: " in process.stdout


def test_user_histories_are_cut_into_sessions(tmp_path, preprocess):
    clicks = write_clicks(tmp_path / "clicks.tsv", {
        "anna": [("a", 0), ("a", 5), ("b", 10), ("b", 3611), ("a", 3612), ("b", 5 * DAY), ("a", 5 * DAY)],
        "bob": [("b", 3 * DAY), ("a", 3 * DAY)]})
    process = assert_worked(preprocess(tmp_path, "--input", clicks, "--session_gap", 3600, "--drop_repeats", 1,
                                       "--min_support", 1))
    assert "clicks.tsv: 2 users, 9 clicks, 2 items; " in process.stdout
    assert read_parts(tmp_path) == {"train_full": {"1": ["a", "b"], "2": ["b", "a"], "4": ["b", "a"]},
                                    "test": {"3": ["b", "a"]},
                                    "train_tr": {"1": ["a", "b"], "2": ["b", "a"]}, "train_valid": {"4": ["b", "a"]}}


def test_until_stable_goes_on_where_one_pass_stops(tmp_path, preprocess):
    days = {day: [("a", 2 * day * DAY), ("b", 2 * day * DAY)] for day in range(4)}
    # without e, session 8 and so c's support goes, with c session 7
    chain = {7: [("c", 0), ("d", 0)], 8: [("c", 0), ("e", 0)]}
    clicks = write_clicks(tmp_path / "clicks.tsv", {**days, **chain, 9: [("d", 0), ("a", 0)]})
    for until_stable, sessions in [(0, ["0", "1", "2", "7", "9"]), (1, ["0", "1", "2"])]:
        assert_worked(preprocess(tmp_path, "--input", clicks, "--min_support", 2, "--until_stable", until_stable))
        assert list(read_parts(tmp_path)["train_full"]) == sessions


def test_split_by_start_cuts_training_and_keeps_unknown_items(tmp_path, preprocess):
    write_clicks(tmp_path / "clicks.tsv", {
        1: [("a", 0), ("b", 1)], 2: [("a", DAY), ("b", DAY + 1)],
        3: [("a", 2 * DAY), ("b", 2 * DAY + 1), ("a", 3 * DAY)],
        4: [("new", 3 * DAY), ("a", 3 * DAY + 1)]})
    flags = "--input", tmp_path / "clicks.tsv", "--min_support", 1, "--test_days", 0.5
    assert_worked(preprocess(tmp_path, *flags, "--split_by", "start"))
    parts = read_parts(tmp_path)
    assert parts["train_full"] == {"1": ["a", "b"], "2": ["a", "b"], "3": ["a", "b"]}
    assert parts["test"] == {"4": ["new", "a"]}
    assert_worked(preprocess(tmp_path, *flags, "--split_by", "end"))
    parts = read_parts(tmp_path)
    assert parts["train_full"] == {"1": ["a", "b"], "2": ["a", "b"]} and parts["test"] == {"3": ["a", "b", "a"]}


def test_newest_fraction_limits_training_and_so_the_items_of_the_test(tmp_path, preprocess):
    write_clicks(tmp_path / "clicks.tsv",
                 {day + 1: [(item, day * 2 * DAY), ("a", day * 2 * DAY + 1), ("b", day * 2 * DAY + 2)]
                                           for day, item in enumerate(["old", "old", "x", "y", "old"])})
    assert_worked(preprocess(tmp_path, "--input", tmp_path / "clicks.tsv", "--min_support", 1,
                             "--newest_fraction", 0.5))
    assert read_parts(tmp_path) == {"train_full": {"3": ["x", "a", "b"], "4": ["y", "a", "b"]},
                                    "test": {"5": ["a", "b"]},
                                    "train_tr": {"3": ["x", "a", "b"]}, "train_valid": {"4": ["a", "b"]}}


def test_newest_days_leave_out_older_training_sessions(four_sessions, tmp_path, preprocess):
    process = assert_worked(preprocess(tmp_path, "--input", four_sessions, *SMALL, "--newest_days", 2))
    parts = read_parts(tmp_path)
    assert {part: list(found) for part, found in parts.items()} == {
        "train_full": ["2", "3"], "test": ["4"], "train_tr": ["2"], "train_valid": ["3"]}
    assert "--newest_days 2: removed 1 session, 2 clicks, 0 items" in process.stdout


def test_sessions_are_cut_by_their_span_and_those_of_one_item_dropped(tmp_path, preprocess):
    clicks = write_clicks(tmp_path / "clicks.tsv", {
        1: [("a", 0), ("b", 5), ("a", 11), ("a", 20), ("b", 22), ("a", 23)], 2: [("b", 3 * DAY), ("a", 3 * DAY)],
        3: [("b", 5 * DAY), ("a", 5 * DAY)]})
    process = assert_worked(preprocess(tmp_path, "--input", clicks, "--session_span", 10, "--drop_one_item", 1,
                                       "--min_support", 1))
    assert read_parts(tmp_path)["train_full"] == {"1": ["a", "b"], "3": ["b", "a"], "4": ["b", "a"]}
    assert "--session_span 10: 5 sessions" in process.stdout
    assert "--drop_one_item 1: removed 1 session, 2 clicks, 0 items" in process.stdout


@pytest.mark.parametrize("flags, message", [
    (["--newest_days", 2, "--newest_fraction", 0.5], "--newest_days: found 2 with --newest_fraction"),
    (["--newest_days", -1], "--newest_days"), (["--session_span", "long"], "--session_span"),
    (["--drop_one_item", 2], "--drop_one_item"),
    (["--min_session_length", 3], "--min_session_length 3: left none of 4 sessions, 8 clicks"),
    (["--min_support", 5], "--min_support 5: left none of 4 sessions, 8 clicks"),
    (["--min_support", 1, "--test_days", 9], "--test_days 9: left no session for train_full of 6 days of clicks"),
    (["--test_days", "many"], "--test_days: found 'many', expected a number"),
    (["--newest_fraction", 0], "--newest_fraction"), (["--newest_fraction", 1.5], "--newest_fraction"),
    (["--until_stable", 2], "--until_stable"), (["--separator", "ab"], "--separator"),
    (["--no_such_flag"], "--no_such_flag"),
    (["--item_column", "Item"],
     "clicks.tsv line 1: found the columns 'SessionId, ItemId, Time', expected one named 'Item'"),
    (["--input", "missing.tsv"], "--input"), (["--input", "."], "--input"),
])
def test_a_users_mistake_is_one_line_and_changes_no_file(four_sessions, tmp_path, flags, message, preprocess):
    (tmp_path / "rsc15_test.txt").write_text("of before")
    before = files_below(tmp_path)
    assert_one_line_error(preprocess(tmp_path, "--input", four_sessions, *flags, cwd=tmp_path), message)
    assert files_below(tmp_path) == before


def test_unknown_items_may_leave_no_test(tmp_path, preprocess):
    sessions = [[("a", 0), ("b", 0)], [("a", 2 * DAY), ("b", 2 * DAY)], [("c", 4 * DAY), ("d", 4 * DAY)]]
    clicks = write_clicks(tmp_path / "clicks.tsv", dict(enumerate(sessions)))
    assert_one_line_error(preprocess(tmp_path, "--input", clicks, "--min_support", 1),
                          "test, unknown items", "left none of 1 session, 2 clicks")


@pytest.mark.parametrize("line, message", [
    ("5\tx", "line 10: found 2 columns in '5\\tx', expected 3 (SessionId, ItemId, Time)"),
    ("5\tx\tnoon", "line 10: found 'noon' as Time, expected unix seconds"),
    ("5\t \t7",
     "line 10: found ' ' as ItemId, expected an id; 1 more bad row (--skip_bad 2 leaves them out)"),
    ("\tx\t7", "line 10: found '' as SessionId, expected an id")])
def test_a_wrong_line_is_named(four_sessions, tmp_path, line, message, preprocess):
    with open(four_sessions, "a") as file:
        file.write(line + "\n" + "6\tx\n")
    before = files_below(tmp_path)
    assert_one_line_error(preprocess(tmp_path, "--input", four_sessions), "clicks.tsv", message)
    assert files_below(tmp_path) == before


def test_a_damaged_archive_is_an_error(archive, tmp_path, preprocess):
    whole = archive.read_bytes()
    for damaged in (whole[:-30], whole[:60], whole[:4], b"", whole[:40] + b"\xff" * 20 + whole[60:]):
        archive.write_bytes(damaged)
        assert_one_line_error(preprocess(tmp_path, "--input", archive), "yoochoose-data.7z", "7z archive")
        assert list(files_below(tmp_path)) == ["yoochoose-data.7z"]


def test_an_archive_without_clicks_is_an_error(tmp_path, preprocess):
    with py7zr.SevenZipFile(tmp_path / "other.7z", "w") as file:
        file.writestr("no", "yoochoose-buys.dat")
    process = preprocess(tmp_path, "--input", tmp_path / "other.7z")
    assert_one_line_error(process, "other.7z", "yoochoose-buys.dat", "expected yoochoose-clicks.dat")


def test_the_input_is_never_overwritten(four_sessions, tmp_path, preprocess):
    four_sessions.rename(tmp_path / "rsc15_test.txt")
    assert_one_line_error(preprocess(tmp_path, "--input", tmp_path / "rsc15_test.txt"), "would be overwritten")
    process = preprocess(tmp_path, "--input", tmp_path / "rsc15_train_tr.txt", "--fetch", 1, "--url", "nonsense")
    assert_one_line_error(process, "would be overwritten")  # before it is fetched


def test_nothing_is_written_among_sessions(four_sessions, tmp_path, preprocess):
    (tmp_path / "train_data").mkdir()
    (tmp_path / "train_data" / "text2paddle.json").write_text("{}")
    before = files_below(tmp_path)
    process = preprocess(tmp_path / "train_data", "--input", four_sessions)
    assert_one_line_error(process, "--out_dir: found sessions")
    assert files_below(tmp_path) == before


def test_a_folder_that_can_not_be_written_to(four_sessions, tmp_path, preprocess):
    assert_one_line_error(preprocess(four_sessions, "--input", four_sessions), "clicks.tsv", "expected a directory")
    assert_one_line_error(preprocess("/proc/nowhere", "--input", four_sessions), "/proc/nowhere")


def limit_files(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_leaves_the_old_files(tmp_path, archive):
    sessions = {session: [("a", session * 100), ("b", session * 100)] for session in range(3000)}
    clicks = write_clicks(tmp_path / "clicks.tsv", sessions)
    (tmp_path / "rsc15_test.txt").write_text("of before")
    before = files_below(tmp_path)
    flags = "--out_dir", tmp_path, "--input"
    process = run_script("preprocess.py", *flags, clicks, preexec_fn=limit_files(20_000))
    assert_one_line_error(process, "rsc15_train_full.txt", "File too large")
    process = run_script("preprocess.py", *flags, archive, preexec_fn=limit_files(500))
    assert_one_line_error(process, "File too large", "expected room to unpack", "yoochoose-data.7z")
    assert files_below(tmp_path) == before


def test_stopping_leaves_nothing(tmp_path):
    clicks = write_clicks(tmp_path / "clicks.tsv", {session: [("a", session)] * 20 for session in range(40_000)})
    for number, status in [(signal.SIGTERM, 143), (signal.SIGINT, 130)]:
        process = subprocess.Popen([sys.executable, ROOT / "preprocess.py", "--input", clicks, "--out_dir", tmp_path],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()  # it has read the clicks and now filters
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status and errors.count("\n") == 1
        assert list(files_below(tmp_path)) == ["clicks.tsv"]


# Fetching, from a server on this machine.

class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `data`; announces `too_much` bytes more than come."""

    def __init__(self, data, too_much, *arguments):
        self.data, self.too_much = data, too_much
        super().__init__(*arguments)

    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data) + self.too_much))
        self.end_headers()
        self.wfile.write(self.data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(data, too_much=0):
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, data, too_much)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_fetching_checks_and_prints_the_hash_and_then_goes_on(archive, tmp_path, serve):
    data = archive.read_bytes()
    digest, url = hashlib.sha256(data).hexdigest(), serve(data)
    archive.unlink()
    process = assert_worked(run_script("preprocess.py", "--fetch", 1, "--url", url, "--sha256", digest, cwd=tmp_path))
    assert digest in process.stdout and "100 % of" in process.stdout
    assert archive.read_bytes() == data and len(files_below(tmp_path)) == 5
    process = assert_worked(run_script("preprocess.py", "--fetch", 1, "--url", "http://127.0.0.1:9/", cwd=tmp_path))
    assert "is here already" in process.stdout


@pytest.mark.parametrize("too_much, flags, message", [
    (7, [], "expected 1,007 as the server announced"), (0, ["--sha256", "0" * 64], "expected " + "0" * 64),
    (0, ["--url", "http://127.0.0.1:9/data.7z"], "fetch it by hand and put it at"),
    (0, ["--url", "nonsense"], "nonsense")])
def test_a_failed_fetch_leaves_no_file(tmp_path, serve, too_much, flags, message):
    url = serve(b"7" * 1000, too_much)
    process = run_script("preprocess.py", "--fetch", 1, *with_flags(["--url", url], flags), cwd=tmp_path, timeout=30)
    assert_one_line_error(process, message)
    assert files_below(tmp_path) == {}


def test_fetching_to_a_link_that_leads_to_itself_is_one_line(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    process = run_script("preprocess.py", "--fetch", 1, "--url", "nonsense", "--input", "loop", cwd=tmp_path)
    assert_one_line_error(process, tmp_path / "loop")


def test_a_page_that_is_not_there(tmp_path, serve):
    process = run_script("preprocess.py", "--fetch", 1, "--url", serve(b"") + "/missing", cwd=tmp_path)
    assert_one_line_error(process, "404", "fetch it by hand", tmp_path / "yoochoose-data.7z")


def test_without_the_data_the_error_says_how_to_get_it(tmp_path):
    assert_one_line_error(run_script("preprocess.py", cwd=tmp_path), "found no file yoochoose-data.7z",
                          "--fetch 1 downloads")
    process = run_script("preprocess.py", "--input", "shop.csv", cwd=tmp_path)
    assert_one_line_error(process, "--input: found no file shop.csv, expected one that exists")
    assert "--fetch" not in process.stderr  # which has YOOCHOOSE's clicks alone
