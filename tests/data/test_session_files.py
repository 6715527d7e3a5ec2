"""utils/data/session_files.py: what text2paddle.py wrote to a directory is told from everything else there."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from utils.data import sessions as session_module
from utils.data import text_cache
from utils.data.session_files import CONVERSION, read_conversion, recorded_checksums, refuse_conversion, refuse_sessions
from utils.data.sessions import read_sessions
from utils.files import InputError

TEXTS = {"a.txt": "1 2 3\n4 5\n", "b.txt": "6 7\n"}


def entry(text):
    return {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def write_record(directory, files):
    (directory / CONVERSION).write_text(json.dumps({"vocab_sha256": "abc", "files": files}), encoding="utf-8")


@pytest.fixture(params=["parsed", "kept"])
def converted(request, tmp_path, monkeypatch):
    """A directory as text2paddle.py leaves it; in one of two cases a copy of the parsed sessions is there as well."""
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    write_record(tmp_path, {name: entry(text) for name, text in TEXTS.items()})
    if request.param == "kept":
        monkeypatch.setattr(text_cache, "WORTH_KEEPING", 1)
        read(tmp_path)
        assert (tmp_path / text_cache.NAME).exists()
    return tmp_path


def read(path):
    return read_sessions(path, 9, "--train_dir").items.tolist()


def refusal(path):
    with pytest.raises(InputError) as raised:
        read(path)
    assert str(raised.value).startswith("--train_dir: ") and "\n" not in str(raised.value)
    return str(raised.value)


# The record

def test_a_directory_without_a_record_has_none(tmp_path):
    assert read_conversion(tmp_path, "abc", "--test_dir") == {}
    (tmp_path / "a.txt").write_text("1 2\n")
    assert read_conversion(tmp_path / "a.txt", "abc", "--test_dir") == {}


def test_a_record_of_the_same_vocabulary_is_returned(tmp_path):
    record = {"vocab_sha256": "abc", "clicks_left_out": 3}
    (tmp_path / CONVERSION).write_text(json.dumps(record))
    assert read_conversion(tmp_path, "abc", "--test_dir") == record


def test_a_record_of_another_vocabulary_is_an_error(tmp_path):
    (tmp_path / CONVERSION).write_text('{"vocab_sha256": "abc"}')
    with pytest.raises(InputError,
                       match="--test_dir: found sessions in .* converted with another vocab.txt .SHA-256 abc"):
        read_conversion(tmp_path, "abd", "--test_dir")


def test_the_vocabulary_that_lies_beside_the_sessions_is_named(tmp_path):
    sessions, vocabulary = tmp_path / "train_data", tmp_path / "vocab.txt"
    sessions.mkdir()
    vocabulary.write_bytes(b"a\n")
    record = {"vocab_sha256": hashlib.sha256(b"a\n").hexdigest()}
    (sessions / CONVERSION).write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"; theirs is {vocabulary}$"):
        read_conversion(sessions, "abd", "--train_dir")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name),
                                  lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("none")],
                         ids=["directory", "pipe", "loop", "device", "dangling"])
def test_what_is_no_file_is_no_missing_record(converted, make):
    """Else what the record says would go unchecked."""
    (converted / CONVERSION).unlink()
    make(converted / CONVERSION)
    for look in (lambda: read_conversion(converted, "abc", "--test_dir"), lambda: read(converted)):
        with pytest.raises(InputError, match=f"found .*{CONVERSION}, expected"):
            look()


@pytest.mark.parametrize("junk", [
    b"", b"{", b"[]", b"{}", b'"text"', b"7", b'{"vocab_sha256": 5}', b"\xff\xfe", b"[" * 100_000,
    b'{"vocab_sha256": "abc", "files": 5}', b'{"vocab_sha256": "abc", "files": [5]}',
    b'{"vocab_sha256": "abc", "files": {"a.txt": 5}}', b'{"vocab_sha256": "abc", "files": {"a.txt": {}}}',
    b'{"vocab_sha256": "abc", "files": {"a.txt": {"bytes": "10", "sha256": "abc"}}}',
    b'{"vocab_sha256": "abc", "files": {"a.txt": {"bytes": 10, "sha256": null}}}',
    b'{"vocab_sha256": "abc", "files": {"a.txt": {"bytes": true, "sha256": "abc"}}}',
])
def test_junk_in_the_place_of_a_record_is_an_error(tmp_path, junk):
    (tmp_path / CONVERSION).write_bytes(junk)
    (tmp_path / "a.txt").write_text(TEXTS["a.txt"])
    for look in (lambda: read_conversion(tmp_path, "abc", "--test_dir"), lambda: read(tmp_path)):
        with pytest.raises(InputError, match=f"{CONVERSION}: found no record of a conversion"):
            look()


# The files that it names

def test_the_files_of_the_record_are_read(converted):
    assert read(converted) == [1, 2, 3, 4, 5, 6, 7]
    assert read(converted / "b.txt") == [6, 7]


def test_another_file_is_refused_by_its_name(converted):
    (converted / "sample_train.txt").write_text("1 1\n")
    assert "found sample_train.txt in" in refusal(converted)
    assert read(converted / "a.txt") == [1, 2, 3, 4, 5]  # named alone, it is mixed with nothing


def test_a_missing_file_is_refused_by_its_name(converted):
    (converted / "b.txt").unlink()
    assert "found no b.txt in" in refusal(converted)


@pytest.mark.parametrize("text, found", [("6 8\n", "b.txt with the SHA-256"), ("", "b.txt with 0 bytes"),
                                         ("6 7\n1 2\n", "b.txt with 8 bytes, expected 4")])
def test_a_changed_file_is_refused_by_its_name(converted, text, found):
    (converted / "b.txt").write_text(text)
    assert found in refusal(converted)
    assert found in refusal(converted / "b.txt")
    assert read(converted / "a.txt") == [1, 2, 3, 4, 5]


def test_the_record_of_another_conversion_is_no_record_of_these_files(converted):
    """As `git checkout` leaves it: the text is that of before, and so is the copy of it."""
    write_record(converted, {"a.txt": entry(TEXTS["a.txt"]), "b.txt": entry("7 6\n")})
    assert "b.txt with the SHA-256" in refusal(converted)
    write_record(converted, {"a.txt": entry(TEXTS["a.txt"])})
    assert "found b.txt in" in refusal(converted)


def test_checksums_cost_no_second_reading(converted, monkeypatch):
    """Text of which there is a copy was checked as it was parsed; the copy says against which record."""
    monkeypatch.setattr(text_cache, "WORTH_KEEPING", 1)
    expected = read(converted)
    monkeypatch.setattr(session_module, "_parse_chunk", lambda *arguments: pytest.fail("the text was read again"))
    monkeypatch.setattr(session_module, "require_checksum", lambda *arguments: pytest.fail("the text was hashed again"))
    assert read(converted) == expected


@pytest.mark.parametrize("files", [{}, ["a.txt", "b.txt"]])
def test_older_records_go_on_working(converted, files):
    write_record(converted, files)
    (converted / "b.txt").write_text("7 6\n")
    assert read(converted) == [1, 2, 3, 4, 5, 7, 6] and recorded_checksums(converted, "--train_dir") == {}


def test_older_records_name_the_files_too(converted):
    write_record(converted, ["a.txt"])
    assert "found b.txt in" in refusal(converted)


# Where nothing else may be written

def test_nothing_is_written_beside_a_record(tmp_path):
    refuse_conversion(tmp_path, "--out_dir")
    refuse_conversion(tmp_path / "none", "--out_dir")
    (tmp_path / "vocab.txt").write_text("5\n7\n")  # which only looks like sessions
    refuse_conversion(tmp_path, "--out_dir")
    write_record(tmp_path, {})
    for refuse in refuse_conversion, refuse_sessions:
        with pytest.raises(InputError, match=f"--out_dir: found sessions in .*{CONVERSION}"):
            refuse(tmp_path, "--out_dir")


def test_no_model_is_written_among_sessions(tmp_path):
    refuse_sessions(tmp_path / "none", "--model_dir")
    (tmp_path / "train.log").write_text("device:cpu\n")
    refuse_sessions(tmp_path, "--model_dir")
    (tmp_path / "train.txt").write_text("\n5 3 12\n7\n" * 1000)
    with pytest.raises(InputError, match="--model_dir: found sessions in .*train.txt"):
        refuse_sessions(tmp_path, "--model_dir")
    (tmp_path / "config.json").write_text("{}")  # a model directory, whose vocab.txt may look like sessions
    refuse_sessions(tmp_path, "--model_dir")
