"""The lines that speed.py prints. Import it after `device.prepare`: it loads Paddle."""

import datetime
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import gemm_rate, numpy_threads
from session_text import RSC15_ITEMS, random_sessions
from speed_parts import EvaluationPart, ProductsPart, TrainingPart, time_of_a_step

from utils import device
from utils.data.sessions import read_sessions, write_sessions
from utils.data.vocabulary import read_vocabulary
from utils.training import full_flags, sampled_flags

ROOT = Path(__file__).resolve().parent.parent
TIMES = 3
SAMPLED = {  # rows of train_sample_neg.py, and its flags
    "train_sample_neg.py": [],
    "  whole sessions (--batching sessions)": ["--batching", "sessions"],
    "  --loss top1-max": ["--loss", "top1-max"],
    "  the official settings": ["--config", str(ROOT / "settings/official_xe.json")],
    "  the official BPR-max settings": ["--config", str(ROOT / "settings/official_bpr_max.json")],
    "  Paddle's old example, reference_bpr.json": ["--config", str(ROOT / "settings/reference_bpr.json")],
    "  no negatives but the batch's, 512 sessions": ["--neg_size", "0", "--batch_size", "512"],
}
PROFILED = "train_sample_neg.py", "  the official settings", "  the official BPR-max settings"


def measure_all(options, kernels):
    """Measure and print every part.

    Parameters
    ----------
    options : argparse.Namespace
        speed.py's.
    kernels : kernels.Kernels or None
    """
    item_count = read_vocabulary(options.vocab_path).item_count
    training = read_sessions(options.train_dir, item_count, "--train_dir")
    test = read_sessions(options.test_dir, item_count, "--test_dir")
    print(f"{device.processor_name()}, {datetime.date.today()}, threads:{options.threads[0]} "
          f"NumPy's threads:{numpy_threads() or 'unknown'}, "
          f"{item_count} items and {training.predictions} predictions in {options.train_dir}")
    print(f"{'':46}{'predictions/s':>14}{'kFLOP each':>12}{'GFLOP/s':>9}{'limit':>7}{'share':>7}{'from to':>10}  "
          "computed by", flush=True)
    full = TrainingPart(full_flags, [], item_count, training, kernels)
    sampled = {name: TrainingPart(sampled_flags, flags, item_count, training, kernels)
               for name, flags in SAMPLED.items()}
    measure("products of the softmax alone", ProductsPart(item_count, full.units), options)
    measure("train.py", full, options)
    measure(f"train.py, {RSC15_ITEMS} items",
            TrainingPart(full_flags, [], RSC15_ITEMS, random_sessions(RSC15_ITEMS, 50_000), kernels), options)
    measure("infer.py", EvaluationPart(full.network, test, kernels), options)
    for name, part in sampled.items():
        measure(name, part, options)
    measure_growth(options, kernels)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    for name, part in [("train.py", full), *((name.strip(), sampled[name]) for name in PROFILED)]:
        print_step(name, part, options)
    if options.click_count:
        measure_reading(options)


def measure_growth(options, kernels):
    """Rates with the numbers of items, units and sessions that the flags name."""
    cases = [(f"{items} items", items, [], 20_000) for items in options.item_counts]
    cases += [(f"{units} units, {RSC15_ITEMS} items", RSC15_ITEMS, ["--hid_size", str(units)], 50_000)
              for units in options.hid_sizes]
    cases += [(f"{count} sessions, {RSC15_ITEMS} items", RSC15_ITEMS, [], count) for count in options.session_counts]
    for name, items, flags, count in cases:
        sessions = random_sessions(items, count)
        for script, its_flags in (("train.py", full_flags), ("train_sample_neg.py", sampled_flags)):
            measure(f"{script}, {name}", TrainingPart(its_flags, flags, items, sessions, kernels), options)


def measure(name, part, options):
    """Print a row: the rate of a part and its share of the machine's limit."""
    rates, shares = [], []
    part.run(min(1.0, options.seconds))  # the first steps make what the others find made
    side = 2048 if options.seconds >= 1 else 256  # less is a try of this script, no measurement
    limit_before = gemm_rate(side, TIMES, with_paddle=True)
    for _ in range(TIMES):
        predictions, seconds = part.run(options.seconds)
        limit_after = gemm_rate(side, TIMES, with_paddle=True)
        rates.append(predictions / seconds)
        shares.append(rates[-1] * part.operations / ((limit_before + limit_after) / 2))
        limit_before = limit_after
    rate, share = np.median(rates), np.median(shares)
    gflops = rate * part.operations / 1e9
    print(f"{name:46}{rate:14.0f}{part.operations / 1e3:12.0f}{gflops:9.0f}{gflops / share:7.0f}"
          f"{share:7.0%}{min(shares):6.0%}{max(shares):4.0%}  {part.computed_by}", flush=True)


def print_step(name, part, options):
    """Print how the time of a training step is divided."""
    steps, total, spent = time_of_a_step(part, options.seconds)
    print(f"a step of {name}: {total / steps * 1e3:.2f} ms: "
          + ", ".join(f"{kind} {seconds / total:.1%}" for kind, seconds in spent.items() if seconds), flush=True)


def measure_reading(options):
    """Print how long session text takes to be ready to train, the first time and afterwards."""
    program = ("import sys, time; sys.path.insert(0, sys.argv[1]); began = time.perf_counter()\n"
               "from utils.data.sessions import read_sessions\n"
               f"sessions = read_sessions(sys.argv[2], {RSC15_ITEMS}, '--train_dir')\n"
               "print(f'{len(sessions.items)} clicks ready in {time.perf_counter() - began:.2f} s', end=', ')\n"
               "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')] or ['? ?']\n"
               "print(f'peak {peak[0].split()[1]} kB')")
    with tempfile.TemporaryDirectory() as directory:
        write_sessions(Path(directory) / "train.txt", random_sessions(RSC15_ITEMS, options.click_count // 4 + 1))
        for when in ("first time", "again"):
            process = subprocess.run([sys.executable, "-c", program, str(ROOT), directory], check=True,
                                     stdout=subprocess.PIPE, text=True)
            print(f"reading, {when}: {process.stdout.strip()}", flush=True)
