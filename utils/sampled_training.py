"""Training steps that score a sample of the items, and touch only the rows of the item matrices that they need."""

import numpy as np
import paddle

from net import dropout
from utils import losses
from utils.files import InputError
from utils.optimizers import clip_by_global_norm
from utils.sampling import PopularitySampler, tiled_negatives
from utils.sessions import session_parallel_steps, training_batches


class SampledTrainer:
    """Batches and steps of sampled training, for `training.run_training`.

    Parameters
    ----------
    network : net.Network
    sessions : sessions.Sessions
    optimizer : optimizers.Adagrad or optimizers.Adam
    options : argparse.Namespace
        The flags of train_sample_neg.py: batching, batch_size, shuffle, loss, negatives, neg_size, sample_alpha, logq,
        elu_param, bpreg, label_smoothing, candidate_dropout, grad_cap.

    Raises
    ------
    InputError
        Nothing is drawn, and no step has two targets to compare.
    """

    def __init__(self, network, sessions, optimizer, options):
        self.network, self.sessions, self.optimizer, self.options = network, sessions, optimizer, options
        items = network.item_matrix.shape[0]
        self.support = np.bincount(sessions.items, minlength=items)
        self.log_support = np.log(np.maximum(self.support, 1)).astype(np.float32)
        if not options.neg_size and self._most_targets() < 2:
            raise InputError("--neg_size 0: found one target at a time, expected batches of at least two sessions, whose targets "
                             "are each other's negatives, or negatives that are drawn")

    def batches(self, random):
        """The batches of an epoch: Batch or ParallelStep, each to be given to `step`."""
        options = self.options
        self.random = random
        self.sampler = PopularitySampler(self.support, options.sample_alpha, options.neg_size, random)
        if options.batching == "sessions":
            return training_batches(self.sessions, options.batch_size, random, bool(options.shuffle))
        self.states = None
        fewest_slots = 1 if options.neg_size else 2  # a target alone has nothing to be compared with
        return session_parallel_steps(self.sessions, options.batch_size, fewest_slots)

    def step(self, batch):
        """One update; the mean loss over the batch's predictions, in nats for the cross-entropy."""
        is_parallel = self.options.batching == "parallel"
        rows_per_step = [len(batch.inputs)] if is_parallel else batch.rows_per_step
        if is_parallel:
            self._carry_states(batch)
        candidates = self._candidates(batch.targets)
        if candidates.shape[-1] == 1:  # one target and nothing to compare it with: there is no gradient
            return 0.0
        tables = self._gather_rows(batch.inputs, candidates)
        hidden = self.network.hidden_states(tables.inputs, rows_per_step, tables.input_rows, self.states if is_parallel else None)
        loss = self._loss(hidden, tables, batch.targets)
        # The official code divides by the nominal number of slots also when fewer are left.
        scale = len(batch.targets) / self.options.batch_size if is_parallel else 1.0
        self._update(loss * scale if scale != 1 else loss, tables)
        return float(loss)

    def set_rate(self, rate):
        self.optimizer.rate = rate

    def optimizer_state(self):
        """By parameter and kind, as float32 arrays."""
        return {f"{name}.{kind}": value.numpy() for name, kinds in self.optimizer.state.items() for kind, value in kinds.items()}

    def _most_targets(self):
        """The most targets that a step can have, where it matters: exact up to two."""
        predictions, batch_size = np.maximum(self.sessions.lengths - 1, 0), self.options.batch_size
        if self.options.batching == "parallel":
            return min(np.count_nonzero(predictions), batch_size)
        return predictions.max() if batch_size == 1 else predictions.sum()

    def _carry_states(self, batch):
        """Bring the layers' states from the slots of the step before to those of this one."""
        if self.states is None:
            self.states = [paddle.zeros([len(batch.inputs), units]) for units in self.network.settings.hid_size]
            return
        if batch.kept is not None:
            kept = paddle.to_tensor(batch.kept)
            self.states = [paddle.gather(state, kept) for state in self.states]
        if batch.restarted is not None and batch.restarted.any():
            goes_on = paddle.to_tensor(1 - batch.restarted[:, None].astype(np.float32))
            self.states = [state * goes_on for state in self.states]

    def _candidates(self, targets):
        """The items to score: int64 [positions + neg_size], shared by all positions, or [positions, 1 + neg_size]."""
        if self.options.negatives == "tiled":
            return np.concatenate([targets[:, None], tiled_negatives(targets, self.options.neg_size, self.random)], axis=1)
        return np.concatenate([targets, self.sampler.draw()]) if self.options.neg_size else targets

    def _gather_rows(self, inputs, candidates):
        """The rows of the item matrices that this step needs, once each, as leaves of the gradient's graph."""
        network = self.network
        if network.settings.embedding == "shared":
            rows, index = np.unique(np.concatenate([inputs, candidates.ravel()]), return_inverse=True)
            touched = [("item_matrix", network.item_matrix, *_leaf(network.item_matrix, rows))]
            input_index, candidate_index = index[:len(inputs)], index[len(inputs):]
            is_candidate = np.zeros((len(rows), 1), np.float32)
            is_candidate[candidate_index] = 1  # only those have something to do with their bias, the last column
        else:
            input_rows, input_index = np.unique(inputs, return_inverse=True)
            rows, candidate_index = np.unique(candidates.ravel(), return_inverse=True)
            touched = [("embedding", network.input_weights(), *_leaf(network.input_weights(), input_rows)),
                       ("item_matrix", network.item_matrix, *_leaf(network.item_matrix, rows))]
            is_candidate = None
        return Tables(touched, paddle.to_tensor(input_index), paddle.to_tensor(candidate_index.reshape(candidates.shape)),
                      candidates, is_candidate)

    def _loss(self, hidden, tables, targets):
        """The mean of the loss over all positions."""
        options = self.options
        if options.negatives == "tiled":
            return self._tiled_loss(hidden, tables)
        candidate_rows = paddle.gather(tables.candidate_rows, tables.candidates)
        own = paddle.arange(len(targets))
        if options.loss == "ce" and not options.label_smoothing:
            shift = paddle.to_tensor(self._logq_shift(tables.items, len(targets))) if options.logq else None
            return losses.FullSoftmaxCrossEntropy.apply(hidden, candidate_rows, own, 0.0, shift)
        scores = paddle.matmul(losses.with_ones(hidden), candidate_rows, transpose_y=True)
        if options.logq:
            scores = scores + paddle.to_tensor(self._logq_shift(tables.items, len(targets)))
        return score_loss(scores, own, options).mean()

    def _tiled_loss(self, hidden, tables):
        """The reference's: each position has its own candidates, with dropout on their rows and without bias."""
        rows = paddle.gather(tables.candidate_rows, tables.candidates.flatten())[:, :-1]
        rows = dropout(rows, self.options.candidate_dropout, True, "candidates").reshape([*tables.candidates.shape, -1])
        scores = paddle.matmul(rows, hidden.unsqueeze(2)).squeeze(2)
        return score_loss(scores, paddle.zeros([hidden.shape[0]], "int64"), self.options).mean()

    def _logq_shift(self, candidates, targets):
        """The logQ correction in the official form, float32 [candidates]: minus logq times the log of each candidate's support,
        to the power of alpha for the sampled ones behind the first `targets` (Bengio and Senecal, 2008; Yi et al., RecSys 2019).
        """
        alpha = np.full(len(candidates), self.options.sample_alpha, np.float32)
        alpha[:targets] = 1
        return -self.options.logq * alpha * self.log_support[candidates]

    def _update(self, loss, tables):
        """Gradients, and one step of the optimiser on the touched rows and on all other weights."""
        loss.backward()
        item_matrices = {name for name, *_ in tables.touched}
        changes = [(name, weight, rows_tensor, leaf.grad) for name, weight, rows_tensor, leaf in tables.touched]
        changes += [(name, weight, None, weight.grad) for name, weight in self.network.named_parameters()
                    if name not in item_matrices]
        gradients = clip_by_global_norm([gradient for *_, gradient in changes], self.options.grad_cap)
        with paddle.no_grad():
            self.optimizer.start_step()
            for (name, weight, rows, _), gradient in zip(changes, gradients):
                touched = tables.touched_numbers(gradient) if name == "item_matrix" else None
                self.optimizer.update(name, weight, gradient, rows, touched)
        for _, weight in self.network.named_parameters():
            weight.clear_gradient(False)


class Tables:
    """The rows that a step works on, and where in them its clicks and candidates are.

    touched : list of (name, weight, int64 tensor of row numbers, float32 tensor of the rows)
    inputs : int64 tensor [positions], into input_rows
    candidates : int64 tensor, into candidate_rows
    items : the candidates as item indices, int64 array
    is_candidate : float32 array [rows, 1] or None where all rows of the item matrix are candidates
    """

    def __init__(self, touched, inputs, candidates, items, is_candidate):
        self.touched, self.inputs, self.candidates = touched, inputs, candidates
        self.items, self.is_candidate = items, is_candidate
        self.input_rows, self.candidate_rows = touched[0][3], touched[-1][3]

    def touched_numbers(self, gradient):
        """1 for what the step touched of the item matrix's rows, 0 for the biases of items that were inputs only, or None."""
        if self.is_candidate is None:
            return None
        return paddle.concat([paddle.ones_like(gradient[:, :-1]), paddle.to_tensor(self.is_candidate)], axis=1)


def score_loss(scores, targets, options):
    """The loss that --loss names, of scores [rows, candidates]: float32 tensor [rows]."""
    if options.loss == "ce":
        return losses.cross_entropy(scores, targets, options.label_smoothing)
    if options.loss == "bpr-max":
        return losses.bpr_max(scores, targets, options.elu_param, options.bpreg)
    return {"bpr": losses.bpr, "top1": losses.top1, "top1-max": losses.top1_max}[options.loss](scores, targets)


def _leaf(weight, rows):
    """The numbers of `rows` as a tensor, and those rows of `weight` as a new tensor that takes a gradient."""
    numbers = paddle.to_tensor(rows)
    leaf = paddle.gather(weight.detach(), numbers)
    leaf.stop_gradient = False
    return numbers, leaf
