"""Several processes against one: speed, what an exchange costs, what a slower link would cost, and kills at random.

    python benchmarks/parallel.py --train_dir train_data --vocab_path vocab.txt
    python benchmarks/parallel.py --tasks speed --scripts train_sample_neg.py --parallel_flags "--batch_size 256"

speed: one epoch by one process with one thread, and by --num_devices processes with one thread each, in turns; the
ratio of the predictions per second. exchange: all-reduces of several sizes between processes of this machine. link: the
same between two network namespaces, joined by a virtual link of several bandwidths and delays (Linux, with iproute2).
model: an estimate of a step for other numbers of processes, from what `speed` found. kills: a run of two processes is
killed at --kills random moments and resumed; its weights must be those of a run that nobody killed.
"""

import os
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.files import InputError  # noqa: E402
from utils.launch import watch  # noqa: E402
from utils.options import COUNT, VOCABULARY, Parser, number  # noqa: E402
from utils.process import place, run  # noqa: E402
from utils.runlog import log  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PARTS = "speed", "exchange", "link", "model", "kills"
SIZES = [1 << 10, 32 << 10, 1 << 20, 8 << 20]  # bytes
LINKS = [("10gbit", "0ms"), ("1gbit", "0ms"), ("1gbit", "0.1ms"), ("1gbit", "1ms"), ("100mbit", "1ms")]
FIGURES = re.compile(r"^epoch:1 num_steps:(\d+) .* predictions/s:(\d+)$", re.MULTILINE)
BYTES = re.compile(r"steps? sums? ([\d.]+) (bytes|KiB|MiB)")
# Ways to join processes that the model speaks of: how many, what joins them, bytes a second, seconds of delay.
JOINED = [(8, "GPUs by NVLink", 200e9, 10e-6), (16, "machines, 10 Gbit/s, 0.1 ms", 1.25e9, 1e-4),
          (16, "machines, 1 Gbit/s, 0.1 ms", 0.125e9, 1e-4)]


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--train_dir", default="train_data", help="training sessions")
    parser.add_argument("--vocab_path", default="vocab.txt", help=VOCABULARY)
    parser.add_argument("--tasks", default=",".join(PARTS), help="what to do, separated by commas")
    parser.add_argument("--scripts", default="train.py,train_sample_neg.py", help="trainers, separated by commas")
    parser.add_argument("--train_flags", default="", help="more flags of the trainers, in one text")
    parser.add_argument("--parallel_flags", default="", help="more flags where several processes train, in one text")
    parser.add_argument("--num_devices", type=number(int, 2, 1024), default=2, help="processes")
    parser.add_argument("--rounds", type=number(int, 1, COUNT), default=3, help="measurements of each kind, in turns")
    parser.add_argument("--kills", type=number(int, 1, COUNT), default=20, help="how often the run is killed")
    parser.add_argument("--measure_exchange", action="store_true", help="what a process of `exchange` itself does")
    options = parser.parse_args()
    if unknown := set(options.tasks.split(",")) - set(PARTS):
        raise InputError(f"--tasks: found {', '.join(sorted(unknown))}, expected some of {', '.join(PARTS)}")
    return options


def trainer(options, script, model_dir, *more):
    """The command line of a training in a fresh model directory, a list of str."""
    return list(map(str, [sys.executable, ROOT / script, "--train_dir", options.train_dir, "--vocab_path",
                          options.vocab_path, "--model_dir", model_dir, "--threads", 1, "--pass_num", 1,
                          *shlex.split(options.train_flags), *more]))


def measure_speed(options, script, directory):
    """Print the speed of one process and of several; the seconds of a step of one, and the bytes that several sum."""
    several = ["--parallel", 1, "--num_devices", options.num_devices, *shlex.split(options.parallel_flags)]
    rates, steps, summed = {"one": [], "several": []}, {}, 0
    for turn in range(options.rounds):
        for kind, more in (("one", []), ("several", several)):
            command = trainer(options, script, Path(directory) / f"{script}-{kind}-{turn}", *more)
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            steps[kind], rate = map(int, FIGURES.search(text).groups())
            rates[kind].append(rate)
            if found := BYTES.search(text):
                summed = float(found[1]) * {"bytes": 1, "KiB": 1024, "MiB": 1 << 20}[found[2]]
    one, some = (statistics.median(rates[kind]) for kind in ("one", "several"))
    ratios = [after / before for before, after in zip(rates["one"], rates["several"])]
    predictions = re.search(r"predictions:(\d+)", text)[1]
    seconds = {kind: int(predictions) / steps[kind] / rate for kind, rate in (("one", one), ("several", some))}
    log(f"{script}: one process {one:.0f} predictions/s, {1e3 * seconds['one']:.2f} ms a step; {options.num_devices} "
        f"processes {some:.0f}, {1e3 * seconds['several']:.2f} ms a step, {summed / 1e6:.2f} MB an exchange; ratio "
        f"{some / one:.2f} (of each turn: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    return seconds["one"], summed


def exchange():
    """Within a process of several: print what all-reduces take, the mean of many."""
    from utils import device
    processes = device.prepare(threads=1, joins=True).processes
    import paddle
    for size in SIZES:
        tensor, repeats = paddle.zeros([size // 4]), max(5, min(200, (32 << 20) // size))
        for _ in range(3):
            processes.sum(tensor)
        began = time.perf_counter()
        for _ in range(repeats):
            processes.sum(tensor)
        log(f"  {size / 1e6:8.3f} MB: {1e3 * (time.perf_counter() - began) / repeats:8.3f} ms")


SPACES = """
mount -t tmpfs none /run && mkdir -p /run/netns && ip netns add other && ip link set lo up || exit 1
ip link add first0 type veth peer name other0 && ip link set other0 netns other || exit 1
ip addr add 10.99.0.1/24 dev first0 && ip link set first0 up
ip netns exec other ip addr add 10.99.0.2/24 dev other0 && ip netns exec other ip link set other0 up
ip netns exec other ip link set lo up
if [ "$2" = 0ms ]; then kind="tbf burst 256kb latency 50ms"; else kind="netem delay $2"; fi
tc qdisc add dev first0 root $kind rate $1 && ip netns exec other tc qdisc add dev other0 root $kind rate $1 || exit 1
export PADDLE_TRAINERS_NUM=2 PADDLE_LOCAL_SIZE=1 PADDLE_MASTER=10.99.0.1:6170
export PADDLE_TRAINER_ENDPOINTS=10.99.0.1:6170,10.99.0.2:6170
PADDLE_TRAINER_ID=1 PADDLE_CURRENT_ENDPOINT=10.99.0.2:6170 GLOO_SOCKET_IFNAME=other0 ip netns exec other "${@:3}" &
PADDLE_TRAINER_ID=0 PADDLE_CURRENT_ENDPOINT=10.99.0.1:6170 GLOO_SOCKET_IFNAME=first0 "${@:3}" && wait
"""


def measure_links():
    """Print what all-reduces take between two network namespaces, for each of LINKS."""
    command = [sys.executable, __file__, "--measure_exchange"]
    for bandwidth, delay in LINKS:
        process = subprocess.run(["unshare", "-rnm", "bash", "-c", SPACES, "bash", bandwidth, delay, *command],
                                 capture_output=True, text=True)
        log(f"all-reduce over a link of {bandwidth} and {delay} each way:")
        because = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        log(process.stdout.rstrip() if process.returncode == 0 else f"  not possible on this system: {because}")


def print_model(script, seconds, summed):
    """Print what a step might take elsewhere; no more than arithmetic.

    A ring all-reduce of n processes sends 2 (n - 1) / n of the bytes, in 2 (n - 1) turns.
    """
    log(f"{script}, a model, not a measurement: the same computation as here for each process, then the exchange")
    for count, joined, bandwidth, delay in JOINED:
        spent = 2 * (count - 1) * (summed / count / bandwidth + delay)
        log(f"  {count} {joined}: {1e3 * seconds:.2f} + {1e3 * spent:.2f} ms a step, "
            f"{count * seconds / (seconds + spent):.1f} times one process")


def kill_and_resume(options, directory):
    """Kill a run of two processes at random moments, resume it, and compare its weights; InputError if they differ."""
    draw, more = random.Random(1), ["--parallel", 1, "--num_devices", 2, "--resume", 1, "--save_seconds", 0.05]
    whole, killed = Path(directory) / "whole", Path(directory) / "killed"
    began = time.monotonic()
    subprocess.run(trainer(options, "train_sample_neg.py", whole, *more), check=True, capture_output=True)
    seconds = time.monotonic() - began
    for kill in range(options.kills):
        process = subprocess.Popen(trainer(options, "train_sample_neg.py", killed, *more), text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for line in process.stdout:
            if line.startswith("engine:"):
                break
        time.sleep(draw.uniform(0, seconds / 4))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if len(children) > kill % 2:
            os.kill(int(children[kill % 2]), signal.SIGKILL)
        process.communicate()
    subprocess.run(trainer(options, "train_sample_neg.py", killed, *more), check=True, capture_output=True)
    names = "epoch_1/model.safetensors", "epoch_1/optimizer.safetensors"
    if any((whole / name).read_bytes() != (killed / name).read_bytes() for name in names):
        raise InputError(f"kills: found other weights after {options.kills} kills than without, expected the same")
    log(f"killed {options.kills} times at random and resumed: the same weights, bit by bit, as without")


def main():
    options = parse_arguments()
    if options.measure_exchange:
        if place().count == 1:
            watch(options.num_devices, 0)
        return exchange()
    parts, found = options.tasks.split(","), {}
    with tempfile.TemporaryDirectory() as directory:
        if {"speed", "model"} & set(parts):
            found = {script: measure_speed(options, script, directory) for script in options.scripts.split(",")}
        if "exchange" in parts:
            log(f"all-reduce between {options.num_devices} processes of this machine:")
            subprocess.run([sys.executable, __file__, "--measure_exchange", f"--num_devices={options.num_devices}"],
                           check=True)
        if "link" in parts:
            measure_links()
        if "model" in parts:
            for script, figures in found.items():
                print_model(script, *figures)
        if "kills" in parts:
            kill_and_resume(options, directory)


if __name__ == "__main__":
    run(main)
