"""Which lines could be wrong without a test failing: small errors are put into the code, and the tests must find them.

    python benchmarks/mutants.py                     # all of benchmarks/mutants.toml
    python benchmarks/mutants.py --only 20-35,90     # some of them, by their numbers
    python benchmarks/mutants.py --only utils/losses.py --jobs 2

mutants.toml names for each file the tests that must find its mutants; each mutant is a piece of the file's text, which
stands there once, and what takes its place. The files that tests need are copied to a temporary directory. There the
tests first have to pass with the code as it is. Then each mutant is tried by itself. The exit status is 1 where one
survives: then a test is missing, or the line is not needed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.files import InputError, require_file  # noqa: E402
from utils.options import COUNT, Parser, number  # noqa: E402
from utils.process import run  # noqa: E402

COPIED = "*.py", "pytest.ini", "vocab.txt", "utils", "tests", "docs", "settings", "train_data", "test_data"
SECONDS = 600  # for the tests of one mutant; one that makes them hang is found, too
WITHOUT = ["-p", "no:cacheprovider", "-p", "no:schemathesis"]  # which takes a second to load
CHECK = ["-std=c++17", "-march=native", "-fopenmp", "-fsyntax-only"]


class Mutant(NamedTuple):
    """A small error.

    number : int, its place in the list, from 1
    file : str, from the root of the tree
    old, new : str, what stands there once, and what takes its place
    tests : list of str, what pytest runs
    """

    number: int
    file: str
    old: str
    new: str
    tests: list

    def __str__(self):
        return f"{self.number:3} {self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split()) or 'nothing'}"


def read_mutants(path, root):
    """The Mutants of a file; InputError where the text of one doesn't stand once in its file below `root`."""
    try:
        groups = tomllib.loads(require_file(path, "--mutants").read_text(encoding="utf-8"))["group"]
        found = [(group["file"], old, new, group["tests"]) for group in groups for old, new in group["mutants"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"--mutants: found {path}, which can't be read ({error}), expected a file as "
                         "benchmarks/mutants.toml") from None
    mutants = [Mutant(place, *each) for place, each in enumerate(found, start=1)]
    for mutant in mutants:
        count = require_file(Path(root) / mutant.file, "--mutants").read_text(encoding="utf-8").count(mutant.old)
        if count != 1 or mutant.old == mutant.new:
            raise InputError(f"--mutants: found {mutant.old[:80]!r} {count} times in {mutant.file} for mutant "
                             f"{mutant.number}, expected it once, and something else in its place")
    return mutants


def chosen(mutants, only):
    """Those of the Mutants that --only names: by number, by range of numbers, or by the beginning of a file's path."""
    numbers = set()
    for word in only.split(","):
        first, _, last = word.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found = {mutant.number for mutant in mutants if int(first) <= mutant.number <= int(last or first)}
        else:
            found = {mutant.number for mutant in mutants if mutant.file.startswith(word)}
        if not found or not word:
            raise InputError(f"--only: found {word!r}, expected numbers from 1 to {len(mutants)} or files of the list")
        numbers |= found
    return [mutant for mutant in mutants if mutant.number in numbers]


def copy_tree(root, to):
    """Copy what tests need to a new directory."""
    to.mkdir()
    for pattern in COPIED:
        for path in Path(root).glob(pattern):
            if path.is_dir():
                shutil.copytree(path, to / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, to)


def failure(tree, tests):
    """What pytest says of the test that fails in a copy of the tree, empty if none; InputError where they can't run."""
    # Without bytecode, since that of a mutant of the same second and size would be taken for the file's.
    environment = os.environ | {"XDG_CACHE_HOME": str(tree.parent / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", *WITHOUT, *tests]
    try:
        process = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"they take more than {SECONDS} s"
    said = [line for line in (process.stdout + process.stderr).splitlines() if line.startswith(("FAILED", "ERROR"))]
    said = said[-1] if said else f"status {process.returncode}"
    if process.returncode > 1:  # below 0: a signal ended it, as a wrong address in C++ may
        raise InputError(f"found that pytest {' '.join(tests)} ended with status {process.returncode}, expected 0 or "
                         f"1: {said}")
    return said if process.returncode else ""


def try_mutant(mutant, trees):
    """Whether the tests find a Mutant, and how many seconds they took, in one of the trees that are free."""
    tree = trees.get()
    path, began = tree / mutant.file, time.monotonic()
    whole = path.read_text(encoding="utf-8")
    try:
        path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
        require_syntax(path, mutant)
        return bool(failure(tree, mutant.tests)), time.monotonic() - began
    finally:
        path.write_text(whole, encoding="utf-8")
        trees.put(tree)


def require_syntax(path, mutant):
    """InputError for a mutant that is no code: any test would find it."""
    if path.suffix == ".py":
        check = [sys.executable, "-c", f"compile(open({str(path)!r}).read(), '', 'exec')"]
    else:
        check = [os.environ.get("CXX", "g++"), *CHECK, str(path)]
    if subprocess.run(check, capture_output=True).returncode:
        raise InputError(f"--mutants: found mutant {mutant.number} that doesn't compile, expected code: {mutant}")


def require_passing(tests, trees):
    """InputError where tests fail without a mutant."""
    tree = trees.get()
    said = failure(tree, tests)
    trees.put(tree)
    if said:
        raise InputError(f"found that pytest {' '.join(tests)} fails without a mutant, expected tests that pass: "
                         f"{said}")


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--mutants", default=str(ROOT / "benchmarks/mutants.toml"), help="the list of mutants")
    parser.add_argument("--root", default=str(ROOT), help="the tree that is copied")
    parser.add_argument("--only", default="", help="which mutants, by number, range or file; default: all")
    parser.add_argument("--jobs", type=number(int, 1, COUNT), default=1, help="mutants that are tried at the same time")
    return parser.parse_args()


def main():
    options = parse_arguments()
    mutants = read_mutants(options.mutants, options.root)
    mutants = chosen(mutants, options.only) if options.only else mutants
    trees, began, survived = Queue(), time.monotonic(), []
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(options.jobs) as pool:
        for number_of_tree in range(options.jobs):
            copy_tree(options.root, tree := Path(directory, str(number_of_tree)))
            trees.put(tree)
        kinds_of_tests = dict.fromkeys(tuple(mutant.tests) for mutant in mutants)
        list(pool.map(lambda tests: require_passing(tests, trees), kinds_of_tests))
        print(f"tests pass without a mutant after {time.monotonic() - began:.0f} s", flush=True)
        tried = pool.map(lambda mutant: try_mutant(mutant, trees), mutants)
        for place, (mutant, (is_killed, seconds)) in enumerate(zip(mutants, tried), start=1):
            survived += [] if is_killed else [mutant]
            found = "killed" if is_killed else "SURVIVED"
            print(f"{place}/{len(mutants)} {found} {seconds:.1f} s {mutant}", flush=True)
    print(f"{len(mutants)} mutants, {len(mutants) - len(survived)} killed, {len(survived)} survived, "
          f"{time.monotonic() - began:.0f} s", *survived, sep="\n")
    sys.exit(bool(survived))


if __name__ == "__main__":
    run(main)
