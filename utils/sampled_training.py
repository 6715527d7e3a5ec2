"""Training steps that score a sample of the items, and touch only the rows of the item matrices that they need."""

from typing import NamedTuple

import numpy as np
import paddle

from net import dropout
from utils import losses, native
from utils.files import InputError
from utils.losses import CHUNK_ROWS
from utils.optimizers import clip_by_global_norm
from utils.sampling import PopularitySampler, tiled_negatives
from utils.trainer import Trainer

NO_WEIGHT = 1e-20  # of a row in the softmax: too little to count, enough not to slow the products down as numbers near 1e-38 do


class SampledTrainer(Trainer):
    """Steps that score a sample of the items.

    Parameters
    ----------
    network : net.Network
    sessions : sessions.Sessions
    optimizer : optimizers.Adagrad or optimizers.Adam
    options : argparse.Namespace
        Those of Trainer, and loss, negatives, in_batch, neg_size, sample_alpha, logq,
        elu_param, bpreg, label_smoothing, candidate_dropout, grad_cap.

    Raises
    ------
    InputError
        Nothing is drawn, and no step has two targets to compare.
    """

    def __init__(self, network, sessions, optimizer, options):
        is_merged = options.loss == "ce" and not options.label_smoothing and options.negatives == "shared"
        super().__init__(network, sessions, optimizer, options, has_native_update=is_merged and not options.grad_cap)
        items = network.item_matrix.shape[0]
        self.support = np.bincount(sessions.items, minlength=items)
        self.log_support = np.log(np.maximum(self.support, 1)).astype(np.float32)
        self.place_of_item = np.empty(items, np.int64)  # room to work in
        if not options.neg_size:
            self.fewest_slots = 2  # a target alone has nothing to be compared with
            if self._most_targets() < 2:
                raise InputError("--neg_size 0: found one target at a time, expected batches of at least two sessions, whose "
                                 "targets are each other's negatives, or negatives that are drawn")

    def batches(self, random):
        """As `Trainer.batches`."""
        self.random = random
        self.sampler = PopularitySampler(self.support, self.options.sample_alpha, self.options.neg_size, random)
        return super().batches(random)

    def skip(self, batch):
        """As `Trainer.skip`."""
        self._draw(batch.targets)

    def update(self, batch, scale):
        """One update by Paddle's operations, its gradient times `scale`; the mean loss."""
        candidates, rows = self._candidates(batch)
        if candidates.shape[-1] == 1:  # one target and nothing to compare it with: there is no gradient
            return 0.0
        item_rows, input_rows = _leaf(self.network.item_matrix, rows.items), _leaf(self.network.input_weights(), batch.inputs)
        hidden = self.network.hidden_states(None, batch.rows_per_step, input_rows, self.states)
        loss = self._loss(hidden, item_rows, candidates, rows, len(batch.targets))
        self._update_weights(loss * scale if scale != 1 else loss, item_rows, input_rows, rows)
        return float(loss)

    def native_update(self, batch, scale):
        """The same by utils/native.py."""
        candidates, rows = self._candidates(batch)
        if candidates.shape[-1] == 1:
            return 0.0
        step, targets = self.native_step, len(batch.targets)
        item_matrix = step.weights["item_matrix"]
        shift, own_shift, constant = self._merged_shift(candidates, rows, targets)
        hidden = step.forward(batch.inputs, batch.rows_per_step)
        item_rows = native.gather(item_matrix, rows.items, item_matrix.shape[1])
        losses, hidden_gradient, items_gradient = native.softmax_cross_entropy(hidden, item_rows, rows.candidates[:targets], 0.0,
                                                                               shift, CHUNK_ROWS, own_shift)
        if scale != 1:
            hidden_gradient *= scale
            items_gradient *= scale
        gradients, inputs_gradient = step.backward(hidden_gradient)
        if step.embedding == "embedding":
            gradients["embedding"] = np.zeros((len(rows.input_items), inputs_gradient.shape[1]), np.float32)
        gradients["item_matrix"] = items_gradient
        native.add_rows(gradients[step.embedding], inputs_gradient, rows.inputs)
        step.update(gradients, {"embedding": rows.input_items, "item_matrix": rows.items}, rows.candidate_count)
        return float(losses.mean(dtype=np.float64)) + constant

    def _most_targets(self):
        """The most targets that a step can have, where it matters: exact up to two."""
        predictions, batch_size = np.maximum(self.sessions.lengths - 1, 0), self.options.batch_size
        if self.is_parallel:
            return min(np.count_nonzero(predictions), batch_size)
        return predictions.max() if batch_size == 1 else predictions.sum()

    def _candidates(self, batch):
        """The items to score, and which rows of the item matrices they and the inputs need.

        Returns
        -------
        int64 array [positions + neg_size], shared by all positions, or [positions, 1 + neg_size]
        Rows
        """
        inputs, candidates = batch.inputs, self._draw(batch.targets)
        flat = candidates.ravel()
        if self.network.settings.embedding == "shared":
            items, index = distinct(np.concatenate([flat, inputs]), self.place_of_item)
            input_items, input_index = items, index[len(flat):]
        else:
            items, index = distinct(flat, self.place_of_item)
            input_items, input_index = distinct(inputs, self.place_of_item)
        places = index[:len(flat)].reshape(candidates.shape)
        return candidates, Rows(items, places, int(places.max()) + 1, input_items, input_index)

    def _draw(self, targets):
        """The targets, and the negatives that a step draws: the candidates of `_candidates`."""
        if self.options.negatives == "tiled":
            return np.concatenate([targets[:, None], tiled_negatives(targets, self.options.neg_size, self.random)], axis=1)
        return np.concatenate([targets, self.sampler.draw()]) if self.options.neg_size else targets

    def _loss(self, hidden, item_rows, candidates, rows, targets):
        """The mean of the loss over all positions; the first `targets` of shared candidates are the positions' targets."""
        options = self.options
        if options.negatives == "tiled":
            return self._tiled_loss(hidden, item_rows, rows.candidates)
        if not options.in_batch:
            return self._drawn_loss(hidden, item_rows, candidates, rows.candidates, targets)
        if options.loss == "ce" and not options.label_smoothing:
            shift, _, constant = self._merged_shift(candidates, rows, targets)
            own = paddle.to_tensor(rows.candidates[:targets])
            return losses.FullSoftmaxCrossEntropy.apply(hidden, item_rows, own, 0.0, paddle.to_tensor(shift)) + constant
        candidate_rows = paddle.gather(item_rows, paddle.to_tensor(rows.candidates))
        scores = paddle.matmul(losses.with_ones(hidden), candidate_rows, transpose_y=True)
        if options.logq:
            scores = scores + paddle.to_tensor(self._logq_shift(candidates, targets))
        return score_loss(scores, paddle.arange(targets), options).mean()

    def _merged_shift(self, candidates, rows, targets):
        """What to add to the scores of rows.items, so that their cross-entropy is that of all candidates.

        Of an item that is a candidate several times, sum_i exp(s + shift_i) is exp(s + log(sum_i exp(shift_i))); a row that
        is no candidate weighs nothing. Where the targets are no negatives of each other, each is a candidate for its own
        position only.

        Returns
        -------
        float32 array [items]
        float32 array [targets] or None
            What to add to the score of each position's own target, where it is a candidate beside those items.
        float
            What to add to the mean loss, since a target's own shift is not the sum's.
        """
        shift = self._logq_shift(candidates, targets)
        own_shift, weights = shift[:targets], np.exp(shift)
        if not self.options.in_batch:
            weights[:targets] = 0
        merged = np.log(np.maximum(np.bincount(rows.candidates, weights, len(rows.items)), NO_WEIGHT)).astype(np.float32)
        if not self.options.in_batch:
            return merged, own_shift, 0.0
        return merged, None, float((merged[rows.candidates[:targets]] - own_shift).mean())

    def _drawn_loss(self, hidden, item_rows, candidates, places, targets):
        """Each position's own target, in column 0 of the scores, against the drawn items alone."""
        hidden = losses.with_ones(hidden)
        target_rows, drawn_rows = (paddle.gather(item_rows, paddle.to_tensor(part)) for part in (places[:targets], places[targets:]))
        own_scores = (hidden * target_rows).sum(axis=1, keepdim=True)
        drawn_scores = paddle.matmul(hidden, drawn_rows, transpose_y=True)
        if self.options.logq:
            shift = paddle.to_tensor(self._logq_shift(candidates, targets))
            own_scores, drawn_scores = own_scores + shift[:targets].unsqueeze(1), drawn_scores + shift[targets:]
        scores = paddle.concat([own_scores, drawn_scores], axis=1)
        return score_loss(scores, paddle.zeros([targets], "int64"), self.options).mean()

    def _tiled_loss(self, hidden, item_rows, candidates):
        """The reference's: each position has its own candidates, with dropout on their rows and without bias."""
        own_rows = paddle.gather(item_rows, paddle.to_tensor(candidates.ravel()))[:, :-1]
        own_rows = dropout(own_rows, self.options.candidate_dropout, True, "candidates").reshape([*candidates.shape, -1])
        scores = paddle.matmul(own_rows, hidden.unsqueeze(2)).squeeze(2)
        return score_loss(scores, paddle.zeros([hidden.shape[0]], "int64"), self.options).mean()

    def _logq_shift(self, candidates, targets):
        """The logQ correction in the official form, float32 [candidates]: minus logq times the log of each candidate's support,
        to the power of alpha for the sampled ones behind the first `targets` (Bengio and Senecal, 2008; Yi et al., RecSys 2019).
        """
        alpha = np.full(len(candidates), self.options.sample_alpha, np.float32)
        alpha[:targets] = 1
        return -self.options.logq * alpha * self.log_support[candidates]

    def _update_weights(self, loss, item_rows, input_rows, rows):
        """Gradients, and one step of the optimiser on the touched rows and on all other weights."""
        loss.backward()
        network, changes = self.network, []
        with paddle.no_grad():
            items, inputs = paddle.to_tensor(rows.items), paddle.to_tensor(rows.inputs)
            if network.settings.embedding == "shared":
                gradient = paddle.index_add(item_rows.grad, inputs, 0, input_rows.grad)
                changes.append(("item_matrix", network.item_matrix, gradient, items, rows.candidate_count))
            else:
                zeros = paddle.zeros([len(rows.input_items), input_rows.shape[1]])
                gradient = paddle.index_add(zeros, inputs, 0, input_rows.grad)
                changes.append(("embedding", network.embedding, gradient, paddle.to_tensor(rows.input_items), None))
                changes.append(("item_matrix", network.item_matrix, item_rows.grad, items, None))
            item_matrices = {name for name, *_ in changes}
            changes += [(name, weight, weight.grad, None, None) for name, weight in network.named_parameters()
                        if name not in item_matrices]
            gradients = clip_by_global_norm([gradient for _, _, gradient, *_ in changes], self.options.grad_cap)
            self.optimizer.start_step()
            for (name, weight, _, numbers, rows_with_bias), gradient in zip(changes, gradients):
                self.optimizer.update(name, weight, gradient, numbers, rows_with_bias)
        for _, weight in network.named_parameters():
            weight.clear_gradient(False)


class Rows(NamedTuple):
    """The rows of the item matrices that a step works on.

    items : int64 array, the items to score, each once, candidates first; with a shared matrix all inputs too
    candidates : int64 array of the candidates' shape, into items
    candidate_count : int, how many of the items are candidates
    input_items : int64 array, each once; with a shared matrix the same as items
    inputs : int64 array [positions], into input_items
    """

    items: np.ndarray
    candidates: np.ndarray
    candidate_count: int
    input_items: np.ndarray
    inputs: np.ndarray


def score_loss(scores, targets, options):
    """The loss that --loss names, of scores [rows, candidates]: float32 tensor [rows]."""
    if options.loss == "ce":
        return losses.cross_entropy(scores, targets, options.label_smoothing)
    if options.loss == "bpr-max":
        return losses.bpr_max(scores, targets, options.elu_param, options.bpreg)
    return {"bpr": losses.bpr, "top1": losses.top1, "top1-max": losses.top1_max}[options.loss](scores, targets)


def _leaf(weight, numbers):
    """The rows of `weight` with these numbers, as a new tensor that takes a gradient."""
    leaf = paddle.gather(weight.detach(), paddle.to_tensor(numbers))
    leaf.stop_gradient = False
    return leaf


def distinct(items, place_of_item):
    """The distinct ones of an int64 array in the order in which they come, and where among them each of `items` is.

    `place_of_item`, an int64 array with a place for each item there is, is room to work in.
    """
    if native.is_loaded():
        return native.distinct(items, place_of_item)
    count = np.arange(len(items))
    place_of_item[items[::-1]] = count[::-1]  # of several values for one place NumPy keeps the last
    first = place_of_item[items]
    is_first = first == count
    return items[is_first], (np.cumsum(is_first) - 1)[first]
