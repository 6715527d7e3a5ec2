"""Answers of several networks together, and of a memory of neighbours: the mixture of their probabilities.

A directory of joined models has them, complete, in its only epoch: epoch_1/model_1, epoch_1/model_2 and so on. In its
config.json, {"joined": {"weights": [...]}} says how much each counts; with the weight of a memory they sum to 1.
"""

from itertools import accumulate
from pathlib import Path

import numpy as np

from utils.data.selection import chosen_items, require_same_items
from utils.data.sessions import Sessions
from utils.files import InputError
from utils.model import checkpoint
from utils.model.directory import vocabulary_checksum
from utils.model.mixture import mix
from utils.model.neighbours import RECENT
from utils.model.neighbours_file import MEMORY, read_weight
from utils.model.scorer import Scorer
from utils.model.top_k import top_k_among, top_k_of_rows

JOINED = "joined"  # the name of the entry in config.json
TOLERANCE = 1e-6  # how far the sum of all weights may be from 1
SCORES_AT_ONCE = 1 << 22  # of each network


def read_weights(model_dir, config):
    """The networks' weights in a config.json, a list of float: those of joined models, or the only one's.

    With the weight of the memory, if there is one, they sum to 1. InputError where they don't.
    """
    of_memory = read_weight(model_dir, config)
    if JOINED not in config:
        return [1 - of_memory]
    weights = config[JOINED].get("weights")
    if (type(weights) is not list or not weights or any(type(each) not in (int, float) for each in weights)
            or not min(weights) > 0 or not abs(sum(weights) + of_memory - 1) < TOLERANCE):
        raise InputError(f"{Path(model_dir) / 'config.json'}: found {str(weights)[:80]} for the weights of joined "
                         f"models beside {of_memory:g} for neighbours, expected numbers > 0, in all 1")
    return weights


def member_directory(epoch_dir, number):
    """Where joined models have the one with this number, counted from 1."""
    return epoch_dir / f"model_{number}"


def read_members(model_dir, epoch, config):
    """The directories of joined models; InputError where one is missing or doesn't fit."""
    members = [member_directory(checkpoint.epoch_directory(model_dir, epoch), number + 1)
               for number in range(len(read_weights(model_dir, config)))]
    for member in members:
        own = checkpoint.read_config(member)
        if JOINED in own or own.get(MEMORY) is not None:
            raise InputError(f"{member}: found joined models, expected one network alone")
        if vocabulary_checksum(member, own) != vocabulary_checksum(model_dir, config):
            raise InputError(f"{member}: found a model of another vocab.txt, expected that of {model_dir}")
    return members


class JoinedScorer(Scorer):
    """Networks, and a memory if there is one, in the place of one network.

    A session's state is those of the networks side by side; behind them are, for the memory, its last clicks: 1 + index
    of the item as int32, 0 for none, in the bytes of float32. A score is ln of the mixture's probability.

    Parameters
    ----------
    scorers : list of scorer.Scorer
        At least one, of the same items. `item_matrix`, `item_vectors` and `item_biases` are those of the first.
    weights : list of float
        Theirs, > 0.
    memory : neighbours_file.Memory or None
    """

    def __init__(self, scorers, weights, memory=None):
        self.scorers, self.weights, self.memory = scorers, weights, memory
        self.item_matrix = scorers[0].item_matrix
        self.item_vectors, self.item_biases = scorers[0].item_vectors, scorers[0].item_biases
        self.click_cost = sum(scorer.click_cost for scorer in scorers)
        self.clicks = RECENT if memory else 0
        nothing = Sessions(np.empty(0, np.int32), np.zeros(2, np.int64))
        states = [scorer.replay(nothing, np.zeros((1, scorer.state_size), np.float32)) for scorer in scorers]
        self.widths = [state.shape[1] for state in states] + [self.clicks]
        self.last_widths = [scorer.last_layer(state).shape[1] for scorer, state in zip(scorers, states)] + [self.clicks]
        # One that replays all clicks has no state, so all of them are replayed.
        self.state_size = sum(self.widths) if all(scorer.state_size for scorer in scorers) else 0
        ways = dict.fromkeys(scorer.way for scorer in scorers)  # each once
        self.way = " ".join([*ways, *([f"neighbours:{memory.neighbours.way}"] if memory else [])])

    def before_first_click(self, rows=None):
        """A state as `replay` takes it, and what items are scored with: float32 [n], or [rows, n]."""
        return self._after_click(np.zeros((rows or 1, sum(self.widths)), np.float32), rows is None)

    def click(self, items, before):
        """As `Scorer.click`, of states as `before_first_click` returns them; networks that replay all clicks can't."""
        if not self.state_size:
            raise TypeError("a network that was edited in net.py takes whole sessions: after_sessions")
        numbers = np.atleast_1d(np.asarray(items, np.int32))
        clicked = Sessions(numbers, np.arange(len(numbers) + 1))
        return self._after_click(self.replay(clicked, np.atleast_2d(before[0])), np.ndim(items) == 0)

    def _after_click(self, states, is_one):
        found = [states, self.last_layer(states)]
        return [each[0] for each in found] if is_one else found

    def replay(self, sessions, before):
        """As `Scorer.replay`; without `state_size`, the sessions are whole and `before` isn't used."""
        rows = len(sessions.lengths)
        if not self.state_size:
            before = np.zeros((rows, sum(self.widths)), np.float32)
        *befores, clicks = self._parts(before, self.widths)
        after = [scorer.replay(sessions, state[:, :scorer.state_size])
                 for scorer, state in zip(self.scorers, befores)]
        return np.concatenate([*after, self._last_clicks(sessions, clicks)], axis=1)

    def last_layer(self, states):
        *states, clicks = self._parts(states, self.widths)
        return np.concatenate([*(scorer.last_layer(state) for scorer, state in zip(self.scorers, states)), clicks],
                              axis=1)

    def packed_states(self, inputs, rows_per_step):
        clicks, found, start = np.zeros((rows_per_step[0], self.clicks), np.float32), [], 0
        for rows in rows_per_step:
            clicked = Sessions(np.asarray(inputs[start:start + rows], np.int32), np.arange(rows + 1))
            clicks = self._last_clicks(clicked, clicks[:rows])
            found.append(clicks)
            start += rows
        return np.concatenate([*(scorer.packed_states(inputs, rows_per_step) for scorer in self.scorers),
                               np.concatenate(found)], axis=1)

    def scores(self, states, candidates=None):
        """As `Scorer.scores`: ln of the probabilities, so they don't depend on the `candidates`."""
        scores, totals = self._mixed(np.atleast_2d(states))
        scores -= totals.astype(np.float32)[:, None]
        chosen = scores if candidates is None else scores[:, candidates]
        return chosen.reshape(*states.shape[:-1], -1)

    def best(self, states, ks, excluded, allowed):
        require_same_items(allowed, len(self.item_matrix))
        best, at_once = [], max(1, SCORES_AT_ONCE // len(self.item_matrix))
        for start in range(0, len(states), at_once):
            scores, totals = self._mixed(states[start:start + at_once])
            for row, total in zip(range(start, start + len(scores)), totals.astype(np.float32)):
                items, found = _best(scores[row - start], ks[row], excluded[row], allowed[row])
                best.append((items, found - total))
        return best

    def _mixed(self, states):
        """`mixture.mix` after the states, float32 [rows, of the last layers]."""
        *states, clicks = self._parts(states, self.last_widths)
        scores = [scorer.scores_alone(state) for scorer, state in zip(self.scorers, states)]
        if not self.memory:
            return mix(scores, self.weights)
        numbers = clicks.view(np.int32)
        # A number that is no item of the model, as in a state that was damaged, is no click.
        recent = np.where((numbers > 0) & (numbers <= len(self.item_matrix)), numbers, np.int32(0))
        return mix(scores, self.weights, self.memory, self._neighbours(recent), recent, self.scorers[0].log_sums)

    def _neighbours(self, recent):
        """What `Neighbours.shares_of` says after the last clicks, as `returns.recent_clicks` has them."""
        is_click = recent > 0
        ends = np.cumsum(is_click.sum(axis=1))
        return self.memory.shares_of(recent[is_click] - np.int32(1), np.concatenate([[0], ends[:-1]]), ends)

    def _last_clicks(self, sessions, before):
        """The last clicks after more of them, in the form that they have in the states."""
        after = np.zeros((len(before), self.clicks), np.int32)
        for row, (start, end) in enumerate(zip(sessions.offsets[:-1].tolist(), sessions.offsets[1:].tolist())):
            new = sessions.items[max(start, end - self.clicks):end] + np.int32(1)
            after[row, :self.clicks - len(new)] = before[row, len(new):].view(np.int32)
            after[row, self.clicks - len(new):] = new
        return after.view(np.float32)

    def _parts(self, states, widths):
        """The columns of `states` that belong to each network and to the memory, each in memory without gaps."""
        ends = list(accumulate(widths))
        return [np.ascontiguousarray(states[:, end - width:end]) for end, width in zip(ends, widths)]


def _best(scores, k, excluded, allowed):
    """The best items by one row of scores, which may be changed."""
    if allowed is None:
        return top_k_of_rows(scores[None], k, [excluded])[0]
    among = chosen_items(allowed)
    return top_k_among(scores[among], among, k, excluded)
