"""utils/evaluation/joined_ranks.py: the ranks by what recommend.py answers with, one prediction after another."""

import numpy as np
import pytest
from conftest import write_random_model

from utils import tensors
from utils.data.sessions import Sessions
from utils.evaluation.joined_ranks import load, mixed_ranks, model_ranks, model_ranks_and_best, recent_before
from utils.evaluation.metrics import TIES, target_ranks
from utils.evaluation.ranks import Way, network_ranks, network_ranks_and_best
from utils.model.joined import JoinedScorer
from utils.model.load import load_scorer
from utils.model.neighbours import RECENT, Neighbours, remember
from utils.model.neighbours_file import Memory
from utils.model.network import load_network

ITEMS = 150
FORMS = [dict(hid_size=(12,)), dict(hid_size=(8, 12), reset_after=False)]
WEIGHTS = [0, 0.2, 0.7]


def drawn_sessions(seed, count, items=ITEMS):
    random = np.random.default_rng(seed)
    lengths = np.concatenate([[1, 2, 30, 1], random.geometric(0.25, count)])
    return Sessions(random.integers(items, size=lengths.sum()).astype(np.int32), np.cumsum([0, *lengths]))


@pytest.fixture(scope="module")
def neighbours():
    # the other half of the items has no neighbours, and sessions of these alone neither
    return Neighbours(remember(drawn_sessions(1, 40, ITEMS // 2), ITEMS))


@pytest.fixture(scope="module")
def sessions():
    return drawn_sessions(2, 40)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    return [write_random_model(directory / str(seed), seed, ITEMS, **form) for seed, form in enumerate(FORMS)]


@pytest.fixture(params=["memory", "networks", "both"])
def both_ways(request, models, neighbours):
    """The Model and the JoinedScorer of the same."""
    memory = None if request.param == "networks" else Memory(neighbours, 0.4, "", [0.3, -0.2, 0.4, 0.7])
    weights = {"memory": [0.6], "networks": [0.3, 0.7], "both": [0.1, 0.5]}[request.param]
    model = load(models[0], 1)._replace(networks=[load_network(path, 1) for path in models[:len(weights)]],
                                        weights=weights, memory=memory)
    return model, JoinedScorer([load_scorer(path)[0] for path in models[:len(weights)]], weights, memory)


def test_ranks_and_best_items_are_those_of_the_answers(both_ways, sessions):
    model, scorer = both_ways
    expected, is_clear, best_items = [], [], []
    for start, end in zip(sessions.offsets, sessions.offsets[1:]):
        for position in range(start + 1, end):
            clicks = Sessions(sessions.items[start:position], np.array([0, position - start]))
            state = scorer.after_sessions(clicks)
            scores, target = scorer.scores(state)[0], sessions.items[position]
            expected.append(1 + (scores > scores[target]).sum())
            best_items.append(scorer.best(state, [5], [()], [None])[0][0].tolist())
            is_clear.append(np.sort(abs(scores - scores[target]))[1] > 1e-4)  # float32 can't turn these around
    is_clear = np.array(is_clear)
    found, best = model_ranks_and_best(model, sessions, 5, Way(16))
    assert len(found) == sessions.predictions and is_clear.mean() > 0.9 and len(set(expected)) > 50
    assert found[is_clear].tolist() == np.array(expected)[is_clear].tolist()
    assert best.dtype == np.int32 and np.mean([row == other for row, other in zip(best.tolist(), best_items)]) > 0.98
    assert np.array_equal(model_ranks(model, sessions, Way(16)), found)


@pytest.mark.parametrize("ties", TIES)
def test_ranks_are_the_same_to_the_bit_for_every_batch_size(both_ways, sessions, ties, monkeypatch):
    model, _ = both_ways
    monkeypatch.setattr(tensors, "CHUNK_ROWS", 16)  # several chunks of scores a batch, the last one smaller
    expected = model_ranks(model, sessions, Way(512), ties)
    for batch_size in 1, 7:
        assert np.array_equal(model_ranks(model, sessions, Way(batch_size), ties), expected), batch_size


def test_several_weights_at_once_give_the_ranks_of_each(models, neighbours, sessions):
    model = load(models[0], 1)
    network, = model.networks
    assert model.is_network and model.memory is None
    plain = network_ranks(network, sessions, Way(16))
    assert np.array_equal(model_ranks(model, sessions, Way(16)), plain)
    for found, expected in zip(model_ranks_and_best(model, sessions, 3, Way(16)),
                               network_ranks_and_best(network, sessions, 3, Way(16))):
        assert np.array_equal(found, expected)
    found, probabilities = mixed_ranks(network, neighbours, sessions, WEIGHTS)
    assert found.shape == (3, sessions.predictions) and np.array_equal(found[0], plain)
    for weight, ranks in zip(WEIGHTS[1:], found[1:]):
        with_memory = model._replace(weights=[1 - weight], memory=Memory(neighbours, weight, ""))
        assert np.array_equal(ranks, model_ranks(with_memory, sessions, Way(16))) and (ranks != plain).any()
    assert probabilities.shape == (3, sessions.predictions, RECENT)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_probabilities_of_the_last_clicks_are_those_of_the_answers(models, neighbours, sessions, weight):
    network = load(models[0], 1).networks[0]
    probabilities = mixed_ranks(network, neighbours, sessions, [weight])[1][0]
    recent, place = recent_before(sessions), 0
    scorer = JoinedScorer([load_scorer(models[0])[0]], [1 - weight], Memory(neighbours, weight, ""))
    for start, end in zip(sessions.offsets, sessions.offsets[1:]):
        for position in range(start + 1, end):
            clicks = sessions.items[max(start, position - RECENT):position]
            assert recent[place, RECENT - len(clicks):].tolist() == (clicks + 1).tolist()
            if position < start + 4:
                state = scorer.after_sessions(Sessions(sessions.items[start:position], np.array([0, position - start])))
                expected = np.exp(scorer.scores(state)[0, clicks])
                np.testing.assert_allclose(probabilities[place, RECENT - len(clicks):], expected, rtol=1e-3)
            place += 1
    assert place == sessions.predictions


def test_ranks_among_a_sample(both_ways, sessions):
    model, scorer = both_ways
    sample = np.random.default_rng(3).integers(ITEMS - 1, size=(len(sessions.items), 9), dtype=np.int32)
    found, place = model_ranks(model, sessions, Way(16), "median", sample=sample), 0
    for start, end in zip(sessions.offsets[:12], sessions.offsets[1:]):
        for position in range(start + 1, end):
            target, others = sessions.items[position], sample[position]
            state = scorer.after_sessions(Sessions(sessions.items[start:position], np.array([0, position - start])))
            scores = scorer.scores(state, [target, *(others + (others >= target))])
            if np.sort(abs(scores[0] - scores[0, 0]))[1] > 1e-4:
                assert found[place] == target_ranks(scores, scores[:, 0], "median")[0]
            place += 1
    assert place > 40
