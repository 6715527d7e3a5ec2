"""The shape of the network in net.py: settings, layers, names and shapes of the weights. Needs no Paddle.

net.py makes its weights by this, the C++ engine, the NumPy and C++ scorers and merge_models.py compute by it, and what
is loaded from a model directory is checked against it. A network whose weights are others is known to net.py alone.
"""

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

EMBEDDINGS = "shared", "separate", "none"
LEAST_SQUARE = 1e-12  # added to the square of a length, which could be 0
GATES = 3  # reset, update and candidate, side by side in this order in every weight of FC and GRU
ITEM_MATRIX = "item_matrix"
ANSWERING = "hid_size", "emb_size", "embedding", "reset_after"  # the settings that matter once training is over
ANSWERING_LATER = "score_scale", "last_click"  # too; an older config.json means their defaults
LAST_CLICK = "last_click"


@dataclass
class NetworkSettings:
    """What the shape and the training behaviour of the network depend on; stored in config.json.

    hid_size : list of int, units of each GRU layer, the lowest first
    emb_size : int, units of the item embedding
    embedding : str, `shared` one matrix is embedding and output matrix (then emb_size equals the last hid_size),
        `separate` two matrices, `none` the first layer's gates have a weight for every item (emb_size plays no part)
    reset_after : bool, the GRU's reset gate acts after the recurrent product (as in nn.GRU, cuDNN) or before it (as in
        Paddle's fluid and Theano)
    last_click : bool, the last click's vector, times a learned one, is added to the state that items are scored with;
        only with a shared matrix
    emb_dropout, hid_dropout : float, share of the embedding's and of each layer's outputs that training zeroes
    carry_dropped : bool, the next click sees the state with dropout (the official code) or without
    through_time : bool, gradients go back through all clicks of a session, or (the official code) stop at the state
        before
    label_smoothing : float, share of each target's probability that is spread over all items
    score_scale : float, the largest product of a state and an item's vector: all vectors are made equally long, as they
        are scored by `scored_length`, and in a shared embedding 1; 0: vectors are as long as they have become
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
    score_scale: float = 0.0
    init_range: float = 0.0
    last_click: bool = False
    emb_lr_x: float = 1.0
    gru_lr_x: float = 1.0
    fc_lr_x: float = 1.0

    as_dict = asdict


class Layer(NamedTuple):
    """A GRU layer and the FC below it.

    units : int, of the GRU
    inputs : int, units of what FC reads; 0 where there is no FC, because the embedding's rows are the gates' inputs
    gru : str, name of the GRU in the network
    fc : str or None, name of the FC
    """

    units: int
    inputs: int
    gru: str
    fc: str


def layers(settings):
    """The layers of a network, the lowest first: a list of `Layer`."""
    has_embedding = settings.embedding != "none"
    inputs = [settings.emb_size if has_embedding else 0, *settings.hid_size]
    names = [f"fc.{number}" if has_embedding else f"fc.{number - 1}" if number else None
             for number in range(len(settings.hid_size))]
    return [Layer(units, inputs[number], f"gru.{number}", names[number])
            for number, units in enumerate(settings.hid_size)]


def state_sizes(settings):
    """How many numbers a session keeps of each layer, and with `last_click` of what items are scored with, the last."""
    return settings.hid_size + settings.hid_size[-1:] * settings.last_click


def input_matrix(settings):
    """The name of the weight whose rows are looked up for the items clicked."""
    return ITEM_MATRIX if settings.embedding == "shared" else "embedding"


def input_width(settings):
    """How many numbers of an item's row in `input_matrix` are read; a shared matrix has the bias behind them."""
    return GATES * settings.hid_size[0] if settings.embedding == "none" else settings.emb_size


def scored_length(settings):
    """How long the vectors that score the items are made, 0 for as long as they are; a state is at most sqrt(units)."""
    return settings.score_scale / math.sqrt(settings.hid_size[-1])


def has_unit_inputs(settings):
    """Whether the embedding's vectors are made as long as 1: they are those that score the items."""
    return settings.embedding == "shared" and settings.score_scale > 0


def weight_shapes(settings, item_count):
    """The shape of every weight by its name, a dict of str to list of int, in the order in which they are drawn.

    The item matrix has a row [last hid_size + 1] for each item: its vector, and its bias in the last column.
    """
    shapes = {}
    if settings.embedding != "shared":
        shapes["embedding"] = [item_count, input_width(settings)]
    for layer in layers(settings):
        gates = GATES * layer.units
        if layer.fc:
            shapes |= {f"{layer.fc}.weight": [layer.inputs, gates], f"{layer.fc}.bias": [gates]}
        shapes |= {f"{layer.gru}.weight": [layer.units, gates], f"{layer.gru}.bias": [gates]}
    if settings.last_click:
        shapes[LAST_CLICK] = [settings.hid_size[-1]]
    return shapes | {ITEM_MATRIX: [item_count, settings.hid_size[-1] + 1]}


def weight_count(settings, item_count):
    """How many numbers all weights have."""
    return sum(map(math.prod, weight_shapes(settings, item_count).values()))
