"""utils/optimizers.py: rows against whole weights, plain formulas, and Paddle's own."""

import numpy as np
import paddle
import pytest

from utils.optimizers import Adagrad, Adam, clip_by_global_norm

pytestmark = pytest.mark.usefixtures("native_or_paddle")
ROWS, COLUMNS, STEPS = 6, 3, 5


def draw_gradients():
    return np.random.default_rng(3).normal(size=(STEPS, ROWS, COLUMNS)).astype(np.float32)


def new_weight(lr_x=1.0):
    start = paddle.nn.initializer.Assign(np.ones((ROWS, COLUMNS), np.float32))
    return paddle.create_parameter([ROWS, COLUMNS], "float32", attr=paddle.ParamAttr(initializer=start, learning_rate=lr_x))


def run(optimizer, gradients, rows=None, lr_x=1.0):
    weight = new_weight(lr_x)
    for gradient in gradients:
        optimizer.start_step()
        part = gradient if rows is None else gradient[rows]
        optimizer.update("weight", weight, paddle.to_tensor(part), None if rows is None else paddle.to_tensor(rows))
    return weight.numpy()


def run_paddles(make, gradients):
    weight = new_weight()
    optimizer = make([weight])
    for gradient in gradients:
        (weight * paddle.to_tensor(gradient)).sum().backward()
        optimizer.step()
        optimizer.clear_grad()
    return weight.numpy()


def test_official_adagrad_by_its_formula():
    """Section 3.4 of the notes on the official code: epsilon inside the root, classical momentum."""
    weight, squares, velocity = np.ones((ROWS, COLUMNS)), 0.0, 0.0
    for gradient in draw_gradients().astype(np.float64):
        squares = squares + gradient**2
        velocity = 0.3 * velocity - 0.1 * gradient / np.sqrt(squares + 1e-6)
        weight = weight + velocity
    np.testing.assert_allclose(run(Adagrad(0.1, momentum=0.3), draw_gradients()), weight, atol=1e-5)


def test_adagrad_in_paddles_form_is_paddles():
    expected = run_paddles(lambda weights: paddle.optimizer.Adagrad(0.1, epsilon=1e-6, parameters=weights), draw_gradients())
    np.testing.assert_allclose(run(Adagrad(0.1, epsilon_inside=False), draw_gradients()), expected, atol=1e-6)


def test_adam_is_paddles():
    expected = run_paddles(lambda weights: paddle.optimizer.Adam(0.1, parameters=weights), draw_gradients())
    np.testing.assert_allclose(run(Adam(0.1), draw_gradients()), expected, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: Adagrad(0.1, 0.5), lambda: Adagrad(0.1, epsilon_inside=False), lambda: Adam(0.1)])
def test_rows_move_as_in_the_whole_and_others_rest(make):
    rows = np.array([4, 1])
    whole, part = run(make(), draw_gradients()), run(make(), draw_gradients(), rows)
    np.testing.assert_allclose(part[rows], whole[rows], atol=1e-6)
    assert (np.delete(part, rows, axis=0) == 1).all()


def test_velocity_of_an_untouched_row_is_frozen():
    optimizer, weight = Adagrad(0.1, momentum=0.5), new_weight()
    one = paddle.ones([1, COLUMNS])
    optimizer.update("weight", weight, one, paddle.to_tensor([2]))
    velocity = optimizer.state["weight"]["velocity"].numpy()
    optimizer.update("weight", weight, one, paddle.to_tensor([0]))
    assert (optimizer.state["weight"]["velocity"].numpy()[2] == velocity[2]).all() and (velocity[2] != 0).all()


@pytest.mark.parametrize("make", [lambda: Adagrad(0.1, momentum=0.5), lambda: Adam(0.1)])
def test_biases_that_a_step_had_nothing_to_do_with_rest(make):
    optimizer, weight = make(), new_weight()
    optimizer.start_step()
    optimizer.update("weight", weight, paddle.ones([ROWS, COLUMNS]))
    before, state = weight.numpy(), {kind: value.numpy() for kind, value in optimizer.state["weight"].items()}
    gradient = np.ones((4, COLUMNS), np.float32)
    gradient[2:, -1] = 0
    optimizer.start_step()
    optimizer.update("weight", weight, paddle.to_tensor(gradient), paddle.to_tensor([5, 3, 1, 0]), rows_with_bias=2)
    touched = np.zeros((ROWS, COLUMNS), bool)
    touched[[5, 3, 1, 0]] = True
    touched[[1, 0], -1] = False
    assert ((weight.numpy() != before) == touched).all()
    assert all((optimizer.state["weight"][kind].numpy() != values)[~touched].sum() == 0 for kind, values in state.items())


def test_multipliers_scale_the_rate():
    moved = lambda lr_x: run(Adagrad(0.1), draw_gradients()[:1], lr_x=lr_x) - 1
    np.testing.assert_allclose(moved(3.0), 3 * moved(1.0), rtol=1e-4)


def test_gradients_are_clipped_together():
    gradients = [paddle.to_tensor([3.0]), paddle.to_tensor([[4.0]])]
    assert clip_by_global_norm(gradients, 0) is gradients and clip_by_global_norm(gradients, 5.1) is gradients
    clipped = clip_by_global_norm(gradients, 1.0)
    assert clipped[0].numpy() == pytest.approx(0.6) and clipped[1].numpy() == pytest.approx(0.8)
