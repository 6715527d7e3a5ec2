"""A step on a GPU: nobody reads what it computes before it is needed. The GPU is a processor here that says it is one.
"""

import math
import re

import numpy as np
import paddle
import pytest
from small_runs import BATCHINGS, NETWORKS, OBJECTIVES, assert_same_arrays, make_network, make_trainer, weights_of

from utils import tensors
from utils.training import objectives, optimizers, softmax
from utils.training.fused import FusedEngine
from utils.training.resume import Progress
from utils.training.unread import UnreadLosses

READS = "numpy", "item", "tolist", "__float__", "__int__", "__bool__", "__index__", "__array__"
TRIED = ["all items", "shared ce, in batch, logq", "shared ce", "shared bpr-max, in batch", "tiled bpr"]


def claim_gpu(patch):
    """Let objectives, optimisers and what adds rows up take tensors for a GPU's."""
    for module in (tensors, objectives, softmax, optimizers):
        patch.setattr(module, "is_on_host", lambda tensor: False)


def fused_trainer(objective, batching="sessions", grad_cap=0.0, smoothing=0.0):
    """A trainer as proof.prove makes it for a GPU."""
    network = make_network(NETWORKS["shared"], smoothing)
    trainer = make_trainer(network, OBJECTIVES[objective](network), BATCHINGS[batching], None, grad_cap=grad_cap)
    trainer.use(FusedEngine(network))
    trainer.objective.paddle_softmax = softmax.PaddleSoftmax() if trainer.objective.needs_only_softmax else None
    return trainer


@pytest.mark.parametrize("grad_cap", [0.0, 0.1])
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("objective", TRIED)
def test_no_step_reads_anything_back(monkeypatch, objective, batching, grad_cap):
    if objective.startswith("tiled") and batching == "parallel":
        pytest.skip("train_sample_neg.py refuses that")

    def read(*arguments):
        raise AssertionError("the step waits for the device")

    trainer = fused_trainer(objective, batching, grad_cap)
    claim_gpu(monkeypatch)
    with monkeypatch.context() as patch:
        for name in READS:
            patch.setattr(paddle.Tensor, name, read)
        losses = [trainer.step(batch) for batch in trainer.batches(np.random.default_rng(4))]
    assert isinstance(losses[0], paddle.Tensor) and all(math.isfinite(float(loss)) for loss in losses)


@pytest.mark.parametrize("grad_cap", [0.0, 0.1])
@pytest.mark.parametrize("objective, smoothing", [*((name, 0.0) for name in TRIED), ("all items", 0.2)])
def test_the_steps_are_those_of_a_processor(monkeypatch, objective, smoothing, grad_cap):
    results = []
    for claims in (False, True):
        trainer = fused_trainer(objective, "sessions", grad_cap, smoothing)
        with monkeypatch.context() as patch:
            if claims:
                claim_gpu(patch)
            losses = [trainer.step(batch) for batch in trainer.batches(np.random.default_rng(4))]
        results.append({"losses": np.array([float(loss) for loss in losses]), **weights_of(trainer.network)})
    assert_same_arrays(*results, rtol=0, atol=1e-5)


def test_losses_are_counted_in_their_order_whether_read_or_not():
    unread, progress = UnreadLosses(), Progress()
    unread.add(1, paddle.to_tensor(2.0, "float64"), 10)
    unread.add(2, 3.0, 20)
    unread.add(3, paddle.to_tensor(5.0, "float64"), 30)
    assert progress.recent == [] and unread.count(progress) == []
    assert progress.recent == [2.0, 3.0, 5.0] and progress.loss_sum == 230.0 and unread.waiting == []
    assert unread.count(progress) == [] and progress.loss_sum == 230.0


def test_a_loss_that_is_no_number_is_told_with_its_step():
    unread = UnreadLosses()
    for step, loss in enumerate([1.0, math.inf, 1.0, math.nan], 1):
        unread.add(step, paddle.to_tensor(loss, "float64"), 10)
    assert [step for step, _ in unread.count(Progress())] == [2, 4]


def test_arrays_go_to_a_gpu_by_pinned_memory_and_nobody_waits(monkeypatch):
    asked = []

    class Pinned:
        def cuda(self, blocking):
            asked.append(blocking)

    monkeypatch.setattr(tensors, "is_gpu", lambda: True)
    monkeypatch.setattr(paddle, "CUDAPinnedPlace", lambda: "pinned")
    monkeypatch.setattr(paddle, "to_tensor", lambda array, place=None: asked.append(place) or Pinned())
    tensors.as_tensor(np.ones(3))
    tensors.as_tensor(np.ones(0))
    assert asked == ["pinned", False, None], "and there is nothing to pin of an empty array"


def test_a_run_logs_and_saves_the_same_whether_its_losses_are_read_at_once(tiny_data, tmp_path, run_here, monkeypatch):
    found, reads, count = [], [], UnreadLosses.count

    def counted(unread, progress):
        reads[-1].add(len(unread.waiting))
        return count(unread, progress)

    monkeypatch.setattr(UnreadLosses, "count", counted)
    for claims in (False, True):
        reads.append(set())
        with monkeypatch.context() as patch:
            if claims:
                claim_gpu(patch)
            process = run_here("train.py", "--train_dir", tiny_data / "train_data", "--vocab_path",
                               tiny_data / "vocab.txt", "--model_dir", tmp_path / f"model_{claims}", "--hid_size", 8,
                               "--pass_num", 2, "--batch_size", 10, "--print_batch", 4, "--tune_cpu", 0)
        assert process.returncode == 0 and process.stderr == ""
        lines = [line for line in process.stdout.splitlines() if line.startswith(("step:", "epoch:"))]
        found.append([re.sub(r"(time_cost\(s\)|predictions/s):\S+", "", line) for line in lines])
    assert found[0] == found[1] and len(found[0]) > 4
    assert max(reads[0]) == 1 and max(reads[1]) == 4, "one reading for the steps of a log line"
