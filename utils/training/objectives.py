"""What a step minimises: which items are scored for each prediction, and the loss over their scores.

An objective takes the hidden states and the scored rows of the item matrix, and gives the mean loss and its gradients
by both. Where its `kernels` are set, utils/native/losses.cc computes them, and where its `paddle_softmax` is set,
softmax.py. Else Paddle's autograd does, from `plain`: net.py's scores and the loss as utils/losses.py or net.py defines
it. With autograd, further weights in net.py's `scores` and `loss` get gradients too.
"""

from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F

import net
from utils import sources
from utils.files import InputError
from utils.losses import FUNCTIONS
from utils.model.layout import scored_length
from utils.tensors import CHUNK_ROWS, as_array, as_tensor, chunk_rows, is_on_host
from utils.training.engines import gradients_of, trainable
from utils.training.sampling import PopularitySampler, distinct, tiled_negatives

AUTOGRAD_LOGITS = 16 << 20  # scores at once by autograd, which keeps several numbers for each
# Of a row in the softmax: too little to count, and far from 1e-38, where numbers slow the products down.
NO_WEIGHT = 1e-20


class Scored(NamedTuple):
    """What a step scores, and which rows of the item matrices it needs.

    items : int64 [n], rows of the item matrix, each once, the candidates first and with a shared matrix all inputs too;
        None for all rows
    candidates : int64, into items: [positions] the targets, where all items are scored; [positions + drawn] shared by
        all positions, the targets first; [positions, 1 + drawn] of each position its own, the target first
    candidate_count : int, how many of the items are candidates
    input_items : int64, rows of the input matrix, each once; None where they are `items`
    inputs : int64 [clicks], into input_items; as many as positions, where every click has a prediction
    key : int, of the dropout on the candidates
    own : int64 [positions] or None, where among shared candidates the positions' targets are; None: the first ones, in
        their order
    """

    items: np.ndarray
    candidates: np.ndarray
    candidate_count: int
    input_items: np.ndarray
    inputs: np.ndarray
    key: int = 0
    own: np.ndarray = None


class Objective:
    """What all objectives share.

    Parameters
    ----------
    network : net.Network
    """

    fewest_slots = 1  # sessions side by side that a step needs
    name = "ce"  # of the loss
    definitions = ()  # of the scores and the loss, for sources.edits
    gradient = None  # by rows of the item matrix that no other process has, besides what a call returns
    is_sampled = True  # else exp(loss) is the perplexity over the vocabulary
    needs_only_softmax = False  # whether a softmax cross-entropy is all that `fast` needs

    def __init__(self, network):
        self.network, self.kernels, self.paddle_softmax = network, None, None
        self.has_own_input_matrix = network.input_weights() is not network.item_matrix
        self.item_count = network.item_count  # the matrix may have fewer rows here
        self.place_of_item = np.empty(network.item_count, np.int64)  # room to work in

    def start_epoch(self, random):
        """Begin to draw from a numpy.random.Generator what the steps of an epoch need."""

    def __call__(self, hidden, item_rows, scored):
        """The mean loss, and its gradients.

        Parameters
        ----------
        hidden : float32 [positions, units]
            A tensor or an array, as all of these.
        item_rows : float32 [n, units + 1]
            The rows `scored.items` of the item matrix.
        scored : Scored

        Returns
        -------
        float
            On a GPU a tensor of one number, for which nobody waits before it is read.
        float32 [positions, units], float32 [n, units + 1]
        dict of str to float32
            By weights of the network that the scores or the loss use besides, by their names.
        """
        if self.kernels:
            hidden, item_rows = as_array(hidden), as_array(item_rows)
        if self.kernels or self.paddle_softmax:
            losses, *gradients, constant = self._scaled(hidden, item_rows, scored)
            return mean_loss(losses) + constant, *gradients, {}
        return self.by_autograd(as_tensor(hidden), as_tensor(item_rows), scored)

    def _scaled(self, hidden, item_rows, scored):
        """As `fast`, of vectors as long as the network has them."""
        length, units = scored_length(self.network.settings), hidden.shape[1]
        fast = self.kernels or self.paddle_softmax
        if not length:
            return self.fast(hidden, item_rows, scored)
        rows, factors = fast.set_lengths(item_rows, units, length)
        losses, by_hidden, by_rows, constant = self.fast(hidden, rows, scored)
        return losses, by_hidden, fast.lengths_gradient(by_rows, rows, factors, units, length), constant

    def by_autograd(self, hidden, item_rows, scored):
        """The same for tensors, by Paddle's autograd from `plain`."""
        hidden, item_rows = hidden.detach(), item_rows.detach()
        hidden.stop_gradient = item_rows.stop_gradient = False
        parameters = trainable(self.network)
        weights, positions, loss = [hidden, item_rows, *parameters.values()], hidden.shape[0], 0.0
        sums = [None] * len(weights)
        columns = scored.candidates.shape[-1] if scored.items is not None else item_rows.shape[0]
        chunk = max(1, AUTOGRAD_LOGITS // columns)
        for start in range(0, positions, chunk):
            rows = slice(start, min(start + chunk, positions))
            part = self._require_one_each(self.plain(hidden[rows], item_rows, scored, rows), rows).sum() / positions
            loss += float(part) if is_on_host(part) else part.detach()
            sums = [_sum(before, new) for before, new in zip(sums, gradients_of(part, weights))]
        by_hidden, by_rows, *others = sums  # an edited loss may use none of them
        by_hidden = paddle.zeros_like(hidden) if by_hidden is None else by_hidden
        by_rows = paddle.zeros_like(item_rows) if by_rows is None else by_rows
        others = {name: values for name, values in zip(parameters, others) if values is not None}
        return loss, by_hidden, by_rows, others

    def _require_one_each(self, losses, rows):
        """Losses as they are; InputError unless they are one number for each position of the slice `rows`."""
        found, expected = list(getattr(losses, "shape", [])), [rows.stop - rows.start]
        if found != expected:
            file, name = self.definitions[-1]
            raise InputError(f"{file}: found a loss of shape {found} by {name}, expected {expected}: one number for "
                             "each prediction; training takes their mean")
        return losses

    def part(self, scored, own):
        """What is left of a Scored for some of its positions, an int64 array: the same items, loss and negatives."""
        return scored._replace(candidates=scored.candidates[own], inputs=scored.inputs[own])

    def places(self, candidates, inputs, key=0):
        """The Scored of the items `candidates`, an int64 array shaped as its candidates, and the inputs of a step."""
        flat = candidates.ravel()
        if self.has_own_input_matrix:
            items, index = distinct(flat, self.place_of_item, self.kernels)
            input_items, input_index = distinct(inputs, self.place_of_item, self.kernels)
        else:
            items, index = distinct(np.concatenate([flat, inputs]), self.place_of_item, self.kernels)
            input_items, input_index = None, index[len(flat):]
        places = index[:len(flat)].reshape(candidates.shape)
        return Scored(items, places, int(places.max()) + 1, input_items, input_index, key)


class AllItems(Objective):
    """net.py's loss over the scores of all items."""

    is_sampled = False
    needs_only_softmax = True
    definitions = sources.FULL_LOSS

    def draw(self, batch):
        """The Scored of a batches.Batch or SideBySideStep; None where there is nothing to compare a target with."""
        if not self.has_own_input_matrix:
            return Scored(None, batch.targets, None, None, batch.inputs)
        return Scored(None, batch.targets, None, *distinct(batch.inputs, self.place_of_item, self.kernels))

    def plain(self, hidden, item_rows, scored, rows):
        """The losses of some of the positions, the slice `rows`: float32 tensor [rows]; `hidden` are theirs."""
        return self.network.loss(self.network.scores(hidden, item_rows), as_tensor(scored.candidates[rows]))

    def fast(self, hidden, item_rows, scored):
        """Losses, float32 array [positions], gradients as of `__call__`, and what is to be added to the mean loss."""
        smoothing, chunk = self.network.settings.label_smoothing, chunk_rows(len(item_rows))
        fast = self.kernels or self.paddle_softmax
        return *fast.softmax_cross_entropy(hidden, item_rows, scored.candidates, smoothing, None, chunk), 0.0


class SharedNegatives(Objective):
    """A loss over candidates that all positions share: drawn items and, on request, the targets of the batch.

    Parameters
    ----------
    network : net.Network
    loss : losses.Loss
    support : int array [items]
        Training clicks of each item.
    size : int
        Items that a step draws, with replacement, P(item) proportional to support^alpha.
    alpha : float
    logq : float
        Strength of the logQ correction: minus logq times the log of a candidate's support, to the power of alpha for
        those drawn, is added to its score, which is the official code's form (Bengio and Senecal, 2008; Yi et al.,
        RecSys 2019).
    in_batch : bool
        Whether the targets of a batch are negatives of each other.
    """

    def __init__(self, network, loss, support, size, alpha, logq, in_batch):
        super().__init__(network)
        self.loss, self.name, self.size, self.alpha = loss, loss.name, size, alpha
        self.definitions = sources.sampled_loss(FUNCTIONS[loss.name])
        self.logq, self.in_batch = logq, in_batch
        self.support, self.log_support = support, np.log(np.maximum(support, 1)).astype(np.float32)
        self.fewest_slots = 1 if size else 2  # a target alone has nothing to be compared with

    @property
    def needs_only_softmax(self):
        return self.loss.name == "ce" and not self.loss.parameters.get("smoothing")

    def start_epoch(self, random):
        self.sampler = PopularitySampler(self.support, self.alpha, self.size, random, self.kernels)

    def draw(self, batch):
        candidates = np.concatenate([batch.targets, self.sampler.draw()]) if self.size else batch.targets
        return self.places(candidates, batch.inputs) if len(candidates) > 1 else None

    def part(self, scored, own):
        return scored._replace(inputs=scored.inputs[own], own=own)

    def plain(self, hidden, item_rows, scored, rows):
        network, first_drawn = self.network, len(scored.candidates) - self.size
        candidate_rows = F.embedding(as_tensor(scored.candidates), item_rows)  # a GPU adds up its gradient in one order
        shift, own = as_tensor(self._logq_shift(scored)), as_tensor(self._own(scored)[rows])
        if self.in_batch:
            return self.loss(network.scores(hidden, candidate_rows) + shift, own)
        own_rows = F.embedding(own, candidate_rows)
        own_scores = network.scores(hidden.unsqueeze(1), own_rows.unsqueeze(1)).squeeze(1)
        own_scores = own_scores + paddle.gather(shift, own).unsqueeze(1)
        drawn_scores = network.scores(hidden, candidate_rows[first_drawn:]) + shift[first_drawn:]
        return self.loss(paddle.concat([own_scores, drawn_scores], axis=1), paddle.zeros([hidden.shape[0]], "int64"))

    def fast(self, hidden, item_rows, scored):
        kernels, own, first_drawn = self.kernels, self._own(scored), len(scored.candidates) - self.size
        targets = scored.candidates[own]
        if self.needs_only_softmax:
            shift, own_shift, constant = self._merged_shift(scored, len(item_rows))
            fast = kernels or self.paddle_softmax
            found = fast.softmax_cross_entropy(hidden, item_rows, targets, 0.0, shift, chunk_rows(len(item_rows)),
                                               own_shift)
            return *found, constant
        if not self.logq:  # candidates that are the same item are scored once
            weights = np.bincount(scored.candidates[0 if self.in_batch else first_drawn:], minlength=len(item_rows))
            found = kernels.shared_loss(self.loss, hidden, item_rows, weights.astype(np.float32), targets,
                                        self.in_batch, None, None, CHUNK_ROWS)
            return *found, 0.0
        # Corrected scores of an item differ by whether it is a target or drawn: each candidate is scored by itself.
        weights, shift = np.ones(len(scored.candidates), np.float32), self._logq_shift(scored)
        if not self.in_batch:
            weights[:first_drawn] = 0
        candidate_rows = kernels.gather(item_rows, scored.candidates, item_rows.shape[1])
        losses, hidden_gradient, gradient = kernels.shared_loss(
            self.loss, hidden, candidate_rows, weights, own, self.in_batch, shift, shift[own], CHUNK_ROWS)
        items_gradient = np.zeros_like(item_rows)
        kernels.add_rows(items_gradient, gradient, scored.candidates)
        return losses, hidden_gradient, items_gradient, 0.0

    def _merged_shift(self, scored, items):
        """What to add to the scores of the items, so that their cross-entropy is that of all candidates.

        Of an item that is a candidate several times, sum_i exp(s + shift_i) is exp(s + log(sum_i exp(shift_i))); a row
        that is no candidate weighs nothing. Where the targets are no negatives of each other, each is a candidate for
        its own position only.

        Returns
        -------
        float32 array [items]
        float32 array [positions] or None
            What to add to the score of each position's own target, where it is a candidate beside those items.
        float
            What to add to the mean loss, since a target's own shift is not the sum's.
        """
        shift, own = self._logq_shift(scored), self._own(scored)
        own_shift, weights = shift[own], np.exp(shift)
        if not self.in_batch:
            weights[:len(scored.candidates) - self.size] = 0
        merged = np.log(np.maximum(np.bincount(scored.candidates, weights, items), NO_WEIGHT)).astype(np.float32)
        if not self.in_batch:
            return merged, own_shift, 0.0
        return merged, None, float((merged[scored.candidates[own]] - own_shift).mean())

    def _own(self, scored):
        """Where among the candidates the positions' targets are, int64 array."""
        return np.arange(len(scored.candidates) - self.size) if scored.own is None else scored.own

    def _logq_shift(self, scored):
        """The logQ correction of each candidate, float32 array [candidates]."""
        alpha = np.full(len(scored.candidates), self.alpha, np.float32)
        alpha[:len(alpha) - self.size] = 1
        return -self.logq * alpha * self.log_support[scored.items[scored.candidates]]


class TiledNegatives(Objective):
    """Paddle's old example: each position has its own negatives, drawn from the batch's targets; no biases.

    Parameters
    ----------
    network : net.Network
    loss : losses.Loss
    size : int
        Negatives of each position.
    candidate_dropout : float
        Share of the candidates' vectors that training zeroes.
    """

    def __init__(self, network, loss, size, candidate_dropout):
        super().__init__(network)
        self.loss, self.name, self.size, self.candidate_dropout = loss, loss.name, size, candidate_dropout
        self.definitions = sources.sampled_loss(FUNCTIONS[loss.name])

    def start_epoch(self, random):
        self.random = random

    def draw(self, batch):
        negatives = tiled_negatives(batch.targets, self.size, self.random)
        key = int(self.random.integers(2**63)) if self.candidate_dropout else 0
        return self.places(np.concatenate([batch.targets[:, None], negatives], axis=1), batch.inputs, key)

    def plain(self, hidden, item_rows, scored, rows):
        candidates = scored.candidates[rows]
        vectors = F.embedding(as_tensor(candidates.ravel()), item_rows)[:, :-1]
        vectors = net.dropout(vectors, self.candidate_dropout, True, "candidates")
        own_rows = paddle.concat([vectors, paddle.zeros([candidates.size, 1])], axis=1).reshape([*candidates.shape, -1])
        scores = self.network.scores(hidden.unsqueeze(1), own_rows).squeeze(1)
        return self.loss(scores, paddle.zeros([hidden.shape[0]], "int64"))

    def fast(self, hidden, item_rows, scored):
        found = self.kernels.tiled_loss(self.loss, hidden, item_rows, scored.candidates, self.candidate_dropout,
                                        scored.key)
        return *found, 0.0


def require_negatives(objective, sessions, batching):
    """Raise InputError where nothing is drawn, and no step of the objective has two targets to compare."""
    if objective.fewest_slots < 2:
        return
    predictions = np.maximum(batching.windows(sessions)[0].lengths - 1, 0)
    if batching.side_by_side:
        most = min(np.count_nonzero(predictions), batching.size)
    else:
        most = predictions.max() if batching.size == 1 else predictions.sum()
    if most < 2:
        raise InputError("--neg_size 0: found one target at a time, expected batches of at least two sessions, whose "
                         "targets are each other's negatives, or negatives that are drawn")


def mean_loss(losses):
    """The mean of the losses of a step, float32 [positions]: a float, or on a GPU a tensor of one number."""
    if isinstance(losses, np.ndarray) or is_on_host(losses):
        return float(as_array(losses).mean(dtype=np.float64))  # in float32 it could overflow
    return losses.astype("float64").mean()


def _sum(before, new):
    """The sum of two tensors either of which may be None."""
    return before if new is None else new if before is None else before + new
