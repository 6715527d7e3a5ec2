"""How every script starts and ends: signals from its first lines on, missing packages, and what importing it leaves.

A signal that comes before Python runs the script's first lines is out of its reach: SIGTERM then ends the process as
the system does, and after Ctrl-C Python prints a traceback of its own start, which takes about 20 ms.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, assert_one_line_error, free_port, run_script, write_random_model

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py") if path.name != "net.py")
ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
SET_UP = "bash setup.sh .venv requirements.txt", "source .venv/bin/activate"
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")


@pytest.fixture(scope="module")
def command_lines(tmp_path_factory, tiny_data, tiny_model):
    """What each script is given, so that it works for a while: a dict of lists."""
    directory = tmp_path_factory.mktemp("scripts")
    clicks = directory / "clicks.tsv"
    clicks.write_text("SessionId\tItemId\tTime\n" + "".join(
        f"{row // 5}\titem_{row % 30}\t{row}\n" for row in range(300_000)), encoding="utf-8")
    raw = [directory / "raw_train", directory / "raw_test"]
    for path in raw:
        path.mkdir()
        (path / "sessions.txt").write_text("a b c d e f g\n" * 100_000, encoding="utf-8")
    models = [write_random_model(directory / f"model_{seed}", seed, hid_size=[500]) for seed in (1, 2)]
    data = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt"]
    (directory / "many").mkdir()  # sessions, so that none of these scripts has ended within a second
    (directory / "many/sessions.txt").write_text("1 2 3 4 5 6 7\n" * 200_000, encoding="utf-8")
    shutil.copytree(tiny_model, directory / "model")  # infer.py writes there
    test, model = ["--test_dir", directory / "many"], ["--model_dir", directory / "model"]
    trained = ["--model_dir", directory / "trained", "--overwrite", 1, "--pass_num", 100]
    return {
        "make_sample.py": ["--output", directory / "sample.tsv"],
        "preprocess.py": ["--input", clicks, "--out_dir", directory / "splits"],
        "convert_format.py": ["--train_input", clicks, "--train_output", directory / "out.txt", "--test_input", ""],
        "text2paddle.py": [*raw, directory / "train", directory / "test", directory / "vocab.txt"],
        "train.py": [*data, *trained], "train_sample_neg.py": [*data, *trained],
        "infer.py": [*test, *model, "--last_index", 2],
        "infer_sample_neg.py": [*test, *model, "--last_index", 2], "baselines.py": [*data, *test],
        "merge_models.py": [*models, "--model_dir", directory / "merged", "--overwrite", 1],
        "plot.py": [directory / "model", "--out_dir", directory / "plots"], "recommend.py": [*model, "item_1"],
        "serve.py": [*model, "--port", free_port()],
        "export.py": [*model, "--session_states", directory / "states.npy", "--sessions", raw[0] /
                      "sessions.txt"],
        "tune.py": [*data, "--study_dir", directory / "study", "--trials", 100],
        # These are stopped before they look for their files.
        "train_intent.py": ["--train_dir", directory / "intent", "--model_dir", directory / "intent_model"],
        "infer_intent.py": ["--test_dir", directory / "intent", "--model_dir", directory / "intent_model"],
    }


def started(name, arguments):
    """A script's process as soon as its first lines have run: SIGTERM is held back or handled then."""
    process = subprocess.Popen([sys.executable, ROOT / name, *map(str, arguments)], stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    until, bit = time.monotonic() + 30, 1 << signal.SIGTERM - 1
    while time.monotonic() < until and process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if any(int(fields[name], 16) & bit for name in ("SigBlk", "SigCgt")):
            return process
        time.sleep(0.001)
    raise AssertionError(process.communicate())


def end_after(name, arguments, sent, seconds):
    """Send a signal so long after a script's first lines; the exit status and stderr."""
    process = started(name, arguments)
    time.sleep(seconds)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def assert_stopped(name, arguments, moments, together=2):
    """The script ends with its one line, whenever it is stopped; so many of it run at a time."""
    cases = [(sent, seconds) for sent in ENDS for seconds in moments]
    with ThreadPoolExecutor(together) as pool:
        found = list(pool.map(lambda case: end_after(name, arguments, *case), cases))
    for (sent, seconds), end in zip(cases, found):
        status, word = ENDS[sent]
        assert end == (status, f"{name}: {word}\n"), (sent, seconds)


def imported(*command):
    """The modules that a Python process imports, in the order in which they are ready."""
    process = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, timeout=60)
    return [line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if line.startswith("import time:")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_is_imported_before_signals_are_caught(name):
    modules = imported(ROOT / name, "-h")
    before = modules[:modules.index("utils.process") + 1]
    assert set(before) - set(imported("-c", "pass")) == {"utils", "utils.process"}


@needs_proc
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_signal_while_the_imports_load_ends_with_one_line(command_lines, name):
    assert_stopped(name, command_lines[name], [0, 0.03] if name == "make_sample.py" else [0.01])


@needs_proc
def test_a_signal_while_paddle_loads_ends_with_one_line(command_lines):
    # One at a time, since two trainings in one directory refuse each other.
    assert_stopped("train.py", command_lines["train.py"], [0.2, 0.35, 0.5, 0.7, 0.9], together=1)


def test_sigterm_before_the_first_lines_shows_nothing_of_python(command_lines):
    command = [sys.executable, ROOT / "make_sample.py", *map(str, command_lines["make_sample.py"])]
    for milliseconds in range(0, 40, 5):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        time.sleep(milliseconds / 1000)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) in [(-signal.SIGTERM, ""), (143, "make_sample.py: terminated\n")]


def test_threads_of_libraries_hold_sigterm_back_so_that_paddle_can_load():
    """Otherwise the system would give it to one of them while Paddle's own handler is there."""
    program = (f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom utils.process import begin, run\nbegin()\n"
               "import threading, time\nthreading.Thread(target=time.sleep, args=[0.5]).start()\n"
               "from pathlib import Path\n"
               "def main():\n"
               "    for status in Path('/proc/self/task').glob('*/status'):\n"
               "        print(next(line.split()[1] for line in status.read_text().splitlines() if 'SigBlk' in line))\n"
               "run(main)\n")
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    held = [bool(int(mask, 16) & 1 << signal.SIGTERM - 1) for mask in process.stdout.split()]
    assert held == [False, True]


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_the_environment_one_line_says_how_to_get_it(name, tmp_path):
    process = subprocess.run([sys.executable, "-S", ROOT / name], cwd=tmp_path, capture_output=True, text=True)
    assert_one_line_error(process, f"{name}: found no Python package ", *SET_UP)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["paddle", "safetensors"])
def test_any_other_package_that_is_missing_is_named_too(package, tmp_path, tiny_data):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('', name={package!r})\n")
    process = run_script("train.py", "--train_dir", tiny_data / "train_data", "--model_dir", tmp_path / "model",
                         env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert_one_line_error(process, f"train.py: found no Python package {package}", *SET_UP)


@pytest.mark.parametrize("line", ["import utils.nothing", "import nothing_of_ours as it; it.nothing", "import _winapi"])
def test_a_missing_module_of_ours_or_of_python_is_a_bug(line):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils.process import begin; begin()\n{line}\n"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    is_package = "nothing_of_ours" in line
    assert process.returncode == (2 if is_package else 1) and ("Traceback" in process.stderr) != is_package


@pytest.mark.parametrize("sent", ENDS)
def test_a_signal_waits_for_an_import_that_must_not_be_disturbed(tmp_path, sent):
    (tmp_path / "slow.py").write_text(f"import os\nos.kill(os.getpid(), {int(sent)})\nprint('loaded')\n")
    program = (f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]\n"
               "from utils.process import import_undisturbed, run\n"
               "run(lambda: (import_undisturbed('slow'), print('not stopped')))\n")
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (ENDS[sent][0], "loaded\n", f"-c: {ENDS[sent][1]}\n")


@pytest.mark.parametrize("sent", ENDS)
def test_a_signal_at_the_very_end_raises_nothing_any_more(sent):
    program = (f"import atexit, os, sys; sys.path.insert(0, {str(ROOT)!r}); from utils.process import run\n"
               f"atexit.register(os.kill, os.getpid(), {int(sent)})\nrun(lambda: None)\n")
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (-sent, "")


def test_importing_a_script_changes_nothing_of_the_process(tmp_path):
    """As servers do with serve.py."""
    modules = ", ".join(name.removesuffix(".py") for name in SCRIPTS)
    program = ("import signal, sys\nbefore = [signal.getsignal(2), signal.getsignal(15), sys.excepthook]\n"
               f"sys.path.insert(0, {str(ROOT)!r})\nimport {modules}\n"
               "assert before == [signal.getsignal(2), signal.getsignal(15), sys.excepthook]\n"
               "assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])\n")
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
