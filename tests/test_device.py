"""utils/device.py: what is set for which processor, and that a user's own settings win."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, run_script

from utils import device

AVX512 = "avx2 fma avx512f avx512bw avx512dq avx512vl"


def cpuinfo(vendor, flags):
    processor = f"vendor_id\t: {vendor}\nmodel name\t: some\nflags\t\t: fpu {flags}\n\n"
    return processor * 2


@pytest.mark.parametrize("vendor, flags, expected", [
    ("AuthenticAMD", AVX512, "7"),
    ("AuthenticAMD", "avx2 fma avx512f", "5"),
    ("AuthenticAMD", "avx2", None),
    ("AuthenticAMD", "", None),
    ("GenuineIntel", AVX512, None),
])
def test_only_amd_processors_get_the_path_that_they_can_run(vendor, flags, expected):
    assert device.mkl_setting(cpuinfo(vendor, flags)) == expected


def test_other_platforms_cpuinfo_sets_nothing():
    assert device.mkl_setting("") is None
    assert device.mkl_setting("CPU implementer : 0x41\nFeatures : fp asimd\n") is None


def prepared(code="", **environment):
    """The line that `prepare` has for the log in a fresh process, after changing module `device` by `code`."""
    program = f"from utils import device\n{code}\nprepared = device.prepare(tune_cpu=TUNE, threads=THREADS)\n"
    program += "print(prepared.line)\nassert (prepared.kernels is not None) == (' native:yes' in prepared.line)"
    program = program.replace("TUNE", environment.pop("tune", "1")).replace("THREADS", environment.pop("threads", "0"))
    process = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True,
                             check=True)
    assert not process.stderr, "Paddle's advice must not reach the user"
    return process.stdout


def test_the_log_line_says_what_was_done():
    line = prepared()
    assert line.startswith("device:cpu paddle:") and " threads:" in line and line.count("\n") == 1
    if sys.platform == "linux":
        assert " malloc:kept" in line


def test_amd_setting_is_made_before_paddle_loads_and_said():
    line = prepared("device.mkl_setting = lambda text: '5'")
    assert "MKL_DEBUG_CPU_TYPE:5" in line


def test_users_own_settings_are_respected():
    line = prepared("device.mkl_setting = lambda text: '5'", MKL_DEBUG_CPU_TYPE="4", OMP_NUM_THREADS="1",
                    MALLOC_ARENA_MAX="2")
    assert "MKL_DEBUG_CPU_TYPE" not in line and "malloc" not in line and "threads:1" in line


def test_the_flag_turns_it_off():
    line = prepared("device.mkl_setting = lambda text: '5'", tune="0")
    assert "MKL_DEBUG_CPU_TYPE" not in line and "malloc" not in line and "native" not in line


def test_threads_flag_wins_over_the_environment():
    assert "threads:2" in prepared(threads="2", OMP_NUM_THREADS="1")


@pytest.fixture
def gpu_build(tmp_path):
    """An environment whose `paddle` stands for a GPU build on a machine without a GPU, and warns as that does."""
    (tmp_path / "paddle.py").write_text(
        "import warnings\n"
        "warnings.warn('You are using GPU version Paddle, but your CUDA device is not set properly. CPU device will be "
        "used by default.')\n"
        "warnings.warn('Something else is wrong.')\n"
        "class device:\n"
        "    class cuda:\n"
        "        device_count = staticmethod(lambda: 0)\n"
        "is_compiled_with_cuda, disable_signal_handler = lambda: True, lambda: None\n", encoding="utf-8")
    return os.environ | {"PYTHONPATH": str(tmp_path)}


def test_a_gpu_build_without_a_gpu_ends_in_one_line(gpu_build):
    process = run_script("train.py", "--use_cuda", 1, env=gpu_build | {"PYTHONWARNINGS": "ignore:Something else"})
    assert_one_line_error(process, "--use_cuda 1: found no GPU", "--use_cuda 0")


def test_only_the_warning_of_a_missing_gpu_is_silent(gpu_build):
    """Also with --use_cuda 0, which loads Paddle the same way."""
    process = subprocess.run([sys.executable, "-c", "from utils import device; device._load_paddle()"],
                             env=gpu_build, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Something else is wrong." in process.stderr and "GPU version" not in process.stderr


def test_host_array_shares_the_memory():
    import paddle
    tensor = paddle.to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    view = device.host_array(tensor)
    tensor[1, 2] = 9.0
    assert view.shape == (2, 3) and view[1, 2] == 9


def test_arrays_and_tensors_become_each_other():
    import paddle
    array, tensor = np.arange(6, dtype=np.float32), paddle.ones([3])
    assert device.as_array(array) is array and device.as_tensor(tensor) is tensor
    assert (device.as_tensor(array).numpy() == array).all()
    view = device.as_array(tensor)
    tensor[0] = 5.0
    assert view.tolist() == [5, 1, 1], "the same memory"
    tensor.stop_gradient = False
    assert (device.as_array(tensor * 2) == 2 * tensor.numpy()).all()


def test_rows_are_added_up_the_same_on_a_gpu(monkeypatch):
    import paddle
    random = np.random.default_rng(0)
    target, source = (paddle.to_tensor(random.normal(size=[rows, 4]).astype(np.float32)) for rows in (5, 9))
    numbers, expected = random.integers(4, size=9), target.numpy()
    np.add.at(expected, numbers, source.numpy())
    for is_on_host in (True, False):
        monkeypatch.setattr(device, "is_on_host", lambda tensor: is_on_host)
        with paddle.no_grad():
            found = device.add_rows(target, source, paddle.to_tensor(numbers))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
        assert found.stop_gradient


def test_host_array_of_a_view_with_gaps():
    """Paddle 2.6 would hand over the first numbers of the memory, whatever the view skips."""
    import paddle
    tensor = paddle.to_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert device.host_array(tensor[:, 1:]).tolist() == [[1, 2], [4, 5]]
    assert device.host_array(tensor.t()).tolist() == tensor.numpy().T.tolist()
