"""utils/intent/baselines.py and benchmarks/intent_folds.py on clicks and purchases of a known rule."""

import re
import sys

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked, run_script

from make_sample import best_auc, purchase_probability
from utils.data.click_columns import Columns
from utils.files import InputError
from utils.intent import baselines
from utils.intent.events import join, read_events
from utils.intent.features import pairs_of
from utils.intent.metrics import Measured, outcomes_of
from utils.intent.sessions import choose_sessions, sessions_of


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """The directory that make_sample.py --intent writes, with 1,500 sessions."""
    directory = tmp_path_factory.mktemp("intent")
    assert_worked(run_script("make_sample.py", "--intent", directory, "--session_count", 1500))
    return directory


@pytest.fixture(scope="module")
def parts(sample):
    """Training, validation and test sessions, and the numbers of items and of categories."""
    joined, _ = join(read_events([sample / "clicks.tsv"], [sample / "buys.tsv"], Columns(category="Category")))
    words = joined.clicks.item_names.to_pylist(), joined.category_names.to_pylist()
    sessions = sessions_of(joined, words)
    ends = [np.arange(start, end) for start, end in ((0, 1000), (1000, 1200), (1200, 1500))]
    return [choose_sessions(sessions, numbers) for numbers in ends], tuple(map(len, words))


@pytest.fixture
def few_trees(monkeypatch):
    """Gradient boosting that takes less time."""
    pytest.importorskip("sklearn")
    monkeypatch.setattr(baselines, "TREES", 40)
    monkeypatch.setattr(baselines, "LEAVES", (6,))


def test_the_methods_find_most_of_the_rule(parts, few_trees):
    (training, validation, test), sizes = parts
    found = baselines.baseline_predictions(training, validation, test, sizes, seed=1)
    outcomes = outcomes_of(test, pairs_of(test))
    figures = {name: Measured(outcomes, predictions).figures() for name, predictions in found.items()}
    assert list(figures) == ["everything buys", "logistic regression", "gradient boosting"]
    assert figures["everything buys"]["auc"] == .5 and figures["everything buys"]["recall"] == 1
    for name in list(figures)[1:]:
        assert figures[name]["auc"] > .7 and figures[name]["item_auc"] > .75, figures[name]
        assert figures[name]["score"] > figures["everything buys"]["score"]


def test_without_scikit_learn_one_line_says_what_to_install(parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    (training, validation, test), sizes = parts
    with pytest.raises(InputError, match="requirements-intent.txt"):
        baselines.baseline_scores(training, validation, test, sizes, seed=1)


def test_cross_validation_prints_the_figures_of_all_sessions(sample, few_trees, run_here):
    process = run_here("benchmarks/intent_folds.py", "--input", sample / "clicks.tsv", "--buys", sample / "buys.tsv",
                       "--category_column", "Category", "--network", 0, "--seeds", 1, "--folds", 2, "--draws", 100)
    assert_worked(process)
    assert process.stdout.startswith("1,500 sessions, ")
    rows = [line.split(" | ") for line in process.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == ["| everything buys", "| logistic regression", "| gradient boosting"]
    assert float(rows[1][1].split()[0]) > .7


def test_the_network_is_measured_beside_the_rule(run_here, tmp_path):
    given = ("--out_dir", tmp_path / "rule", "--session_count", 3000,
             "--train_flags", "--networks 1 --pass_num 1 --batch_size 64")
    said = assert_worked(run_here("benchmarks/intent_rule.py", *given)).stdout.splitlines()[-1]
    figures = dict(word.split(":") for word in said.split() if ":" in word)
    assert 250 < int(figures["sessions"]) < 350 and 5 < int(figures["buying"]) < 60
    assert 0.7 < float(figures["best_auc"]) < 0.95 and 0.4 < float(figures["auc"]) < 0.95
    assert float(figures["less"]) == pytest.approx(float(figures["best_auc"]) - float(figures["auc"]), abs=2e-4)
    assert_one_line_error(run_here("benchmarks/intent_rule.py", *given), "--out_dir", "isn't there yet")


def test_the_best_auc_is_that_of_the_probabilities():
    random = np.random.default_rng(1)
    probabilities = random.choice([.02, .1, .1, .5], 30_000)
    buys = random.random(30_000) < probabilities
    buying, others = probabilities[buys], probabilities[~buys]
    found = np.mean([np.mean(buying > other) + np.mean(buying == other) / 2 for other in others[:2000]])
    assert best_auc(probabilities) == pytest.approx(found, abs=.01)
    assert best_auc(np.full(10, .3)) == pytest.approx(.5)


def test_the_written_probabilities_are_those_of_the_clicks_before_the_purchase(sample):
    joined, _ = join(read_events([sample / "clicks.tsv"], [sample / "buys.tsv"], Columns(category="Category")))
    clicks = joined.clicks
    names, categories = clicks.item_names.to_pylist(), joined.category_names.to_pylist()
    lines = (sample / "probabilities.tsv").read_text().splitlines()[1:]
    for session in range(0, 1500, 50):
        rows = slice(clicks.offsets[session], clicks.offsets[session + 1])
        items = [names[item] for item in clicks.items[rows]]
        category = {item: int(re.sub("c", "", categories[code])) for item, code in zip(items, joined.categories[rows])}
        expected = purchase_probability(items, (clicks.times[rows] // 10**6).tolist(), category)
        assert lines[session] == f"{session + 1}\t{expected:.6f}"
