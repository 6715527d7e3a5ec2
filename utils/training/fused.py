"""The third way through the network, for GPUs: each GRU layer of net.py by one call of paddle.nn.GRU.

net.py computes a GRU click by click, which on a GPU is a long row of small kernels. nn.GRU goes through a whole padded
batch at once, on a GPU by cuDNN. Like the C++, this is compared with net.py before a run's first step.
"""

import numpy as np
import paddle
from paddle import nn

import net
from utils.model.layout import LAST_CLICK, has_unit_inputs, layers
from utils.tensors import as_tensor
from utils.training.engines import PaddleEngine


def computes(settings, one_click):
    """Whether nn.GRU computes what net.py does with these layout.NetworkSettings.

    nn.GRU has its reset gate after the product, multiplies its inputs by a weight, and knows no change of the state
    between two clicks. With `one_click` a step, as with sessions side by side, no state lies between two clicks.
    """
    is_plain = settings.through_time and not settings.carry_dropped
    return settings.reset_after and settings.embedding != "none" and (one_click or is_plain)


class FusedEngine(PaddleEngine):
    """net.py's network as it comes, with FC and GRU of each layer in one nn.GRU.

    The weights of the network are copied there in each step, since nn.GRU keeps them transposed. The gates have the
    same order in both, r, z, c, and with z the share of the state before that stays.

    Parameters
    ----------
    network : net.Network
    """

    name = "fused"

    def __init__(self, network):
        super().__init__(network)
        zeros = paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))  # nothing is drawn for them
        self.grus, self.copies = [], {}
        for layer in layers(network.settings):
            gru = nn.GRU(layer.inputs, layer.units, time_major=True, weight_ih_attr=zeros, weight_hh_attr=zeros,
                         bias_ih_attr=zeros, bias_hh_attr=zeros)
            self.grus.append(gru)
            self.copies |= {f"{layer.fc}.weight": gru.weight_ih_l0, f"{layer.fc}.bias": gru.bias_ih_l0,
                            f"{layer.gru}.weight": gru.weight_hh_l0, f"{layer.gru}.bias": gru.bias_hh_l0}

    def trained_weights(self):
        """What the gradients of a step are taken by: the weights of nn.GRU, by their names in the network."""
        own = {LAST_CLICK: self.network.last_click} if self.network.settings.last_click else {}
        return {**self.copies, **own}

    def hidden_states(self, inputs, rows_per_step):
        """As Network.hidden_states, of `item_rows` and `states`."""
        self._copy_weights()
        network, settings = self.network, self.network.settings
        states = self.item_rows[:, :-1] if settings.embedding == "shared" else self.item_rows
        states = net.of_length(1, states) if has_unit_inputs(settings) else states
        clicked = states
        states = net.dropout(states, settings.emb_dropout, network.training, "embedding")
        before = network.first_states(rows_per_step[0]) if self.states is None else self.states
        places = as_tensor(padded_places(rows_per_step)) if len(rows_per_step) > 1 else None
        for number, gru in enumerate(self.grus):
            clean = _through(gru, states, rows_per_step, places, before[number])
            states = net.dropout(clean, settings.hid_dropout, network.training, f"layer {number}")
            carried = states if settings.carry_dropped else clean
            before[number] = carried[-rows_per_step[-1]:].detach()
        return network.with_last_click(states, clicked)

    def backward(self, hidden_gradient):
        gradients, by_inputs = super().backward(hidden_gradient)
        return {name: values.t() if values.ndim == 2 else values for name, values in gradients.items()}, by_inputs

    @paddle.no_grad()
    def _copy_weights(self):
        weights = dict(self.network.named_parameters())
        for name, copy in self.copies.items():
            paddle.assign(weights[name].t() if copy.ndim == 2 else weights[name], copy)


def padded_places(rows_per_step):
    """Where the clicks of a packed batch are once every time step has as many rows as the first: int64 [clicks]."""
    rows_per_step = np.asarray(rows_per_step)
    firsts = np.arange(len(rows_per_step)) * rows_per_step[0] - np.cumsum(rows_per_step) + rows_per_step
    return np.arange(rows_per_step.sum()) + np.repeat(firsts, rows_per_step)


def _through(gru, inputs, rows_per_step, places, before):
    """The states of one layer after each click.

    Parameters
    ----------
    gru : paddle.nn.GRU
    inputs : float32 tensor [clicks, ...]
        Packed as in batches.Batch.
    rows_per_step : list of int
    places : int64 tensor [clicks] or None
        `padded_places`, None for one time step. What is computed at the other places is never read, since the padding
        comes after a session's last click.
    before : float32 tensor [rows_per_step[0], units]

    Returns
    -------
    float32 tensor [clicks, units]
    """
    steps, rows = len(rows_per_step), rows_per_step[0]
    if places is not None:
        inputs = paddle.scatter(paddle.zeros([steps * rows, inputs.shape[1]]), places, inputs)
    states = gru(inputs.reshape([steps, rows, -1]), before.unsqueeze(0))[0].reshape([steps * rows, -1])
    return states if places is None else paddle.gather(states, places)
