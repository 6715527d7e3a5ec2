"""utils/device.py: what is set for which processor, and that a user's own settings win."""

import os
import subprocess
import sys
import warnings

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


def test_what_paddle_says_of_torch_does_not_reach_the_user():
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        device._load_paddle()
        warnings.warn("\nNon compatible API. Please refer to https://www.paddlepaddle.org.cn", Warning, stacklevel=1)
        warnings.warn("another", Warning, stacklevel=1)
    assert [str(each.message) for each in shown if each.filename == __file__] == ["another"]


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
