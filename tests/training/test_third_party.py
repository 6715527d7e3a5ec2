"""Errors that the 2023 study found in other versions of GRU4Rec and that no other test rules out (docs/faithful.md)."""

import math

import numpy as np
import paddle
import pytest
from small_runs import BATCHINGS, ITEMS, NETWORKS, draw_sessions, make_network, shared

import net
from net import Network
from utils import losses
from utils.model.layout import NetworkSettings
from utils.training import full_flags, sampled_flags

BOTH = {"emb_dropout": 0.2, "hid_dropout": 0.6}


def draw_batch():
    return next(BATCHINGS["parallel"].batches(draw_sessions(), np.random.default_rng(0)))


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_no_gate_and_no_item_begins_with_a_bias(settings):
    network = Network(ITEMS, settings)
    biases = {name: weight for name, weight in network.named_parameters() if name.endswith(".bias")}
    assert len(biases) == len(network.gru) + len(network.fc)
    assert all((bias.numpy() == 0).all() for bias in [*biases.values(), network.item_matrix[:, -1]])


@pytest.mark.parametrize("form, places", [
    (dict(hid_size=[40], emb_size=40), {"embedding": 0.2, "layer 0": 0.6}),
    (dict(hid_size=[40, 50], emb_size=30, embedding="separate"),
     {"embedding": 0.2, "layer 0": 0.6, "layer 1": 0.6}),
], ids=["shared", "separate, two layers"])
def test_each_dropout_drops_its_own_share_in_its_own_place(monkeypatch, form, places):
    dropout, dropped = net.dropout, {}

    def watched(values, share, training, place):
        kept = dropout(values, share, training, place)
        dropped[place] = float((kept == 0).astype("float32").mean())
        np.testing.assert_allclose(kept.numpy()[kept.numpy() != 0],
                                   values.numpy()[kept.numpy() != 0] / (1 - share), rtol=1e-5)
        return kept

    monkeypatch.setattr(net, "dropout", watched)
    network = Network(ITEMS, NetworkSettings(**form, **BOTH))
    network.hidden_states(paddle.to_tensor(np.arange(200) % ITEMS), [200])
    assert dropped == {place: pytest.approx(share, abs=0.03) for place, share in places.items()}


@pytest.mark.parametrize("regularisation", [0.0, 1.5])
def test_bpr_max_of_a_target_far_below_its_negatives_is_a_number(regularisation):
    scores = paddle.to_tensor([[-200.0, 1.0, 1.0]], stop_gradient=False)
    loss = losses.bpr_max(scores, paddle.to_tensor([0]), regularisation=regularisation)
    assert loss.item() == pytest.approx(-math.log(1e-24) + regularisation, rel=1e-6)
    assert np.isfinite(paddle.grad(loss, scores)[0].numpy()).all()


def test_only_the_sampled_items_are_scored(monkeypatch):
    network, seen = make_network(NETWORKS["shared"]), []
    scores = network.scores
    monkeypatch.setattr(network, "scores", lambda states, rows: seen.append(rows.shape) or scores(states, rows))
    objective, batch = shared(network, size=3), draw_batch()
    objective.start_epoch(np.random.default_rng(0))
    scored = objective.draw(batch)
    assert len(scored.candidates) == len(batch.targets) + 3 and scored.candidate_count < ITEMS
    hidden = paddle.ones([len(batch.targets), 7])
    objective(hidden, paddle.to_tensor(network.item_matrix.numpy()[scored.items]), scored)
    assert seen and all(rows == [len(batch.targets) + 3, 8] for rows in seen)


@pytest.mark.parametrize("size", [3, 5 * ITEMS])
def test_as_many_negatives_are_drawn_as_were_asked_for(size):
    objective, batch = shared(make_network(NETWORKS["shared"]), size=size), draw_batch()
    objective.start_epoch(np.random.default_rng(0))
    assert len(objective.draw(batch).candidates) == len(batch.targets) + size


@pytest.mark.parametrize("flags", [full_flags, sampled_flags])
def test_nothing_is_clipped_or_decays_unasked(flags):
    options = flags.parse_arguments([])
    assert options.grad_cap == 0 and options.weight_decay == 0
