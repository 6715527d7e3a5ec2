"""The network: embedding, FC to three times the hidden size, dynamic GRU, softmax over all items.

To try another network, edit `Network`: training and evaluation use nothing of it but `hidden_states`, `input_weights`,
`item_matrix`, `loss` and `settings`; utils/scorer.py has the same network in NumPy.
"""

from dataclasses import asdict, dataclass

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.autograd import PyLayer

from utils import native
from utils.losses import FullSoftmaxCrossEntropy

EMBEDDINGS = ("shared", "separate", "none")


@dataclass
class NetworkSettings:
    """What the shape and the training behaviour of the network depend on; stored in config.json.

    hid_size : list of int, units of each GRU layer, the lowest first
    emb_size : int, units of the item embedding
    embedding : str, `shared` one matrix is embedding and output matrix (then emb_size equals the last hid_size),
        `separate` two matrices, `none` the first layer's gates have a weight for every item (emb_size plays no part)
    reset_after : bool, the GRU's reset gate acts after the recurrent product (as in nn.GRU, cuDNN) or before it (as in
        Paddle's fluid and Theano)
    emb_dropout, hid_dropout : float, share of the embedding's and of each layer's outputs that training zeroes
    carry_dropped : bool, the next click sees the state with dropout (the official code) or without
    through_time : bool, gradients go back through all clicks of a session, or (the official code) stop at the state before
    label_smoothing : float, share of each target's probability that is spread over all items
    init_range : float, weights are drawn from U(-init_range, init_range); 0 for Glorot's sqrt(6 / (rows + columns)) of
        each gate's matrix
    emb_lr_x, gru_lr_x, fc_lr_x : float, learning-rate multipliers of the embedding, of FC and GRU, and of the output
    """

    hid_size: list
    emb_size: int
    embedding: str = "shared"
    reset_after: bool = True
    emb_dropout: float = 0.0
    hid_dropout: float = 0.0
    carry_dropped: bool = False
    through_time: bool = True
    label_smoothing: float = 0.0
    init_range: float = 0.0
    emb_lr_x: float = 1.0
    gru_lr_x: float = 1.0
    fc_lr_x: float = 1.0

    as_dict = asdict


class Network(nn.Layer):
    """GRU4Rec with a softmax over all items (Hidasi et al., ICLR 2016, section 3.1).

    `item_matrix`, float32 [items, units + 1], scores the items: for state h, item j has the score
    h · item_matrix[j, :-1] + item_matrix[j, -1]; the last column is the bias.

    Parameters
    ----------
    item_count : int
    settings : NetworkSettings
    seed : int
        Of the initial weights.
    """

    def __init__(self, item_count, settings, seed=0):
        super().__init__()
        self.settings = settings
        draw = np.random.default_rng(seed)
        weight = lambda shape, gates, lr_x: self._weight(draw, shape, gates, lr_x)
        first, last = settings.hid_size[0], settings.hid_size[-1]
        if settings.embedding == "separate":
            self.embedding = weight([item_count, settings.emb_size], 1, settings.emb_lr_x)
        elif settings.embedding == "none":
            self.embedding = weight([item_count, 3 * first], 3, settings.gru_lr_x)
        self.fc, self.gru = nn.LayerList(), nn.LayerList()
        sizes = [settings.emb_size, *settings.hid_size]
        for layer, (inputs, units) in enumerate(zip(sizes, sizes[1:])):
            if layer > 0 or settings.embedding != "none":
                self.fc.append(FullyConnected(weight([inputs, 3 * units], 3, settings.gru_lr_x), settings.gru_lr_x))
            self.gru.append(DynamicGRU(weight([units, 3 * units], 3, settings.gru_lr_x), settings.gru_lr_x, settings.reset_after))
        output_lr_x = settings.emb_lr_x if settings.embedding == "shared" else settings.fc_lr_x
        self.item_matrix = self._weight(draw, [item_count, last], 1, output_lr_x, bias_column=True)

    def input_weights(self):
        """The parameter whose rows are looked up for the items clicked, float32 [items, ...]."""
        return self.item_matrix if self.settings.embedding == "shared" else self.embedding

    def hidden_states(self, items, rows_per_step, item_rows=None, before=None):
        """The state after each click, from which the next one is predicted.

        Parameters
        ----------
        items : int64 tensor [clicks]
            Packed as in `sessions.Batch.inputs`.
        rows_per_step : list of int
            As in `sessions.Batch`.
        item_rows : float32 tensor [clicks, ...]
            The rows of `input_weights()` that belong to `items`, for a caller that has them; `items` may then be None.
        before : list of float32 tensors [rows_per_step[0], hid_size[layer]]
            The layers' states before the first click, zero by default. It is replaced by the states after the last step.

        Returns
        -------
        float32 tensor [clicks, hid_size[-1]]
        """
        settings = self.settings
        states = F.embedding(items, self.input_weights()) if item_rows is None else item_rows
        if settings.embedding == "shared":
            states = states[:, :-1]
        states = dropout(states, settings.emb_dropout, self.training, "embedding")
        fully_connected = list(self.fc)
        for layer, gru in enumerate(self.gru):
            gates = states if layer == 0 and settings.embedding == "none" else fully_connected.pop(0)(states)
            drop = lambda values: dropout(values, settings.hid_dropout, self.training, f"layer {layer}")
            if self.training and not settings.through_time and len(rows_per_step) > 1:
                states = self._stepwise(gru, gates, rows_per_step, drop)
                continue
            undropped = gru(gates, rows_per_step, before and before[layer])
            states = drop(undropped)
            if before:
                carried = states if settings.carry_dropped else undropped
                before[layer] = carried[-rows_per_step[-1]:].detach()
        return states

    def _stepwise(self, gru, gates, rows_per_step, drop):
        """All states, with dropout, of a layer whose gradients stop at the state before."""
        state, states = None, []
        for step_gates in paddle.split(gates, rows_per_step):
            rows = step_gates.shape[0]
            undropped = gru(step_gates, [rows], None if state is None else state[:rows].detach())
            states.append(drop(undropped))
            state = states[-1] if self.settings.carry_dropped else undropped
        return paddle.concat(states)

    def loss(self, items, targets, rows_per_step, before=None):
        """Mean cross-entropy of the next clicks `targets`, int64 [clicks], in nats: a float32 scalar tensor."""
        hidden = self.hidden_states(items, rows_per_step, before=before)
        return FullSoftmaxCrossEntropy.apply(hidden, self.item_matrix, targets, self.settings.label_smoothing)

    def _weight(self, draw, shape, gates, lr_x, bias_column=False):
        """A weight drawn by NumPy, so that a seed means the same on every device and in every Paddle."""
        rows, columns = shape
        bound = self.settings.init_range or np.sqrt(6 / (rows + columns // gates))
        values = draw.uniform(-bound, bound, shape)
        return parameter(self, np.hstack([values, np.zeros([rows, 1])]) if bias_column else values, lr_x)


class FullyConnected(nn.Layer):
    """x W + b, W float32 [inputs, 3 units]: the inputs of a GRU layer's gates for all clicks at once."""

    def __init__(self, weight, lr_x):
        super().__init__()
        self.weight = weight
        self.bias = zero_bias(self, weight.shape[1], lr_x)

    def forward(self, inputs):
        return F.linear(inputs, self.weight, self.bias)


class DynamicGRU(nn.Layer):
    """A GRU over packed sessions; its input is what FC made of each click, float32 [clicks, 3 units].

    With x that input, U the recurrent weights, v their bias and h the state before (zero before the first click):

    r = sigmoid(x_r + h U_r + v_r), z = sigmoid(x_z + h U_z + v_z), the next state is z * h + (1 - z) * c, where
    c = tanh(x_c + r * (h U_c + v_c)) with the reset gate after the product (nn.GRU and cuDNN), and
    c = tanh(x_c + (r * h) U_c + v_c) with the reset gate before it (Cho et al., EMNLP 2014, section 2.3; fluid, Theano).
    """

    def __init__(self, weight, lr_x, reset_after):
        super().__init__()
        self.weight = weight
        self.bias = zero_bias(self, weight.shape[1], lr_x)
        self.recurrence = ResetAfter if reset_after else ResetBefore

    def forward(self, gate_inputs, rows_per_step, before=None):
        """All states, float32 [clicks, units], for `gate_inputs`, float32 [clicks, 3 units] in the order r, z, c.

        `before`, float32 [rows_per_step[0], units], is the state before the first click; it gets no gradient.
        """
        if before is None:
            before = paddle.zeros([rows_per_step[0], self.weight.shape[0]], gate_inputs.dtype)
        return self.recurrence.apply(gate_inputs, self.weight, self.bias, before, rows_per_step)


class Recurrence(PyLayer):
    """The loop over time that both forms of the GRU share, with its gradient; a form says what one step does."""

    @classmethod
    def run(cls, ctx, gate_inputs, weight, bias, state, rows_per_step):
        ctx.weight, ctx.rows_per_step, ctx.native = weight, rows_per_step, None
        if native.takes(gate_inputs, weight):
            states, saved = native.gru_forward(gate_inputs, weight, bias, state, rows_per_step, cls is ResetAfter)
            ctx.native = states, saved, weight, state
            return states
        ctx.steps, states = [], []
        for inputs in paddle.split(gate_inputs, rows_per_step):
            state, saved = cls.step(inputs, state[:inputs.shape[0]], weight, bias)
            ctx.steps.append(saved)
            states.append(state)
        return paddle.concat(states)

    @classmethod
    def run_back(cls, ctx, states_gradient):
        """Gradients of the gates' inputs, the weight and the bias."""
        if ctx.native:
            return *native.gru_backward(states_gradient, *ctx.native, ctx.rows_per_step, cls is ResetAfter), None
        weight, later, rows = ctx.weight.t(), None, []
        for gradient, saved in zip(reversed(paddle.split(states_gradient, ctx.rows_per_step)), reversed(ctx.steps)):
            if later is not None:
                ended = gradient.shape[0] - later.shape[0]  # sessions that have no later step
                gradient += F.pad(later, [0, ended, 0, 0]) if ended else later
            later, row = cls.step_back(gradient, saved, weight)
            rows.append(row)
        return *cls.sums(*(paddle.concat(column[::-1]) for column in zip(*rows))), None


class ResetAfter(Recurrence):
    @staticmethod
    def forward(ctx, gate_inputs, weight, bias, before, rows_per_step):
        return ResetAfter.run(ctx, gate_inputs, weight, bias, before, rows_per_step)

    @staticmethod
    def backward(ctx, states_gradient):
        return ResetAfter.run_back(ctx, states_gradient)

    @staticmethod
    def sums(inputs_gradient, products_gradient, before):
        return inputs_gradient, paddle.matmul(before, products_gradient, transpose_x=True), products_gradient.sum(axis=0)

    @staticmethod
    def step(inputs, before, weight, bias):
        units = weight.shape[0]
        products = paddle.matmul(before, weight) + bias
        gates = sigmoid(inputs[:, :2 * units] + products[:, :2 * units])
        reset, update = gates[:, :units], gates[:, units:]
        candidate_product = products[:, 2 * units:]
        candidate = paddle.tanh(inputs[:, 2 * units:] + reset * candidate_product)
        return candidate + update * (before - candidate), (before, reset, update, candidate_product, candidate)

    @staticmethod
    def step_back(gradient, saved, weight_transposed):
        before, reset, update, candidate_product, candidate = saved
        candidate_gradient = gradient * (1 - update) * (1 - candidate * candidate)
        update_gradient = gradient * (before - candidate) * update * (1 - update)
        reset_gradient = candidate_gradient * candidate_product * reset * (1 - reset)
        inputs_gradient = paddle.concat([reset_gradient, update_gradient, candidate_gradient], axis=1)
        products_gradient = paddle.concat([reset_gradient, update_gradient, candidate_gradient * reset], axis=1)
        before_gradient = gradient * update + paddle.matmul(products_gradient, weight_transposed)
        return before_gradient, (inputs_gradient, products_gradient, before)


class ResetBefore(Recurrence):
    @staticmethod
    def forward(ctx, gate_inputs, weight, bias, before, rows_per_step):
        return ResetBefore.run(ctx, gate_inputs, weight, bias, before, rows_per_step)

    @staticmethod
    def backward(ctx, states_gradient):
        return ResetBefore.run_back(ctx, states_gradient)

    @staticmethod
    def sums(inputs_gradient, before, reset_before):
        units = before.shape[1]
        weight_gradient = paddle.concat([paddle.matmul(before, inputs_gradient[:, :2 * units], transpose_x=True),
                                         paddle.matmul(reset_before, inputs_gradient[:, 2 * units:], transpose_x=True)], axis=1)
        return inputs_gradient, weight_gradient, inputs_gradient.sum(axis=0)

    @staticmethod
    def step(inputs, before, weight, bias):
        units = weight.shape[0]
        inputs = inputs + bias
        gates = sigmoid(inputs[:, :2 * units] + paddle.matmul(before, weight[:, :2 * units]))
        reset, update = gates[:, :units], gates[:, units:]
        reset_before = reset * before
        candidate = paddle.tanh(inputs[:, 2 * units:] + paddle.matmul(reset_before, weight[:, 2 * units:]))
        return candidate + update * (before - candidate), (before, reset, update, reset_before, candidate)

    @staticmethod
    def step_back(gradient, saved, weight_transposed):
        before, reset, update, reset_before, candidate = saved
        units = before.shape[1]
        candidate_gradient = gradient * (1 - update) * (1 - candidate * candidate)
        reset_before_gradient = paddle.matmul(candidate_gradient, weight_transposed[2 * units:])
        update_gradient = gradient * (before - candidate) * update * (1 - update)
        reset_gradient = reset_before_gradient * before * reset * (1 - reset)
        inputs_gradient = paddle.concat([reset_gradient, update_gradient, candidate_gradient], axis=1)
        before_gradient = (gradient * update + reset_before_gradient * reset
                           + paddle.matmul(inputs_gradient[:, :2 * units], weight_transposed[:2 * units]))
        return before_gradient, (inputs_gradient, before, reset_before)


def dropout(values, share, training, place):
    """In training, `values` with a random share zeroed and the rest scaled by 1 / (1 - share).

    `place` names the layer, for whoever puts other masks in this function's place, as tests/test_golden.py does.
    """
    return F.dropout(values, share) if training and share else values


def sigmoid(values):
    """1 / (1 + exp(-x)) by way of tanh, which Paddle computes ten times as fast on a processor."""
    return paddle.stanh(values, 0.5, 0.5) + 0.5


def parameter(layer, values, lr_x):
    """A float32 parameter of `layer` that starts from the array `values` and learns at `lr_x` times the rate."""
    start = nn.initializer.Assign(np.asarray(values, np.float32))
    return layer.create_parameter(list(values.shape), attr=paddle.ParamAttr(initializer=start, learning_rate=lr_x))


def zero_bias(layer, size, lr_x):
    """A bias, float32 [size], that starts from 0."""
    return parameter(layer, np.zeros(size), lr_x)
