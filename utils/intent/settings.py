"""The shape of the network for purchase intent: its settings, and the names and shapes of its weights. No Paddle."""

import math
from dataclasses import asdict, dataclass

from utils.intent.inputs import CLICK_INPUTS, KNOTS, PAIR_INPUTS
from utils.model.layout import GATES, NetworkSettings

COUNTS = 3  # of each item: sessions with it, those that buy anything, those that buy it
# kept beside the weights, and not trained
STATISTICS = "item_counts", "category_counts", "click_knots", "pair_knots"


@dataclass
class IntentSettings:
    """What the shape and the training of net.IntentNetwork depend on; stored in config.json.

    networks : int, whose answers' mean counts; what follows is said of each
    hid_size : int, units of the GRU
    emb_size : int, units of an item's vector
    category_size : int, units of a category's vector; 0: categories are not looked at
    head_size : int, units of the hidden layer of each head
    min_support : int, training sessions that an item needs for a vector of its own; the others, and unknown ones, share
        one
    bidirectional : bool, a second GRU reads each session backwards: only for sessions that have ended
    emb_dropout, hid_dropout, head_dropout : float, share of the item vectors, of the GRU's outputs and of the heads'
        hidden layers that training zeroes
    """

    networks: int
    hid_size: int
    emb_size: int
    category_size: int = 0
    head_size: int = 32
    min_support: int = 5
    bidirectional: bool = False
    emb_dropout: float = 0.0
    hid_dropout: float = 0.0
    head_dropout: float = 0.0

    as_dict = asdict

    @property
    def gru(self):
        """The settings of each GRU as a layout.NetworkSettings."""
        return NetworkSettings([self.hid_size], self.emb_size, hid_dropout=self.hid_dropout)


def weight_shapes(settings, item_count, category_count):
    """The shape of every weight and statistic by its name, a dict of str to list of int."""
    of_each = member_shapes(settings, item_count, category_count)
    shapes = {f"members.{member}.{name}": shape for member in range(settings.networks)
              for name, shape in of_each.items()}
    return shapes | {"item_counts": [COUNTS, item_count + 1], "category_counts": [COUNTS, category_count + 1],
                     "click_knots": [2, len(CLICK_INPUTS), KNOTS], "pair_knots": [2, len(PAIR_INPUTS), KNOTS]}


def member_shapes(settings, item_count, category_count):
    """The shape of every weight of one network by its name, a dict of str to list of int.

    The last row of `items` is that of the items without a vector of their own; row 0 of `categories` that of missing
    and unknown ones.
    """
    units, gates = settings.hid_size, GATES * settings.hid_size
    inputs = settings.emb_size + settings.category_size + len(CLICK_INPUTS)
    both = units * (1 + settings.bidirectional)
    shapes = {"items": [item_count + 1, settings.emb_size]}
    if settings.category_size:
        shapes["categories"] = [category_count + 1, settings.category_size]
    for place in ["forward"] + ["backward"] * settings.bidirectional:
        shapes |= {f"fc_{place}.weight": [inputs, gates], f"fc_{place}.bias": [gates],
                   f"gru_{place}.weight": [units, gates], f"gru_{place}.bias": [gates]}
    widths = {"session_head": both + len(CLICK_INPUTS),
              "item_head": 2 * both + settings.emb_size + 2 * len(CLICK_INPUTS) + len(PAIR_INPUTS)}
    for head, width in widths.items():
        shapes |= {f"{head}.hidden.weight": [width, settings.head_size], f"{head}.hidden.bias": [settings.head_size],
                   f"{head}.output.weight": [width + settings.head_size, 1], f"{head}.output.bias": [1]}
    return shapes


def weight_count(settings, item_count, category_count):
    """How many numbers all weights have."""
    return sum(map(math.prod, weight_shapes(settings, item_count, category_count).values()))
