"""The flags of all scripts: groups and wording of -h, limits, one meaning for one name, none that nothing reads."""

import argparse
import ast
import functools
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT
from flag_reads import modules_of, tree_of, unread

from utils.options import Parser

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "net.py")
BENCHMARKS = sorted(f"benchmarks/{path.name}" for path in ROOT.glob("benchmarks/*.py")
                    if "parser.add_argument(" in path.read_text(encoding="utf-8"))
GROUPS = ("positional arguments", "input and output", "vocabulary", "columns of the tables", "the shop", "training",
          "network", "loss and negatives", "loss", "optimiser", "weights and memory", "search", "methods", "answers",
          "evaluation", "batching", "sessions to train on", "filters", "splits", "purchases", "download",
          "log and checkpoints", "server", "live sessions", "limits of each worker", "machine",
          "flags of Paddle's old example")
# For old command lines alone: infer_sample_neg.py leaves the size to the model directory.
OLD = {"is_local", "hid_size"}
# Flags whose default or help may differ from script to script, and why.
DIFFERENT = {
    "each trainer has its own best settings": "base_lr batching emb_dropout fit group_batches hid_dropout "
                                              "label_smoothing neighbours optimizer pass_num score_scale",
    "other files and another network where purchases are predicted": "emb_size hid_size init_from test_dir train_dir "
                                                                     "valid_dir valid_fraction watch",
    "one script writes what another one reads; the reference has several defaults": "model_dir vocab_path",
    "trained, evaluated or answered together": "batch_size",
    "one of several that the infer scripts can evaluate": "epoch",
    "one or several cut-offs, or the length of a list": "topk",
    "of purchases, each draw counts all sessions anew": "draws",
    "live sessions and whole ones differ in serve.py": "exclude",
    "preprocess.py splits once more, in two ways": "newest_days",
    "processes of a server, which wait, or trainings, which don't": "workers",
    "the same in the current directory or in one of its own": "out_dir",
}
# Flags with one number in some scripts, and one or several in others: cut-offs, layers, what a benchmark compares.
ONE_OR_SEVERAL = {"topk", "hid_size", "threads", "workers"}


class Found(Exception):
    pass


@functools.cache
def parser_of(script):
    """The Parser that a script makes; the rest of the script doesn't run."""
    def stop(parser, *_):
        raise Found(parser)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script])
        patch.setattr(sys, "path", [str((ROOT / script).parent), *sys.path])
        patch.setattr("os.environ", dict(sys.modules["os"].environ))
        patch.setattr(Parser, "parse_known_args", stop)
        with pytest.raises(Found) as found:
            runpy.run_path(str(ROOT / script))["main"]()
    return found.value.args[0]


def flags_of(script):
    """The argparse actions of a script's flags and positional arguments, by their names."""
    return {action.dest: action for action in parser_of(script)._actions if action.dest != "help"}


def kind_of(action):
    """What a value is: "N" or "X" for a number, "N,..." for several, and so on, as -h shows it."""
    if action.nargs == 0 or action.choices:
        return "a choice" if action.choices else "none"
    return getattr(action.type, "metavar", "a text")


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_readable(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parser = parser_of(script)
    parser.prog = script
    lines = parser.format_help().splitlines()
    assert lines.index("") <= 2 and lines[0].startswith(f"usage: {script} "), "the usage is a line or two"
    assert any(f"python {script}" in line for line in lines), "there is an example"
    assert max(map(len, lines)) <= 120
    groups = [line.rstrip(":") for line in lines if line.endswith(":") and line.rstrip(":") in GROUPS + ("options",)]
    assert groups == sorted(groups, key=GROUPS.index) and len(groups) > 1
    for name, action in flags_of(script).items():
        assert action.help and action.help[-1] not in ".,;" and "None" not in action.help, name


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_number_has_limits(script):
    for flag, action in flags_of(script).items():
        if kind_of(action) in ("N", "X", "N,..."):
            assert not accepts(action, "1e308") and not accepts(action, "-1e308"), flag
            assert not accepts(action, "-1") and not accepts(action, "-" + "9" * 18), flag
            assert flag == "seed" or accepts(action, "0.5") or not accepts(action, "9" * 18), flag


def accepts(action, text):
    try:
        action.type(text)
    except (argparse.ArgumentTypeError, ValueError):
        return False
    return True


def test_a_name_means_the_same_in_all_scripts():
    allowed = {name for names in DIFFERENT.values() for name in names.split()}
    meanings = {}
    for script in SCRIPTS:
        for name, action in flags_of(script).items():
            if action.option_strings:
                limits = getattr(action.type, "limits", "")
                meanings.setdefault(name, []).append((kind_of(action), limits, action.default, action.help))
    different = {name for name, found in meanings.items() if any(one != found[0] for one in found)}
    assert different == allowed


def test_a_name_has_values_of_one_kind_in_benchmarks_too():
    kinds = {}
    for script in SCRIPTS + BENCHMARKS:
        for name, action in flags_of(script).items():
            if action.option_strings:
                kinds.setdefault(name, set()).add(kind_of(action))
    assert {name for name, found in kinds.items() if len(found) > 1} == ONE_OR_SEVERAL


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_read(script):
    assert set(unread(flags_of(script), map(tree_of, modules_of(script)))) <= OLD


def test_a_flag_that_nothing_reads_is_found():
    flags, trees = [*flags_of("recommend.py"), "new_flag"], list(map(tree_of, modules_of("recommend.py")))
    assert unread(flags, trees) == ["new_flag"]
    text = (ROOT / "recommend.py").read_text(encoding="utf-8").replace("options.topk", "20")
    trees = [ast.parse(text) if tree is tree_of(ROOT / "recommend.py") else tree for tree in trees]
    assert unread(flags, trees) == ["new_flag", "topk"]


def test_help_loads_nothing_slow():
    """Of all packages only NumPy, and what reads weights and shows progress."""
    program = ("import contextlib, io, runpy, sys\n"
               "started = set(sys.modules)\n"
               f"for script in {SCRIPTS}:\n"
               "    sys.argv = [script, '-h']\n"
               "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:\n"
               "        runpy.run_path(script)['main']()\n"
               "    assert shown.getvalue().startswith(f'usage: {script} ')\n"
               "    packages = {name.partition('.')[0] for name in set(sys.modules) - started if '-packages' in\n"
               "                (getattr(sys.modules[name], '__file__', '') or '')}\n"
               "    print(script, *sorted(packages - {'numpy', 'safetensors', 'tqdm'}))\n")
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == SCRIPTS
