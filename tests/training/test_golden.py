"""The official GRU4Rec's own losses, recall, MRR and weights in twelve configurations, met by the scripts' code.

tests/golden/README.md says how they were made free of random draws.
"""

import gzip
import json

import numpy as np
import paddle
import pytest
from conftest import ROOT
from layer_kernels import StepByStep

import net
from net import Network
from utils.data.batches import Batching
from utils.data.sessions import Sessions
from utils.evaluation.metrics import recall_and_mrr
from utils.evaluation.ranks import Way, network_ranks
from utils.losses import Loss
from utils.model.layout import NetworkSettings
from utils.training.engines import NativeEngine
from utils.training.objectives import SharedNegatives
from utils.training.optimizers import Adagrad
from utils.training.trainer import Trainer

GOLDEN = ROOT / "tests" / "golden"
OFFICIAL = json.loads((GOLDEN / "official.json").read_text(encoding="utf-8"))
DEFAULTS = {"bpreg": 1.0, "logq": 0.0, "momentum": 0.0, "sample_alpha": 0.5, "elu_param": 0.0}
BATCH_SIZE = 32


def read_clicks(name):
    """Columns of a TSV file: session ids, item ids, times."""
    with gzip.open(GOLDEN / name, "rt", encoding="utf-8") as file:
        next(file)
        rows = [line.split() for line in file]
    return [np.array(column) for column in zip(*((int(s), i, float(t)) for s, i, t in rows))]


def as_sessions(session_ids, items, times, index):
    """Sessions in the order of their first clicks' times, without items that `index` lacks."""
    known = np.array([item in index for item in items])
    session_ids, items, times = session_ids[known], items[known], times[known]
    order = np.lexsort((times, session_ids))
    groups = np.split(order, np.flatnonzero(np.diff(session_ids[order])) + 1)
    groups = [groups[number] for number in np.argsort([times[group[0]] for group in groups])]
    flat = np.array([index[items[click]] for group in groups for click in group], np.int32)
    return Sessions(flat, np.concatenate([[0], np.cumsum([len(group) for group in groups])]))


@pytest.fixture(scope="module")
def data():
    session_ids, items, times = read_clicks("train.tsv.gz")
    index = {item: number for number, item in enumerate(dict.fromkeys(items))}  # in the order of first appearance
    return as_sessions(session_ids, items, times, index), as_sessions(*read_clicks("test.tsv.gz"), index), len(index)


def official_weights(network, item_count, settings):
    """Draw the weights as the official code does in compatibility mode, and give them to `network`."""
    draw = np.random.RandomState(42)

    def matrix(rows, columns):
        bound = np.sqrt(6 / (rows + columns))
        return (draw.rand(rows, columns) * 2 * bound - bound).astype(np.float32)

    weights = {}
    if settings.embedding == "separate":
        weights["embedding"] = matrix(item_count, settings.emb_size)
    sizes = [settings.emb_size, *settings.hid_size]
    for layer, (inputs, units) in enumerate(zip(sizes, sizes[1:])):
        if layer == 0 and settings.embedding == "none":
            candidate, reset, update = (matrix(item_count, units) for _ in range(3))
            # There the update gate takes the new state in; here it keeps the old one: 1 - sigmoid(x) = sigmoid(-x).
            weights["embedding"] = np.hstack([reset, -update, candidate])
            reset, update, candidate = (matrix(units, units) for _ in range(3))
            weights["gru.0.weight"] = np.hstack([reset, -update, candidate])
        else:
            weights[f"fc.{layer}.weight"] = np.hstack([matrix(inputs, units).T for _ in range(3)])
            weights[f"gru.{layer}.weight"] = np.hstack([matrix(units, units).T for _ in range(3)])
    weights["item_matrix"] = np.hstack([matrix(item_count, sizes[-1]), np.zeros((item_count, 1), np.float32)])
    parameters = dict(network.named_parameters())
    for name, values in weights.items():
        parameters[name].set_value(paddle.to_tensor(values))


class CountedNegatives:
    """The golden files' negatives: column j of draw k is item ((k * size + j) * 7919 + 13) % items."""

    def __init__(self, item_count, size):
        self.item_count, self.size, self.draws = item_count, size, 0

    def draw(self):
        numbers = self.draws * self.size + np.arange(self.size)
        self.draws += 1
        return (numbers * 7919 + 13) % self.item_count


def pattern(shape, share, call):
    """The golden files' mask of a dropout layer's k-th call: (r, c) is kept when (7k + 13r + 29c) % 10 >= 10 p."""
    rows, columns = np.ogrid[:shape[0], :shape[1]]
    kept = (7 * call + 13 * rows + 29 * columns) % 10 >= 10 * share
    return (kept / (1 - share)).astype(np.float32)


class PatternDropout:
    """In the place of net.dropout."""

    def __init__(self):
        self.calls = {}

    def __call__(self, values, share, training, place):
        if not (training and share):
            return values
        call = self.calls[place] = self.calls.get(place, -1) + 1
        return values * paddle.to_tensor(pattern(values.shape, share, call))


def use_pattern(engine, monkeypatch):
    """The same for a NativeEngine, which asks for a mask with the same key on the way forward and back of a step."""
    keys = {}

    def mask(shape, share, number, key):
        return pattern(shape, share, keys.setdefault(key, len(keys))) if share else np.float32(1)

    monkeypatch.setattr(engine, "native", StepByStep(engine.native, mask))


class OfficialNegatives(SharedNegatives):
    """The scripts' objective with the golden files' negatives, and one quirk of the official code."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sampler = CountedNegatives(len(self.support), self.size)

    def start_epoch(self, random):
        """The draws count on through the epochs."""

    def _logq_shift(self, scored):
        """In a batch that has shrunk, the first sampled columns count as targets: the split stays where it was."""
        shift, first_drawn = super()._logq_shift(scored), len(scored.candidates) - self.size
        shift[first_drawn:BATCH_SIZE] /= self.alpha
        return shift


def train(trainer):
    """Epoch losses as the official code reports them: means over steps of the sum over rows / nominal batch size."""
    epoch_losses = []
    for epoch in range(2):
        trainer.network.train()
        steps = trainer.batches(np.random.default_rng(epoch))  # another seed: the dropout counts on through the epochs
        epoch_losses.append(np.mean([trainer.step(step) * len(step.inputs) / BATCH_SIZE for step in steps]))
    return epoch_losses


def check(name, data, kernels, monkeypatch):
    training, test, item_count = data
    official = OFFICIAL[name]
    given = {**DEFAULTS, **official["params"]}
    embedding = "shared" if given["constrained_embedding"] else "separate" if given["embedding"] else "none"
    settings = NetworkSettings(given["layers"], given["embedding"] or given["layers"][-1], embedding,
                               reset_after=embedding != "none", emb_dropout=given["dropout_p_embed"],
                               hid_dropout=given["dropout_p_hidden"], carry_dropped=True)
    network = Network(item_count, settings)
    official_weights(network, item_count, settings)
    monkeypatch.setattr(net, "dropout", PatternDropout())
    is_bpr_max = given["loss"] == "bpr-max"
    loss = Loss({"cross-entropy": "ce"}.get(given["loss"], given["loss"]),
                **({"elu": given["elu_param"], "regularisation": given["bpreg"]} if is_bpr_max else {}))
    support = np.bincount(training.items, minlength=item_count)
    objective = OfficialNegatives(network, loss, support, given["n_sample"], given["sample_alpha"], given["logq"], True)
    optimizer = Adagrad(given["learning_rate"], given["momentum"])
    trainer = Trainer(network, training, Batching(side_by_side=True, size=BATCH_SIZE), objective, optimizer)
    if kernels:
        trainer.use(NativeEngine(network, kernels), kernels)
        objective.kernels = optimizer.kernels = kernels
        use_pattern(trainer.engine, monkeypatch)
    found_losses = train(trainer)

    np.testing.assert_allclose(found_losses, official["epoch_loss"], rtol=0, atol=1e-4)
    matrix = dict(network.named_parameters())["item_matrix"].numpy()[:, :-1]
    assert np.abs(matrix).mean() == pytest.approx(official["Wy_abs_mean"], abs=1e-4)
    np.testing.assert_allclose(matrix[0, :4], official["Wy_row0_first4"], rtol=0, atol=1e-4)
    for ties in ("standard", "conservative"):
        figures = recall_and_mrr(network_ranks(network, test, Way(64), ties), [1, 5, 20])
        for cutoff in (1, 5, 20):
            assert figures[f"recall@{cutoff}"] == pytest.approx(official["recall"][ties][str(cutoff)], abs=1e-4)
            assert figures[f"mrr@{cutoff}"] == pytest.approx(official["mrr"][ties][str(cutoff)], abs=1e-4)


def test_golden_xe_shared_inbatch(data, kernels_or_none, monkeypatch):
    check("xe_shared_inbatch", data, kernels_or_none, monkeypatch)


def test_golden_xe_shared_inbatch_mom(data, kernels_or_none, monkeypatch):
    check("xe_shared_inbatch_mom", data, kernels_or_none, monkeypatch)


def test_golden_xe_shared_inbatch_logq(data, kernels_or_none, monkeypatch):
    check("xe_shared_inbatch_logq", data, kernels_or_none, monkeypatch)


def test_golden_xe_shared_ns64(data, kernels_or_none, monkeypatch):
    check("xe_shared_ns64", data, kernels_or_none, monkeypatch)


def test_golden_xe_shared_ns64_logq_mom(data, kernels_or_none, monkeypatch):
    check("xe_shared_ns64_logq_mom", data, kernels_or_none, monkeypatch)


def test_golden_xe_shared_2layers_ns64(data, kernels_or_none, monkeypatch):
    check("xe_shared_2layers_ns64", data, kernels_or_none, monkeypatch)


def test_golden_bprmax_shared_ns64_elu1(data, kernels_or_none, monkeypatch):
    check("bprmax_shared_ns64_elu1", data, kernels_or_none, monkeypatch)


def test_golden_bprmax_shared_inbatch_linear(data, kernels_or_none, monkeypatch):
    check("bprmax_shared_inbatch_linear", data, kernels_or_none, monkeypatch)


def test_golden_xe_sep_ns64_logq(data, kernels_or_none, monkeypatch):
    check("xe_sep_ns64_logq", data, kernels_or_none, monkeypatch)


def test_golden_xe_shared_ns64_drophidden04(data, kernels_or_none, monkeypatch):
    check("xe_shared_ns64_drophidden04", data, kernels_or_none, monkeypatch)


def test_golden_xe_shared_2layers_drop(data, kernels_or_none, monkeypatch):
    check("xe_shared_2layers_drop", data, kernels_or_none, monkeypatch)


def test_golden_xe_noemb_ns64(data, kernels_or_none, monkeypatch):
    check("xe_noemb_ns64", data, kernels_or_none, monkeypatch)
