"""--amp bf16: what is multiplied in bfloat16 on a GPU, and what stays float32. A processor's products stand for it."""

from contextlib import contextmanager

import numpy as np
import paddle
import pytest
from conftest import assert_one_line_error
from small_runs import BATCHINGS, NETWORKS, OBJECTIVES, make_network, make_trainer, weights_of

from utils import device
from utils.training import objectives, optimizers, softmax, trainer
from utils.training.fused import FusedEngine


@contextmanager
def rounded_products(amp):
    """In the place of tensors.products: every product is that of rounded numbers, and itself a bfloat16 tensor."""
    exact, rounded = paddle.matmul, lambda tensor: tensor.astype("bfloat16").astype("float32")
    paddle.matmul = lambda left, right, **transposed: exact(rounded(left), rounded(right),
                                                            **transposed).astype("bfloat16")
    try:
        yield
    finally:
        paddle.matmul = exact


def losses_and_weights(objective, smoothing):
    network = make_network(NETWORKS["shared"], smoothing)
    made = make_trainer(network, OBJECTIVES[objective](network), BATCHINGS["sessions"], None)
    made.use(FusedEngine(network))
    made.objective.paddle_softmax = softmax.PaddleSoftmax()
    losses = [made.step(batch) for batch in made.batches(np.random.default_rng(4))]
    assert all(loss.dtype == paddle.float64 for loss in losses)
    assert all(weight.dtype == paddle.float32 for weight in network.parameters())
    return np.array([float(loss) for loss in losses]), weights_of(network)


@pytest.mark.parametrize("objective, smoothing", [("all items", 0.0), ("all items", 0.2), ("shared ce, in batch", 0.0),
                                                  ("shared ce", 0.0)])
def test_losses_and_weights_are_float32_and_near_those_of_float32_products(monkeypatch, objective, smoothing):
    for module in (objectives, softmax, optimizers):
        monkeypatch.setattr(module, "is_on_host", lambda tensor: False)
    expected, weights = losses_and_weights(objective, smoothing)
    monkeypatch.setattr(trainer, "products", rounded_products)
    found, rounded_weights = losses_and_weights(objective, smoothing)
    assert (found != expected).any()
    np.testing.assert_allclose(found, expected, rtol=0.02)
    for name, values in rounded_weights.items():
        assert np.abs(values - weights[name]).mean() < 0.01, name  # rounding turns some of Adagrad's first steps


def test_the_trainer_asks_for_what_the_flag_says(monkeypatch):
    asked = []
    monkeypatch.setattr(paddle.amp, "auto_cast", lambda **how: asked.append(how) or rounded_products(None))
    network = make_network(NETWORKS["shared"])
    made = make_trainer(network, OBJECTIVES["all items"](network), BATCHINGS["sessions"], None)
    made.objective.paddle_softmax = softmax.PaddleSoftmax()
    made.use(FusedEngine(network))
    batch = next(made.batches(np.random.default_rng(4)))
    made.step(batch)
    assert not asked
    made.amp = "bf16"
    made.step(batch)
    assert asked == [{"level": "O1", "dtype": "bfloat16"}]


@pytest.mark.parametrize("script", ["train.py", "train_sample_neg.py"])
def test_a_processor_refuses_it_in_one_line(script, tmp_path, run_here):
    process = run_here(script, "--amp", "bf16", "--model_dir", tmp_path / "model")
    assert_one_line_error(process, "--amp bf16: found --use_cuda 0, expected --use_cuda 1", "bfloat16")
    assert not (tmp_path / "model").exists()


def test_a_gpu_without_bfloat16_is_refused(monkeypatch):
    monkeypatch.setattr(paddle, "is_compiled_with_cuda", lambda: True)
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(paddle, "set_device", lambda name: None)
    monkeypatch.setattr(paddle.amp, "is_bfloat16_supported", lambda: False)
    monkeypatch.setattr(device, "GPU_SETTINGS", {})
    monkeypatch.setattr(device, "_load_paddle", lambda: paddle)
    with pytest.raises(device.InputError, match="--amp bf16: found a GPU without bfloat16"):
        device.prepare(use_cuda=1, threads=1, tune_cpu=0, amp="bf16")
