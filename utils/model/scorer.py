"""A trained network's forward pass in NumPy, and the best items by its scores: all that answering needs, no Paddle.

    scorer, item_ids = load.load_scorer("model_output")
    states = scorer.before_first_click()
    for item in session:  # indices in vocab.txt
        states = scorer.click(item, states)
    best, their_scores = top_k(scorer.scores(states[-1]), 20, excluded=session)
"""

import numpy as np

from utils.data.selection import Selection, chosen_items, require_same_items
from utils.model.layout import ITEM_MATRIX, LAST_CLICK, input_matrix, input_width, layers, state_sizes
from utils.model.mixture import log_sum_exp
from utils.model.top_k import top_k_among, top_k_of_rows


class Scorer:
    """The network of net.py in evaluation: from clicks to states, and from states to scores. Threads may share one.

    Parameters
    ----------
    settings : layout.NetworkSettings
    weights : dict of str to float32 arrays
        By their names in net.Network, with the shapes of `layout.weight_shapes`.

    Attributes
    ----------
    item_vectors, item_biases : float32 array [items, hid_size[-1]] and [items]
    state_size : int
        How many numbers make up a session's state, which `replay` starts from; 0 if all clicks have to be replayed.
    click_cost : int
        Multiplications per click.
    way : str
        The way it computes, for log lines.
    weights_checksum, checksum : str
        What `load.load_scorer` says of them; empty where that didn't make the scorer.
    """

    way = "numpy"
    weights_checksum = checksum = ""

    def __init__(self, settings, weights):
        self.item_matrix = weights[ITEM_MATRIX]
        self.item_vectors, self.item_biases = self.item_matrix[:, :-1], self.item_matrix[:, -1]
        self.input_vectors = weights[input_matrix(settings)][:, :input_width(settings)]
        self.step = reset_after_step if settings.reset_after else reset_before_step
        self.hid_size, self.state_sizes = settings.hid_size, state_sizes(settings)
        self.state_size, self.last_click = sum(self.state_sizes), weights.get(LAST_CLICK)
        both = lambda name: (weights[f"{name}.weight"], weights[f"{name}.bias"])
        self.gru = [both(layer.gru) for layer in layers(settings)]
        self.fc = [both(layer.fc) if layer.fc else None for layer in layers(settings)]
        self.click_cost = sum(weight.size for weight, _ in filter(None, self.gru + self.fc))

    def before_first_click(self, rows=None):
        """Each layer's state before the first click: zeros, float32 [hid_size[layer]] or [rows, hid_size[layer]].

        A network with `last_click` has one more, the last layer's with the last click's vector beside it.
        """
        return [np.zeros(units if rows is None else (rows, units), np.float32) for units in self.state_sizes]

    def click(self, items, before):
        """Each layer's state after one more click; the last one predicts the next.

        Parameters
        ----------
        items : int, or int array [rows]
            The item clicked, from 0 to items - 1, in one session or in each of several.
        before : list of float32 arrays [hid_size[layer]] or [rows, hid_size[layer]]
            The layers' states before the click. They are not changed.

        Returns
        -------
        list of float32 arrays
            Shaped as `before`.
        """
        below, states = self.input_vectors[items], []
        for fc, gru, state in zip(self.fc, self.gru, before):
            gate_inputs = below if fc is None else product(below, fc[0]) + fc[1]
            below = self.step(gate_inputs, state, *gru)
            states.append(below)
        if self.last_click is not None:
            states.append(below + self.last_click * self.input_vectors[items])
        return states

    def after_sessions(self, sessions):
        """The last layer's state after the last click of whole sessions.

        Parameters
        ----------
        sessions : sessions.Sessions
            At least one. A session without clicks gets zeros, which the network never learned to predict from.

        Returns
        -------
        float32 array [sessions, hid_size[-1]]
        """
        nothing = np.zeros((len(sessions.lengths), self.state_size), np.float32)
        return self.last_layer(self.replay(sessions, nothing))

    def packed_states(self, inputs, rows_per_step):
        """The last layer's state after each click, float32 [clicks, hid_size[-1]].

        The clicks `inputs`, int array [clicks], are packed as in `batches.Batch`.
        """
        states, found, start = self.before_first_click(rows_per_step[0]), [], 0
        for rows in rows_per_step:
            states = self.click(inputs[start:start + rows], [state[:rows] for state in states])
            found.append(states[-1])
            start += rows
        return np.concatenate(found)

    def last_layer(self, states):
        """What items are scored with, float32 [rows, hid_size[-1]], of states as `replay` returns them."""
        return states[:, -self.hid_size[-1]:]

    def replay(self, sessions, before):
        """The states of all layers, side by side, after more clicks of several sessions.

        Parameters
        ----------
        sessions : sessions.Sessions
            The new clicks of each session, none or more. At least one session.
        before : float32 array [sessions, state_size]
            The states before these clicks; zeros before a session's first click. It is not changed.

        Returns
        -------
        float32 array [sessions, state_size]
        """
        order = np.argsort(-sessions.lengths, kind="stable")
        lengths, ends = sessions.lengths[order], sessions.offsets[1:][order]
        states = np.split(before[order], np.cumsum(self.state_sizes)[:-1], axis=1)
        for clicks_left in range(lengths[0], 0, -1):  # all sessions end together, so the longest starts alone
            running = np.count_nonzero(lengths >= clicks_left)
            items = sessions.items[ends[:running] - clicks_left]
            clicked = self.click(items, [state[:running] for state in states])
            for state, after in zip(states, clicked):
                state[:running] = after
        return np.concatenate(states, axis=1)[np.argsort(order)]

    def scores(self, states, candidates=None):
        """How likely each item is to be clicked next: a higher score means likelier.

        After training with the cross-entropy over all items, exp(score) is proportional to the probability.

        Parameters
        ----------
        states : float32 array [hid_size[-1]] or [rows, hid_size[-1]]
            Of the last layer.
        candidates : int array [n], optional
            The items to score; by default all of them.

        Returns
        -------
        float32 array [items], [rows, items], [n] or [rows, n]
            The scores of several rows are item after item in memory: the product that does so takes half the time.
        """
        matrix = self.item_matrix if candidates is None else self.item_matrix[candidates]
        ones = np.ones((*states.shape[:-1], 1), np.float32)  # for the biases, the last column
        states = np.concatenate([states, ones], axis=-1)
        if states.ndim == 1:
            return matrix @ states
        several = np.repeat(states, 2, axis=0) if len(states) == 1 else states  # why: see product
        return (matrix @ several.T).T[:len(states)]

    def scores_alone(self, states):
        """`scores` of all items for [rows, hid_size[-1]]; a row's don't depend on the other rows, to the last bit."""
        return np.stack([self.scores(state) for state in states])

    def log_sums(self, scores):
        """`mixture.log_sum_exp` of scores as `scores_alone` returns them."""
        return log_sum_exp(scores)

    def best(self, states, ks, excluded, allowed):
        """The best items after several sessions.

        Parameters
        ----------
        states : float32 array [rows, hid_size[-1]]
            Of the last layer.
        ks : list of int
            For each row, how many items to find, >= 1; if fewer are left, all of them.
        excluded : list of int arrays or lists
            For each row, the items that must not be among the best.
        allowed : list of (int array or list, Selection, or None)
            For each row, the items to choose from; None: all. Those of a Selection get the same scores as among all, to
            the last bit.

        Returns
        -------
        list of (items, their_scores), one for each row
            As in `top_k_of_rows`.
        """
        require_same_items(allowed, len(self.item_matrix))
        best = [self._best_among(allowed[row], states[row], ks[row], excluded[row])
                if self._is_scored_alone(allowed[row]) else None for row in range(len(states))]
        rows = [row for row, found in enumerate(best) if found is None]
        if rows:
            among_all = self.best_of_all(states[rows], [ks[row] for row in rows], [excluded[row] for row in rows],
                                         [allowed[row] for row in rows])
            for row, found in zip(rows, among_all):
                best[row] = found
        return best

    def best_of_all(self, states, ks, excluded, allowed):
        """`best` by the scores of all items, for at least one row; `allowed` is a list of Selection or None."""
        scores = self.scores(states)
        for row, selection in enumerate(allowed):
            if selection is not None:
                scores[row, ~selection.mask()] = -np.inf
        best = top_k_of_rows(scores, max(ks), excluded)
        return [(items[:k], scores[:k]) for k, (items, scores) in zip(ks, best)]

    def _is_scored_alone(self, allowed):
        """Whether the allowed items are scored without the others."""
        return allowed is not None and not isinstance(allowed, Selection)

    def _best_among(self, allowed, state, k, excluded):
        among = chosen_items(allowed)
        if not len(among):  # Paddle 2.6 multiplies no matrix without rows
            return among, np.empty(0, np.float32)
        return top_k_among(self.scores(state[None], among)[0], among, k, excluded)


def reset_after_step(gate_inputs, before, weight, bias):
    """A GRU layer's next state, with the reset gate after the recurrent product; net.DynamicGRU has the formulas."""
    units = before.shape[-1]
    recurrent = product(before, weight) + bias
    gates = sigmoid(gate_inputs[..., :2 * units] + recurrent[..., :2 * units])
    reset, update = gates[..., :units], gates[..., units:]
    candidate = np.tanh(gate_inputs[..., 2 * units:] + reset * recurrent[..., 2 * units:])
    return candidate + update * (before - candidate)


def reset_before_step(gate_inputs, before, weight, bias):
    """A GRU layer's next state, with the reset gate before the recurrent product; net.DynamicGRU has the formulas."""
    units = before.shape[-1]
    gate_inputs = gate_inputs + bias
    gates = sigmoid(gate_inputs[..., :2 * units] + product(before, weight[:, :2 * units]))
    reset, update = gates[..., :units], gates[..., units:]
    candidate = np.tanh(gate_inputs[..., 2 * units:] + product(reset * before, weight[:, 2 * units:]))
    return candidate + update * (before - candidate)


def sigmoid(values):
    """1 / (1 + exp(-x)), computed with tanh, which can't overflow."""
    return 0.5 * np.tanh(0.5 * values) + 0.5


def product(values, weight):
    """`values` [inputs] or [rows, inputs] times `weight` [inputs, outputs].

    BLAS rounds the product of a single row differently from the same row among several. So a single row is computed as
    two, and a session's scores don't depend on the sessions that happen to be computed with it.
    """
    if values.ndim == 2 and len(values) == 1:
        return (np.repeat(values, 2, axis=0) @ weight)[:1]
    return values @ weight
