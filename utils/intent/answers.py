"""What a network for purchase intent says of whole sessions, by Paddle or by the scorer in NumPy."""

import numpy as np

from utils.intent.batches import blocks, make_batch
from utils.intent.features import pairs_of
from utils.intent.sessions import choose_sessions
from utils.model.scorer import sigmoid
from utils.tensors import host_array

CLICKS = 20_000  # at once


def network_scores(network, sessions, counts, knots, loss=None):
    """The probabilities of IntentSessions by a net.IntentNetwork, in evaluation.

    Parameters
    ----------
    network : net.IntentNetwork
    sessions : sessions.IntentSessions
    counts, knots
        As of batches.make_batch.
    loss : trainer.IntentLoss, optional

    Returns
    -------
    session_scores : float32 [sessions]
        That it buys something.
    pair_scores : float32 [pairs]
        That it buys the item, if it buys anything; in the order of features.pairs_of.
    float
        The mean loss; NaN without `loss`.
    """
    import paddle

    from utils.intent.trainer import tensors_of
    losses = []

    @paddle.no_grad()
    def log_odds(batch):
        batch = tensors_of(batch)
        of_clicks, of_pairs = network(batch)
        if loss:
            losses.append(float(loss(batch, of_clicks, of_pairs)) * batch.targets.shape[0])
        return host_array(of_clicks), host_array(of_pairs)

    network.eval()
    found = scores(log_odds, sessions, counts, knots, network.settings.min_support)
    return *found, sum(losses) / len(sessions) if loss else np.nan


def scores(log_odds, sessions, counts, knots, min_support):
    """The first two results of `network_scores`, for a function of an IntentBatch such as scorer.IntentScorer.log_odds.
    """
    starts = np.append(0, np.cumsum(np.bincount(pairs_of(sessions).owners, minlength=len(sessions))))
    of_sessions, of_pairs = np.empty(len(sessions), np.float32), np.empty(starts[-1], np.float32)
    for numbers in blocks(sessions, CLICKS):
        batch = make_batch(choose_sessions(sessions, numbers), counts, knots, min_support)
        clicks, pairs = log_odds(batch)
        of_sessions[numbers] = sigmoid(clicks[batch.ends])
        sizes = np.diff(starts)[numbers]
        places = np.repeat(starts[numbers] - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        of_pairs[places] = sigmoid(pairs)
    return of_sessions, of_pairs
