import argparse
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error

from utils.files import InputError
from utils.options import Parser, cutoffs, number, separator, sizes

ENDS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


def run_program(body, *, shell_redirect=None, **kw):
    """Run `body` as the main function of a script under process.run."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = 'folder/script.py'\n" \
              "from utils.files import InputError\nfrom utils.options import Parser\nfrom utils.process import run\n" \
              f"def main():\n{indented}run(main)\n"
    command = [sys.executable, "-c", program]
    if shell_redirect:
        command = ["bash", "-c", f'"$@" {shell_redirect}', "bash", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kw)


@pytest.mark.parametrize("kind, limits, text, value", [
    (int, {}, "-3", -3), (int, {"low": 1}, "1", 1), (int, {"low": 0, "high": 1}, "1", 1), (float, {"low": 0}, "0", 0.0),
    (float, {"low": 0, "below": 1}, "0.999", 0.999), (float, {}, "1e-3", 0.001), (int, {}, str(2**63 - 1), 2**63 - 1),
])
def test_number_accepts_what_is_within_its_limits(kind, limits, text, value):
    found = number(kind, **limits)(text)
    assert found == value and type(found) is kind


@pytest.mark.parametrize("kind, limits, text, expected", [
    (int, {"low": 1}, "0", "expected an integer >= 1"),
    (int, {"low": 0, "high": 1}, "2", "expected an integer >= 0 and <= 1"),
    (int, {}, "1.5", "expected an integer"), (int, {}, "many", "expected an integer"),
    (int, {}, "", "expected an integer"), (int, {}, str(2**63), "of at most 64 bits"),
    (int, {}, "9" * 400, "of at most 64 bits"), (int, {}, "9" * 5000, "an integer"),
    (float, {"low": 0, "below": 1}, "1", "expected a number >= 0 and < 1"), (float, {}, "nan", "expected a number"),
    (float, {}, "inf", "expected a number"), (float, {"low": 0}, "-0.1", "a number >= 0"),
    (float, {}, "1e999", "number"),
])
def test_number_refuses_everything_else_and_says_what_it_expected(kind, limits, text, expected):
    with pytest.raises(argparse.ArgumentTypeError) as raised:
        number(kind, **limits)(text)
    assert expected in str(raised.value) and repr(text)[:20] in str(raised.value)


def test_sizes_keep_their_order_and_cutoffs_are_sorted():
    assert sizes("100") == [100] and sizes("100,50,100") == [100, 50, 100]
    assert cutoffs("20") == [20] and cutoffs("20,1,5,20") == [1, 5, 20]


@pytest.mark.parametrize("text", ["", "0", "5,0", "5,,20", "5,", "a", "1.5", "-1", "5;20", "9" * 30])
def test_sizes_and_cutoffs_refuse_what_is_not_positive_integers(text):
    for kind in sizes, cutoffs:
        with pytest.raises(argparse.ArgumentTypeError, match="expected integers from 1 to 100000 separated by commas"):
            kind(text)


def test_separator_is_one_ascii_character_or_tab():
    assert [separator(text) for text in ("tab", "\\t", "\t", ",", ";", "")] == ["\t", "\t", "\t", ",", ";", ""]
    for text in (",,", '"', "\n", "\u00e4"):
        with pytest.raises(argparse.ArgumentTypeError):
            separator(text)


def parse(tmp_path, text, *arguments):
    """The flags of a parser with a config file of this `text`."""
    parser = Parser("A script.")
    parser.add_argument("--config", default="")
    parser.add_argument("--rate", type=number(float), default=0.5)
    parser.add_argument("--count", type=number(int), default=1)
    parser.add_argument("--separator", type=separator, default="")
    parser.add_argument("--sizes", type=sizes, default=[1])
    parser.add_argument("--name", default="none")
    parser.add_argument("--quick", action="store_true")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    return parser.parse_with_config(["--config", str(tmp_path / "config.json"), *arguments])


@pytest.mark.parametrize("text, expected", [
    ('{}', {"rate": 0.5, "sizes": [1], "name": "none", "quick": False}),
    ('{"rate": -1e-5, "sizes": [8, 6], "name": "--name", "quick": true}',
     {"rate": -1e-5, "sizes": [8, 6], "name": "--name", "quick": True}),
    ('{"rate": "2", "sizes": "8,6", "quick": false}', {"rate": 2.0, "sizes": [8, 6], "quick": False}),
    ('{"sizes": 8}', {"sizes": [8]}), ('{"separator": ";", "count": 3}', {"separator": ";", "count": 3}),
])
def test_a_config_file_sets_flags(tmp_path, text, expected):
    assert vars(parse(tmp_path, text)).items() >= expected.items()


def test_flags_beside_a_config_file_win(tmp_path):
    found = parse(tmp_path, '{"rate": 2, "name": "a"}', "--rate", "3")
    assert found.rate == 3 and found.name == "a"


@pytest.mark.parametrize("text, fragments", [
    ("", ["no JSON object"]), ("[1]", ["no JSON object"]), ("{", ["no JSON object"]), ('{"unknown": 1}', ["'unknown'"]),
    ('{"": 1}', ["''"]), ('{"rat": 1}', ["'rat'"]), ('{"help": 1}', ["'help'"]),
    ('{"config": "other.json"}', ["'config'"]), ('{"rate": null}', ["null for rate"]),
    ('{"rate": true}', ["true for rate"]), ('{"rate": {"a": 1}}', ['{"a": 1} for rate']),
    ('{"quick": 1}', ["1 for quick", "true or false"]), ('{"rate": "fast"}', ["--rate", "'fast'"]),
    ('{"sizes": []}', ["--sizes"]), ('{"sizes": [[8]]}', ["--sizes"]),
    ('{"name": 5}', ["5 for name", "a text"]), ('{"name": ["a", "b"]}', ["for name", "a text"]),
    ('{"name": true}', ["true for name", "a text"]), ('{"separator": 5}', ["5 for separator", "a text"]),
    ('{"rate": [2]}', ["[2] for rate", "a number"]), ('{"count": 2.5}', ["--count", "'2.5'", "an integer"]),
    ('{"rate": NaN}', ["--rate", "'nan'"]), ('{"rate": 1e999}', ["--rate", "'inf'"]),
    ('{"sizes": 8.5}', ["8.5 for sizes", "a list"]), ('{"sizes": [8.5]}', ["--sizes", "'8.5'"]),
    ('{"sizes": [true]}', ["--sizes"]), ('{"rate": 1, "rate": 2}', ["--rate", "found twice"]),
])
def test_a_wrong_config_file_is_named(tmp_path, text, fragments):
    with pytest.raises(InputError) as raised:
        parse(tmp_path, text)
    for fragment in [str(tmp_path / "config.json"), *fragments]:
        assert fragment in str(raised.value)


@pytest.mark.parametrize("arguments, flag", [
    (["--rate", "1", "--rate", "2"], "--rate"), (["--rate=1", "--name", "a", "--rate", "1"], "--rate"),
    (["--quick", "--quick"], "--quick"), (["--config", "a", "--config", "b"], "--config"),
])
def test_a_flag_that_comes_twice_is_refused(tmp_path, arguments, flag):
    with pytest.raises(InputError, match=f"argument {flag}: found twice, expected once"):
        parse(tmp_path, "{}", *arguments)


def test_help_shows_defaults_and_limits(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parser = Parser("A script.")
    parser.add_argument("place", metavar="PLACE", help="where to")
    group = parser.group("numbers")
    group.add_argument("--a", type=number(int, 1, 9), default=5, help="what a is")
    group.add_argument("--b", type=number(float, 0, below=1), help="what b is")
    group.add_argument("--c", type=number(int, 0, 1), default=0, help="1: yes, 0: no")
    group.add_argument("--d", type=number(float, 0.5, 1e38), default=600.0, help="100 %% of it")
    group.add_argument("--e", type=sizes, default=[100, 50], required=True, help="several")
    parser.add_argument("--f_dir", default="", help="in no group")
    parser.group("numbers").add_argument("--g", action="store_true", help="no value")
    with pytest.raises(SystemExit):
        parser.parse_args(["-h"])
    shown = " ".join(capsys.readouterr().out.split()).partition(" ")[2]
    assert shown.partition(" ")[2] == (
        "--e N,... [--flag VALUE ...] PLACE A script. positional arguments: PLACE where to options: --f_dir DIR in no "
        "group numbers: --a N what a is (default: 5, from 1 to 9) --b X what b is (from 0 to below 1) "
        "--c {0,1} 1: yes, 0: no (default: 0) --d X 100 % of it (default: 600, at least 0.5) "
        "--e N,... several (default: 100,50) --g no value")


@pytest.mark.parametrize("command, flag", [
    ("preprocess.py --session_gap 1e308", "--session_gap"), ("preprocess.py --test_days 1e308", "--test_days"),
    ("make_sample.py --days 1e308", "--days"), ("infer_sample_neg.py --hid_size -1", "--hid_size"),
    ("infer_sample_neg.py --hid_size many", "--hid_size"), ("preprocess.py --input a --input b", "--input"),
    ("train.py --model_dir a --pass_num 1 --model_dir b", "--model_dir"), ("train.py --is_local 1e308", "--is_local"),
    ("text2paddle.py a b c d e --help_me", "--help_me"), ("serve.py --session_ttl 1e308", "--session_ttl"),
])
def test_careless_command_lines_are_one_line(run_here, tmp_path, monkeypatch, command, flag):
    monkeypatch.chdir(tmp_path)
    name, *arguments = command.split()
    assert_one_line_error(run_here(name, *arguments), f"{name}: ", flag)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flag, low, high", [
    ("--session_gap", 0, 1e10), ("--session_span", 0, 1e10), ("--test_days", 0, 1e5), ("--newest_days", 0, 1e5)])
def test_the_limits_of_times_themselves_work(tmp_path, run_here, flag, low, high):
    """No number that is allowed overflows: all clicks are one user's session, or all sessions are the test's."""
    clicks = "".join(f"{row // 2}\ta\t{row}\n{row // 2}\tb\t{row}\n" for row in range(20))
    (tmp_path / "clicks.tsv").write_text("SessionId\tItemId\tTime\n" + clicks, encoding="utf-8")
    for value in low, high:
        process = run_here("preprocess.py", "--input", tmp_path / "clicks.tsv", "--out_dir", tmp_path, flag, value)
        assert process.returncode == 0 or process.stderr.count("\n") == 1, process


@pytest.mark.parametrize("arguments, fragments", [
    (["--no_such_flag", "1"], ["--no_such_flag", "make_sample.py -h"]),
    (["--outptu=x"], ["--outptu=x; did you mean --output? (make_sample.py -h"]),
    (["more", "--session-count", "7"], ["--session-count 7; did you mean --session_count? ("]),
    (["--zzz", "7"], ["unrecognized arguments: --zzz 7 (make_sample.py -h"]),
    (["--intent", ""], ["--intent: found an empty name"]),
    (["--intent", "a", "--output", "b"], ["--intent", "--output"]),
    (["--item_count", "x"], ["--item_count", "'x'", "an integer >= "]),
    (["--seed"], ["--seed", "expected one argument"]), (["--sess", "5"], ["--sess"]), (["stray"], ["stray"]),
])
def test_a_wrong_flag_is_one_line(tmp_path, arguments, fragments, run_here):
    assert_one_line_error(run_here("make_sample.py", *arguments, cwd=tmp_path), "make_sample.py: ", *fragments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("raised, line", [
    ("InputError('a.txt:3: found this,\\nexpected that')", "script.py: a.txt:3: found this, expected that\n"),
    ("FileNotFoundError(2, 'No such file or directory', 'a.txt')", "script.py: a.txt: No such file or directory\n"),
    ("OSError('something else')", "script.py: something else\n"),
    ("MemoryError('Unable to allocate 71 PiB')", "script.py: found too little memory (Unable to allocate 71 PiB)"),
])
def test_what_a_user_can_cause_ends_with_one_line_and_status_2(raised, line):
    process = run_program(f"print('before'); raise {raised}")
    assert_one_line_error(process, line)
    assert process.stdout == "before\n"


def test_a_bug_of_ours_keeps_its_traceback():
    process = run_program("raise ValueError('ours')")
    assert process.returncode == 1 and "Traceback" in process.stderr


@pytest.mark.parametrize("sent, status, word", ENDS)
def test_an_interruption_has_its_own_status_and_cleans_up(tmp_path, sent, status, word):
    process = run_program("import os, time\nfrom utils.files import write_atomically\n"
                          f"with write_atomically({str(tmp_path / 'file')!r}):\n"
                          f"    os.kill(os.getpid(), {int(sent)}); time.sleep(30)")
    assert (process.returncode, process.stderr) == (status, f"script.py: {word}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent, status, word", ENDS)
def test_an_interruption_in_a_gradient_of_ours_is_told_from_an_error(sent, status, word):
    """Paddle runs these from C++ and turns whatever they raise into an OSError."""
    process = run_program(f"""import os
from utils.device import prepare
prepare(threads=1)
import paddle
from paddle.autograd import PyLayer
class Stopped(PyLayer):
    @staticmethod
    def forward(ctx, x): return x * 2
    @staticmethod
    def backward(ctx, gradient):
        os.kill(os.getpid(), {int(sent)})
        return gradient * 2
values = paddle.ones([3])
values.stop_gradient = False
for step in range(100): Stopped.apply(values).sum().backward()""")
    assert process.returncode == status and process.stderr.splitlines()[-1] == f"script.py: {word}", process


def test_an_interruption_that_a_destructor_swallows_is_told_at_the_end():
    process = run_program("""import os, signal
class Swallowing:
    def __del__(self): os.kill(os.getpid(), signal.SIGTERM); print('going on')
value = Swallowing()
del value
print('done')""")
    assert process.returncode == 143 and "done" in process.stdout
    assert process.stderr.splitlines()[-1] == "script.py: terminated"


def test_a_bug_in_a_gradient_of_ours_keeps_its_traceback():
    process = run_program("raise OSError('(External) ValueError: ours')")
    assert process.returncode == 1 and "Traceback" in process.stderr


def test_a_job_that_ignores_an_interrupt_goes_on_ignoring_it():
    process = run_program("import os, signal; os.kill(os.getpid(), signal.SIGINT); print('done')",
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert (process.returncode, process.stdout, process.stderr) == (0, "done\n", "")


def test_a_reader_that_leaves_early_is_no_error():
    process = run_program("for number in range(100000): print(number)",
                          shell_redirect="| head -1; exit ${PIPESTATUS[0]}")
    assert (process.returncode, process.stdout, process.stderr) == (141, "0\n", "")


def test_an_error_after_the_reader_left_is_still_one_line():
    process = run_program("import time; print('x'); time.sleep(0.2); raise InputError('wrong')",
                          shell_redirect="| true; exit ${PIPESTATUS[0]}",
                          env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"})
    assert_one_line_error(process, "script.py: wrong\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_to_a_full_disk_is_one_line():
    assert_one_line_error(run_program("print('x')", shell_redirect="> /dev/full"), "No space left on device")


def test_a_closed_stdout_is_no_error():
    process = run_program("print('x')", shell_redirect=">&-")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


def test_names_that_the_terminal_cannot_show_are_no_error():
    process = run_program("print('\\udcff \\u20ac')", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (process.returncode, process.stdout, process.stderr) == (0, "\\udcff \\u20ac\n", "")
