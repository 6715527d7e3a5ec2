"""A step of the training for purchase intent, for the loop in utils/training/loop.py; needs Paddle."""

from dataclasses import dataclass

import numpy as np
import paddle
import paddle.nn.functional as F

from utils.intent.batches import epoch_batches, make_batch
from utils.intent.sessions import choose_sessions
from utils.model.network import named_weights, put_weights, shapes
from utils.processes import ALONE
from utils.tensors import as_tensor
from utils.training.optimizers import Gradient, clip_by_global_norm
from utils.training.parallel import Exchange

ITEMS = "items"  # a member's weight, of which a step touches some rows


@dataclass
class IntentLoss:
    """The mean over sessions of the cross-entropy of whether each buys, and of which items the buying ones buy.

    With weight w of the sessions that buy, log(w) is added to the logarithm of the odds before they are compared: so
    the odds remain those of sessions as they are (King and Zeng, 2001, section 4.1).

    buying_weight : float, how much a session that buys counts; one that doesn't counts 1
    focal : float, the exponent of Lin et al. (ICCV 2017, formula 4): sessions that are told apart well count less; 0:
        all count the same
    item_weight : float, how much the items count beside the sessions
    prefix_weight : float, the share of the sessions' loss that comes from the states after every click, and not from
        the last ones alone
    """

    buying_weight: float = 1.0
    focal: float = 0.0
    item_weight: float = 1.0
    prefix_weight: float = 0.0

    name = "loss"
    is_sampled = True  # exp(loss) is no perplexity

    def __call__(self, batch, of_clicks, of_pairs):
        """The loss, a tensor of one number, of an IntentBatch of tensors and of what net.IntentNetwork said of it."""
        found = (1 - self.prefix_weight) * self.of_sessions(paddle.gather(of_clicks, batch.ends), batch.targets).mean()
        if self.prefix_weight:
            targets = paddle.gather(batch.targets, batch.sessions_of_clicks)
            found += self.prefix_weight * (self.of_sessions(of_clicks, targets) * batch.click_weights).sum()
        if self.item_weight:
            losses = F.binary_cross_entropy_with_logits(of_pairs, batch.bought, reduction="none")
            found += self.item_weight * (losses * batch.pair_buys).sum() / batch.targets.shape[0]
        return found

    def of_sessions(self, log_odds, targets):
        """The loss of each of some sessions, float32 tensor [rows]."""
        log_odds = log_odds + float(np.log(self.buying_weight))
        losses = F.binary_cross_entropy_with_logits(log_odds, targets, reduction="none")
        if self.focal:
            losses *= (1 - paddle.exp(-losses)) ** self.focal
        return losses * (1 + (self.buying_weight - 1) * targets)


class IntentTrainer:
    """Batches and steps of the training of a net.IntentNetwork; what trainer.Trainer is for net.Network.

    Parameters
    ----------
    network : net.IntentNetwork
    sessions : sessions.IntentSessions
    counts : features.Counts
        Of these sessions.
    knots : pair of float32 arrays
        As of batches.make_batch.
    loss : IntentLoss
    optimizer : optimizers.RowOptimizer
    batch_size, group : int
        As of batches.epoch_batches.
    grad_cap : float
        Largest norm of all gradients together; 0 for no limit.
    """

    draws_by_paddle = True

    def __init__(self, network, sessions, counts, knots, loss, optimizer, batch_size, group=1, grad_cap=0.0):
        self.network, self.sessions, self.counts, self.objective = network, sessions, counts, loss
        self.knots = knots
        self.optimizer, self.batch_size, self.group, self.grad_cap = optimizer, batch_size, group, grad_cap
        self.parameters, self.exchange = dict(network.named_parameters()), Exchange(ALONE)
        self.predictions = len(sessions)

    def batches(self, random):
        """The IntentBatches of an epoch, each to be given to `step`."""
        for numbers in epoch_batches(self.sessions, self.batch_size, self.group, random):
            yield make_batch(choose_sessions(self.sessions, numbers), self.counts, self.knots,
                             self.network.settings.min_support, self.counts.folds[numbers])

    def step(self, batch):
        """One update; the mean loss of the members before it."""
        rows, places = np.unique(batch.rows, return_inverse=True)
        batch, rows_of, losses = tensors_of(batch), {}, []
        places, looked_up = as_tensor(places), as_tensor(rows)
        for number, member in enumerate(self.network.members):  # each learns by itself
            own_rows = paddle.gather(member.items.detach(), looked_up)
            own_rows.stop_gradient = False
            rows_of[f"members.{number}.{ITEMS}"] = own_rows
            losses.append(self.objective(batch, *member(batch, F.embedding(places, own_rows))))
        leaves = {name: rows_of.get(name, weight) for name, weight in self.parameters.items()}
        found = paddle.grad(losses, list(leaves.values()), allow_unused=True)
        gradients = [Gradient(name, values, rows if name in rows_of else None)
                     for name, values in zip(leaves, found) if values is not None]
        self.optimizer.step(self.parameters, clip_by_global_norm(gradients, self.grad_cap))
        return float(sum(losses)) / len(losses)

    def skip(self, batch):
        """Nothing is left of a batch that was trained on before the run was stopped."""

    def set_rate(self, rate):
        self.optimizer.rate = rate

    def optimizer_state(self):
        return self.optimizer.state_arrays()

    def weights(self):
        return named_weights(self.network)

    def shapes(self):
        return shapes(self.network)

    def put_weights(self, weights):
        put_weights(self.network, weights)

    def running_state(self):
        """A step leaves nothing else to the next one."""
        return {}

    def restore(self, arrays):
        self.optimizer.restore(arrays)

    def average_weights(self):
        """One process alone trains."""


def tensors_of(batch):
    """An IntentBatch whose arrays are tensors on the device."""
    return batch._replace(**{name: as_tensor(values) for name, values in batch._asdict().items()
                             if isinstance(values, np.ndarray)})
