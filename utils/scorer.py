"""A trained network's forward pass in NumPy, and the best items by its scores: all that answering needs, without Paddle.

    scorer, item_ids = load_scorer("model_output")
    states = scorer.before_first_click()
    for item in session:  # indices in vocab.txt
        states = scorer.click(item, states)
    best, their_scores = top_k(scorer.scores(states[-1]), 20, excluded=session)
"""

from pathlib import Path

import numpy as np

from utils import checkpoint
from utils.files import InputError, require_file
from utils.vocabulary import checksum, read_vocabulary

SETTINGS = "hid_size", "emb_size", "embedding", "reset_after"  # of net.NetworkSettings: the others are training's alone
LARGEST = 1e15  # products of weights below it stay finite in float32, so states and scores are never NaN
GROUPS = 1024


class Scorer:
    """The network of net.py in evaluation: from clicks to states, from states to scores. Threads may share one.

    Parameters
    ----------
    settings : dict
        `SETTINGS`, as in net.NetworkSettings.
    weights : dict of str to float32 arrays
        By their names in net.Network, shaped as `weight_shapes` says.
    """

    def __init__(self, settings, weights):
        self.item_matrix = weights["item_matrix"]
        self.item_vectors, self.item_biases = self.item_matrix[:, :-1], self.item_matrix[:, -1]
        self.input_vectors = self.item_vectors if settings["embedding"] == "shared" else weights["embedding"]
        self.step = reset_after_step if settings["reset_after"] else reset_before_step
        self.hid_size = settings["hid_size"]
        self.gru = [(weights[f"gru.{layer}.weight"], weights[f"gru.{layer}.bias"]) for layer in range(len(self.hid_size))]
        fed = len(self.hid_size) - (settings["embedding"] == "none")  # layers that an FC feeds
        self.fc = [(weights[f"fc.{layer}.weight"], weights[f"fc.{layer}.bias"]) for layer in range(fed)]
        self.click_cost = sum(weight.size for weight, _ in self.gru + self.fc)  # multiplications of a click
        if settings["embedding"] == "none":
            self.fc.insert(0, None)

    def before_first_click(self, rows=None):
        """Each layer's state of a session without clicks, float32 [hid_size[layer]] or [rows, hid_size[layer]]: zeros."""
        return [np.zeros(units if rows is None else (rows, units), np.float32) for units in self.hid_size]

    def click(self, items, before):
        """Each layer's state after one more click; the last layer's predicts the next.

        Parameters
        ----------
        items : int, or int array [rows]
            The item clicked, from 0 to items - 1, in one session or in each of several.
        before : list of float32 arrays [hid_size[layer]] or [rows, hid_size[layer]]
            The layers' states before the click. They stay as they are.

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
        return states

    def after_sessions(self, sessions):
        """The last layer's state after the last click of whole sessions.

        Parameters
        ----------
        sessions : sessions.Sessions
            At least one. A session without clicks gets zeros, from which the network never learned to predict.

        Returns
        -------
        float32 array [sessions, hid_size[-1]]
        """
        nothing = np.zeros((len(sessions.lengths), sum(self.hid_size)), np.float32)
        return self.last_layer(self.replay(sessions, nothing))

    def last_layer(self, states):
        """The part of the last layer, float32 [rows, hid_size[-1]], of states as `replay` returns them."""
        return states[:, -self.hid_size[-1]:]

    def replay(self, sessions, before):
        """The states of all layers, side by side, after more clicks of several sessions.

        Parameters
        ----------
        sessions : sessions.Sessions
            The further clicks of each, none or more. At least one session.
        before : float32 array [sessions, sum(hid_size)]
            The states before them; zeros before a session's first click. It stays as it is.

        Returns
        -------
        float32 array [sessions, sum(hid_size)]
        """
        order = np.argsort(-sessions.lengths, kind="stable")
        lengths, ends = sessions.lengths[order], sessions.offsets[1:][order]
        states = np.split(before[order], np.cumsum(self.hid_size)[:-1], axis=1)
        for clicks_left in range(lengths[0], 0, -1):  # all sessions end together, so the longest starts alone
            running = np.count_nonzero(lengths >= clicks_left)
            clicked = self.click(sessions.items[ends[:running] - clicks_left], [state[:running] for state in states])
            for state, after in zip(states, clicked):
                state[:running] = after
        return np.concatenate(states, axis=1)[np.argsort(order)]

    def scores(self, states, candidates=None):
        """How likely each item is clicked next: a higher score is likelier.

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
            Those of several rows lie item after item in memory: the product that makes them so takes half the time.
        """
        matrix = self.item_matrix if candidates is None else self.item_matrix[candidates]
        ones = np.ones((*states.shape[:-1], 1), np.float32)  # for the biases, the last column
        states = np.concatenate([states, ones], axis=-1)
        if states.ndim == 1:
            return matrix @ states
        several = np.repeat(states, 2, axis=0) if len(states) == 1 else states  # why: see product
        return (matrix @ several.T).T[:len(states)]

    def best(self, states, ks, excluded, allowed):
        """The best items after several sessions.

        Parameters
        ----------
        states : float32 array [rows, hid_size[-1]]
            Of the last layer.
        ks : list of int
            For each row how many items, >= 1; where fewer are left, all of them are returned.
        excluded : list of int arrays or lists
            For each row the items that must not be among the best.
        allowed : list of (int array or list, or None)
            For each row the items to choose from; None: all.

        Returns
        -------
        list of (items, their_scores), one for each row
            As of `top_k_of_rows`.
        """
        best = [None if allowed[row] is None else self._best_among(allowed[row], states[row], ks[row], excluded[row])
                for row in range(len(states))]
        rows = [row for row, found in enumerate(best) if found is None]
        if rows:
            among_all = self.best_of_all(states[rows], [ks[row] for row in rows], [excluded[row] for row in rows])
            for row, found in zip(rows, among_all):
                best[row] = found
        return best

    def best_of_all(self, states, ks, excluded):
        """`best`, with all items allowed, for at least one row."""
        best = top_k_of_rows(self.scores(states), max(ks), excluded)
        return [(items[:k], scores[:k]) for k, (items, scores) in zip(ks, best)]

    def _best_among(self, allowed, state, k, excluded):
        among = np.setdiff1d(np.asarray(allowed, np.int64), np.asarray(excluded, np.int64))
        if not len(among):
            return among, np.empty(0, np.float32)
        best, scores = top_k_of_rows(self.scores(state[None], among), k)[0]  # `among` ascends, so equal ones stay in order
        return among[best], scores


def reset_after_step(gate_inputs, before, weight, bias):
    """A GRU layer's next state, the reset gate acting after the recurrent product; formulas and shapes: net.DynamicGRU."""
    units = before.shape[-1]
    recurrent = product(before, weight) + bias
    gates = sigmoid(gate_inputs[..., :2 * units] + recurrent[..., :2 * units])
    reset, update = gates[..., :units], gates[..., units:]
    candidate = np.tanh(gate_inputs[..., 2 * units:] + reset * recurrent[..., 2 * units:])
    return candidate + update * (before - candidate)


def reset_before_step(gate_inputs, before, weight, bias):
    """A GRU layer's next state, the reset gate acting before the recurrent product; formulas and shapes: net.DynamicGRU."""
    units = before.shape[-1]
    gate_inputs = gate_inputs + bias
    gates = sigmoid(gate_inputs[..., :2 * units] + product(before, weight[:, :2 * units]))
    reset, update = gates[..., :units], gates[..., units:]
    candidate = np.tanh(gate_inputs[..., 2 * units:] + product(reset * before, weight[:, 2 * units:]))
    return candidate + update * (before - candidate)


def sigmoid(values):
    """1 / (1 + exp(-x)), by way of tanh, which can't overflow."""
    return 0.5 * np.tanh(0.5 * values) + 0.5


def product(values, weight):
    """`values` [inputs] or [rows, inputs] times `weight` [inputs, outputs].

    BLAS rounds the product of one row otherwise than the same row among several. A lone row is computed as two, so that a
    session's scores don't depend on those that happen to be computed with it.
    """
    if values.ndim == 2 and len(values) == 1:
        return (np.repeat(values, 2, axis=0) @ weight)[:1]
    return values @ weight


def top_k(scores, k, excluded=()):
    """The `k` best items of one row of scores; as `top_k_of_rows`, but `scores`, float array [items], stays as it is."""
    return top_k_of_rows(np.array(scores)[None], k, [excluded])[0]


def top_k_of_rows(scores, k, excluded=None):
    """The `k` best items of each row, the best first; of equal scores the lower index comes first.

    Without sorting all: items form groups, and the k-th best of the groups' maxima is a score that at least k items reach,
    but few others do.

    Parameters
    ----------
    scores : float array [rows, items]
        No NaN. An item of score -inf is excluded too. Changed where items are excluded. Fastest as `Scorer.scores` makes
        it, item after item in memory.
    k : int
        >= 1; where fewer items are left, all of them are returned.
    excluded : list of int arrays or lists, optional
        For each row the items that must not be among the best.

    Returns
    -------
    list of (items, their_scores), one for each row
        int64 array [k or fewer], and a float array as long.
    """
    rows, scores = len(scores), np.ascontiguousarray(scores.T)
    for row, items in enumerate(excluded or ()):
        if len(items):
            scores[items, row] = -np.inf
    groups = GROUPS if k <= GROUPS <= len(scores) else len(scores)
    grouped = scores[:len(scores) // groups * groups].reshape(-1, groups * rows)
    maxima = grouped.max(axis=0).reshape(groups, rows)
    kth = max(groups - k, 0)
    reached = np.partition(maxima, kth, axis=0)[kth]
    found = [np.flatnonzero(grouped >= np.tile(reached, groups)), np.flatnonzero(scores[grouped.size // rows:] >= reached)]
    found = np.concatenate([found[0], found[1] + grouped.size])
    items, of_row = np.divmod(found, rows)
    values = scores[items, of_row]
    order = np.lexsort((items, -values, of_row))
    items, values, ends = items[order], values[order], np.cumsum(np.bincount(of_row, minlength=rows))
    best = []
    for start, end in zip(ends - np.diff(ends, prepend=0), ends):
        end = start + np.count_nonzero(values[start:min(end, start + k)] > -np.inf)  # excluded ones come last
        best.append((items[start:end], values[start:end]))
    return best


def load_scorer(model_dir, epoch=None):
    """A finished epoch of a model directory.

    Parameters
    ----------
    model_dir : str or Path
    epoch : int, optional
        By default the best of the validation, without validation the last that is finished.

    Returns
    -------
    Scorer
    item_ids : list of str, or None
        By index; None where vocab.txt holds nothing but the number of items.

    Raises
    ------
    InputError
        No model directory, no such epoch, or files that are truncated, changed, or not of this network.
    """
    settings, weights, item_ids = load_model(model_dir, epoch)
    return Scorer(settings, weights), item_ids


def load_model(model_dir, epoch=None):
    """The `SETTINGS` of a model directory, the weights of an epoch, and the item ids; arguments and errors of `load_scorer`."""
    config = checkpoint.read_config(model_dir)
    epoch = choose_epoch(model_dir, epoch)
    item_ids, item_count = read_items(model_dir, config)
    settings = read_settings(model_dir, config)
    weights = checkpoint.load_weights(model_dir, epoch, weight_shapes(settings, item_count))
    path = checkpoint.epoch_directory(model_dir, epoch) / checkpoint.MODEL
    for name, values in weights.items():
        if not max(values.max(), -values.min()) < LARGEST:
            raise InputError(f"{path}: found weights from {values.min():g} to {values.max():g} in {name}, expected a model that "
                             "was trained without overflow")
    return settings, weights, item_ids


def choose_epoch(model_dir, epoch=None):
    """The number of the epoch asked for, by default of the best or the last; InputError where it isn't there or not finished."""
    finished = checkpoint.finished_epochs(model_dir)
    if not finished:
        raise InputError(f"--model_dir: found no finished epoch in {model_dir}, expected at least one")
    if epoch is not None and epoch not in finished:
        there = ", ".join(map(str, finished))
        raise InputError(f"--epoch: found no finished epoch {epoch} in {model_dir}, expected one of {there}")
    return epoch or checkpoint.best_epoch(model_dir) or finished[-1]


def read_items(model_dir, config):
    """`vocabulary.read_vocabulary` of the model's own vocab.txt, which must be the one that it was trained with."""
    path = require_file(Path(model_dir) / "vocab.txt", "--model_dir")
    try:
        expected = str(config["data"]["vocab_sha256"])
    except (KeyError, TypeError):
        raise InputError(f"{Path(model_dir) / 'config.json'}: found no checksum of vocab.txt, expected one of train.py") from None
    if checksum(path) != expected:
        raise InputError(f"{path}: found another vocabulary than the model was trained with, expected SHA-256 {expected[:12]}...")
    return read_vocabulary(path, "--model_dir")


def read_settings(model_dir, config):
    """`SETTINGS` of a config.json, a dict; InputError where one is missing or impossible."""
    try:
        found = {name: config["network"][name] for name in SETTINGS}
        units = [*found["hid_size"], *([] if found["embedding"] == "none" else [found["emb_size"]])]
        if not found["hid_size"] or any(type(size) is not int or size < 1 for size in units):
            raise ValueError(f"sizes {units}")
        if found["embedding"] not in ("shared", "separate", "none") or type(found["reset_after"]) is not bool:
            raise ValueError(f"embedding {found['embedding']!r}, reset_after {found['reset_after']!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{Path(model_dir) / 'config.json'}: found no complete network settings ({error}), expected those of "
                         "train.py") from None
    return found


def weight_shapes(settings, item_count):
    """The shape of every weight of a network by its name, a dict of str to list of int; settings as for `Scorer`."""
    sizes, embedding = settings["hid_size"], settings["embedding"]
    shapes = {"item_matrix": [item_count, sizes[-1] + 1]}
    if embedding != "shared":
        shapes["embedding"] = [item_count, settings["emb_size"] if embedding == "separate" else 3 * sizes[0]]
    fed = list(zip([settings["emb_size"], *sizes], sizes))[embedding == "none":]
    for layer, (inputs, units) in enumerate(fed):
        shapes |= {f"fc.{layer}.weight": [inputs, 3 * units], f"fc.{layer}.bias": [3 * units]}
    for layer, units in enumerate(sizes):
        shapes |= {f"gru.{layer}.weight": [units, 3 * units], f"gru.{layer}.bias": [3 * units]}
    return shapes
