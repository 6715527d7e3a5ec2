"""What the benchmarks without Paddle say of the machine that they run on."""

import platform
import time
from pathlib import Path

import numpy as np


def gemm_rate(size=1024, repeats=10):
    """Operations a second of NumPy's float32 matrix product, the best of some: the machine's own limit."""
    matrix, seconds = np.ones((size, size), np.float32), []
    for _ in range(repeats):
        began = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - began)
    return 2 * size ** 3 / min(seconds)


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
