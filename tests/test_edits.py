"""What a user edits in net.py or losses.py is what trains, evaluates and answers, without any flag.

Each edit is made to a copy of the repository. There one process trains with both trainers, each once with C++ and once
with Paddle's operations alone (--tune_cpu 0), evaluates, and answers; tests/edits_driver.py is that process.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, assert_one_line_error, assert_worked

RETURN_STATES = "        return self.with_last_click(states, clicked)\n"
STEP = "new = paddle.tanh(inputs[:, candidate] + reset * products[:, candidate])"
FIRST_LINES = "        self.item_matrix = parameter(self"


def before_return(lines):
    """An edit of `hidden_states`: `lines` before its last one."""
    return ("net.py", RETURN_STATES, f"{lines}{RETURN_STATES}")


def in_init(line):
    """An edit of Network.__init__: one line more."""
    return ("net.py", FIRST_LINES, f"        {line}\n{FIRST_LINES}")


def of_docs(title):
    """The diff under a title of docs/changing-it.md."""
    text = (ROOT / "docs/changing-it.md").read_text(encoding="utf-8")
    return re.search(rf"## {title}.*?```diff\n(.*?)```", text, re.DOTALL).group(1)


ATTENTION = """        outputs, sums = [], before[-1]
        for part in paddle.split(states, rows_per_step):
            weight = paddle.exp(paddle.matmul(part, self.attention))
            sums = sums[:part.shape[0]] + paddle.concat([weight * part, weight], axis=1)
            outputs.append(part + sums[:, :-1] / sums[:, -1:])
        before[-1], states = sums.detach(), paddle.concat(outputs)
"""
# What differs then, the engine or the loss, and the edits: a diff, or a list of (file, old text, new text).
EDITS = {
    "an LSTM": ("engine", of_docs("An LSTM")),
    "layer normalisation": ("engine", of_docs("Layer normalisation")),
    "another activation": ("engine", [("net.py", STEP, STEP.replace("paddle.tanh", "F.softsign"))]),
    "dropout in another place": ("engine", [
        ("net.py", "            states, before[number] = gru(",
         '            gates = dropout(gates, 0.3, self.training, "gates")\n'
         "            states, before[number] = gru(")]),
    "attention over the session": ("engine", [
        in_init("self.attention = parameter(self, weight([columns - 1, 1]))"), before_return(ATTENTION),
        ("net.py", "return [paddle.zeros([sessions, units]) for units in self.settings.hid_size]",
         "return [paddle.zeros([sessions, units])\n"
         "                for units in (*self.settings.hid_size, self.settings.hid_size[-1] + 1)]")]),
    "a further FC": ("engine", of_docs("One more layer")),
    "scores scaled by a learned number": ("loss", [
        in_init("self.scale = parameter(self, np.ones([1]))"),
        ("net.py", "        return paddle.matmul(states, vectors, transpose_y=True)",
         "        return self.scale * paddle.matmul(states, item_rows[..., :-1], transpose_y=True)")]),
    "another loss": ("loss", [("utils/losses.py", "    target_part = -_picked(log_probabilities, targets)",
                               "    target_part = -_picked(log_probabilities, targets)\n"
                               "    target_part = target_part * (1 - paddle.exp(-target_part))")]),
    "states times 0": ("engine", [
        ("net.py", RETURN_STATES, RETURN_STATES.replace("return ", "return 0.0 * "))]),
}
ANSWERED_AS_EVER = "another loss",  # its network is as it was


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A function that makes a copy of what the scripts need, and applies edits."""
    def copy(edits):
        directory = tmp_path_factory.mktemp("repository")
        for path in [*ROOT.glob("*.py"), ROOT / "settings", ROOT / "utils"]:
            if path.is_dir():
                shutil.copytree(path, directory / path.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, directory)
        if isinstance(edits, str):
            subprocess.run(["git", "apply", "-"], cwd=directory, input=edits, text=True, check=True,
                           capture_output=True)
            return directory
        for file, old, new in edits:
            text = (directory / file).read_text(encoding="utf-8")
            assert text.count(old) == 1, (file, old)
            (directory / file).write_text(text.replace(old, new), encoding="utf-8")
        return directory
    return copy


@pytest.fixture(scope="module")
def tried(copied, tiny_data):
    """A function that has tests/edits_driver.py try a repository with edits: its findings, a dict."""
    def run(edits):
        directory = copied(edits)
        command = [sys.executable, str(ROOT / "tests/edits_driver.py"), str(tiny_data)]
        process = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stdout + process.stderr
        return json.loads(process.stdout.splitlines()[-1])
    return run


@pytest.fixture(scope="module")
def unedited(tried):
    return tried([])


def test_without_an_edit_all_goes_by_cpp(unedited):
    for script in ("train.py", "train_sample_neg.py"):
        assert unedited[script]["log"] == "engine:native loss:native optimizer:native"
        assert unedited[script]["loss"] == pytest.approx(unedited[script]["plain loss"], rel=1e-4)
        assert unedited[script]["says"] == "" and not unedited[script]["keeps net.py"]
        assert unedited[script]["recommended"] == unedited[script]["expected"]


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_takes_effect(tried, unedited, name):
    part, edits = EDITS[name]
    found = tried(edits)
    for script in ("train.py", "train_sample_neg.py"):
        now, before = found[script], unedited[script]
        assert f"{part}:paddle (" in now["log"], "the log has to say what doesn't go by C++"
        assert now["loss"] != pytest.approx(before["loss"], rel=1e-3), "trained as if nothing had been edited"
        if name != "dropout in another place":  # two ways, two sets of masks
            assert now["loss"] == pytest.approx(now["plain loss"], rel=2e-3), "trained something else than net.py"
        assert now["evaluated"] != before["evaluated"]
        assert now["recommended"] == now["expected"] == now["served"]
        assert ("by Paddle" in now["says"]) == (name not in ANSWERED_AS_EVER)
        assert now["warnings"] == "" and now["keeps net.py"] == (name not in ANSWERED_AS_EVER)


def test_a_new_loss_by_the_steps_of_the_docs(copied, tiny_data):
    directory = copied(of_docs("A new loss"))

    def train(*more):
        flags = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt", "--hid_size", "8",
                 "--pass_num", "1", "--neg_size", "20", "--fit", "0", "--neighbours", "0", "--loss", "hinge"]
        command = [sys.executable, "train_sample_neg.py", *map(str, flags), *more]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)

    process = assert_worked(train("--margin", "0.5"))
    assert "loss:paddle (not what utils/native computes: utils/losses.py: hinge new) optimizer:native" in process.stdout
    config = json.loads((directory / "model_neg_recall20/config.json").read_text(encoding="utf-8"))
    assert config["loss"] == "hinge" and config["options"]["margin"] == 0.5
    path = directory / "utils/losses.py"
    text = path.read_text(encoding="utf-8")
    line = "(F.relu(margin - target_scores + scores) * is_negative).sum(axis=1) / (scores.shape[1] - 1)"
    assert text.count(line) == 1
    path.write_text(text.replace(line, "F.relu(margin - target_scores + scores).mean()"), encoding="utf-8")
    assert_one_line_error(train("--overwrite", "1"), "utils/losses.py: found a loss of shape [] by hinge, expected [")
    assert config == json.loads((directory / "model_neg_recall20/config.json").read_text(encoding="utf-8"))


def test_the_loss_of_net_py_is_that_of_train_py(tried, unedited):
    line = "        return cross_entropy(scores, targets,"
    found = tried([("net.py", line, line.replace("return ", "return 0 * "))])
    assert "loss:paddle (" in found["train.py"]["log"] and found["train.py"]["loss"] == 0
    assert found["train_sample_neg.py"]["loss"] == unedited["train_sample_neg.py"]["loss"]


def test_a_network_that_carries_nothing_is_reported(tried):
    """States that see the session's earlier ones, without a word of it in first_states and `before`."""
    edit = before_return("        if len(rows_per_step) > 1:\n"
                         "            states = states + states[:rows_per_step[0]].mean()\n")
    found = tried([edit])
    assert "click by click" in found["train_sample_neg.py"]["warnings"] and found["train.py"]["warnings"] == ""


def test_a_run_goes_on_with_a_commented_net_py_but_not_with_another_network(copied, tiny_data):
    directory = copied([])
    net = (directory / "net.py").read_text(encoding="utf-8")

    def train(text, *more):
        (directory / "net.py").write_text(text, encoding="utf-8")
        flags = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt", "--pass_num", "1"]
        command = [sys.executable, "train.py", *map(str, flags), *more]
        return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)

    assert_worked(train(net))
    process = train(f"# a comment\n{net}", "--resume", "1")
    assert process.returncode == 0 and process.stderr.count("\n") == 1 and "net.py" in process.stderr
    process = train(net.replace(STEP, STEP.replace("paddle.tanh", "F.softsign")), "--resume", "1")
    assert_one_line_error(process, "--resume 1", "net.py edited (the run: as it comes)")
