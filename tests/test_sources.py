"""utils/sources.py: an edit is found however small it is, and what changes nothing counts as none."""

import inspect

import numpy as np
import pytest
from conftest import assert_one_line_error, assert_worked

from net import Network
from utils import sources
from utils.data.batches import Batching
from utils.data.sessions import Sessions
from utils.evaluation import ranks
from utils.files import InputError
from utils.losses import FUNCTIONS, Loss
from utils.model.checked_json import write_json
from utils.model.checkpoint import read_config
from utils.model.layout import NetworkSettings
from utils.native.kernels import LOSSES, PARAMETERS
from utils.runlog import read_records
from utils.sources import NET, NETWORK, OPTIMIZERS, SCORES, Source
from utils.training import sampled_flags
from utils.training.engines import NativeEngine, PaddleEngine
from utils.training.objectives import AllItems, SharedNegatives
from utils.training.optimizers import Adagrad
from utils.training.proof import prove
from utils.training.trainer import Trainer

BPR = sources.sampled_loss(FUNCTIONS["bpr"])
ADAGRAD = sources.optimizer(Adagrad)
ALL = {"engine": [NETWORK], "scores": [SCORES], "train.py's loss": sources.FULL_LOSS, "bpr": BPR, "adagrad": ADAGRAD}
PENALTY = ("utils/losses.py", "* is_negative).sum(axis=1) / (scores.shape[1] - 1)\n\n\ndef top1(",
           "* is_negative).sum(axis=1) / (scores.shape[1] - 1) + 1e-4 * (scores * scores).mean(axis=1)\n\n\ndef top1(")


@pytest.fixture(scope="module")
def before():
    """The checksums without an edit."""
    return {name: sources.checksum(definitions) for name, definitions in ALL.items()}


@pytest.fixture
def edited(monkeypatch, tmp_path):
    """A function that has an edit, (file, old text, new text), stand in the files that are compared; nothing runs it.

    Without old text the new one comes after the file's end.
    """
    def edit(file, old, new):
        for name in sources.FILES:
            text = (sources.ROOT / name).read_text(encoding="utf-8")
            if name == file:
                assert not old or text.count(old) == 1, old
                text = text.replace(old, new) if old else text + new
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text, encoding="utf-8")
        sources.source_of.cache_clear()
        monkeypatch.setattr(sources, "ROOT", tmp_path)
    yield edit
    monkeypatch.undo()
    sources.source_of.cache_clear()


def test_what_is_recorded_stands_here():
    record = sources.RECORD.read_text(encoding="utf-8")
    assert record == sources.record(), "a maintainer who changed both forms runs python utils/sources.py"
    assert all(sources.edits(definitions) == [] for definitions in ALL.values())


def test_losses_have_the_same_names_and_parameters_everywhere():
    assert list(FUNCTIONS) == list(sampled_flags.LOSSES) and set(LOSSES) <= set(FUNCTIONS)
    for name, function in FUNCTIONS.items():
        assert list(sampled_flags.LOSSES[name]) == list(inspect.signature(function).parameters)[2:], name
    assert set(PARAMETERS) == {parameter for name in LOSSES for parameter in sampled_flags.LOSSES[name]}


@pytest.mark.parametrize("edit, parts, said", [
    (PENALTY, ["bpr"], "utils/losses.py: bpr edited"),
    ((NET, "        clicked = states\n", "        clicked = states\n        states[13:] = 0\n"), ["engine"],
     "net.py: Network.hidden_states edited"),
    ((NET, "h · w + b.\n", "h · w + b.\n        \"\"\"\n        return later(states)\n        \"\"\"\n"),
     ["scores", "train.py's loss", "bpr"], "net.py: Network.scores edited"),
    ((NET, "items - 1) / items)\n", "items - 1) / items) + 0\n"), ["train.py's loss"], "net.py: Network.loss edited"),
    ((NET, "    return paddle.stanh(values, 0.5, 0.5) + 0.5\n", "    return F.sigmoid(values)\n"), ["engine"],
     "net.py: sigmoid edited"),
    ((NET, "class DynamicGRU(nn.Layer):", "class DynamicGRU(Ours):"), ["engine"], "net.py: class DynamicGRU edited"),
    ((NET, "import cross_entropy\n", "import bpr as cross_entropy\n"), ["train.py's loss"],
     "net.py: cross_entropy edited"),
    ((NET, "", "\n\nNetwork.scores = bilinear\n"), ["engine", "scores", "train.py's loss", "bpr"],
     f"net.py: {sources.BESIDE} edited"),
    ((NET, "", "\n\nclass Network(Network):\n    pass\n"), ["engine", "scores", "train.py's loss", "bpr"],
     "net.py: class Network edited"),
    ((NET, "", "\n\ndef layers(settings):\n    return []\n"), ["engine"], "net.py: layers edited"),
    (("utils/losses.py", "SMALLEST = 1e-24", "SMALLEST = 1e-23"), [], ""),
    (("utils/losses.py", "    return paddle.gather_nd(matrix,", "    return 2 * paddle.gather_nd(matrix,"),
     ["train.py's loss", "bpr"], "utils/losses.py: _picked edited"),
    (("utils/losses.py", "(scores, targets, **self.parameters)", "(scores / 2, targets, **self.parameters)"), ["bpr"],
     "utils/losses.py: Loss.__call__ edited"),
    ((OPTIMIZERS, "        squares = squares + gradient * gradient\n",
      "        squares = squares + gradient * gradient * 1.0001\n"), ["adagrad"],
     "utils/training/optimizers.py: Adagrad.formula edited"),
    ((OPTIMIZERS, "        return self.rate * learning_rate_multiplier(weight)", "        return self.rate"),
     ["adagrad"], "utils/training/optimizers.py: RowOptimizer._rate_of edited"),
    ((OPTIMIZERS, "", "\n\ndef zip(*rows):\n    return rows\n"), ["adagrad"],
     "utils/training/optimizers.py: zip new"),
], ids=lambda value: value[-1].strip()[:30] if isinstance(value, tuple) else "")
def test_an_edit_is_found_where_it_counts(before, edited, edit, parts, said):
    edited(*edit)
    found = {name: sources.edits(definitions) for name, definitions in ALL.items()}
    assert [name for name, edits in found.items() if edits] == parts
    assert all(found[name] == [said] for name in parts)
    assert [name for name, definitions in ALL.items() if sources.checksum(definitions) != before[name]] == parts


@pytest.mark.parametrize("edit", [
    ("utils/losses.py", "def bpr(scores, targets):\n", "# A comment.\ndef bpr(\n        scores,  # of one step\n"
                                                       "        targets):\n"),
    ("utils/losses.py", '"""Bayesian personalised ranking: ', '"""BPR: '),
    ("utils/losses.py", "", "\n\ndef hinge(scores, targets, margin=1.0):\n    target_scores = scores[:, :1]\n"
                            "    return F.relu(margin - target_scores + scores).mean(axis=1)\n"),
    ("utils/losses.py", '"top1": top1,', '"top1": top1, "hinge": hinge,'),
    ("net.py", "np.sqrt(6 / (count", "np.sqrt(5 / (count"),
    ("net.py", "import numpy as np\n", "import math\nimport numpy as np\n"),
], ids=lambda edit: edit[-1].strip()[:30])
def test_what_changes_nothing_counts_as_no_edit(before, edited, edit):
    edited(*edit)
    for name, definitions in ALL.items():
        assert sources.edits(definitions) == [] and sources.checksum(definitions) == before[name], name


def test_a_syntax_tree_is_the_same_in_all_versions_of_python():
    """`type_params` came with 3.12, and so may others: none of them counts while it is empty."""
    assert sources._plain(Source("def f(a, b=1):\n    'd'\n    return None\n").trees["f"]) == [[
        "FunctionDef", ["name", "f"],
        ["args", ["arguments", ["args", [["arg", ["arg", "a"]], ["arg", ["arg", "b"]]]],
                  ["defaults", [["Constant", ["value", 1]]]]]],
        ["body", [["Return", ["value", ["Constant"]]]]]]]


def make_trainer(objective):
    items = np.random.default_rng(5).integers(0, 40, 300).astype(np.int32)
    network = Network(40, NetworkSettings([9], 9), seed=3)
    return Trainer(network, Sessions(items, np.arange(0, 301, 20)), Batching(True, 8), objective(network), Adagrad(0.1))


def bpr(network):
    return SharedNegatives(network, Loss("bpr"), np.arange(40), 20, 0.5, 0.0, True)


def test_an_edit_too_small_for_the_comparison_trains_as_it_stands(kernels, edited):
    edited(*PENALTY)
    trainer = make_trainer(bpr)
    _, line = prove(trainer, kernels)
    assert line == ("engine:native loss:paddle (not what utils/native computes: utils/losses.py: bpr edited) "
                    "optimizer:native")
    assert trainer.objective.kernels is None and isinstance(trainer.engine, NativeEngine)
    assert prove(make_trainer(AllItems), kernels)[1] == "engine:native loss:native optimizer:native"


def test_an_edit_of_later_clicks_alone_trains_and_is_answered_by_net(kernels, edited):
    edited(NET, "        clicked = states\n", "        clicked = states\n        states[13:] = 0\n")
    trainer = make_trainer(bpr)
    found, line = prove(trainer, kernels)
    assert line.startswith("engine:paddle (not what utils/native computes: net.py: Network.hidden_states edited) ")
    assert type(trainer.engine) is PaddleEngine and not found.agrees("scorer") and found.agrees("loss")


def test_edited_scores_are_ranked_as_they_stand(edited):
    network = make_trainer(AllItems).network
    assert ranks._scoring(network)[1] is not None
    edited(NET, "transpose_y=True) + biases", "transpose_y=True) + 1.0001 * biases")
    assert ranks._scoring(network)[1] is None


def test_without_cpp_an_edited_loss_is_not_taken_for_the_softmax(edited):
    edited("utils/losses.py", "    count = scores.shape[1]\n", "    count = scores.shape[1] + 1\n")
    trainer = make_trainer(AllItems)
    line = prove(trainer, None)[1]
    assert "loss:paddle (not what utils/training/softmax.py computes: utils/losses.py: cross_entropy edited)" in line
    assert trainer.objective.paddle_softmax is None


@pytest.mark.parametrize("name, function", [("hinge", FUNCTIONS["bpr"]), ("bpr", lambda scores, targets: scores[:, 0])])
def test_a_loss_that_cpp_does_not_know_is_left_to_paddle(kernels, monkeypatch, name, function):
    monkeypatch.setitem(FUNCTIONS, name, function)
    objective = lambda network: SharedNegatives(network, Loss(name), np.arange(40), 20, 0.5, 0.0, True)
    trainer = make_trainer(objective)
    assert "loss:paddle (not what utils/native computes: " in prove(trainer, kernels)[1]
    batch = next(trainer.batches(np.random.default_rng(1)))
    assert trainer.objective.kernels is None and np.isfinite(trainer.step(batch))


@pytest.mark.parametrize("wrong", [lambda scores, targets: scores.mean(), lambda scores, targets: scores[:, :1],
                                   lambda scores, targets: 0.5])
@pytest.mark.parametrize("native", [True, False])
def test_a_loss_that_is_not_one_number_for_each_prediction_is_refused(kernels, monkeypatch, wrong, native):
    monkeypatch.setitem(FUNCTIONS, "bpr", wrong)
    with pytest.raises(InputError, match=r": found a loss of shape \[.*\] by .*, expected \[\d+\]: one number"):
        prove(make_trainer(bpr), kernels if native else None)
    monkeypatch.setattr(Network, "loss", lambda self, scores, targets: wrong(scores, targets))
    with pytest.raises(InputError, match=r"net.py: found a loss of shape .* by Network.loss, expected \[\d+\]"):
        prove(make_trainer(AllItems), kernels if native else None)


def test_a_run_is_resumed_with_the_same_definitions_alone(edited, tiny_data, tmp_path, run_here):
    flags = ["--train_dir", tiny_data / "train_data", "--vocab_path", tiny_data / "vocab.txt", "--hid_size", 8,
             "--model_dir", tmp_path / "model", "--pass_num", 1, "--threads", 1, "--fit", 0, "--neighbours", 0,
             "--loss", "bpr", "--resume", 1]
    assert_worked(run_here("train_sample_neg.py", *flags))
    config = read_config(tmp_path / "model")
    assert config["computed_by"] == {"engine": "native", "loss": "native", "optimizer": "native"}
    edited(*PENALTY)
    assert_one_line_error(run_here("train_sample_neg.py", *flags), "--resume 1", "the loss's source")
    write_json(tmp_path / "model/config.json", {name: value for name, value in config.items()
                                                if name not in ("definitions", "computed_by")})
    assert_worked(run_here("train_sample_neg.py", *flags))  # a run from before them
    record = read_records(tmp_path / "model")[-1]
    assert record["event"] == "resume" and record["computed_by"]["loss"] == "paddle"
