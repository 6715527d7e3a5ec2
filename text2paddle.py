"""Item ids to indices: session text to vocab.txt and session text of indices.

    python text2paddle.py raw_train_data/ raw_test_data/ train_data test_data vocab.txt

Every file of the raw directories is converted to a file of the same name. vocab.txt holds the items of the training
files, the most frequent first and equally frequent ones in string order; an item's index is the number of its line,
counted from 0. With --extend, the items of an earlier vocab.txt come before them, as they stand there. Test clicks on
other items are left out, and so is a test session with fewer than two clicks left. How many were left out is printed,
and recorded in text2paddle.json beside the converted files, with their names, sizes and checksums: trainers and
evaluations refuse other files there.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import collections
import itertools
import os
from pathlib import Path

from utils.data.conversion import COUNTS, open_target, outdated_files, vocabulary_order, write_conversion
from utils.data.session_files import session_files
from utils.data.vocabulary import read_vocabulary
from utils.files import InputError, require_different
from utils.memory import read_bytes
from utils.options import Parser, number
from utils.process import run

PLACES = "raw_train_dir", "raw_test_dir", "train_dir", "test_dir", "vocab_path"
LINES_WRITTEN = 10_000  # at a time


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("raw_train_dir", help="directory of session text with item ids: one session a line")
    parser.add_argument("raw_test_dir", help="the same for test sessions")
    parser.add_argument("train_dir", help="directory to write the training sessions to, as indices")
    parser.add_argument("test_dir", help="directory to write the test sessions to, as indices")
    parser.add_argument("vocab_path", help="vocab.txt to write")
    items = parser.group("vocabulary")
    items.add_argument("--extend", metavar="FILE", default="",
                       help="vocab.txt of the model to go on from (--init_from of the trainers): its items keep their "
                       "indices, and new ones follow, the most frequent first")
    items.add_argument("--drop_gone", type=number(int, 0, 1), default=0,
                       help="with --extend: 1: items without a click in the training files lose their lines, and the "
                       "others close up, 0: they keep them")
    options = parser.parse_args()
    if options.drop_gone and not options.extend:
        raise InputError("--drop_gone: found 1 without --extend, expected both")
    places = {name: Path(os.path.realpath(getattr(options, name))) for name in PLACES}
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
    extended = [("--extend", options.extend)] if options.extend else []
    require_different(sources + extended, [*outputs, ("vocab_path", options.vocab_path)])
    train_names, test_names = ({file.name for file in files} for files in (train_files, test_files))
    outdated = outdated_files(options.train_dir, train_names, "train_dir")
    outdated += outdated_files(options.test_dir, test_names, "test_dir")
    support = count_items(train_files)
    earlier = earlier_items(options, support)
    item_ids = earlier + vocabulary_order({item: support[item] for item in support.keys() - set(earlier)})
    if len(item_ids) < 2:
        raise InputError(f"raw_train_dir: found {len(item_ids)} items in {options.raw_train_dir}, expected at least 2 "
                         "to choose from")
    index = {item_id: str(number) for number, item_id in enumerate(item_ids)}
    no_tests = ("raw_test_dir: found no session of two clicks on items of the training files in "
                f"{options.raw_test_dir}, expected at least one")
    train_counts, test_counts = dict.fromkeys(COUNTS, 0), dict.fromkeys(COUNTS, 0)
    with (open_target(options.train_dir, train_names, "train_dir") as training,
          open_target(options.test_dir, test_names, "test_dir", no_tests) as test):
        write_conversion([(training, texts(train_files, index, 1, train_counts), train_counts),
                          (test, texts(test_files, index, 2, test_counts), test_counts)], options.vocab_path, item_ids)

    print(f"vocab size: {len(item_ids)}")
    if earlier:
        print(f"{options.extend}: items:{len(earlier)} without_clicks:{sum(item not in support for item in earlier)}")
    for path in outdated:
        print(f"{path}: removed, an earlier conversion wrote it")
    for directory, counts in [(options.train_dir, train_counts), (options.test_dir, test_counts)]:
        print(f"{directory}: " + " ".join(f"{name}:{counts[name]}" for name in COUNTS))


def earlier_items(options, support):
    """The items of --extend as they stand there, by index: a list of str. With --drop_gone, only those with support."""
    if not options.extend:
        return []
    if read_vocabulary(options.extend, "--extend").item_ids is None:
        raise InputError(f"--extend: found only the number of items in {options.extend}, expected one item id a line")
    items = read_bytes(options.extend, "--extend").decode().split()
    return [item for item in items if item in support] if options.drop_gone else items


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


def texts(files, index, shortest, counts):
    """The text of each of `files` as indices, a dict of names to iterators of bytes, and their COUNTS in `counts`.

    Only sessions with at least `shortest` known clicks are written.
    """
    return {file.name: converted_text(file, index, shortest, counts) for file in files}


def converted_text(file, index, shortest, counts):
    lines = converted_lines(file, index, shortest, counts)
    while some := list(itertools.islice(lines, LINES_WRITTEN)):
        yield "".join(some).encode()


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
