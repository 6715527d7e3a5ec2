"""utils/tensors.py: arrays and tensors become each other, and a GPU's ways give a processor's results."""

import numpy as np

from utils import tensors
from utils.tensors import chunk_rows


def test_host_array_shares_the_memory():
    import paddle
    tensor = paddle.to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    view = tensors.host_array(tensor)
    tensor[1, 2] = 9.0
    assert view.shape == (2, 3) and view[1, 2] == 9


def test_arrays_and_tensors_become_each_other():
    import paddle
    array, tensor = np.arange(6, dtype=np.float32), paddle.ones([3])
    assert tensors.as_array(array) is array and tensors.as_tensor(tensor) is tensor
    assert (tensors.as_tensor(array).numpy() == array).all()
    view = tensors.as_array(tensor)
    tensor[0] = 5.0
    assert view.tolist() == [5, 1, 1], "the same memory"
    tensor.stop_gradient = False
    assert (tensors.as_array(tensor * 2) == 2 * tensor.numpy()).all()


def test_rows_are_added_up_the_same_on_a_gpu(monkeypatch):
    import paddle
    random = np.random.default_rng(0)
    target, source = (paddle.to_tensor(random.normal(size=[rows, 4]).astype(np.float32)) for rows in (5, 9))
    numbers, expected = random.integers(4, size=9), target.numpy()
    np.add.at(expected, numbers, source.numpy())
    for is_on_host in (True, False):
        monkeypatch.setattr(tensors, "is_on_host", lambda tensor: is_on_host)
        with paddle.no_grad():
            found = tensors.add_rows(target, source, paddle.to_tensor(numbers))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
        assert found.stop_gradient


def test_host_array_of_a_view_with_gaps():
    """Paddle 2.6 would hand over the first numbers of the memory, whatever the view skips."""
    import paddle
    tensor = paddle.to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert tensors.host_array(tensor[:, 1:]).tolist() == [[1, 2], [4, 5]]
    assert tensors.host_array(tensor.t()).tolist() == tensor.numpy().T.tolist()


def test_no_chunk_holds_more_logits_than_allowed():
    for items in (10, 17_376, 1_000_000, 50_000_000):
        rows = chunk_rows(items)
        assert rows >= 1 and (rows == 1 or rows * items <= tensors.CHUNK_LOGITS)


def test_only_a_processor_takes_few_rows_at_once(monkeypatch):
    assert chunk_rows(20_000) == tensors.CHUNK_ROWS and chunk_rows(tensors.CHUNK_LOGITS + 1) == 1
    monkeypatch.setattr(tensors, "is_gpu", lambda: True)
    assert chunk_rows(20_000) == tensors.CHUNK_LOGITS // 20_000 and chunk_rows(tensors.CHUNK_LOGITS + 1) == 1
