"""The official GRU4Rec's own figures: losses, recall, MRR and weights of twelve configurations, met by the scripts' code.

tests/golden/README.md says how they were made free of random draws.
"""

import gzip
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import paddle
import pytest

import net
from net import Network, NetworkSettings
from utils import native
from utils.evaluation import network_ranks
from utils.metrics import recall_and_mrr
from utils.optimizers import Adagrad
from utils.sampled_training import SampledTrainer
from utils.sessions import Sessions

pytestmark = pytest.mark.usefixtures("native_or_paddle")
GOLDEN = Path(__file__).parent / "golden"
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
    """The golden files' mask of a dropout layer's k-th call: element (r, c) is kept when (7k + 13r + 29c) % 10 >= 10 p."""
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


def use_pattern(step, monkeypatch):
    """The same for a NativeStep, which asks for a mask with the same key in the forward and the backward pass of a step."""
    keys, gru_forward = {}, native.gru_forward

    def drop(values, share, place):
        if share:
            values *= pattern(values.shape, share, keys.setdefault(step.key, len(keys)))

    def forward_and_drop(gate_inputs, weight, bias, before, rows_per_step, reset_after, share=0.0, key=0):
        states, saved = gru_forward(gate_inputs, weight, bias, before, rows_per_step, reset_after)
        drop(states, share, key - step.key)
        return states, saved

    monkeypatch.setattr(step, "_drop", drop)
    monkeypatch.setattr(native, "gru_forward", forward_and_drop)


class OfficialTrainer(SampledTrainer):
    """The script's trainer with the golden files' negatives, and one quirk of the official code."""

    def batches(self, random):
        steps = super().batches(random)
        self.negatives = self.sampler = getattr(self, "negatives", None) or CountedNegatives(len(self.support), self.options.neg_size)
        if self.native_step:  # its dropout counts on through the epochs
            self.native_step.key = self.key = getattr(self, "key", 0) + 10**6
        return steps

    def _logq_shift(self, candidates, targets):
        """In a batch that has shrunk, the first sampled columns count as targets: the split stays at the nominal batch size."""
        return super()._logq_shift(candidates, min(BATCH_SIZE, len(candidates)))


def train(trainer):
    """Epoch losses as the official code reports them: means over steps of the sum over rows / nominal batch size."""
    epoch_losses = []
    for _ in range(2):
        trainer.network.train()
        costs = [trainer.step(step) * len(step.inputs) / BATCH_SIZE for step in trainer.batches(np.random.default_rng(0))]
        epoch_losses.append(np.mean(costs))
    return epoch_losses


def check(name, data, monkeypatch):
    training, test, item_count = data
    official = OFFICIAL[name]
    given = {**DEFAULTS, **official["params"]}
    embedding = "shared" if given["constrained_embedding"] else "separate" if given["embedding"] else "none"
    settings = NetworkSettings(given["layers"], given["embedding"] or given["layers"][-1], embedding, reset_after=embedding != "none",
                               emb_dropout=given["dropout_p_embed"], hid_dropout=given["dropout_p_hidden"], carry_dropped=True)
    network = Network(item_count, settings)
    official_weights(network, item_count, settings)
    monkeypatch.setattr(net, "dropout", PatternDropout())
    options = Namespace(batching="parallel", batch_size=BATCH_SIZE, negatives="shared", neg_size=given["n_sample"], in_batch=1, shuffle=0, group_batches=1,
                        loss={"cross-entropy": "ce"}.get(given["loss"], given["loss"]), sample_alpha=given["sample_alpha"],
                        logq=given["logq"], elu_param=given["elu_param"], bpreg=given["bpreg"], label_smoothing=0.0, grad_cap=0.0)
    optimizer = Adagrad(given["learning_rate"], given["momentum"])
    trainer = OfficialTrainer(network, training, optimizer, options)
    assert (trainer.native_step is not None) == (native.is_loaded() and options.loss == "ce")
    if trainer.native_step:
        use_pattern(trainer.native_step, monkeypatch)
    found_losses = train(trainer)

    np.testing.assert_allclose(found_losses, official["epoch_loss"], rtol=0, atol=1e-4)
    matrix = dict(network.named_parameters())["item_matrix"].numpy()[:, :-1]
    assert np.abs(matrix).mean() == pytest.approx(official["Wy_abs_mean"], abs=1e-4)
    np.testing.assert_allclose(matrix[0, :4], official["Wy_row0_first4"], rtol=0, atol=1e-4)
    for ties in ("standard", "conservative"):
        figures = recall_and_mrr(network_ranks(network, test, 64, ties), [1, 5, 20])
        for cutoff in (1, 5, 20):
            assert figures[f"recall@{cutoff}"] == pytest.approx(official["recall"][ties][str(cutoff)], abs=1e-4)
            assert figures[f"mrr@{cutoff}"] == pytest.approx(official["mrr"][ties][str(cutoff)], abs=1e-4)


def test_golden_xe_shared_inbatch(data, monkeypatch):
    check("xe_shared_inbatch", data, monkeypatch)


def test_golden_xe_shared_inbatch_mom(data, monkeypatch):
    check("xe_shared_inbatch_mom", data, monkeypatch)


def test_golden_xe_shared_inbatch_logq(data, monkeypatch):
    check("xe_shared_inbatch_logq", data, monkeypatch)


def test_golden_xe_shared_ns64(data, monkeypatch):
    check("xe_shared_ns64", data, monkeypatch)


def test_golden_xe_shared_ns64_logq_mom(data, monkeypatch):
    check("xe_shared_ns64_logq_mom", data, monkeypatch)


def test_golden_xe_shared_2layers_ns64(data, monkeypatch):
    check("xe_shared_2layers_ns64", data, monkeypatch)


def test_golden_bprmax_shared_ns64_elu1(data, monkeypatch):
    check("bprmax_shared_ns64_elu1", data, monkeypatch)


def test_golden_bprmax_shared_inbatch_linear(data, monkeypatch):
    check("bprmax_shared_inbatch_linear", data, monkeypatch)


def test_golden_xe_sep_ns64_logq(data, monkeypatch):
    check("xe_sep_ns64_logq", data, monkeypatch)


def test_golden_xe_shared_ns64_drophidden04(data, monkeypatch):
    check("xe_shared_ns64_drophidden04", data, monkeypatch)


def test_golden_xe_shared_2layers_drop(data, monkeypatch):
    check("xe_shared_2layers_drop", data, monkeypatch)


def test_golden_xe_noemb_ns64(data, monkeypatch):
    check("xe_noemb_ns64", data, monkeypatch)
