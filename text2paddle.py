"""Item ids to indices: session text to vocab.txt and session text of indices.

    python text2paddle.py raw_train_data/ raw_test_data/ train_data test_data vocab.txt

Every file of the raw directories is converted to a file of the same name. vocab.txt holds the items of the training
files, the most frequent first and equally frequent ones in string order; an item's index is the number of its line,
counted from 0. Test clicks on other items are left out, and so is a test session with fewer than two clicks left. How
many were left out is printed, and recorded in text2paddle.json beside the converted files, with their names, sizes and
checksums: trainers and evaluations refuse other files there.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import collections
import contextlib
import hashlib
import itertools
import json
import os
from pathlib import Path

from utils.data.session_files import CONVERSION, read_conversion, session_files, session_files_in
from utils.files import InputError, finish, require_different, write_atomically
from utils.options import Parser
from utils.process import run

COUNTS = "sessions", "events", "sessions_left_out", "clicks_left_out"
LINES_WRITTEN = 10_000  # at a time


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("raw_train_dir", help="directory of session text with item ids: one session a line")
    parser.add_argument("raw_test_dir", help="the same for test sessions")
    parser.add_argument("train_dir", help="directory to write the training sessions to, as indices")
    parser.add_argument("test_dir", help="directory to write the test sessions to, as indices")
    parser.add_argument("vocab_path", help="vocab.txt to write")
    options = parser.parse_args()
    places = {name: Path(os.path.realpath(path)) for name, path in vars(options).items()}
    if len(set(places.values())) < 5:
        raise InputError("raw_train_dir, raw_test_dir, train_dir, test_dir, vocab_path: found the same path twice, "
                         "expected five")
    for name in "raw_train_dir", "raw_test_dir", "train_dir", "test_dir":
        if places["vocab_path"].parent == places[name]:
            raise InputError(f"vocab_path: found {options.vocab_path} in {name}, where it would be read as sessions, "
                             "expected it in another directory")
    return options


def main():
    options = parse_arguments()
    train_files = session_files(options.raw_train_dir, "raw_train_dir")
    test_files = session_files(options.raw_test_dir, "raw_test_dir")
    sources = [("raw_train_dir", file) for file in train_files] + [("raw_test_dir", file) for file in test_files]
    outputs = [(name.removeprefix("raw_"), file.name) for name, file in sources]
    outputs = [(name, Path(getattr(options, name), file)) for name, file in outputs]
    require_different(sources, [*outputs, ("vocab_path", options.vocab_path)])
    outdated = outdated_files(options.train_dir, train_files, "train_dir")
    outdated += outdated_files(options.test_dir, test_files, "test_dir")
    support = count_items(train_files)
    item_ids = sorted(support, key=lambda item_id: (-support[item_id], item_id))
    if len(item_ids) < 2:
        raise InputError(f"raw_train_dir: found {len(item_ids)} items in {options.raw_train_dir}, expected at least 2 "
                         "to choose from")
    index = {item_id: str(number) for number, item_id in enumerate(item_ids)}

    vocabulary = "".join(f"{item_id}\n" for item_id in item_ids)
    vocab_sha256 = hashlib.sha256(vocabulary.encode()).hexdigest()

    # Outputs get their names only at the end, vocab.txt first and the records last. If the process is killed in
    # between, the old records name another vocab.txt, which train.py and infer.py notice. Outdated files go before the
    # records.
    with contextlib.ExitStack() as outputs:
        open_output = lambda *parts: outputs.enter_context(write_atomically(Path(*parts)))
        train_record = open_output(options.train_dir, CONVERSION)
        test_record = open_output(options.test_dir, CONVERSION)
        outputs.push(lambda error, *_: remove(outdated) if error is None else None)
        train_counts = convert(train_files, options.train_dir, index, 1, open_output)
        test_counts = convert(test_files, options.test_dir, index, 2, open_output)
        if not test_counts["sessions"]:
            raise InputError("raw_test_dir: found no session of two clicks on items of the training files in "
                             f"{options.raw_test_dir}, expected at least one")
        for record, counts in [(train_record, train_counts), (test_record, test_counts)]:
            json.dump({"vocab_sha256": vocab_sha256, **counts}, record, indent=1)
            finish(record)
        vocab_file = open_output(options.vocab_path)
        vocab_file.write(vocabulary)
        finish(vocab_file)

    print(f"vocab size: {len(item_ids)}")
    for path in outdated:
        print(f"{path}: removed, an earlier conversion wrote it")
    for directory, counts in [(options.train_dir, train_counts), (options.test_dir, test_counts)]:
        print(f"{directory}: " + " ".join(f"{name}:{counts[name]}" for name in COUNTS))


def outdated_files(directory, sources, argument):
    """The files that an earlier conversion wrote to `directory` and this one won't replace.

    InputError if other session files are there: they would be read as sessions of this conversion.
    """
    path = Path(directory)
    if path.exists() and not path.is_dir():
        raise InputError(f"{argument}: found a file at {path}, expected a directory or none")
    names = {file.name for file in sources}
    others = [file for file in session_files_in(path) if file.name not in names] if path.is_dir() else []
    earlier = read_conversion(path, None, argument).get("files", ()) if others else ()
    for file in others:
        if file.name not in earlier:
            raise InputError(f"{argument}: found {file.name} in {path}, which no conversion wrote, expected nothing "
                             "but what text2paddle.py writes")
    return others


def remove(files):
    for file in files:
        file.unlink()


def read_item_ids(file):
    """Yield the item ids of each line of a session text, a list of str."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if b"\0" in line:
                raise InputError(f"{file}:{number}: found a zero byte, expected item ids separated by blanks")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").split()
            except UnicodeDecodeError:
                raise InputError(f"{file}:{number}: found a byte that is not UTF-8, expected item ids separated by "
                                 "blanks") from None


def count_items(files):
    """How often each item id was clicked, a dict of str to int."""
    support = collections.Counter()
    for file in files:
        for clicks in read_item_ids(file):
            support.update(clicks)
    return support


def convert(files, directory, index, shortest, open_output):
    """Write `files` as indices to `directory`, but only sessions with at least `shortest` known clicks.

    Returns
    -------
    dict
        What was written: the files' names with their sizes and checksums, and COUNTS.
    """
    written = {"files": {}, **dict.fromkeys(COUNTS, 0)}
    for file in files:
        output, size, digest = open_output(directory, file.name), 0, hashlib.sha256()
        lines = converted_lines(file, index, shortest, written)
        while some := list(itertools.islice(lines, LINES_WRITTEN)):
            text = "".join(some)
            output.write(text)
            size += len(text)  # all characters are ASCII
            digest.update(text.encode())
        finish(output)
        written["files"][file.name] = {"bytes": size, "sha256": digest.hexdigest()}
    return written


def converted_lines(file, index, shortest, counts):
    """Yield the lines to write for the sessions of `file`, and count them in the dict `counts`."""
    for clicks in read_item_ids(file):
        known = [index[click] for click in clicks if click in index]
        counts["clicks_left_out"] += len(clicks) - len(known)
        if len(known) >= shortest:
            counts["sessions"] += 1
            counts["events"] += len(known)
            yield " ".join(known) + "\n"
        elif clicks:
            counts["sessions_left_out"] += 1


if __name__ == "__main__":
    run(main)
