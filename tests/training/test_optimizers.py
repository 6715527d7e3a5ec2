"""utils/training/optimizers.py: rows against whole weights, plain formulas, and Paddle's own."""

import numpy as np
import paddle
import pytest
from small_runs import OPTIMIZERS

from utils.training.optimizers import Adagrad, Gradient, Nadam, clip_by_global_norm

ROWS, COLUMNS, STEPS = 6, 3, 5
optimizers = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
of_paddle = paddle.optimizer
PADDLES = {
    "adagrad": lambda weights: of_paddle.Adagrad(0.1, 1e-6, weights),
    "rmsprop": lambda weights: of_paddle.RMSProp(0.1, parameters=weights),
    "rmsprop, momentum, L2": lambda weights: of_paddle.RMSProp(0.1, momentum=0.3, parameters=weights, weight_decay=0.2),
    "sgd": lambda weights: of_paddle.SGD(0.1, weights),
    "sgd, momentum, L2": lambda weights: of_paddle.Momentum(0.1, 0.3, weights, weight_decay=0.2),
    "adam": lambda weights: of_paddle.Adam(0.1, parameters=weights),
    "adam, L2": lambda weights: of_paddle.Adam(0.1, parameters=weights, weight_decay=0.2),
    "adamw": lambda weights: of_paddle.AdamW(0.1, parameters=weights, weight_decay=0.2),
    "nadam": lambda weights: of_paddle.NAdam(0.1, parameters=weights),
    "nadam, L2": lambda weights: of_paddle.NAdam(0.1, parameters=weights, weight_decay=0.2),
}


def draw_gradients():
    return np.random.default_rng(3).normal(size=(STEPS, ROWS, COLUMNS)).astype(np.float32)


def new_weight(lr_x=1.0):
    start = paddle.nn.initializer.Assign(np.ones((ROWS, COLUMNS), np.float32))
    attributes = paddle.ParamAttr(initializer=start, learning_rate=lr_x)
    return paddle.create_parameter([ROWS, COLUMNS], "float32", attr=attributes)


def step(optimizer, weight, values, rows=None, rows_with_bias=None):
    rows = None if rows is None else np.array(rows)
    optimizer.step({"weight": weight}, [Gradient("weight", values, rows, rows_with_bias)])


@pytest.fixture(params=["array", "tensor"])
def run(request, kernels_or_none):
    """A function that gives the weight after steps with these gradients, as arrays or as tensors."""
    def weight_after(optimizer, gradients, rows=None, lr_x=1.0):
        weight, optimizer.kernels = new_weight(lr_x), kernels_or_none
        for gradient in gradients:
            part = np.ascontiguousarray(gradient if rows is None else gradient[rows])
            step(optimizer, weight, paddle.to_tensor(part) if request.param == "tensor" else part, rows)
        return weight.numpy()
    return weight_after


def run_paddles(make, gradients):
    weight = new_weight()
    optimizer = make([weight])
    for gradient in gradients:
        (weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return weight.numpy()


def test_official_adagrad_by_its_formula(run):
    """Section 3.4 of the notes on the official code: epsilon inside the root, classical momentum."""
    weight, squares, velocity = np.ones((ROWS, COLUMNS)), 0.0, 0.0
    for gradient in draw_gradients().astype(np.float64):
        squares = squares + gradient**2
        velocity = 0.3 * velocity - 0.1 * gradient / np.sqrt(squares + 1e-6)
        weight = weight + velocity
    np.testing.assert_allclose(run(Adagrad(0.1, momentum=0.3), draw_gradients()), weight, atol=1e-5)


@pytest.mark.parametrize("epsilon_inside, divisor", [(True, 2e-6**0.5), (False, 1e-3 + 1e-6)])
def test_where_epsilon_stands_shows_in_small_gradients(run, epsilon_inside, divisor):
    found = run(Adagrad(0.1, epsilon_inside=epsilon_inside), np.full((1, ROWS, COLUMNS), 1e-3, np.float32))
    np.testing.assert_allclose(found, 1 - 0.1 * 1e-3 / divisor, atol=1e-5)


@pytest.mark.parametrize("name", PADDLES)
def test_the_whole_moves_as_by_paddles_optimizer(run, name):
    if "nadam" in name and not hasattr(of_paddle, "NAdam"):
        pytest.skip("this Paddle has no NAdam")
    expected = run_paddles(PADDLES[name], draw_gradients())
    np.testing.assert_allclose(run(OPTIMIZERS[name](), draw_gradients()), expected, atol=1e-5)


def test_nadam_by_its_formula(run):
    """With the product of all of its decays, and after more steps than optimizers.py takes it over."""
    weight, mean, square, product = np.ones((ROWS, COLUMNS)), 0.0, 0.0, 1.0
    decay_at = lambda step: 0.9 * (1 - 0.5 * 0.96 ** (0.004 * step))
    gradients = np.random.default_rng(4).normal(0.1, 1, (600, ROWS, COLUMNS)).astype(np.float32)
    for step, gradient in enumerate(gradients.astype(np.float64), 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        product *= decay_at(step)
        change = (1 - decay_at(step)) * gradient / (1 - product)
        change += decay_at(step + 1) * mean / (1 - product * decay_at(step + 1))
        weight = weight - 0.01 * change / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(run(Nadam(0.01), gradients), weight, atol=1e-4)


@optimizers
def test_rows_move_as_in_the_whole_and_others_rest(run, make):
    rows = np.array([4, 1])
    whole, part = run(make(), draw_gradients()), run(make(), draw_gradients(), rows)
    np.testing.assert_allclose(part[rows], whole[rows], atol=1e-6)
    assert (np.delete(part, rows, axis=0) == 1).all()


def test_velocity_of_an_untouched_row_is_frozen(kernels_or_none):
    optimizer, weight = Adagrad(0.1, momentum=0.5), new_weight()
    optimizer.kernels = kernels_or_none
    one = np.ones((1, COLUMNS), np.float32)
    step(optimizer, weight, one, [2])
    velocity = optimizer.state["weight"]["velocity"].numpy()
    step(optimizer, weight, one, [0])
    assert (optimizer.state["weight"]["velocity"].numpy()[2] == velocity[2]).all() and (velocity[2] != 0).all()


@optimizers
def test_biases_that_a_step_had_nothing_to_do_with_rest(kernels_or_none, make):
    optimizer, weight = make(), new_weight()
    optimizer.kernels = kernels_or_none
    step(optimizer, weight, np.ones((ROWS, COLUMNS), np.float32))
    before, state = weight.numpy(), {kind: value.numpy() for kind, value in optimizer.state["weight"].items()}
    gradient = np.ones((4, COLUMNS), np.float32)
    gradient[2:, -1] = 0
    step(optimizer, weight, gradient, [5, 3, 1, 0], rows_with_bias=2)
    touched = np.zeros((ROWS, COLUMNS), bool)
    touched[[5, 3, 1, 0]] = True
    touched[[1, 0], -1] = False
    assert ((weight.numpy() != before) == touched).all()
    for kind, values in state.items():
        assert (optimizer.state["weight"][kind].numpy() == values)[~touched].all()


def test_multipliers_scale_the_rate(run):
    moved = lambda lr_x: run(Adagrad(0.1), draw_gradients()[:1], lr_x=lr_x) - 1
    np.testing.assert_allclose(moved(3.0), 3 * moved(1.0), rtol=1e-4)


@optimizers
def test_restored_it_goes_on_where_it_stopped(kernels_or_none, make):
    whole, resumed, weight, other = make(), make(), new_weight(), new_weight()
    whole.kernels = resumed.kernels = kernels_or_none
    for gradient in draw_gradients()[:3]:
        step(whole, weight, gradient)
    paddle.assign(weight, other)
    resumed.restore(dict(reversed(whole.state_arrays().items())))  # files have an order of their own
    for gradient in draw_gradients()[3:]:
        step(whole, weight, gradient), step(resumed, other, gradient)
    assert (weight.numpy() == other.numpy()).all()
    assert {key: values.tolist() for key, values in resumed.state_arrays().items()} == \
           {key: values.tolist() for key, values in whole.state_arrays().items()}


@pytest.mark.parametrize("as_given", [np.array, paddle.to_tensor], ids=["array", "tensor"])
def test_gradients_are_clipped_together(as_given):
    gradients = [Gradient("a", as_given(np.float32([3.0]))),
                 Gradient("b", as_given(np.float32([[4.0]])), np.array([2]), 1)]
    assert clip_by_global_norm(gradients, 0) is gradients and clip_by_global_norm(gradients, 5.1) is gradients
    clipped = clip_by_global_norm(gradients, 1.0)
    assert clipped[0].values.item() == pytest.approx(0.6) and clipped[1].values.item() == pytest.approx(0.8)
    assert [gradient.name for gradient in clipped] == ["a", "b"] and clipped[1].rows is gradients[1].rows


def test_a_gradient_of_rows_is_added_to_one_of_the_whole():
    whole = paddle.ones([ROWS, COLUMNS])
    part = Gradient("weight", np.full((2, COLUMNS), 2, np.float32), np.array([4, 1]), 1).added_to(whole)
    assert part.name == "weight" and part.rows is None and part.rows_with_bias is None
    assert (part.values.numpy()[[4, 1]] == 3).all() and (part.values.numpy()[[0, 2, 3, 5]] == 1).all()
    assert (Gradient("weight", np.full((ROWS, COLUMNS), 2, np.float32)).added_to(whole).values.numpy() == 3).all()
    assert (whole.numpy() == 1).all()
