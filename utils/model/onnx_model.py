"""The network as ONNX, for ONNX Runtime, Triton and others. Needs the package onnx, and no Paddle.

The graph takes any number of sessions, each from its first click or from the states that it had before:

- items, int64 [sessions, clicks]: the clicks in time order, as indices. -1 is no click: it fills up shorter sessions,
  and stands for items that the model doesn't know, anywhere in a session.
- states, float32 [sessions, units of all layers, and with last_click those of the last one again]: before these
  clicks; zeros before a session's first click.

and gives the states after the clicks (new_states), the scores of all items, float32 [sessions, items], and the best
items with their scores, int64 and float32 [sessions, k].
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from utils.files import InputError
from utils.model.layout import GATES, ITEM_MATRIX, LAST_CLICK, input_matrix, input_width, layers, state_sizes

OPSET, IR_VERSION = 17, 8  # of 2022; ONNX Runtime knows them from 1.12 on
LARGEST = 2**31 - 2**20  # bytes of a file; protobuf reads no more than 2 GiB


def session_model(settings, weights, k, notes):
    """An onnx.ModelProto of the network in evaluation.

    Parameters
    ----------
    settings : layout.NetworkSettings
    weights : dict of str to float32 arrays
        By their names in net.Network.
    k : int
        How many of the best items the graph finds; all if there are fewer.
    notes : dict of str to str
        The model's metadata.

    Raises
    ------
    InputError
        The weights are more than an ONNX file can hold.
    """
    size = sum(values.nbytes for values in weights.values())
    if size > LARGEST:
        raise InputError(f"--onnx: found weights of {size / 2**30:.1f} GiB, expected less than 2 GiB, the most that an "
                         "ONNX file holds")
    matrix, units = weights[ITEM_MATRIX], sum(state_sizes(settings))
    graph = _Graph()
    graph.constant("item_vectors", matrix[:, :-1])
    graph.constant("item_biases", matrix[:, -1])
    if settings.embedding != "shared":
        graph.constant("embedding", weights[input_matrix(settings)][:, :input_width(settings)])
    below = _clicks(graph, "item_vectors" if settings.embedding == "shared" else "embedding")
    state = _layers(graph, settings, weights, below)
    graph.node("Gemm", [state, "item_vectors", "item_biases"], "scores", transB=1)
    graph.constant("k", np.array([min(k, len(matrix))], np.int64))
    graph.node("TopK", ["scores", "k"], "best_scores", "best_items", axis=1)
    value = lambda name, kind, *shape: helper.make_tensor_value_info(name, kind, ["sessions", *shape])
    made = helper.make_graph(
        graph.nodes, "gru4rec",
        [value("items", TensorProto.INT64, "clicks"), value("states", TensorProto.FLOAT, units)],
        [value("best_items", TensorProto.INT64, min(k, len(matrix))),
         value("best_scores", TensorProto.FLOAT, min(k, len(matrix))),
         value("new_states", TensorProto.FLOAT, units), value("scores", TensorProto.FLOAT, len(matrix))],
        graph.constants)
    model = helper.make_model(made, producer_name="GRU4REC on PaddlePaddle", ir_version=IR_VERSION,
                              opset_imports=[helper.make_opsetid("", OPSET)])
    helper.set_model_props(model, notes)
    return model


class _Graph:
    """The nodes of a graph and its constants, in the order in which they are added."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def constant(self, name, values):
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))

    def node(self, operation, inputs, *outputs, **attributes):
        """Add an operation; the name of its first output."""
        self.nodes.append(helper.make_node(operation, inputs, list(outputs), name=outputs[0], **attributes))
        return outputs[0]


def _clicks(graph, matrix):
    """The name of each click's row of a matrix, float32 [clicks, sessions, numbers]; the clicks have no gaps there."""
    graph.constant("zero", np.array(0, np.int64))
    graph.constant("one", np.array(1, np.int64))
    graph.constant("axis_0", np.array([0], np.int64))
    graph.constant("axis_1", np.array([1], np.int64))
    # The real clicks to the front, in their order: by their places, to which the width is added where there is none.
    graph.node("Less", ["items", "zero"], "is_none")
    graph.node("Cast", ["is_none"], "none", to=TensorProto.INT64)
    graph.node("Shape", ["items"], "width", start=1, end=2)
    graph.node("Squeeze", ["width", "axis_0"], "width_number")
    graph.node("Range", ["zero", "width_number", "one"], "places")
    graph.node("Mul", ["none", "width"], "put_back")
    graph.node("Add", ["places", "put_back"], "order_of")
    graph.node("TopK", ["order_of", "width"], "sorted", "order", axis=1, largest=0)
    graph.node("GatherElements", ["items", "order"], "packed", axis=1)
    graph.node("Max", ["packed", "zero"], "packed_items")  # a row of any item where there is no click
    graph.node("Sub", ["one", "none"], "real")
    graph.node("ReduceSum", ["real", "axis_1"], "counts", keepdims=0)
    graph.node("Greater", ["counts", "zero"], "is_clicked")
    graph.node("Unsqueeze", ["is_clicked", "axis_1"], "has_clicks")
    graph.node("Cast", ["counts"], "lengths", to=TensorProto.INT32)
    graph.node("Transpose", ["packed_items"], "by_click", perm=[1, 0])
    return graph.node("Gather", [matrix, "by_click"], "clicked", axis=0)


def _layers(graph, settings, weights, below):
    """The layers of FC and GRU: the name of the last one's state, float32 [sessions, units]."""
    all_layers, sizes = layers(settings), state_sizes(settings)
    graph.constant("layer_sizes", np.array(sizes, np.int64))
    graph.node("Split", ["states", "layer_sizes"], *[f"states_{place}" for place in range(len(sizes))], axis=1)
    for place, layer in enumerate(all_layers):
        name, gates = layer.gru, GATES * layer.units
        # Without FC, what is looked up are the gates' inputs themselves.
        fc_weight = weights[f"{layer.fc}.weight"] if layer.fc else np.eye(gates, dtype=np.float32)
        fc_bias = weights[f"{layer.fc}.bias"] if layer.fc else np.zeros(gates, np.float32)
        graph.constant(f"{name}.W", _gates(fc_weight).T[None])
        graph.constant(f"{name}.R", _gates(weights[f"{name}.weight"]).T[None])
        graph.constant(f"{name}.B", np.concatenate([_gates(fc_bias), _gates(weights[f"{name}.bias"])])[None])
        graph.node("Unsqueeze", [f"states_{place}", "axis_0"], f"before_{place}")
        graph.node("GRU", [below, f"{name}.W", f"{name}.R", f"{name}.B", "lengths", f"before_{place}"],
                   f"all_{place}", f"last_{place}", hidden_size=layer.units,
                   linear_before_reset=int(settings.reset_after))
        graph.node("Squeeze", [f"last_{place}", "axis_0"], f"after_last_{place}")
        # The GRU of ONNX Runtime gives zeros where a session has no click.
        graph.node("Where", ["has_clicks", f"after_last_{place}", f"states_{place}"], f"after_{place}")
        below = graph.node("Squeeze", [f"all_{place}", "axis_1"], f"outputs_{place}")
    if settings.last_click:
        _add_last_click(graph, weights[LAST_CLICK], len(all_layers))
    graph.node("Concat", [f"after_{place}" for place in range(len(sizes))], "new_states", axis=1)
    return f"after_{len(sizes) - 1}"


def _add_last_click(graph, share, place):
    """What items are scored with, as the last of the states: the last layer's and a share of the last click's vector.
    """
    graph.constant("share", share)
    graph.node("Sub", ["counts", "one"], "before_end")
    graph.node("Max", ["before_end", "zero"], "end")
    graph.node("Unsqueeze", ["end", "axis_1"], "ends")
    graph.node("GatherElements", ["packed_items", "ends"], "last_items", axis=1)
    graph.node("Squeeze", ["last_items", "axis_1"], "last_item")
    graph.node("Gather", ["item_vectors", "last_item"], "last_vector", axis=0)
    graph.node("Mul", ["last_vector", "share"], "last_part")
    graph.node("Add", [f"after_{place - 1}", "last_part"], "with_last")
    graph.node("Where", ["has_clicks", "with_last", f"states_{place}"], f"after_{place}")


def _gates(values):
    """The thirds for the gates r, z, c, in the order of ONNX: z, r, c."""
    reset, update, candidate = np.split(values, GATES, axis=-1)
    return np.concatenate([update, reset, candidate], axis=-1)
