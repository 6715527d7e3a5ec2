"""Answers of a network that only net.py knows, through Paddle: several times slower than the scorers without it."""

import threading
from functools import lru_cache

import numpy as np

from utils import device
from utils.data.batches import pack
from utils.data.sessions import Sessions
from utils.files import InputError
from utils.model.equal_lengths import with_length
from utils.model.layout import scored_length
from utils.model.scorer import Scorer


@lru_cache(maxsize=1)
def prepare():
    """Load Paddle, once in a process. It changes what signals do, and only the main thread can put that right."""
    if threading.current_thread() is not threading.main_thread():
        raise InputError("found Paddle needed for the first time in another thread, expected load.prepare to "
                         "be called in the main thread first")
    device.prepare(threads=1)


class PaddleScorer(Scorer):
    """net.py's network in evaluation. A live session has no state here: all of its clicks are replayed.

    Parameters
    ----------
    model_dir : str or Path
    epoch : int

    Raises
    ------
    InputError
        Weights that are missing, damaged, or not those of the network in net.py.
    """

    way = "net.py by Paddle (slower, since C++ and NumPy don't know this network)"
    state_size = click_cost = 0

    def __init__(self, model_dir, epoch):
        prepare()
        from utils.model.network import load_network_and_checksum  # loads Paddle, so it must come after `prepare`
        self.network, self.weights_checksum = load_network_and_checksum(model_dir, epoch)
        self.network.eval()
        length, matrix = scored_length(self.network.settings), self.network.item_matrix.numpy()
        self.item_matrix = with_length(length, matrix) if length else matrix
        self.item_vectors, self.item_biases = self.item_matrix[:, :-1], self.item_matrix[:, -1]

    def replay(self, sessions, before):
        """The hidden states after whole sessions, float32 array [sessions, units]; `before` is not used."""
        states = np.zeros((len(sessions.lengths), self.item_matrix.shape[1] - 1), np.float32)
        if not len(sessions.items):
            return states
        # A click more at the end of each, so that the last real one is an input too.
        ends = np.arange(len(sessions.lengths)) + sessions.offsets[1:]
        longer = Sessions(np.insert(sessions.items, sessions.offsets[1:], 0), np.concatenate([[0], ends + 1]))
        batch = pack(longer, np.arange(len(sessions.lengths)))
        is_last = np.isin(batch.positions, ends)
        found = self.packed_states(batch.inputs, batch.rows_per_step)[is_last]
        states[np.searchsorted(ends, batch.positions[is_last])] = found
        return states

    def last_layer(self, states):
        return states

    def packed_states(self, inputs, rows_per_step):
        import paddle
        with paddle.no_grad():
            return self.network.hidden_states(paddle.to_tensor(np.asarray(inputs, np.int64)), rows_per_step).numpy()

    def scores(self, states, candidates=None):
        import paddle
        rows = self.network.item_matrix if candidates is None else paddle.gather(self.network.item_matrix,
                                                                                 paddle.to_tensor(candidates))
        with paddle.no_grad():
            found = self.network.scores(paddle.to_tensor(np.atleast_2d(states)), rows).numpy()
        return found.reshape(*states.shape[:-1], -1)
