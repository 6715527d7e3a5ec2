import hashlib
import json
import os
import resource

import pytest
from conftest import assert_one_line_error, assert_worked, files_below, run_script

TRAIN = "b c a\nc b\nc c d\n"  # c four times, b twice, a and d once
PATHS = {"raw_train": "raw_train", "raw_test": "raw_test", "train": "train_data", "test": "test_data",
         "vocab": "vocab.txt"}
TEST = "b c\na new c\nnew a\n\nc new new\nd d\n"


@pytest.fixture
def raw(tmp_path):
    """A directory with raw_train/ and raw_test/, both of one file."""
    for name, text in [("raw_train", TRAIN), ("raw_test", TEST)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "sessions.txt").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def convert(raw, run_here, monkeypatch):
    """text2paddle.py with the reference's command line, other paths where they are given, within `raw`."""
    monkeypatch.chdir(raw)
    return lambda **paths: run_here("text2paddle.py", *(PATHS | paths).values())


def test_the_reference_command_line_with_slashes_at_the_ends(raw):
    arguments = "raw_train/", "raw_test/", "train_data", "test_data", "vocab.txt"
    process = assert_worked(run_script("text2paddle.py", *arguments, cwd=raw))
    assert process.stdout.splitlines()[0] == "vocab size: 4"
    outputs = {"vocab.txt", "train_data/sessions.txt", "train_data/text2paddle.json", "test_data/sessions.txt",
               "test_data/text2paddle.json"}
    assert set(files_below(raw)) - {"raw_train/sessions.txt", "raw_test/sessions.txt"} == outputs


def test_the_vocabulary_is_ordered_by_training_frequency_then_as_strings(raw, convert):
    (raw / "raw_train" / "sessions.txt").write_text("9 10 9 b\nb \u00e4 a\n10 \u00c4\n", encoding="utf-8")
    (raw / "raw_test" / "sessions.txt").write_text("a a a a a 9\n")  # test clicks don't count
    assert_worked(convert())
    assert (raw / "vocab.txt").read_text(encoding="utf-8") == "10\n9\nb\na\n\u00c4\n\u00e4\n"


def test_sessions_become_indices_and_unknown_test_clicks_close_up(raw, convert):
    process = assert_worked(convert())
    assert (raw / "vocab.txt").read_text() == "c\nb\na\nd\n"
    assert (raw / "train_data" / "sessions.txt").read_text() == "1 0 2\n0 1\n0 0 3\n"
    assert (raw / "test_data" / "sessions.txt").read_text() == "1 0\n2 0\n3 3\n"
    assert process.stdout == ("vocab size: 4\ntrain_data: sessions:3 events:8 sessions_left_out:0 clicks_left_out:0\n"
                              "test_data: sessions:3 events:6 sessions_left_out:2 clicks_left_out:4\n")


def test_the_records_hold_the_files_the_counts_and_checksums(raw, convert, monkeypatch):
    monkeypatch.setattr("text2paddle.LINES_WRITTEN", 2)
    (raw / "raw_train" / "more.txt").write_text("a\n")
    assert_worked(convert())
    vocab_sha256 = hashlib.sha256((raw / "vocab.txt").read_bytes()).hexdigest()
    for name, counts in [("train_data", {"sessions": 4, "events": 9, "sessions_left_out": 0, "clicks_left_out": 0}),
                         ("test_data", {"sessions": 3, "events": 6, "sessions_left_out": 2, "clicks_left_out": 4})]:
        written = {path.name: path.read_bytes() for path in (raw / name).glob("*.txt")}
        files = {file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                 for file, data in written.items()}
        record = json.loads((raw / name / "text2paddle.json").read_text())
        assert record == {"vocab_sha256": vocab_sha256, "files": files, **counts}


@pytest.mark.parametrize("paths", [{"raw_train": "data/train.txt", "train": "data"},
                                   {"raw_test": "data/train.txt", "test": "data"}])
def test_no_output_takes_the_place_of_an_input(raw, convert, paths):
    """A single file may be the input; the directory that it is in may not be the output."""
    (raw / "data").mkdir()
    (raw / "data" / "train.txt").write_text(TRAIN)
    before = files_below(raw)
    assert_one_line_error(convert(**paths), "train.txt", "would be overwritten")
    assert files_below(raw) == before


def test_training_sessions_of_one_click_stay_and_count(raw, convert):
    (raw / "raw_train" / "sessions.txt").write_text("a\nb b\n\n")
    (raw / "raw_test" / "sessions.txt").write_text("a b\n")
    assert_worked(convert())
    assert (raw / "vocab.txt").read_text() == "b\na\n"
    assert (raw / "train_data" / "sessions.txt").read_text() == "1\n0 0\n"


def test_every_file_becomes_a_file_of_the_same_name(raw, convert):
    (raw / "raw_train" / "more").write_text("e e e e e e\n")
    (raw / "raw_train" / "only_blanks").write_text("\n \n")
    assert_worked(convert())
    assert (raw / "train_data" / "more").read_text() == "0 0 0 0 0 0\n"
    assert (raw / "train_data" / "sessions.txt").read_text() == "2 1 3\n1 2\n1 1 4\n"
    assert (raw / "train_data" / "only_blanks").read_text() == ""


def test_more_files_than_a_process_may_open(raw):
    for number in range(80):
        (raw / "raw_train" / f"{number}.txt").write_text("a b\n")
    few_files = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    assert_worked(run_script("text2paddle.py", *PATHS.values(), cwd=raw, preexec_fn=few_files))
    assert len(files_below(raw / "train_data")) == 82


@pytest.mark.parametrize("old, new", [("\n", "\r\n"), (" ", "\t"), (" ", "  ")])
def test_other_blanks_and_line_ends_make_no_difference(raw, convert, old, new):
    assert_worked(convert(train="train1", test="test1", vocab="vocab1"))
    for name in "raw_train", "raw_test":
        path = raw / name / "sessions.txt"
        path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    assert_worked(convert(train="train2", test="test2", vocab="vocab2"))
    for name in "train1", "test1":
        assert files_below(raw / name) == files_below(raw / name.replace("1", "2"))
    assert (raw / "vocab1").read_bytes() == (raw / "vocab2").read_bytes()


def test_the_mark_that_windows_begins_files_with_is_no_part_of_an_item(raw, convert):
    path = raw / "raw_train" / "sessions.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert_worked(convert())
    assert (raw / "vocab.txt").read_text(encoding="utf-8") == "c\nb\na\nd\n"


def test_running_again_replaces_the_files(raw, convert):
    assert_worked(convert())
    (raw / "raw_train" / "sessions.txt").write_text("x y\n")
    (raw / "raw_test" / "sessions.txt").write_text("y x\n")
    assert_worked(convert())
    assert (raw / "vocab.txt").read_text() == "x\ny\n"
    assert (raw / "test_data" / "sessions.txt").read_text() == "1 0\n"
    assert not [name for name in files_below(raw) if name.endswith(".tmp")]


def test_directories_that_hold_no_session_files_are_written_to(raw, convert):
    (raw / "train_data").mkdir()
    (raw / "test_data").mkdir()
    (raw / "test_data" / ".gitkeep").write_text("")
    (raw / "test_data" / "text2paddle.json").write_text("old")
    assert_worked(convert())
    assert json.loads((raw / "test_data" / "text2paddle.json").read_text())["sessions"] == 3


@pytest.mark.parametrize("directory, argument", [("train_data", "train_dir"), ("test_data", "test_dir")])
def test_session_files_of_another_conversion_are_not_mixed_in(raw, convert, directory, argument):
    (raw / directory).mkdir()
    (raw / directory / "stranger.txt").write_text("1 2\n")
    before = files_below(raw)
    assert_one_line_error(convert(), f"{argument}: found stranger.txt in {directory}")
    assert files_below(raw) == before


@pytest.mark.parametrize("record", ["old", "{}", '{"vocab_sha256": "abc"}',
                                    '{"vocab_sha256": "abc", "files": ["others.txt"]}',
                                    '{"vocab_sha256": "abc", "files": 5}'])
def test_a_record_that_names_no_such_file_does_not_make_it_ours(raw, convert, record):
    (raw / "train_data").mkdir()
    (raw / "train_data" / "stranger.txt").write_text("1 2\n")
    (raw / "train_data" / "text2paddle.json").write_text(record)
    before = files_below(raw)
    assert_one_line_error(convert(), "train_data")
    assert files_below(raw) == before


@pytest.mark.parametrize("paths", [
    {"train": "raw_train"}, {"test": "raw_test"}, {"test": "train_data"}, {"raw_test": "raw_train"},
    {"vocab": "train_data"}, {"train": "raw_test/../raw_train/"}, {"vocab": "raw_train"},
])
def test_the_same_path_twice_is_refused(raw, convert, paths):
    before = files_below(raw)
    assert_one_line_error(convert(**paths), "the same path twice")
    assert files_below(raw) == before


@pytest.mark.parametrize("name", PATHS)
def test_a_link_that_leads_to_itself_is_one_line(raw, convert, name):
    (raw / "loop").symlink_to("loop")
    before = files_below(raw)
    assert_one_line_error(convert(**{name: "loop"}), "loop")
    assert files_below(raw) == before


@pytest.mark.parametrize("vocab", ["train_data/vocab.txt", "raw_test/vocab.txt", "./train_data/../test_data/vocab.txt"])
def test_a_vocabulary_among_the_sessions_is_refused(raw, convert, vocab):
    before = files_below(raw)
    assert_one_line_error(convert(vocab=vocab), "vocab_path: ", "read as sessions")
    assert files_below(raw) == before


@pytest.mark.parametrize("contents, fragments", [
    (b"", ["raw_train_dir: found 0 items"]),
    (b"\n \n", ["raw_train_dir: found 0 items"]),
    (b"a a a\n", ["raw_train_dir: found 1 items"]),
    (b"a b\nc \xff\n", ["sessions.txt:2: found a byte that is not UTF-8"]),
    (b"\x7fELF\x01\x00\x00\x00", ["sessions.txt:1: found a zero byte"]),
    ("a b\n".encode("utf-16"), ["sessions.txt:1: found a zero byte"]),
])
@pytest.mark.parametrize("old", [False, True])
def test_junk_to_train_on_is_one_line_and_leaves_the_old_output(raw, convert, contents, fragments, old):
    if old:
        assert_worked(convert())
    (raw / "raw_train" / "sessions.txt").write_bytes(contents)
    before = files_below(raw)
    assert_one_line_error(convert(), *fragments)
    assert files_below(raw) == before


@pytest.mark.parametrize("contents, fragments", [
    (b"", ["raw_test_dir: found no session of two clicks"]),
    (b"x y\na\n", ["raw_test_dir: found no session of two clicks on items of the training files in raw_test"]),
    (b"a b\nc d\n\xff\n", ["sessions.txt:3: found a byte that is not UTF-8"]),
])
@pytest.mark.parametrize("old", [False, True])
def test_junk_to_test_on_is_one_line_and_leaves_the_old_output(raw, convert, contents, fragments, old):
    if old:
        assert_worked(convert())
    (raw / "raw_test" / "sessions.txt").write_bytes(contents)
    (raw / "raw_train" / "sessions.txt").write_text("a b c d\n")  # would change every output
    before = files_below(raw)
    assert_one_line_error(convert(), *fragments)
    assert files_below(raw) == before


def test_missing_empty_and_misplaced_directories_are_one_line(raw, convert, run_here):
    (raw / "empty").mkdir()
    (raw / "file").write_text("")
    before = files_below(raw)
    assert_one_line_error(convert(raw_train="absent"), "raw_train_dir: found nothing at absent")
    assert_one_line_error(convert(raw_test="empty"), "raw_test_dir: found no session files in empty")
    assert_one_line_error(convert(train="file"), "train_dir: found a file at file")
    assert_one_line_error(convert(vocab="empty"), "empty: found a directory")
    assert_one_line_error(convert(test="file/test"), "file")
    assert_one_line_error(run_here("text2paddle.py", "raw_train"), "raw_test_dir", "text2paddle.py -h")
    assert files_below(raw) == before


@pytest.mark.parametrize("limit", [40, 200, 2000, 9000])
def test_a_full_disk_leaves_the_old_output_whole(raw, convert, limit):
    assert_worked(convert())
    (raw / "raw_train" / "sessions.txt").write_text("".join(f"{number} {number + 1}\n" for number in range(1000)))
    (raw / "raw_test" / "sessions.txt").write_text("1 2 3\n" * 1000)
    before = files_below(raw)

    small_disk = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    process = run_script("text2paddle.py", *PATHS.values(), cwd=raw, preexec_fn=small_disk)
    assert_one_line_error(process, "File too large")
    assert any(name in process.stderr for name in ("sessions.txt", "vocab.txt", "text2paddle.json"))
    assert files_below(raw) == before


def test_the_vocabulary_appears_first_and_the_records_last(raw, convert, monkeypatch):
    """So that train.py notices a conversion that was killed in between, over the output of another one."""
    appeared, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (appeared.append(str(target)), replace(source, target)))
    assert_worked(convert())
    assert appeared[0] == "vocab.txt"
    assert sorted(appeared[-2:]) == ["test_data/text2paddle.json", "train_data/text2paddle.json"]


def test_files_of_the_conversion_before_are_replaced(raw, convert):
    """So that the reference's command line works where the bundled sample lies."""
    assert_worked(convert())
    (raw / "raw_train" / "sessions.txt").rename(raw / "raw_train" / "newer.txt")
    process = assert_worked(convert())
    assert "sessions.txt: removed" in process.stdout
    assert sorted(path.name for path in (raw / "train_data").iterdir()) == ["newer.txt", "text2paddle.json"]


def test_files_of_the_conversion_before_stay_where_this_one_fails(raw, convert):
    assert_worked(convert())
    (raw / "raw_train" / "sessions.txt").rename(raw / "raw_train" / "newer.txt")
    (raw / "raw_test" / "sessions.txt").write_text("unknown items\n")
    before = files_below(raw / "train_data")
    assert_one_line_error(convert(), "raw_test_dir")
    assert files_below(raw / "train_data") == before


@pytest.mark.parametrize("change, found", [
    (lambda file: (file.parent / "sample.txt").write_text("1 2\n"), "found sample.txt in"),
    (lambda file: file.write_text(file.read_text()[:-2] + "0\n"), "sessions.txt with the SHA-256"),
    (lambda file: file.write_text(file.read_text() + "1 2\n"), "sessions.txt with"),
    (lambda file: file.rename(file.parent / "z.txt"), "found z.txt in"),
    (lambda file: (file.parent / "more.txt").unlink(), "found no more.txt in"),
], ids=["another", "changed", "longer", "renamed", "missing"])
def test_what_no_conversion_wrote_is_refused_by_every_script(raw, convert, run_here, tiny_model, change, found):
    """A sample that `git checkout .` puts back beside the user's own sessions, for example."""
    items = "".join(f"item_{number} " * (40 - number) for number in range(36))
    for name in "raw_train", "raw_test":
        for file in "sessions.txt", "more.txt":
            (raw / name / file).write_text(f"{items}\n{items}\n")
    assert_worked(convert())
    for name in "train_data", "test_data":
        change(raw / name / "sessions.txt")
    data, test = ["--train_dir", "train_data", "--vocab_path", "vocab.txt"], ["--test_dir", "test_data"]
    model = ["--model_dir", tiny_model, "--last_index", 2]
    (raw / "vocab.txt").write_bytes((tiny_model / "vocab.txt").read_bytes())
    before = files_below(tiny_model), files_below(raw)
    for name, flags in [("train.py", data), ("train_sample_neg.py", data), ("baselines.py", data + test),
                        ("infer.py", test + model), ("infer_sample_neg.py", test + model),
                        ("plot.py", [tiny_model, *test])]:
        assert_one_line_error(run_here(name, *flags), f"{name}: --t", "_data", found)
    assert (files_below(tiny_model), files_below(raw)) == before


# --extend

EARLIER = "d\ngone\nb\nz\n"


@pytest.fixture
def extend(raw, run_here, monkeypatch):
    """text2paddle.py with more flags, where earlier.txt is a vocabulary of before."""
    monkeypatch.chdir(raw)
    (raw / "earlier.txt").write_text(EARLIER)
    return lambda *more, **paths: run_here("text2paddle.py", *(PATHS | paths).values(), *more)


def test_an_extended_vocabulary_keeps_its_indices_and_new_items_follow_by_support(raw, extend):
    (raw / "raw_test/sessions.txt").write_text("gone b c\nunknown d\n")
    process = assert_worked(extend("--extend", "earlier.txt"))
    assert (raw / "vocab.txt").read_text() == EARLIER + "c\na\n"  # c four times, a once
    assert (raw / "train_data/sessions.txt").read_text() == "2 4 5\n4 2\n4 4 0\n"
    assert (raw / "test_data/sessions.txt").read_text() == "1 2 4\n", "items without clicks are still known"
    assert process.stdout.splitlines()[:2] == ["vocab size: 6", "earlier.txt: items:4 without_clicks:2"]


def test_items_without_clicks_go_on_request(raw, extend):
    process = assert_worked(extend("--extend", "earlier.txt", "--drop_gone", 1))
    assert (raw / "vocab.txt").read_text() == "d\nb\nc\na\n"
    assert "earlier.txt: items:2 without_clicks:0" in process.stdout


def test_extending_by_nothing_new_keeps_the_vocabulary_as_it_is(raw, extend):
    (raw / "earlier.txt").write_text("a\nd\nc\nb\n")
    assert_worked(extend("--extend", "earlier.txt"))
    assert (raw / "vocab.txt").read_text() == "a\nd\nc\nb\n"


@pytest.mark.parametrize("more, paths, fragments", [
    (["--extend", "nowhere.txt"], {}, ["--extend: ", "nowhere.txt"]),
    (["--extend", "count.txt"], {}, ["--extend: found only the number of items in count.txt"]),
    (["--extend", "earlier.txt"], {"vocab": "earlier.txt"}, ["vocab_path: found earlier.txt", "--extend"]),
    (["--drop_gone", 1], {}, ["--drop_gone: found 1 without --extend"]),
    (["--extend", "twice.txt"], {}, ["twice.txt:3: found 'a' again"]),
])
def test_what_can_not_be_extended_ends_in_one_line_and_changes_nothing(raw, extend, more, paths, fragments):
    (raw / "count.txt").write_text("4\n")
    (raw / "twice.txt").write_text("a\nb\na\n")
    before = files_below(raw)
    assert_one_line_error(extend(*more, **paths), *fragments)
    assert files_below(raw) == before


def test_ids_that_are_escaped_are_the_same_ids(raw, extend):
    (raw / "earlier.txt").write_text("red\\{20}shoes\nback\\slash\n")
    (raw / "raw_train/sessions.txt").write_text("back\\slash red\\{20}shoes\nred\\{20}shoes a\n")
    (raw / "raw_test/sessions.txt").write_text("red\\{20}shoes back\\slash\n")
    assert_worked(extend("--extend", "earlier.txt"))
    assert (raw / "vocab.txt").read_text() == "red\\{20}shoes\nback\\slash\na\n"
    assert (raw / "train_data/sessions.txt").read_text() == "1 0\n0 2\n"
