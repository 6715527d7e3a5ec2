"""utils/training/objectives.py: what is drawn and scored, and that both ways to loss and gradients are one."""

import numpy as np
import paddle
import pytest
from small_runs import (
    BATCHINGS,
    ITEMS,
    LOSSES,
    NETWORKS,
    OBJECTIVES,
    assert_same_arrays,
    draw_sessions,
    make_network,
    shared,
    tiled,
)

from net import Network, parameter
from utils.model.layout import ITEM_MATRIX
from utils.tensors import CHUNK_LOGITS, CHUNK_ROWS, chunk_rows
from utils.training import objectives
from utils.training.masks import NativeMasks, dropout_by
from utils.training.objectives import AllItems


def draw_batch(batching="sessions"):
    return next(BATCHINGS[batching].batches(draw_sessions(), np.random.default_rng(0)))


def draw_hidden(network, batch, scale=1.0):
    random = np.random.default_rng(6)
    return random.normal(0, scale, (len(batch.inputs), network.settings.hid_size[-1])).astype(np.float32)


def both_ways(objective, kernels, batch, scale=1.0):
    """What an objective returns for a batch with kernels and without, as dicts of arrays, and the latter's others."""
    network, results = objective.network, []
    for used in (kernels, None):
        objective.kernels = used
        objective.start_epoch(np.random.default_rng(9))
        scored = objective.draw(batch)
        matrix = scale * network.item_matrix.numpy()
        item_rows = matrix if scored.items is None else matrix[scored.items]
        with dropout_by(NativeMasks(kernels, scored.key, 0)):
            loss, by_hidden, by_rows, others = objective(draw_hidden(network, batch, scale), item_rows, scored)
        results.append({"loss": np.array(loss), "by hidden": np.array(by_hidden), "by rows": np.array(by_rows)})
    return *results, others


def assert_both_ways_agree(objective, kernels, batch, scale=1.0):
    found, expected, others = both_ways(objective, kernels, batch, scale)
    largest = max(np.abs(values).max() for values in expected.values())
    assert_same_arrays(found, expected, rtol=2e-4, atol=2e-6 * largest)
    assert not others
    return expected


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_ways_agree(kernels, settings, name):
    objective = OBJECTIVES[name](make_network(settings))
    for batching in BATCHINGS:
        assert_both_ways_agree(objective, kernels, draw_batch(batching))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("in_batch, size", [(True, 0), (True, 1), (True, 40), (False, 1), (False, 40)])
@pytest.mark.parametrize("logq", [0.0, 0.5])
def test_both_ways_agree_for_every_loss_over_shared_negatives(kernels, loss, in_batch, size, logq):
    objective = shared(make_network(NETWORKS["shared"]), loss, in_batch, logq, size)
    for scale in (1.0, 2.5):
        assert_both_ways_agree(objective, kernels, draw_batch(), scale)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1, 9])
@pytest.mark.parametrize("dropped", [0.0, 0.3])
def test_both_ways_agree_for_every_loss_over_tiled_negatives(kernels, loss, size, dropped):
    objective = tiled(make_network(NETWORKS["separate"]), loss, size, dropped)
    for scale in (1.0, 2.5):
        expected = assert_both_ways_agree(objective, kernels, draw_batch(), scale)
        assert (expected["by rows"][:, -1] == 0).all(), "biases don't count"


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_both_ways_agree_over_all_items(kernels, smoothing):
    objective = AllItems(make_network(NETWORKS["two layers"], smoothing))
    for scale in (1.0, 5.0):
        assert_both_ways_agree(objective, kernels, draw_batch(), scale)


@pytest.mark.parametrize("name", [*OBJECTIVES, "dropped candidates"])
def test_chunks_change_nothing(kernels_or_none, monkeypatch, name):
    network, batch, results = make_network(NETWORKS["shared"]), draw_batch(), []
    for rows in (1000, 4, 1):
        monkeypatch.setattr(objectives, "CHUNK_ROWS", rows)
        monkeypatch.setattr(objectives, "chunk_rows", lambda items, rows=rows: rows)
        monkeypatch.setattr(objectives, "AUTOGRAD_LOGITS", rows * ITEMS)
        objective = OBJECTIVES[name](network) if name in OBJECTIVES else tiled(network, candidate_dropout=0.3)
        objective.kernels = kernels_or_none
        objective.start_epoch(np.random.default_rng(9))
        scored = objective.draw(batch)
        item_rows = network.item_matrix.numpy() if scored.items is None else network.item_matrix.numpy()[scored.items]
        if name == "dropped candidates" and not kernels_or_none:
            continue  # Paddle draws other masks for other chunks
        loss, by_hidden, by_rows, _ = objective(draw_hidden(network, batch), item_rows, scored)
        results.append({"loss": np.array(loss), "by hidden": np.array(by_hidden), "by rows": np.array(by_rows)})
    for result in results[1:]:
        assert_same_arrays(result, results[0], rtol=1e-4, atol=1e-6)


def test_scores_of_a_batch_are_never_whole(kernels, monkeypatch):
    """Of the scores of all items, no more exist at once than memory is meant for, with C++ or without."""
    network, batch, seen = make_network(NETWORKS["shared"]), draw_batch(), []
    objective, positions = AllItems(network), len(draw_batch().inputs)
    monkeypatch.setattr(objectives, "AUTOGRAD_LOGITS", 4 * ITEMS + 1)
    scores = network.scores
    monkeypatch.setattr(network, "scores", lambda *arguments: seen.append(scores(*arguments)) or seen[-1])
    objective(draw_hidden(network, batch), network.item_matrix.numpy(), objective.draw(batch))
    assert all(values.shape[0] <= 4 and values.shape[1] == ITEMS for values in seen)
    assert sum(values.shape[0] for values in seen) == positions
    assert objectives.AUTOGRAD_LOGITS <= CHUNK_LOGITS

    chunks = []
    record = lambda *arguments: chunks.append(arguments[5]) or [np.zeros(1)] * 3
    monkeypatch.setattr(kernels, "softmax_cross_entropy", record)
    objective.kernels = kernels
    many_items = np.broadcast_to(np.float32(0), (CHUNK_LOGITS // 2 + 1, 8))
    for matrix in (network.item_matrix.numpy(), many_items):
        objective.fast(draw_hidden(network, batch), matrix, objective.draw(batch))
    assert chunks == [chunk_rows(ITEMS), 1] and chunks[0] <= CHUNK_ROWS


# What is drawn

@pytest.mark.parametrize("settings", [NETWORKS["shared"], NETWORKS["separate"]], ids=["shared", "separate"])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "all items"])
def test_places_lead_back_to_the_items(kernels_or_none, settings, name):
    batch, objective = draw_batch(), OBJECTIVES[name](make_network(settings))
    objective.kernels = kernels_or_none
    objective.start_epoch(np.random.default_rng(9))
    items, candidates, candidate_count, input_items, inputs, *_ = objective.draw(batch)
    assert len(set(items)) == len(items) and candidate_count == len(set(items[candidates].ravel()))
    assert set(items[:candidate_count]) == set(items[candidates].ravel()), "candidates come first"
    targets = candidates[:, 0] if name.startswith("tiled") else candidates[:len(batch.targets)]
    assert (items[targets] == batch.targets).all()
    assert candidates.shape == ((len(batch.targets), 5) if name.startswith("tiled") else (len(batch.targets) + 12,))
    if settings.embedding == "shared":
        assert input_items is None and (items[inputs] == batch.inputs).all() and set(items) >= set(batch.inputs)
    else:
        assert len(set(input_items)) == len(input_items) and (input_items[inputs] == batch.inputs).all()
        assert candidate_count == len(items)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_ways_draw_the_same_and_by_the_generator_alone(kernels, name):
    def draws(kernels, seed):
        objective = OBJECTIVES[name](make_network(NETWORKS["separate"]))
        objective.kernels = kernels
        objective.start_epoch(np.random.default_rng(seed))
        batches = BATCHINGS["sessions"].batches(draw_sessions(), np.random.default_rng(0))
        scored = [objective.draw(batch) for batch in batches]
        return [np.array(part).tolist() for one in scored for part in one if part is not None]

    assert draws(kernels, 1) == draws(None, 1)
    assert (draws(None, 1) != draws(None, 2)) == (name != "all items")


def test_a_target_alone_is_compared_with_nothing():
    network = make_network(NETWORKS["shared"])
    objective, batch = shared(network, size=0), draw_batch("parallel")
    objective.start_epoch(np.random.default_rng(0))
    assert objective.fewest_slots == 2 and shared(network).fewest_slots == 1
    assert objective.draw(batch) is not None
    assert objective.draw(batch._replace(inputs=batch.inputs[:1], targets=batch.targets[:1])) is None


# Edited networks

class Tempered(Network):
    """Scores and loss use weights of their own, and one of the GRU's."""

    def __init__(self, *arguments, **kw):
        super().__init__(*arguments, **kw)
        self.temperature = parameter(self, np.array([1.5]))
        self.penalty = parameter(self, np.array([0.7]))
        self.unused = parameter(self, np.array([1.0]))

    def scores(self, states, item_rows):
        return super().scores(states, item_rows) * self.temperature + self.gru[0].bias.sum()

    def loss(self, scores, targets):
        return super().loss(scores, targets) + self.penalty * (scores * scores).mean(axis=1)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("rows", [1000, 3])
def test_further_weights_of_scores_and_loss_get_gradients(monkeypatch, name, rows):
    """Against the slope of the loss by each of them."""
    monkeypatch.setattr(objectives, "AUTOGRAD_LOGITS", rows * ITEMS)
    network, batch = make_network(NETWORKS["shared"], network_class=Tempered), draw_batch()
    objective, hidden = OBJECTIVES[name](network), draw_hidden(network, batch)
    objective.start_epoch(np.random.default_rng(9))
    scored = objective.draw(batch)
    item_rows = network.item_matrix.numpy() if scored.items is None else network.item_matrix.numpy()[scored.items]
    *_, others = objective(hidden, item_rows, scored)
    assert others.keys() == {"temperature", "gru.0.bias"} | ({"penalty"} if name == "all items" else set())
    parameters = dict(network.named_parameters())
    for part, gradient in others.items():
        start, ends = parameters[part].numpy(), []
        for sign in (1, -1):
            parameters[part].set_value(paddle.to_tensor(start + np.float32(sign * 1e-3)))
            ends.append(objective(hidden, item_rows, scored)[0])
        parameters[part].set_value(paddle.to_tensor(start))
        assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float(gradient.sum()), rel=0.01, abs=2e-3), part


def test_a_loss_that_uses_no_score_has_no_gradient():
    class Constant(Network):
        def loss(self, scores, targets):
            return paddle.ones([scores.shape[0]])

    network, batch = make_network(NETWORKS["shared"], network_class=Constant), draw_batch()
    loss, by_hidden, by_rows, others = AllItems(network)(draw_hidden(network, batch), network.item_matrix.numpy(),
                                                         AllItems(network).draw(batch))
    assert loss == 1 and not by_hidden.any() and not by_rows.any() and not others
    assert by_rows.shape == dict(network.named_parameters())[ITEM_MATRIX].shape
