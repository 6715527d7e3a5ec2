"""The sample: make_sample.py, and the files at the top level that demo.sh's commands make of it."""

import collections
import resource
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script

from make_sample import TASTES
from utils.data.session_files import read_conversion
from utils.data.sessions import read_sessions
from utils.data.vocabulary import checksum, read_vocabulary

BUNDLED = ["vocab.txt", "train_data/sample_train.txt", "train_data/text2paddle.json", "test_data/sample_test.txt",
           "test_data/text2paddle.json"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What demo.sh leaves in demo_output/ before it trains: its own commands, run elsewhere."""
    directory = tmp_path_factory.mktemp("demo")
    commands = (ROOT / "demo.sh").read_text().replace("\\\n", "").split("set -x\n")[1].splitlines()
    commands = [command for command in commands if command.startswith('"$python"')]
    commands = [command for command in commands if command.split()[1] not in ("train.py", "infer.py", "recommend.py")]
    scripts = [command.split()[1] for command in commands]
    assert scripts == ["make_sample.py", "preprocess.py", "convert_format.py", "text2paddle.py"]
    for name in "raw_train_data", "raw_test_data":
        (directory / "demo_output" / name).mkdir(parents=True)
    script = "set -e\n" + "\n".join(command.replace('"$python" ', f'"$0" "{ROOT}"/', 1) for command in commands)
    assert_worked(subprocess.run(["bash", "-c", script, sys.executable], cwd=directory, capture_output=True, text=True))
    return directory / "demo_output"


def sessions_of(path):
    """The item numbers of each session of a click file, a list of lists."""
    sessions = collections.defaultdict(list)
    for line in path.read_text().splitlines()[1:]:
        session, item, _ = line.split("\t")
        sessions[session].append(int(item[1:]))
    return list(sessions.values())


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_sample_is_what_the_demo_makes(made, name):
    assert (ROOT / name).read_bytes() == (made / name).read_bytes()


def test_nothing_else_lies_beside_the_bundled_sample():
    found = [f"{name}/{file}" for name in ("train_data", "test_data") for file in files_below(ROOT / name)]
    assert sorted(["vocab.txt", *found]) == sorted(BUNDLED)


def test_the_bundled_sample_is_large_enough_and_fits_together():
    item_ids, item_count, _ = read_vocabulary(ROOT / "vocab.txt")
    assert item_count >= 500 and len(item_ids) == item_count
    for name in "train_data", "test_data":
        sessions = read_sessions(ROOT / name, item_count, name)
        record = read_conversion(ROOT / name, checksum(ROOT / "vocab.txt"), name)
        assert record["sessions"] == len(sessions.lengths) and record["events"] == len(sessions.items)
        assert sessions.lengths.min() >= 2
        if name == "train_data":
            assert len(sessions.lengths) >= 5000


def test_popularity_falls_off_as_in_a_shop(made):
    support = collections.Counter(item for items in sessions_of(made / "sample_clicks.tsv") for item in items)
    counts = sorted(support.values(), reverse=True)
    assert sum(counts[:60]) > 0.3 * sum(counts)  # a tenth of the items
    assert counts[0] > 3 * counts[len(counts) // 2]


def test_a_model_with_memory_can_predict_more(made):
    """The successor that came most often: after the last click, and after that click and the first click's taste."""
    sessions = sessions_of(made / "sample_clicks.tsv")
    half, hits = len(sessions) // 2, {}
    for name, key in [("last click", lambda first, last: last), ("memory", lambda first, last: (first % TASTES, last))]:
        followers = collections.defaultdict(collections.Counter)
        for items in sessions[:half]:
            for last, following in zip(items, items[1:]):
                followers[key(items[0], last)][following] += 1
        best = {seen: counter.most_common(1)[0][0] for seen, counter in followers.items()}
        hits[name] = sum(best.get(key(items[0], last)) == following
                         for items in sessions[half:] for last, following in zip(items, items[1:]))
    assert hits["memory"] > 1.15 * hits["last click"]


def test_the_same_seed_gives_the_same_clicks_and_another_seed_others(tmp_path, run_here):
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        assert_worked(run_here("make_sample.py", "--output", tmp_path / name, "--session_count", 50, "--seed", seed))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_flags_say_how_many_sessions_items_and_days(tmp_path, run_here):
    flags = ["--session_count", 300, "--item_count", 40, "--days", 2.0]
    process = assert_worked(run_here("make_sample.py", "--output", tmp_path / "clicks.tsv", *flags))
    assert "sessions:300" in process.stdout
    header, *lines = (tmp_path / "clicks.tsv").read_text().splitlines()
    assert header == "SessionId\tItemId\tTime"
    sessions, items, times = zip(*(line.split("\t") for line in lines))
    assert len(set(sessions)) == 300 and len(set(items)) <= 40
    assert 1.9 * 86400 < int(times[-1]) - int(times[0]) < 2.1 * 86400


@pytest.mark.parametrize("flags, fragment", [(["--item_count", 1], "--item_count"), (["--days", "0"], "--days"),
                                             (["--seed", "-1"], "--seed"),
                                             (["--session_count", "1e3"], "'1e3'"),
                                             (["--output", "/"], "/: found a dir")])
def test_wrong_flags_are_one_line(run_here, flags, fragment):
    assert_one_line_error(run_here("make_sample.py", *flags), fragment)


def test_too_many_sessions_for_the_memory_is_one_line(tmp_path):
    flags = ["--output", tmp_path / "clicks.tsv", "--session_count", 10**9]
    little_memory = lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    assert_one_line_error(run_script("make_sample.py", *flags, preexec_fn=little_memory), "too little memory")
    assert list(tmp_path.iterdir()) == []


def test_the_network_beats_popularity_and_transitions_on_it(tmp_path, run_here):
    """By its memory: so the demo shows something."""
    data = ["--vocab_path", ROOT / "vocab.txt", "--model_dir", tmp_path / "model"]
    assert_worked(run_here("train.py", "--train_dir", ROOT / "train_data", *data, "--pass_num", 5, "--threads", 1))
    process = assert_worked(run_here("infer.py", "--test_dir", ROOT / "test_data", *data,
                                       "--train_dir", ROOT / "train_data",
                                       "--start_index", 5, "--last_index", 5, "--threads", 1))
    table = {words[0]: [float(word) for word in words[1:]]
             for words in map(str.split, process.stdout.splitlines()[-3:])}
    assert set(table) == {"POP", "transitions", "epoch_5"}
    for baseline in ("POP", "transitions"):
        assert all(ours > theirs + 0.005 for ours, theirs in zip(table["epoch_5"], table[baseline])), table
