"""utils/evaluation/ranks.py: the ranks of a slow plain evaluation, by the scores that net.py gives, edited or not."""

import numpy as np
import paddle
import pytest

from net import Network
from utils import tensors
from utils.data.sessions import Sessions
from utils.evaluation import ranks
from utils.evaluation.metrics import TIES
from utils.evaluation.ranks import Way, network_ranks, network_ranks_and_best, network_ranks_and_losses
from utils.files import InputError
from utils.model.layout import NetworkSettings
from utils.native.kernels import Kernels
from utils.processes import Processes

ITEMS = 150
SETTINGS = [NetworkSettings([12], 12, hid_dropout=0.5, emb_dropout=0.3),
            NetworkSettings([12], 7, embedding="separate", hid_dropout=0.5),
            NetworkSettings([8, 12], 12, reset_after=False, hid_dropout=0.5),
            NetworkSettings([12], 12, hid_dropout=0.5, score_scale=8.0)]
SETTINGS_NAMES = "shared", "two matrices", "two layers, reset before", "scaled"


def as_sessions(lists):
    return Sessions(np.array([item for items in lists for item in items], np.int32),
                    np.cumsum([0, *map(len, lists)], dtype=np.int64))


def random_network(settings, items=ITEMS, scale=3.0):
    """A network whose states and biases are far from those of a fresh one."""
    network, random = Network(items, settings, seed=3), np.random.default_rng(4)
    for weight in network.parameters():
        values = weight.numpy() * scale + random.normal(0, 0.1, weight.shape)
        weight.set_value(paddle.to_tensor(values.astype(np.float32)))
    return network


@pytest.fixture(scope="module")
def sessions():
    random = np.random.default_rng(5)
    return as_sessions([random.integers(ITEMS, size=length).tolist()
                        for length in [1, 2, 30, 1, *random.geometric(0.25, 60)]])


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def plain_scores(network, clicks):
    """Scores after each click of one session, float64 [clicks, items]: the formulas of net.py, click by click."""
    weights = {name: weight.numpy().astype(np.float64) for name, weight in network.named_parameters()}
    vectors, scored_length = weights["item_matrix"][:, :-1], 1
    if network.settings.score_scale:
        scored_length = network.settings.score_scale / np.sqrt(network.settings.hid_size[-1])
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    embedding = weights.get("embedding", vectors)
    states = embedding[clicks]
    for layer, units in enumerate(network.settings.hid_size):
        recurrent, bias = weights[f"gru.{layer}.weight"], weights[f"gru.{layer}.bias"]
        state, rows = np.zeros(units), []
        for inputs in states @ weights[f"fc.{layer}.weight"] + weights[f"fc.{layer}.bias"]:
            parts = slice(0, units), slice(units, 2 * units), slice(2 * units, 3 * units)
            reset, update = (sigmoid(inputs[part] + state @ recurrent[:, part] + bias[part]) for part in parts[:2])
            part = parts[2]
            if network.settings.reset_after:
                candidate = np.tanh(inputs[part] + reset * (state @ recurrent[:, part] + bias[part]))
            else:
                candidate = np.tanh(inputs[part] + (reset * state) @ recurrent[:, part] + bias[part])
            state = update * state + (1 - update) * candidate
            rows.append(state)
        states = np.array(rows)
    return scored_length * states @ vectors.T + weights["item_matrix"][:, -1]


@pytest.mark.parametrize("settings", SETTINGS, ids=SETTINGS_NAMES)
def test_ranks_equal_a_slow_plain_evaluation_session_by_session(settings, sessions, kernels_or_none):
    network, expected, is_clear = random_network(settings), [], []
    for start, end in zip(sessions.offsets, sessions.offsets[1:]):
        clicks = sessions.items[start:end]
        for scores, target in zip(plain_scores(network, clicks), clicks[1:]):
            expected.append(1 + (scores > scores[target]).sum())
            is_clear.append(np.sort(abs(scores - scores[target]))[1] > 1e-4)  # float32 can't turn these around
    found = network_ranks(network, sessions, Way(16, kernels=kernels_or_none))
    assert len(found) == len(expected) == sessions.predictions
    assert np.mean(is_clear) > 0.9 and len(set(expected)) > 50
    assert found[is_clear].tolist() == np.array(expected)[is_clear].tolist()


def test_hand_worked_ranks_of_a_network_that_only_has_biases(kernels_or_none):
    network = Network(4, NetworkSettings([2], 2))
    for weight in network.parameters():
        weight.set_value(paddle.zeros(weight.shape))
    network.item_matrix.set_value(paddle.to_tensor(np.array([[0, 0, 1], [0, 0, 3], [0, 0, 1], [0, 0, 2]], np.float32)))
    sessions = as_sessions([[3, 0], [1], [2, 1, 3, 2]])
    for ties, expected in {"standard": [3, 1, 2, 3], "conservative": [4, 1, 2, 4], "median": [3.5, 1, 2, 3.5]}.items():
        assert network_ranks(network, sessions, Way(2, kernels=kernels_or_none), ties).tolist() == expected


@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("settings", SETTINGS, ids=SETTINGS_NAMES)
def test_ranks_are_the_same_to_the_bit_for_every_batch_size(settings, sessions, ties, kernels_or_none, monkeypatch):
    network = random_network(settings)
    monkeypatch.setattr(tensors, "CHUNK_ROWS", 16)  # several chunks of scores a batch, the last one smaller
    expected = network_ranks(network, sessions, Way(512, kernels=kernels_or_none), ties)
    for batch_size in 1, 2, 7:
        found = network_ranks(network, sessions, Way(batch_size, kernels=kernels_or_none), ties)
        assert np.array_equal(found, expected), batch_size


def test_ranks_are_the_same_to_the_bit_at_the_size_of_a_real_model(kernels_or_none):
    random = np.random.default_rng(6)
    sessions = as_sessions([random.integers(3000, size=length).tolist() for length in 1 + random.geometric(0.3, 40)])
    network = random_network(NetworkSettings([100], 100), items=3000, scale=1.0)
    expected = network_ranks(network, sessions, Way(512, kernels=kernels_or_none), "median")
    for batch_size in 1, 2, 7:
        found = network_ranks(network, sessions, Way(batch_size, kernels=kernels_or_none), "median")
        assert np.array_equal(found, expected), batch_size


def test_kernels_that_count_wrong_are_not_used(sessions, kernels, monkeypatch):
    network = random_network(SETTINGS[0])
    assert ranks.counts_right(kernels)
    expected, right = network_ranks(network, sessions, Way(16)), Kernels.count_above
    monkeypatch.setattr(Kernels, "count_above", lambda *arguments: [counts + 1 for counts in right(*arguments)])
    assert network_ranks(network, sessions, Way(16, kernels=kernels)).tolist() == expected.tolist()


@pytest.mark.parametrize("ties", TIES)
def test_counting_where_the_scores_lie_gives_the_same_ranks(sessions, ties, monkeypatch):
    network = random_network(SETTINGS[0])
    values = network.item_matrix.numpy()
    values[:100] = values[0]  # so that there are ties
    network.item_matrix.set_value(paddle.to_tensor(values))
    expected = network_ranks(network, sessions, Way(16), ties)
    monkeypatch.setattr(ranks, "is_on_host", lambda tensor: False)  # the way that a GPU's scores go
    monkeypatch.setattr(ranks, "host_array", None)
    assert np.array_equal(network_ranks(network, sessions, Way(16), ties), expected)


@pytest.mark.parametrize("edited", ["Network", "ByDistance"])
@pytest.mark.parametrize("k", [1, 20, ITEMS + 5])
def test_best_items_are_those_of_the_scores_that_the_ranks_come_from(sessions, kernels_or_none, edited, k):
    _, network = random_and_edited(globals()[edited])
    values = network.item_matrix.numpy()
    values[100:] = values[:50]  # so that there are ties, in which the lower index comes first
    network.item_matrix.set_value(paddle.to_tensor(values))
    found, best = network_ranks_and_best(network, sessions, k, Way(16, kernels=kernels_or_none))
    assert np.array_equal(found, network_ranks(network, sessions, Way(16, kernels=kernels_or_none)))
    assert best.dtype == np.int32 and best.shape == (sessions.predictions, min(k, ITEMS))
    scores, targets = scores_and_targets(network, sessions)
    expected = np.argsort(-scores.astype(np.float32), axis=1, kind="stable")[:, :k]
    assert np.mean(best == expected) > 0.97  # the others' scores differ by rounding
    is_listed = (best == targets[:, None]).any(axis=1)
    assert is_listed[found <= k - 1].all() and not is_listed[found > k].any()
    assert (np.sort(best, axis=1)[:, 1:] != np.sort(best, axis=1)[:, :-1]).all(), "no item twice"


def test_a_sample_leaves_the_target_out_by_hand():
    scores, targets = np.array([[1, 9, 5, 8, 7]], np.float32), np.array([2])
    sample = np.array([[0, 1, 2]])  # items 0, 1 and 3
    assert [ranks.ranks_of(scores, targets, ties, sample).tolist() for ties in TIES] == [[3], [3], [3]]
    assert ranks.ranks_of(scores, targets, "standard", np.array([[3]])).tolist() == [2]  # item 4


class Half(Processes):
    """One of two processes that evaluate together: the sum is that of what was given so far."""

    def __init__(self, rank, given):
        super().__init__(rank, 2)
        self.given = given

    def sum_of_array(self, array):
        self.given.append(array)
        return sum(self.given)


def test_of_several_processes_each_ranks_its_sessions_and_all_have_the_sum(sessions):
    network, given = random_network(SETTINGS[0]), []
    expected = network_ranks(network, sessions, Way(16))
    first, both = (network_ranks(network, sessions, Way(16, processes=Half(rank, given))) for rank in range(2))
    assert np.array_equal(both, expected) and 0.3 < np.mean(first > 0) < 0.7


def test_evaluation_leaves_dropout_out(sessions):
    network = random_network(SETTINGS[0])
    network.train()
    assert np.array_equal(network_ranks(network, sessions, Way(16)), network_ranks(network, sessions, Way(16)))


def test_one_session_of_two_clicks_is_enough():
    assert network_ranks(random_network(SETTINGS[0]), as_sessions([[5, 6]]), Way(512)).shape == (1,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["item_matrix", "fc.0.weight", "gru.0.bias"])
def test_weights_that_are_not_finite_are_an_error(sessions, name, value):
    network = random_network(SETTINGS[0])
    weight = network.state_dict()[name]
    values = weight.numpy()
    values.flat[-1] = value
    weight.set_value(paddle.to_tensor(values))
    with pytest.raises(InputError, match=f"weights {name} that are not finite"):
        network_ranks(network, sessions, Way(16))


@pytest.mark.parametrize("name, what", [("item_matrix", "scores"), ("fc.0.weight", "hidden states")])
def test_finite_weights_that_overflow_are_an_error(sessions, name, what):
    network = random_network(SETTINGS[1])
    network.embedding.set_value(network.embedding * 100)
    weight = network.state_dict()[name]
    weight.set_value(paddle.to_tensor(np.sign(weight.numpy()) * np.float32(3e38)))
    if name == "fc.0.weight":
        network.gru[0].weight.set_value(paddle.sign(network.gru[0].weight) * 3e38)
    with pytest.raises(InputError, match=f"{what} that are not finite"):
        network_ranks(network, sessions, Way(16))


def test_vectors_too_long_to_be_divided_by_their_length_are_an_error(sessions):
    network = random_network(SETTINGS[3])
    network.item_matrix.set_value(paddle.sign(network.item_matrix) * 1e25)
    with pytest.raises(InputError, match="lengths of item vectors that are not finite"):
        network_ranks(network, sessions, Way(16))


# An edited network

class ThreeTimes(Network):
    def scores(self, states, item_rows):
        return 3 * super().scores(states, item_rows)


class OtherSign(Network):
    def scores(self, states, item_rows):
        return -super().scores(states, item_rows)


class ByDistance(Network):
    """Near vectors score high, a form that is no product."""

    def scores(self, states, item_rows):
        squares = ((states.unsqueeze(-2) - item_rows[..., :-1].unsqueeze(-3)) ** 2).sum(axis=-1)
        return item_rows[..., -1].unsqueeze(-2) - squares


def random_and_edited(edited, items=ITEMS, settings=SETTINGS[0]):
    """A network, and an edited one of the same weights."""
    plain, other = random_network(settings, items), edited(items, settings)
    other.set_state_dict(plain.state_dict())
    return plain, other


def scores_and_targets(network, sessions):
    """All predictions' scores by `network.scores` alone, float64 [predictions, items], and targets, [predictions]."""
    network.eval()
    scores, targets = [], []
    for start, end in zip(sessions.offsets, sessions.offsets[1:]):
        clicks = paddle.to_tensor(sessions.items[start:end].astype(np.int64))
        if len(clicks) > 1:
            with paddle.no_grad():
                states = network.hidden_states(clicks[:-1], [1] * (len(clicks) - 1))
                scores.append(network.scores(states, network.item_matrix).numpy().astype(np.float64))
            targets += clicks[1:].tolist()
    return np.concatenate(scores), np.array(targets)


def losses_of(scores, targets):
    largest = scores.max(axis=1)
    return largest + np.log(np.exp(scores - largest[:, None]).sum(axis=1)) - scores[np.arange(len(targets)), targets]


def test_losses_are_the_cross_entropy_of_the_scores(sessions):
    network = random_network(SETTINGS[0])
    ranks_found, losses_found = network_ranks_and_losses(network, sessions, Way(16))
    assert np.array_equal(ranks_found, network_ranks(network, sessions, Way(16)))
    np.testing.assert_allclose(losses_found, losses_of(*scores_and_targets(network, sessions)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("edited", [ThreeTimes, OtherSign, ByDistance])
@pytest.mark.parametrize("items", [ITEMS, ranks.PROOF_ITEMS + 100])
def test_edited_scores_take_effect(sessions, edited, items):
    plain, other = random_and_edited(edited, items)
    scores, targets = scores_and_targets(other, sessions)
    of_targets = scores[np.arange(len(targets)), targets]
    expected = 1 + (scores > of_targets[:, None]).sum(axis=1)
    nearest = np.sort(abs(scores - of_targets[:, None]), axis=1)[:, 1]
    is_clear = nearest > 1e-5 * abs(scores).max()  # float32 can't turn these around
    found, found_losses = network_ranks_and_losses(other, sessions, Way(16))
    assert np.array_equal(network_ranks(other, sessions, Way(16)), found)
    assert np.mean(is_clear) > 0.9 and np.array_equal(found[is_clear], expected[is_clear])
    np.testing.assert_allclose(found_losses, losses_of(scores, targets), rtol=1e-4, atol=1e-4)

    plain_ranks, plain_losses = network_ranks_and_losses(plain, sessions, Way(16))
    assert np.array_equal(found, plain_ranks) == (edited is ThreeTimes), "three times the scores rank the same"
    assert np.abs(found_losses - plain_losses).max() > 1


def test_sampled_and_other_ties_use_edited_scores_too(sessions):
    plain, other = random_and_edited(OtherSign)
    best_last = lambda found: ITEMS + 1 - found
    for ties, turned in ("conservative", "standard"), ("standard", "conservative"), ("median", "median"):
        found = network_ranks(other, sessions, Way(16), ties)
        assert np.array_equal(found, best_last(network_ranks(plain, sessions, Way(16), turned)))
    sample = np.random.default_rng(0).integers(ITEMS - 1, size=(len(sessions.items), 9))
    found = network_ranks(other, sessions, Way(16), "median", sample=sample)
    assert np.array_equal(found, 9 + 2 - network_ranks(plain, sessions, Way(16), "median", sample=sample))


@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[3]], ids=["shared", "scaled"])
@pytest.mark.parametrize("edited", [Network, ThreeTimes])
def test_all_items_are_scored_the_fast_way_where_that_is_the_same(sessions, monkeypatch, edited, settings):
    _, network = random_and_edited(edited, settings=settings)
    whole, scores = [], network.scores
    monkeypatch.setattr(network, "scores", lambda states, rows: (whole.append(rows is network.item_matrix),
                                                                 scores(states, rows))[1])
    network_ranks(network, sessions, Way(16))
    assert any(whole) == (edited is ThreeTimes)


def test_scores_that_divide_by_the_length_of_a_state(sessions, monkeypatch):
    """Rows that only fill a product up mustn't have length 0."""
    class Cosine(Network):
        def scores(self, states, item_rows):
            return super().scores(states / paddle.norm(states, axis=1, keepdim=True), item_rows)

    _, network = random_and_edited(Cosine)
    expected = network_ranks(network, sessions, Way(512))
    for chunk_rows in range(8, 16):  # the last chunk has any number of rows
        monkeypatch.setattr(tensors, "CHUNK_ROWS", chunk_rows)
        assert np.array_equal(network_ranks(network, sessions, Way(512)), expected)


def test_edited_scores_that_are_not_finite_are_an_error(sessions):
    class Overflowing(Network):
        def scores(self, states, item_rows):
            return paddle.exp(1000 * super().scores(states, item_rows))

    _, network = random_and_edited(Overflowing)
    with pytest.raises(InputError, match="scores that are not finite"):
        network_ranks(network, sessions, Way(16))
