"""One step of training: engine forward, objective, engine back, gradients together, optimiser."""

import math
from copy import copy
from dataclasses import replace
from itertools import islice

import numpy as np
import paddle

from utils.model.layout import ITEM_MATRIX
from utils.model.network import named_weights, put_weights, shapes
from utils.processes import ALONE
from utils.tensors import add_rows, as_array, as_tensor, products
from utils.training.engines import KEY, RUNNING, NativeEngine, PaddleEngine, input_matrix_name
from utils.training.limits import USUAL
from utils.training.objectives import AllItems
from utils.training.optimizers import Gradient, clip_by_global_norm
from utils.training.parallel import KEYS_APART, Division, Exchange, Part
from utils.training.split import SplitAllItems, SplitRows

GUESSED_STEPS, GUESSED_PREDICTIONS = 20, 300  # on which the loss of random guesses is computed


class Trainer:
    """Batches and steps, for the loop in loop.py.

    Parameters
    ----------
    network : net.Network
    sessions : sessions.Sessions
    batching : batches.Batching
    objective : objectives.Objective
    optimizer : optimizers.RowOptimizer
    grad_cap : float
        Largest norm of all gradients together; 0 for no limit.
    amp : {None, "bf16"}
        What the matrices are multiplied in, as of tensors.products.
    """

    def __init__(self, network, sessions, batching, objective, optimizer, grad_cap=0.0, amp=None):
        self.network, self.sessions, self.batching = network, sessions, batching
        self.objective, self.optimizer, self.grad_cap, self.amp = objective, optimizer, grad_cap, amp
        self.engine, self.kernels = PaddleEngine(network), None
        self.parameters = dict(network.named_parameters())
        self.input_matrix = input_matrix_name(network)
        self.division, self.exchange, self.split = Division(ALONE), Exchange(ALONE), None
        self.steps, self.nominal_slots = 0, batching.size
        self.predictions = sessions.predictions  # of the epoch

    def join(self, processes, splits_items=False, exchange_steps=1):
        """Train with other processes.Processes: a step has as many sessions more, and this one computes its part.

        With `splits_items` the network here has `split.own_rows` of its item matrices alone. With more than one of
        `exchange_steps`, processes train by themselves for so many steps, and then take the means of their weights.
        """
        self.division, self.exchange = Division(processes), Exchange(processes, exchange_steps)
        self.batching = replace(self.batching, size=self.batching.size * processes.count)
        if exchange_steps == 1:
            self.nominal_slots = self.batching.size
        if splits_items:
            self.split = SplitRows(self.network, processes)
            if isinstance(self.objective, AllItems):
                self.objective = SplitAllItems(self.objective, self.split)

    def use(self, engine=None, kernels=None):
        """Use an engine in place of Paddle's, and kernels for the rest that the trainer does itself."""
        self.engine, self.kernels = engine or self.engine, kernels

    def batches(self, random):
        """The batches of an epoch, batches.Batch or SideBySideStep, each to be given to `step`."""
        self.engine.start_epoch(random)
        self._key_apart()
        self.objective.start_epoch(random if self.exchange.every == 1 else self._own_generator(random))
        self.division.start_epoch()
        self.steps = 0
        sessions = self.batching.sessions_of_epoch(self.sessions, random)
        self.predictions = sessions.predictions
        return self.batching.batches(sessions, random, self.objective.fewest_slots)

    def step(self, batch):
        """One update; the mean loss over the batch's predictions, in nats for the cross-entropy, as of the objective.

        Of several processes each gives the whole batch, computes its part of it, and has the same result; but where
        they train by themselves, the loss is that of this one's part.
        """
        part = self.division.part(batch)
        self.steps += 1
        if self.exchange.every == 1:
            return self._update(batch, part)
        if part.share:
            loss = self._update(part.batch, Part(part.batch))
        else:
            loss, self.optimizer.steps = 0.0, self.optimizer.steps + 1  # the others count this step
        if self.steps % self.exchange.every == 0:
            self.average_weights()
        return loss

    def average_weights(self):
        """Where processes train by themselves: make their weights and the optimiser's state the means of all."""
        if self.exchange.every > 1:
            self.exchange.average([*self.parameters.values(), *self.optimizer.state_of_all(self.parameters)])

    def _update(self, batch, part):
        """One update for a Part of a batch; the mean loss over the whole batch."""
        # The official code divides a step's loss by the nominal number of slots also when fewer are left.
        nominal = len(batch.targets) / self.nominal_slots if self.batching.side_by_side else 1.0
        scale = part.share * nominal
        if self.batching.side_by_side:
            self.engine.carry_states(part.batch)
        scored = self._draw(batch)
        if scored is None:  # there is no gradient
            if batch.predicted is not None:  # but a state that sessions carry on
                self.engine.forward(batch.inputs, batch.rows_per_step)
            return 0.0
        if part.own is not None:
            scored = self.objective.part(scored, part.own)
            scored = scored._replace(key=scored.key + self.division.processes.rank * KEYS_APART)
        item_rows, input_rows = self.look_up(scored)
        with products(self.amp):
            hidden = self.engine.forward(part.batch.inputs, part.batch.rows_per_step, input_rows)
            hidden = hidden if part.share else hidden * 0.0  # of another process's session
            predicting = self._predicting(hidden, batch.predicted)
            loss, hidden_gradient, items_gradient, others = self.objective(predicting, item_rows, scored)
        if batch.predicted is not None:
            zeros = np.zeros(hidden.shape, np.float32) if self.kernels else paddle.zeros(hidden.shape)
            hidden_gradient = self._add_rows(zeros, hidden_gradient, batch.predicted)
        gradients, inputs_gradient = self.engine.backward(scaled(hidden_gradient, scale))
        for name, values in others.items():
            gradients[name] = gradients[name] + scaled(values, scale) if name in gradients else scaled(values, scale)
        gradients = self.collect_gradients(gradients, scaled(items_gradient, scale), inputs_gradient, scored)
        if self.exchange.every == 1:
            gradients, loss = self.exchange.sum(gradients, loss * part.share)
        gradients = clip_by_global_norm(gradients, self.grad_cap)
        if self.split:
            gradients = self.split.own(gradients, scaled(self.objective.gradient, nominal))
        self.optimizer.step(self.parameters, gradients)
        return loss

    def _draw(self, batch):
        """What the objective scores; None where nothing is predicted, or one target has nothing to be compared with."""
        return self.objective.draw(batch) if len(batch.targets) else None

    def _predicting(self, hidden, predicted):
        """Those of the hidden states, float32 [clicks, units], that something is predicted from."""
        if predicted is None:
            return hidden
        if self.kernels:
            return self.kernels.gather(as_array(hidden), predicted, hidden.shape[1])
        return paddle.gather(as_tensor(hidden), as_tensor(predicted))

    def look_up(self, scored):
        """The rows `scored.items` of the item matrix; and those of the inputs, None for the engine to look them up."""
        if not self.split:
            return self.engine.rows(ITEM_MATRIX, scored.items), None
        item_rows = self.split.look_up(ITEM_MATRIX, scored.items)
        input_rows = item_rows
        if self.input_matrix != ITEM_MATRIX:
            input_rows = self.split.look_up(self.input_matrix, scored.input_items)
        return item_rows, paddle.gather(input_rows, as_tensor(scored.inputs))

    def skip(self, batch):
        """Draw what `step` would draw, for a batch that was trained on before the run was stopped."""
        part = self.division.part(batch)
        self.steps += 1
        if self.exchange.every == 1:
            self._draw(batch)
        elif part.share:
            self._draw(part.batch)

    def collect_gradients(self, gradients, items_gradient, inputs_gradient, scored):
        """All gradients of a step, a list of Gradient: those by whole weights, and those by rows of the item matrices.

        Parameters
        ----------
        gradients : dict of str to float32
            By whole weights.
        items_gradient : float32 [n, ...]
            By the rows `scored.items` of the item matrix.
        inputs_gradient : float32 [clicks, ...]
            By the rows of the inputs of the input matrix, row `scored.inputs` of those touched.
        scored : objectives.Scored
        """
        by_rows = [Gradient(ITEM_MATRIX, items_gradient, scored.items, scored.candidate_count)]
        if self.input_matrix == ITEM_MATRIX:
            by_rows[0] = by_rows[0]._replace(values=self._add_rows(items_gradient, inputs_gradient, scored.inputs))
        else:
            shape = len(scored.input_items), inputs_gradient.shape[1]
            rows = np.zeros(shape, np.float32) if self.kernels else paddle.zeros(shape)
            rows = self._add_rows(rows, inputs_gradient, scored.inputs)
            by_rows.append(Gradient(self.input_matrix, rows, scored.input_items))
        for place, gradient in enumerate(by_rows):
            if gradient.name in gradients:  # an edited network uses the matrix beyond those rows
                by_rows[place] = gradient.added_to(gradients.pop(gradient.name))
        return [Gradient(name, values) for name, values in gradients.items()] + by_rows

    @property
    def draws_by_paddle(self):
        """Whether a step may draw from Paddle's own generator: what is not in C++ may have dropout there."""
        return isinstance(self.engine, PaddleEngine) or not self.objective.kernels

    def set_rate(self, rate):
        self.optimizer.rate = rate

    def optimizer_state(self):
        """By parameter and kind, as float32 arrays; of split matrices whole, on process 0 alone."""
        arrays = self.optimizer.state_arrays()
        return self.split.whole_arrays(arrays) if self.split else arrays

    def weights(self):
        """As network.named_weights; of split matrices whole, on process 0 alone."""
        weights = named_weights(self.network)
        return self.split.whole_arrays(weights) if self.split else weights

    def shapes(self):
        """The shape of every weight of a checkpoint by its name, as network.shapes."""
        found = shapes(self.network)
        return {name: [self.network.item_count, *shape[1:]] if self.split and self.split.is_split(name) else shape
                for name, shape in found.items()}

    def put_weights(self, weights):
        """Give the network the weights of a checkpoint, a dict of arrays by name."""
        put_weights(self.network, self.split.own_arrays(weights) if self.split else weights)

    def running_state(self):
        """What else a step leaves to the next one of its epoch, as arrays; all processes have to ask for it together.
        """
        arrays, processes = self.engine.state_arrays(), self.division.processes
        if processes.is_alone or self.division.slots is None:
            return arrays
        return {name: values if name == KEY else self._of_all_slots(values) for name, values in arrays.items()}

    def restore(self, arrays):
        """Put back what `optimizer_state` and, within an epoch, `running_state` returned; after `batches` and `skip`.
        """
        running = {key: values for key, values in arrays.items() if key.startswith(RUNNING)}
        state = {key: values for key, values in arrays.items() if key not in running}
        self.optimizer.restore(self.split.own_arrays(state) if self.split else state)
        if self.division.slots is not None:
            own = self.division.own_slots()
            running = {key: values if key == KEY else values[own if len(own) else [0]]
                       for key, values in running.items()}
        self.engine.restore(running)
        if KEY in running:  # that of process 0
            self._key_apart()

    def _key_apart(self):
        """Let the engine's dropout differ from that of other processes, where it draws its own."""
        if isinstance(self.engine, NativeEngine):
            self.engine.key += self.division.processes.rank * KEYS_APART

    def _own_generator(self, random):
        """A generator for what this process alone draws, from the seed of another one that all processes have."""
        seed, rank = random.bit_generator.seed_seq, self.division.processes.rank
        return np.random.default_rng(np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, rank)))

    def _of_all_slots(self, values):
        """The states of all slots, from those of each process: float32 array [slots, units]."""
        own, slots = self.division.own_slots(), self.division.slots
        states = np.zeros([len(slots), values.shape[1]], np.float32)
        states[own] = values[:len(own)]
        return self.division.processes.sum_of_array(states)

    def _add_rows(self, target, source, numbers):
        """`target` with source[i] added to the first columns of its row numbers[i], for an int64 array `numbers`."""
        if self.kernels:
            target = as_array(target)
            self.kernels.add_rows(target, as_array(source), numbers)
            return target
        target, source = as_tensor(target), as_tensor(source)
        if source.shape[1] < target.shape[1]:
            missing = paddle.zeros([source.shape[0], target.shape[1] - source.shape[1]], source.dtype)
            source = paddle.concat([source, missing], axis=1)
        return add_rows(target, source, as_tensor(numbers))


def scaled(gradient, scale):
    """The gradient times a number, None for None; an array is changed in place."""
    if scale == 1 or gradient is None:
        return gradient
    gradient *= scale
    return gradient


def loss_of_a_guess(trainer):
    """The mean loss over some predictions where all scores are 0, infinite where it can't be told.

    It is that of random guesses: ln(n) for the cross-entropy over n items, and for other losses what is as bad.
    """
    objective, random, losses, predictions = copy(trainer.objective), np.random.default_rng(0), 0.0, 0
    if isinstance(objective, SplitAllItems):
        return math.log(objective.item_count)
    if hasattr(objective, "logq"):
        objective.logq = min(objective.logq, USUAL["logq"])  # a stronger correction of guesses is no good measure
    trainer.network.eval()
    objective.start_epoch(random)
    for batch in islice(trainer.batching.batches(trainer.sessions, random, objective.fewest_slots), GUESSED_STEPS):
        scored = objective.draw(batch) if len(batch.targets) else None
        if scored is None or predictions >= GUESSED_PREDICTIONS:
            break
        hidden = np.zeros((len(batch.targets), trainer.network.settings.hid_size[-1]), np.float32)
        rows = trainer.network.item_matrix.shape if scored.items is None else [len(scored.items), hidden.shape[1] + 1]
        losses += float(objective(hidden, np.zeros(rows, np.float32), scored)[0]) * len(batch.targets)
        predictions += len(batch.targets)
    guess = losses / predictions if predictions else math.inf
    return guess if guess > 0 else math.inf
