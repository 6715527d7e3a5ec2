"""Tensors of either device: to arrays and back, on a processor without a copy, and what a GPU needs otherwise."""

import contextlib

import numpy as np

CHUNK_ROWS = 96  # a chunk of logits then fits into the processor's caches, and the products still run at full speed
CHUNK_LOGITS = 64 << 20  # at most this many logits exist at once (256 MiB)


def host_array(tensor):
    """A Paddle tensor as a NumPy array; on the processor a view of the same memory where that has no gaps."""
    if not is_on_host(tensor):
        return tensor.numpy()
    tensor = tensor.detach()
    # Paddle 2.6 hands over memory without its strides.
    return np.from_dlpack(_Shared(tensor if tensor.is_contiguous() else tensor.contiguous()))


def as_array(values):
    """A Paddle tensor as `host_array` returns it; an array as it is."""
    return values if isinstance(values, np.ndarray) else host_array(values)


def as_tensor(values):
    """An array as a Paddle tensor on the device; a tensor as it is."""
    if not isinstance(values, np.ndarray):
        return values
    import paddle
    if not (values.size and is_gpu()):
        return paddle.to_tensor(values)
    # The GPU copies it in its turn, and nobody waits; Paddle keeps the pinned memory for as long as that takes.
    return paddle.to_tensor(values, place=paddle.CUDAPinnedPlace()).cuda(blocking=False)


def add_rows(target, source, numbers):
    """`target` with source[i] added to its row numbers[i], of which some may be the same.

    On a GPU, index_add adds up in random order, or in one order (device.GPU_SETTINGS) by one thread alone. The
    gradient of a look-up is the same sum, in one order by many threads.

    Parameters
    ----------
    target, source : float32 tensors [rows, ...], [n, ...]
    numbers : int64 tensor [n]
    """
    import paddle
    if is_on_host(target):
        return paddle.index_add(target, numbers, 0, source)
    with paddle.enable_grad():
        rows = paddle.zeros_like(target)
        rows.stop_gradient = False
        return target + paddle.grad([paddle.nn.functional.embedding(numbers, rows)], [rows], [source])[0]


def wrapped(array):
    """An array as a Paddle tensor in the same memory, in the processor's."""
    from paddle.utils.dlpack import from_dlpack
    return from_dlpack(array.__dlpack__())


class _Shared:
    """What NumPy asks of an array that shares its memory; paddle.Tensor has it only since version 3."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        from paddle.utils.dlpack import to_dlpack
        return to_dlpack(self.tensor)

    def __dlpack_device__(self):
        return 1, 0  # kDLCPU, the first


def is_on_host(tensor):
    """Whether a Paddle tensor lies in the processor's memory."""
    return tensor.place.is_cpu_place()


def products(amp):
    """A context for a way forward: with amp "bf16", products there and on the way back are computed in bfloat16.

    Sums, exponentials and logarithms stay float32, and with None everything does.
    """
    if not amp:
        return contextlib.nullcontext()
    import paddle
    return paddle.amp.auto_cast(level="O1", dtype="bfloat16")


def as_float32(tensor):
    """A floating-point tensor in float32, which within `products` the result of a product isn't."""
    import paddle
    return tensor if tensor.dtype == paddle.float32 else tensor.astype("float32")


def is_gpu():
    """Whether Paddle computes on a GPU."""
    import paddle
    return paddle.get_device().startswith("gpu")


def chunk_rows(items):
    """Rows of logits that are computed at once for `items` items, at least 1; a GPU has use for all that fit."""
    most = CHUNK_LOGITS // items
    return max(1, most if is_gpu() else min(CHUNK_ROWS, most))
