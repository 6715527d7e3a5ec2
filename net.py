"""The network: embedding, FC to three times the hidden size, dynamic GRU, softmax over all items.

Edit it here, and what you wrote is what trains, evaluates and answers; docs/changing-it.md has examples. The C++ that
is made for this network takes its place only while it stands here as it came, and gives the same numbers. Otherwise
Paddle trains what stands here.

Training, evaluation and answering use nothing of `Network` but `settings`, `input_weights`, `item_matrix`,
`first_states`, `hidden_states`, `scores` and `loss`.
"""

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from utils.intent.settings import member_shapes
from utils.losses import cross_entropy
from utils.model.layout import (
    GATES,
    ITEM_MATRIX,
    LAST_CLICK,
    LEAST_SQUARE,
    has_unit_inputs,
    layers,
    scored_length,
    weight_shapes,
)

ROWS_AT_ONCE = 1 << 14  # that are drawn where only some rows of a matrix are kept
FIRST_SHARE = 0.1  # of the last click's vector, before training


class Network(nn.Layer):
    """GRU4Rec with a softmax over all items (Hidasi et al., ICLR 2016, section 3.1).

    `item_matrix`, float32 [items, units + 1], scores the items; its last column is the bias.

    Parameters
    ----------
    item_count : int
    settings : layout.NetworkSettings
    seed : int
        Of the initial weights.
    rows : slice
        Of the items whose rows the matrices have here, where several processes share them; by default all.
    """

    def __init__(self, item_count, settings, seed=0, rows=slice(None)):
        super().__init__()
        self.settings, self.item_count = settings, item_count
        shapes, draw = weight_shapes(settings, item_count), np.random.default_rng(seed)
        weight = lambda shape, gates=1: glorot_uniform(draw, shape, gates, settings.init_range)
        matrix = lambda shape, gates=1: glorot_uniform(draw, shape, gates, settings.init_range, rows)
        if settings.embedding == "separate":
            self.embedding = parameter(self, matrix(shapes["embedding"]), settings.emb_lr_x)
        elif settings.embedding == "none":
            self.embedding = parameter(self, matrix(shapes["embedding"], GATES), settings.gru_lr_x)
        self.fc, self.gru = nn.LayerList(), nn.LayerList()
        for number, layer in enumerate(layers(settings)):
            if layer.fc:
                self.fc.append(FullyConnected(weight(shapes[f"{layer.fc}.weight"], GATES), settings.gru_lr_x))
            self.gru.append(DynamicGRU(weight(shapes[f"{layer.gru}.weight"], GATES), settings, f"layer {number}"))
        if settings.last_click:
            self.last_click = parameter(self, np.full(shapes[LAST_CLICK], FIRST_SHARE))
        items, columns = shapes[ITEM_MATRIX]
        vectors = matrix([items, columns - 1])
        output_lr_x = settings.emb_lr_x if settings.embedding == "shared" else settings.fc_lr_x
        self.item_matrix = parameter(self, np.hstack([vectors, np.zeros([len(vectors), 1])]), output_lr_x)

    def input_weights(self):
        """The parameter whose rows are looked up for the items clicked, float32 [items, ...]."""
        return self.item_matrix if self.settings.embedding == "shared" else self.embedding

    def first_states(self, sessions):
        """What the layers carry from click to click, before a session's first one: a list of zeros.

        Every tensor has a row for each of the `sessions`; `hidden_states` takes and replaces such a list.
        """
        return [paddle.zeros([sessions, units]) for units in self.settings.hid_size]

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        """The state after each click, from which the next one is predicted.

        Parameters
        ----------
        items : int64 tensor [clicks]
            Packed as in `batches.Batch.inputs`.
        rows_per_step : list of int
            As in `batches.Batch`.
        item_rows : float32 tensor [clicks, ...]
            The rows of `input_weights()` that belong to `items`: training looks them up itself, to have their gradient.
        before : list of float32 tensors
            As `first_states` returns it, by default for sessions that begin. The states after the last step replace it.

        Returns
        -------
        float32 tensor [clicks, hid_size[-1]]
        """
        states = F.embedding(items, self.input_weights()) if item_rows is None else item_rows
        if self.settings.embedding == "shared":
            states = states[:, :-1]  # without the bias
        if has_unit_inputs(self.settings):
            states = of_length(1, states)
        clicked = states
        states = dropout(states, self.settings.emb_dropout, self.training, "embedding")
        before = self.first_states(rows_per_step[0]) if before is None else before
        fully_connected = list(self.fc)
        for number, gru in enumerate(self.gru):
            has_fc = number > 0 or self.settings.embedding != "none"
            gates = fully_connected.pop(0)(states) if has_fc else states
            states, before[number] = gru(gates, rows_per_step, before[number])
        return self.with_last_click(states, clicked)

    def with_last_click(self, states, clicked):
        """What predicts the next click: states, with `last_click` a share of the last click's vector added.

        The share is learned for each unit. Without its dropout, the network fits what it has seen too well. Liu et al.,
        STAMP, KDD 2018, predict from the last click beside a summary of all clicks, too.

        Parameters
        ----------
        states, clicked : float32 tensors [clicks, hid_size[-1]]
        """
        if not self.settings.last_click:
            return states
        return states + self.last_click * dropout(clicked, self.settings.hid_dropout, self.training, LAST_CLICK)

    def scores(self, states, item_rows):
        """How likely items are clicked next: for state h, an item of vector w and bias b has the score h · w + b.

        With a `score_scale` s it is s / sqrt(units) h · (w / |w|) + b, so that no item scores higher for a longer
        vector, as frequent ones do. Gupta et al. (NISER, 2019, section 4) divide h by its length as well.

        Parameters
        ----------
        states : float32 tensor [..., rows, hid_size[-1]]
        item_rows : float32 tensor [..., candidates, hid_size[-1] + 1]
            Rows of `item_matrix`.

        Returns
        -------
        float32 tensor [..., rows, candidates]
        """
        vectors, biases = item_rows[..., :-1], item_rows[..., -1].unsqueeze(-2)
        if self.settings.score_scale:
            vectors = of_length(scored_length(self.settings), vectors)
        return paddle.matmul(states, vectors, transpose_y=True) + biases

    def loss(self, scores, targets):
        """What train.py minimises the mean of: the cross-entropy of each prediction, in nats.

        Parameters
        ----------
        scores : float32 tensor [rows, items]
        targets : int64 tensor [rows]

        Returns
        -------
        float32 tensor [rows]
        """
        items = scores.shape[1]
        # Szegedy et al., CVPR 2016, section 7, spread the share over all items; cross_entropy over all but the target.
        return cross_entropy(scores, targets, self.settings.label_smoothing * (items - 1) / items)


class IntentNetwork(nn.Layer):
    """Whether a session buys something, and which of its items: several equal networks, whose answers' mean counts.

    Parameters
    ----------
    settings : utils.intent.settings.IntentSettings
    statistics : dict of str to float32 arrays
        STATISTICS of that module, from the training sessions, to be kept with the weights.
    odds : pair of float
        The logarithms of the odds, in training, that a session buys, and that a buying one buys a clicked item.
    seed : int
        Of the initial weights.
    """

    def __init__(self, settings, statistics, odds=(0.0, 0.0), seed=0):
        super().__init__()
        self.settings = settings
        shapes = member_shapes(settings, *(statistics[f"{kind}_counts"].shape[1] - 1 for kind in ("item", "category")))
        draws = np.random.default_rng(seed).spawn(settings.networks)
        self.members = nn.LayerList([IntentMember(settings, shapes, odds, draw) for draw in draws])
        for name, values in statistics.items():
            self.register_buffer(name, paddle.to_tensor(np.asarray(values, np.float32)))

    def forward(self, batch):
        """The mean over the members of what each says of a batch, as of `IntentMember.forward`."""
        found = [member(batch) for member in self.members]
        return [sum(values) / len(found) for values in zip(*found)]


class IntentMember(nn.Layer):
    """A GRU over the clicks, and two heads.

    The heads read numbers of the session and of the item beside the GRU's states, as the winners of the RecSys
    Challenge 2015 chose them (Romov and Sokolov, 2015). utils/intent/inputs.py computes these numbers.
    """

    def __init__(self, settings, shapes, odds, draw):
        super().__init__()
        self.settings, self.directions = settings, ["forward"] + ["backward"] * settings.bidirectional
        weight = lambda name, gates=1: glorot_uniform(draw, shapes[name], gates)
        self.items = parameter(self, weight("items"))
        if settings.category_size:
            self.categories = parameter(self, weight("categories"))
        for direction in self.directions:
            setattr(self, f"fc_{direction}", FullyConnected(weight(f"fc_{direction}.weight", GATES), 1.0))
            gru = DynamicGRU(weight(f"gru_{direction}.weight", GATES), settings.gru, f"layer {direction}")
            setattr(self, f"gru_{direction}", gru)
        for head, first in zip(("session_head", "item_head"), odds):
            hidden, output = weight(f"{head}.hidden.weight"), weight(f"{head}.output.weight")
            setattr(self, head, Head(hidden, output, first, settings.head_dropout))

    def hidden_states(self, batch, item_rows=None):
        """The states after each click, float32 tensor [clicks, units], and the item vectors, [clicks, emb_size].

        A bidirectional network's are those of both directions side by side.

        Parameters
        ----------
        batch : utils.intent.batches.IntentBatch
        item_rows : float32 tensor [clicks, emb_size]
            The rows of `items` for the batch's clicks: training looks them up itself, to have their gradient.
        """
        vectors = F.embedding(batch.rows, self.items) if item_rows is None else item_rows
        vectors = dropout(vectors, self.settings.emb_dropout, self.training, "embedding")
        parts = [vectors, batch.click_inputs]
        if self.settings.category_size:
            parts.append(F.embedding(batch.categories, self.categories))
        inputs, found = paddle.concat(parts, axis=1), []
        for direction in self.directions:
            seen = inputs if direction == "forward" else paddle.gather(inputs, batch.mirror)
            gates = getattr(self, f"fc_{direction}")(seen)
            before = paddle.zeros([batch.rows_per_step[0], self.settings.hid_size])
            states, _ = getattr(self, f"gru_{direction}")(gates, batch.rows_per_step, before)
            found.append(states if direction == "forward" else paddle.gather(states, batch.mirror))
        return found[0] if len(found) == 1 else paddle.concat(found, axis=1), vectors

    def forward(self, batch, item_rows=None):
        """The logarithms of two odds: that a session buys, after each click; that it buys an item, if it buys any.

        Returns
        -------
        float32 tensor [clicks]
            Of a bidirectional network, only those after a session's last click mean something.
        float32 tensor [pairs]
        """
        states, vectors = self.hidden_states(batch, item_rows)
        clicks, last, end = batch.click_inputs, batch.pair_last, batch.pair_end
        of_items = [paddle.gather(states, last), paddle.gather(states, end), paddle.gather(vectors, last),
                    paddle.gather(clicks, last), paddle.gather(clicks, end), batch.pair_inputs]
        of_sessions = [states, clicks]
        return self.session_head(paddle.concat(of_sessions, axis=1)), self.item_head(paddle.concat(of_items, axis=1))


class Head(nn.Layer):
    """From what is known, float32 [rows, width], to one number each: linear in it and in a hidden layer's tanh."""

    def __init__(self, hidden, output, first, share):
        super().__init__()
        self.hidden, self.output, self.share = FullyConnected(hidden, 1.0), FullyConnected(output, 1.0), share
        self.output.bias.set_value(np.full([1], first, np.float32))

    def forward(self, known):
        hidden = dropout(paddle.tanh(self.hidden(known)), self.share, self.training, "head")
        return self.output(paddle.concat([known, hidden], axis=1)).squeeze(1)


class FullyConnected(nn.Layer):
    """x W + b; in front of a GRU layer, the inputs of its gates for all clicks at once.

    Parameters
    ----------
    weight : float32 array [inputs, outputs]
        Initial values of W; b begins at 0.
    lr_x : float
        Times the learning rate, theirs.
    """

    def __init__(self, weight, lr_x):
        super().__init__()
        self.weight = parameter(self, weight, lr_x)
        self.bias = parameter(self, np.zeros(weight.shape[1]), lr_x)

    def forward(self, inputs):
        return F.linear(inputs, self.weight, self.bias)


class DynamicGRU(nn.Layer):
    """A GRU over packed sessions; its input is what FC made of each click, float32 [clicks, 3 units].

    With x that input, U the recurrent weights, v their bias and h the state before (zero before the first click):

    r = sigmoid(x_r + h U_r + v_r), z = sigmoid(x_z + h U_z + v_z), the next state is z * h + (1 - z) * c, where
    c = tanh(x_c + r * (h U_c + v_c)) with the reset gate after the product (nn.GRU and cuDNN), and
    c = tanh(x_c + (r * h) U_c + v_c) with the reset gate before it (Cho et al., EMNLP 2014, section 2.3; fluid,
    Theano).
    """

    def __init__(self, weight, settings, place):
        super().__init__()
        self.settings, self.place, self.units = settings, place, weight.shape[0]
        self.weight = parameter(self, weight, settings.gru_lr_x)
        self.bias = parameter(self, np.zeros(weight.shape[1]), settings.gru_lr_x)

    def forward(self, gate_inputs, rows_per_step, state):
        """All states, with dropout in training, and the state to carry on from the last step.

        Parameters
        ----------
        gate_inputs : float32 tensor [clicks, 3 units]
            Packed as in `batches.Batch.inputs`; the gates in the order r, z, c.
        rows_per_step : list of int
        state : float32 tensor [rows_per_step[0], units]
            Before the first click; it gets no gradient.

        Returns
        -------
        float32 tensor [clicks, units]
        float32 tensor [rows_per_step[-1], units]
        """
        settings, states = self.settings, []
        for inputs in paddle.split(gate_inputs, rows_per_step):
            rows = inputs.shape[0]
            state = state if state.shape[0] == rows else state[:rows]  # the others' sessions have ended
            state = self.step(inputs, state if settings.through_time else state.detach())
            states.append(dropout(state, settings.hid_dropout, self.training, self.place))
            if settings.carry_dropped:
                state = states[-1]
        return states[0] if len(states) == 1 else paddle.concat(states), state.detach()

    def step(self, inputs, before):
        """The next state, float32 [rows, units], of gate inputs [rows, 3 units] and the state before [rows, units]."""
        gates, candidate = 2 * self.units, slice(2 * self.units, None)
        if self.settings.reset_after:
            products = F.linear(before, self.weight, self.bias)
            reset, update = paddle.split(sigmoid(inputs[:, :gates] + products[:, :gates]), 2, axis=1)
            new = paddle.tanh(inputs[:, candidate] + reset * products[:, candidate])
        else:
            products = F.linear(before, self.weight[:, :gates], self.bias[:gates])
            reset, update = paddle.split(sigmoid(inputs[:, :gates] + products), 2, axis=1)
            product = F.linear(reset * before, self.weight[:, candidate], self.bias[candidate])
            new = paddle.tanh(inputs[:, candidate] + product)
        return new + update * (before - new)


def of_length(length, vectors):
    """The vectors, float32 tensor [..., units], made as long as `length`; one of zeros stays as it is."""
    squares = (vectors * vectors).sum(axis=-1, keepdim=True)
    return vectors * (length * paddle.rsqrt(squares + LEAST_SQUARE))


def dropout(values, share, training, place):
    """In training, `values` with a random share zeroed and the rest scaled by 1 / (1 - share).

    `place` names the layer, for what puts other masks in the place of this function: utils/training/proof.py those of
    C++, tests/training/test_golden.py those of the official code.
    """
    return F.dropout(values, share) if training and share else values


def sigmoid(values):
    """1 / (1 + exp(-x)) by way of tanh, which Paddle computes ten times as fast on a processor."""
    return paddle.stanh(values, 0.5, 0.5) + 0.5


def glorot_uniform(draw, shape, gates=1, init_range=0.0, rows=slice(None)):
    """A matrix drawn from U(-a, a): a is `init_range`, or sqrt(6 / (rows + columns)) of each of the `gates` in it.

    Glorot and Bengio, AISTATS 2010, section 4.2.1. NumPy draws it, so that a seed means the same on every device and in
    every Paddle. Only the slice `rows` of it is returned, and never more than a part of the others is in memory.
    """
    count, columns = shape
    bound = init_range or np.sqrt(6 / (count + columns // gates))
    if rows == slice(None):
        return draw.uniform(-bound, bound, shape)
    first, _, step = rows.indices(count)
    whole = range(0, count, step * ROWS_AT_ONCE)
    return np.vstack([draw.uniform(-bound, bound, [min(step * ROWS_AT_ONCE, count - start), columns])
                      .astype(np.float32)[first::step] for start in whole])


def parameter(layer, values, lr_x=1.0):
    """A float32 parameter of `layer` that starts from the array `values` and learns at `lr_x` times the rate."""
    zeros = nn.initializer.Constant(0.0)  # Assign takes 30 times the memory and 100 times as long
    weight = layer.create_parameter(list(values.shape), attr=paddle.ParamAttr(initializer=zeros, learning_rate=lr_x))
    weight.set_value(np.asarray(values, np.float32))
    return weight
