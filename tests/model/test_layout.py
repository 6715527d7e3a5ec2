"""utils/model/layout.py says what net.py makes: the names, shapes, order and layers of its weights."""

import dataclasses

import numpy as np
import pytest
from forms import EVERY_FORM, settings_of

from utils.model.layout import (
    ANSWERING,
    ANSWERING_LATER,
    ITEM_MATRIX,
    NetworkSettings,
    input_matrix,
    input_width,
    layers,
    weight_shapes,
)

ITEMS = 23
TRAINING_ALONE = {"emb_dropout", "hid_dropout", "carry_dropped", "through_time", "label_smoothing", "init_range",
                  "emb_lr_x", "gru_lr_x", "fc_lr_x"}



@pytest.mark.parametrize("form", EVERY_FORM, ids=str)
def test_shapes_are_those_of_the_network(form):
    from net import Network
    settings = settings_of(*form)
    network, expected = Network(ITEMS, settings), weight_shapes(settings, ITEMS)
    found = {name: list(weight.shape) for name, weight in network.named_parameters()}
    assert found == expected
    assert found[input_matrix(settings)] == list(network.input_weights().shape)
    for layer, gru in zip(layers(settings), network.gru, strict=True):
        assert found[f"{layer.gru}.weight"] == [layer.units, 3 * layer.units] and gru.units == layer.units
    assert len(network.fc) == sum(layer.fc is not None for layer in layers(settings))


def test_shapes_spelled_out():
    assert weight_shapes(NetworkSettings([5, 7], 9, "separate"), 4) == {
        "embedding": [4, 9], "fc.0.weight": [9, 15], "fc.0.bias": [15], "gru.0.weight": [5, 15], "gru.0.bias": [15],
        "fc.1.weight": [5, 21], "fc.1.bias": [21], "gru.1.weight": [7, 21], "gru.1.bias": [21], ITEM_MATRIX: [4, 8]}
    assert weight_shapes(NetworkSettings([5, 7], 0, "none"), 4) == {
        "embedding": [4, 15], "gru.0.weight": [5, 15], "gru.0.bias": [15],
        "fc.0.weight": [5, 21], "fc.0.bias": [21], "gru.1.weight": [7, 21], "gru.1.bias": [21], ITEM_MATRIX: [4, 8]}
    assert weight_shapes(NetworkSettings([6], 6), 4) == {
        "fc.0.weight": [6, 18], "fc.0.bias": [18], "gru.0.weight": [6, 18], "gru.0.bias": [18], ITEM_MATRIX: [4, 7]}


def test_layers_lowest_first():
    assert [tuple(layer) for layer in layers(NetworkSettings([5, 7, 9], 9))] == [
        (5, 9, "gru.0", "fc.0"), (7, 5, "gru.1", "fc.1"), (9, 7, "gru.2", "fc.2")]
    assert [tuple(layer) for layer in layers(NetworkSettings([5, 7], 0, "none"))] == [
        (5, 0, "gru.0", None), (7, 5, "gru.1", "fc.0")]


@pytest.mark.parametrize("embedding, emb_size, name, width", [
    ("shared", 7, ITEM_MATRIX, 7), ("separate", 9, "embedding", 9), ("none", 0, "embedding", 15)])
def test_what_is_read_of_an_item(embedding, emb_size, name, width):
    settings = NetworkSettings([5, 7], emb_size, embedding)
    assert input_matrix(settings) == name and input_width(settings) == width
    assert width == weight_shapes(settings,
                                  4)[name][1] - (embedding == "shared"), "a shared matrix has the bias behind it"


def test_a_seed_draws_the_weights_in_this_order():
    """What a seed means mustn't change: the figures of published runs hang on it."""
    from net import Network, glorot_uniform
    settings = NetworkSettings([5, 7], 9, "separate")
    network, draw = dict(Network(ITEMS, settings, seed=4).named_parameters()), np.random.default_rng(4)
    for name, shape in weight_shapes(settings, ITEMS).items():
        if name.endswith("bias"):
            expected = np.zeros(shape)
        elif name == ITEM_MATRIX:
            expected = np.hstack([glorot_uniform(draw, [ITEMS, 7]), np.zeros([ITEMS, 1])])
        else:
            expected = glorot_uniform(draw, shape, 1 if name == "embedding" else 3)
        np.testing.assert_array_equal(network[name].numpy(), expected.astype(np.float32), name)


def test_no_setting_of_the_network_is_overlooked():
    fields = {field.name for field in dataclasses.fields(NetworkSettings)}
    assert fields == {*ANSWERING, *ANSWERING_LATER, *TRAINING_ALONE}, (
        "does the new setting change the scores? then utils/model/scorer.py must know it")
