"""net.IntentNetwork's forward pass in NumPy, in evaluation: all that answering needs."""

import numpy as np

from utils.model.scorer import product, reset_after_step


class IntentScorer:
    """From sessions to the odds that they buy. Threads may share one.

    Parameters
    ----------
    settings : settings.IntentSettings
    weights : dict of str to float32 arrays
        By their names in net.IntentNetwork, with the shapes of `settings.weight_shapes`.
    """

    way = "numpy"

    def __init__(self, settings, weights):
        self.settings, self.weights = settings, weights

    def log_odds(self, batch):
        """What net.IntentNetwork.forward returns for a batches.IntentBatch, as float32 arrays."""
        found = [self._of_member(batch, f"members.{member}.") for member in range(self.settings.networks)]
        return [sum(values) / np.float32(len(found)) for values in zip(*found)]

    def _of_member(self, batch, member):
        """The same of net.IntentMember; its weights' names begin with `member`."""
        vectors = self.weights[f"{member}items"][batch.rows]
        parts = [vectors, batch.click_inputs]
        if self.settings.category_size:
            parts.append(self.weights[f"{member}categories"][batch.categories])
        inputs = np.concatenate(parts, axis=1)
        states = self._states(inputs, batch.rows_per_step, member, "forward")
        if self.settings.bidirectional:
            backward = self._states(inputs[batch.mirror], batch.rows_per_step, member, "backward")[batch.mirror]
            states = np.concatenate([states, backward], axis=1)
        clicks, last, end = batch.click_inputs, batch.pair_last, batch.pair_end
        of_items = [states[last], states[end], vectors[last], clicks[last], clicks[end], batch.pair_inputs]
        return self._head(f"{member}session_head", [states, clicks]), self._head(f"{member}item_head", of_items)

    def _linear(self, name, values):
        return product(values, self.weights[f"{name}.weight"]) + self.weights[f"{name}.bias"]

    def _states(self, inputs, rows_per_step, member, direction):
        gates, gru = self._linear(f"{member}fc_{direction}", inputs), f"{member}gru_{direction}"
        weight, bias = self.weights[f"{gru}.weight"], self.weights[f"{gru}.bias"]
        state, found, start = np.zeros((rows_per_step[0], self.settings.hid_size), np.float32), [], 0
        for rows in rows_per_step:
            state = reset_after_step(gates[start:start + rows], state[:rows], weight, bias)
            found.append(state)
            start += rows
        return np.concatenate(found)

    def _head(self, name, parts):
        known = np.concatenate(parts, axis=1)
        hidden = np.tanh(self._linear(f"{name}.hidden", known))
        return self._linear(f"{name}.output", np.concatenate([known, hidden], axis=1))[:, 0]
