"""Choice and preparation of the device. Here and in tensors.py alone, a processor and a GPU are told apart.

A script calls `prepare` before anything imports Paddle, because Paddle's libraries read their settings as they load.
"""

import contextlib
import ctypes
import io
import os
import platform
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

from utils.files import InputError
from utils.launch import processes_to_start, watch
from utils.native import kernels
from utils.native.compiling import NotCompiled
from utils.process import hold_back_sigterm, place, processors
from utils.processes import ALONE, Processes

# glibc's mallopt parameters, from malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
MADV_HUGEPAGE, HUGE_PAGE = 14, 2 << 20  # from Linux's mman.h; bytes
HEAP_BYTES = 1 << 30
JOIN_SECONDS = 300
GPU_SETTINGS = {
    # Where an operation would otherwise add up in random order, of cuDNN's GRU by NVIDIA's own advice.
    "FLAGS_cudnn_deterministic": "1", "FLAGS_embedding_deterministic": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:2",
    "NVIDIA_TF32_OVERRIDE": "0",  # TF32 keeps 10 of float32's 23 bits: losses would not be a processor's to 1e-3
}


class Device(NamedTuple):
    """What `prepare` made ready.

    line : str, the log line that says what was done
    kernels : kernels.Kernels or None, the C++ for training where the device is a processor that has it
    processes : processes.Processes, this one and those that work with it
    threads : int, how many threads a run may choose from; 1 where there is nothing to choose
    """

    line: str
    kernels: object = None
    processes: Processes = ALONE
    threads: int = 1


def start(options, *lines):
    """The Device that the flags of a script ask for whose work several processes may divide; logs its and more `lines`.

    With --parallel 1, this process only starts those that do the work, and ends when they do.
    """
    from utils.runlog import log  # loads the progress bar
    if count := processes_to_start(options):
        watch(count, options.use_cuda)
    prepared = prepare(options.use_cuda, options.threads, options.tune_cpu, joins=True,
                       amp=getattr(options, "amp", None))
    for line in (prepared.line, *lines):
        log(line)
    return prepared


def prepare(use_cuda=0, threads=0, tune_cpu=1, joins=False, amp=None):
    """Choose the device, prepare it for speed, load Paddle, and return the Device.

    Parameters
    ----------
    use_cuda : {0, 1}
    threads : int
        Processor threads; 0 leaves a user's own OMP_NUM_THREADS. Without that, as many are ready as this process has
        processors that it may run on, or its share of them where others on this machine work with it, and a training
        chooses how many of them it takes.
    tune_cpu : {0, 1}
        0 leaves MKL and malloc alone, and computes with nothing but Paddle's own operations.
    joins : bool
        Whether the script's work is divided among the processes that were started together, if there are others.
    amp : {None, "bf16"}
        What tensors.products is going to be asked for.

    Raises
    ------
    InputError
        `use_cuda` without a Paddle built for CUDA, or without a GPU; `amp` on a device without such products.
    """
    if amp and not use_cuda:
        raise InputError(f"--amp {amp}: found --use_cuda 0, expected --use_cuda 1, or no --amp; on a processor Paddle "
                         "has no products in bfloat16")
    if joins and place().count > 1:
        _wait_as_batch_jobs()
    may_choose = not threads and "OMP_NUM_THREADS" not in os.environ
    done = [_set_threads(threads)]
    if tune_cpu:
        done += [tune_mkl(), _tune_malloc()]
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # ms that idle threads keep a processor that others may need
    os.environ.setdefault("GLOG_minloglevel", "2")  # Paddle's C++ warnings: errors reach the user as exceptions
    if use_cuda:
        for name, value in GPU_SETTINGS.items():
            os.environ.setdefault(name, value)
    paddle = _load_paddle()
    _set_device(paddle, use_cuda, joins, amp)
    if amp:
        done.append(f"amp:{amp}")
    processes, native = _join(use_cuda, paddle) if joins else ALONE, None
    if not processes.is_alone:
        done.append(f"processes:{processes.count}")
    if tune_cpu and not use_cuda:
        native, word = processes.in_turn(lambda: _load_kernels(paddle))
        done.append(word)
    name = _device_name(use_cuda, paddle)
    line = f"device:{name} paddle:{paddle.__version__} " + " ".join(filter(None, done))
    may_choose = may_choose and native and processes.is_alone
    return Device(line, native, processes, int(os.environ["OMP_NUM_THREADS"]) if may_choose else 1)


def _set_device(paddle, use_cuda, joins, amp):
    """Have Paddle compute on the device that `prepare` was asked for, or raise the InputError that it names."""
    if use_cuda and not paddle.is_compiled_with_cuda():
        raise InputError(f"--use_cuda 1: found paddlepaddle {paddle.__version__} built without CUDA, expected "
                         "paddlepaddle-gpu (requirements-gpu.txt), or --use_cuda 0")
    if use_cuda and not paddle.device.cuda.device_count():
        raise InputError("--use_cuda 1: found no GPU that this process may use, expected one, or --use_cuda 0")
    # Paddle's launcher shows every process all GPUs and says which is its own.
    own = os.environ.get("FLAGS_selected_gpus", "0").partition(",")[0] if joins else "0"
    paddle.set_device(f"gpu:{own}" if use_cuda else "cpu")
    if amp and not paddle.amp.is_bfloat16_supported():
        raise InputError(f"--amp {amp}: found a GPU without bfloat16, expected one of compute capability 8.0 or "
                         "higher, or no --amp")


def mkl_setting(cpuinfo):
    """The MKL_DEBUG_CPU_TYPE that suits a processor, or None where MKL finds its best path by itself.

    Paddle's bundled MKL takes its slowest path on every AMD processor unless told which instructions to use.

    Parameters
    ----------
    cpuinfo : str
        The text of /proc/cpuinfo.

    Returns
    -------
    {"7", "5", None}
        "7" for AVX-512, "5" for AVX2.
    """
    fields = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    instructions = set(fields.get("flags", "").split())
    if fields.get("vendor_id") != "AuthenticAMD":
        return None
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= instructions:
        return "7"
    return "5" if {"avx2", "fma"} <= instructions else None


def processor_name():
    """What the processor calls itself, for reports."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _join(use_cuda, paddle):
    """The Processes that were started together with this one, once all are there."""
    found = place()
    if found.count == 1:
        return ALONE
    os.environ["PADDLE_DISTRI_BACKEND"] = "nccl" if use_cuda else "gloo"
    os.environ.setdefault("PADDLE_PG_TIMEOUT", "30000")  # milliseconds for NCCL; gloo waits as long
    if found.rank:
        _wait_for_master()
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():  # flags that Paddle set itself
        warnings.simplefilter("ignore")
        paddle.distributed.init_parallel_env()
    return Processes(found.rank, found.count)


def _wait_for_master():
    """Wait until process 0 listens: Paddle waits by itself too, but three seconds at least."""
    host, _, port = os.environ.get("PADDLE_MASTER", "").rpartition(":")
    give_up = time.monotonic() + JOIN_SECONDS
    while host and time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
            return
        time.sleep(0.05)


def _wait_as_batch_jobs():
    """Have Linux schedule this process, where others work with it, as one that no user waits for.

    An all-reduce wakes several threads one after the other. Under the usual policy each of them may wait for a tick of
    the clock: on two processors with Linux 6.18, 1 MB between steps took 1.7 to 2.9 ms, and .25 ms under this one.
    """
    with contextlib.suppress(AttributeError, OSError):  # another system, or not allowed
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _set_threads(threads):
    available = max(1, processors() // int(os.environ.get("PADDLE_LOCAL_SIZE") or 1))
    if threads or "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(threads or available)
    return f"threads:{os.environ['OMP_NUM_THREADS']}"


def tune_mkl():
    """Tell MKL an AMD processor's instruction set, unless the user did; return the log's word for it, or "".

    Before Paddle loads: MKL asks once. Its default path on AMD is slow, and rounds by where in memory the numbers lie.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            setting = mkl_setting(file.read())
    except OSError:
        return ""
    if setting is None or "MKL_DEBUG_CPU_TYPE" in os.environ:
        return ""
    os.environ["MKL_DEBUG_CPU_TYPE"] = setting
    return f"MKL_DEBUG_CPU_TYPE:{setting}"


def _tune_malloc():
    """Let glibc keep freed memory, in huge pages where Linux gives them on request.

    Otherwise each large temporary is mapped and page-faulted anew at every step.
    """
    is_set = any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc" or is_set:
        return ""
    libc = ctypes.CDLL(None)
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 << 20}
    set_all = all([libc.mallopt(name, value) for name, value in wanted.items()])
    if not set_all:
        return ""
    return "malloc:kept,huge" if _advise_huge_pages(libc) else "malloc:kept"


def _advise_huge_pages(libc):
    """Grow the heap by HEAP_BYTES of address space, not memory, and ask for huge pages there; whether Linux agreed."""
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.free(libc.malloc(HEAP_BYTES))
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            heap = next((line.split()[0] for line in file if line.rstrip().endswith("[heap]")), None)
    except OSError:
        return False
    if heap is None:
        return False
    start, end = (int(address, 16) for address in heap.split("-"))
    start = -(-start // HUGE_PAGE) * HUGE_PAGE
    return end > start and libc.madvise(start, end - start, MADV_HUGEPAGE) == 0


def _load_paddle():
    """Import Paddle without its advice on OMP_NUM_THREADS and ccache, and without its signal handlers.

    A GPU build also warns, as it loads, of a machine without a GPU; where one is needed, `prepare` says so itself. The
    handlers would end the process with a C++ stack where the script means to end with one line.
    """
    on_termination = signal.getsignal(signal.SIGTERM)
    hold_back_sigterm(True)
    try:
        with contextlib.redirect_stderr(io.StringIO()) as messages, warnings.catch_warnings():
            for needless in ("No ccache found", "You are using GPU version Paddle, but your CUDA device"):
                warnings.filterwarnings("ignore", message=needless)
            import paddle
        # Paddle 3.2 warns, once each, that its `max` and `split` don't take torch's arguments.
        warnings.filterwarnings("ignore", message=r"\s*Non compatible API")
        paddle.disable_signal_handler()
        signal.signal(signal.SIGTERM, on_termination)
    finally:
        hold_back_sigterm(False)
    for line in messages.getvalue().splitlines():
        if "OMP_NUM_THREADS" not in line:
            print(line, file=sys.stderr)
    return paddle


def _load_kernels(paddle):
    """The C++ for training, or None, and the word that says so in the log."""
    try:
        return kernels.load(Path(paddle.__file__).parent), "native:yes"
    except NotCompiled as reason:
        return None, f"native:no({reason})".replace(" ", "_")


def _device_name(use_cuda, paddle):
    return paddle.device.cuda.get_device_name(0).replace(" ", "_") if use_cuda else "cpu"
