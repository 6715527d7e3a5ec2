"""benchmarks/mutants.py: what its list names is there, and what tests find or miss is said so."""

import os
import sys

import pytest
from conftest import ROOT, assert_one_line_error, run_script

sys.path.insert(0, str(ROOT / "benchmarks"))
from mutants import read_mutants  # noqa: E402

LIST = """
[[group]]
file = "doubled.py"
tests = ["tests"]
mutants = [["2 * x", "3 * x"], ["'an unused word'", "''"]]
"""


@pytest.fixture
def tree(tmp_path):
    """A tree with a list of two mutants: a test finds the first one, and misses the second."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "mutants.toml").write_text(LIST)
    (tmp_path / "doubled.py").write_text("doubled = lambda x: 2 * x\nword = 'an unused word'\n")
    (tmp_path / "tests/test_doubled.py").write_text("from doubled import doubled\n\n\n"
                                                   "def test_doubled():\n    assert doubled(2) == 4\n")
    return tmp_path


def try_mutants(tree, *flags):
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # they take a second to load
    return run_script("benchmarks/mutants.py", "--root", tree, "--mutants", tree / "mutants.toml", *flags,
                      env=environment)


def test_the_text_of_every_mutant_stands_once_in_its_file():
    mutants = read_mutants(ROOT / "benchmarks/mutants.toml", ROOT)
    assert len(mutants) >= 100 and len({mutant[1:4] for mutant in mutants}) == len(mutants)
    assert all((ROOT / path.partition("::")[0]).is_file() for mutant in mutants for path in mutant.tests)


def test_mutants_are_killed_or_survive_and_the_tree_stays_as_it_is(tree):
    code = (tree / "doubled.py").read_bytes()
    process = try_mutants(tree, "--jobs", 2)
    _, first, second, summary, survivor = process.stdout.splitlines()
    assert process.returncode == 1 and process.stderr == "" and (tree / "doubled.py").read_bytes() == code
    assert first.startswith("1/2 killed ") and first.endswith(" s   1 doubled.py: 2 * x -> 3 * x")
    assert second.startswith("2/2 SURVIVED ") and second.endswith(survivor) and "'an unused word' -> ''" in survivor
    assert summary.startswith("2 mutants, 1 killed, 1 survived, ")
    process = try_mutants(tree, "--only", 1)
    assert process.returncode == 0 and "1 mutants, 1 killed, 0 survived, " in process.stdout


@pytest.mark.parametrize("old, new, fragments", [
    ("2 * x", "4 * x", ["'4 * x' 0 times in doubled.py for mutant 1"]), ("3 * x", "2 *", ["doesn't compile"]),
    ('"doubled.py"', '"nowhere.py"', ["nowhere.py"]), ("mutants =", "mutant =", ["can't be read"]),
    ('["tests"]', '["tests", "more"]', ["pytest tests more ended with status 4"]), ("[[", "[", ["can't be read"])])
def test_a_wrong_list_is_refused_in_one_line(tree, old, new, fragments):
    (tree / "mutants.toml").write_text(LIST.replace(old, new, 1))
    assert_one_line_error(try_mutants(tree), *fragments)


@pytest.mark.parametrize("flags, fragments", [(["--only", "3"], ["--only", "'3'", "1 to 2"]),
                                              (["--only", "1,"], ["--only", "''"]), (["--jobs", 0], ["--jobs"])])
def test_mutants_that_are_not_there_are_refused(tree, flags, fragments):
    assert_one_line_error(try_mutants(tree, *flags), *fragments)


def test_tests_that_fail_anyway_find_no_mutant(tree):
    (tree / "doubled.py").write_text("doubled = lambda x: x - 2 * x\nword = 'an unused word'\n")
    assert_one_line_error(try_mutants(tree), "pytest tests fails without a mutant")
