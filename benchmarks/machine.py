"""What the benchmarks say of the machine that they run on."""

import ctypes
import time
from pathlib import Path

import numpy as np

OPENBLAS = "scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"


def gemm_rate(size=1024, repeats=10, with_paddle=False):
    """Operations a second of a float32 product of square matrices, the best of some: the machine's own limit.

    NumPy's product, and `with_paddle` Paddle's too, which is the faster one on some machines.
    """
    left, right = np.random.default_rng(1).random((2, size, size), dtype=np.float32)
    products = [lambda: np.matmul(left, right)]
    if with_paddle:
        import paddle
        tensors = paddle.to_tensor(left), paddle.to_tensor(right)
        products.append(lambda: float(paddle.matmul(*tensors)[0, 0]))  # a GPU has ended before it gives the number
    return 2 * size**3 / min(_seconds(product) for product in products for _ in range(repeats))


def numpy_threads():
    """How many threads NumPy's matrix products take, as its OpenBLAS says; None where that can't be asked."""
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for path in sorted({line.split(maxsplit=5)[5] for line in mapped if "openblas" in line}):
        library = ctypes.CDLL(path)
        for name in OPENBLAS:
            if hasattr(library, name):
                return getattr(library, name)()
    return None


def _seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
