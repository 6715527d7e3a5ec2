"""Seconds and memory of preprocess.py and convert_format.py on as many made-up clicks as YOOCHOOSE has.

    python benchmarks/preprocess_speed.py --out_dir /tmp/clicks     # 33 million clicks, 5 GB of disk, about a minute

The clicks are those of make_clicks.py. "ready" is when the splits are computed but not yet written.
"""

import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.options import COUNT, Parser, number  # noqa: E402
from utils.process import run  # noqa: E402


def main():
    parser = Parser("Measure the preparation of data on made-up clicks and print a table.")
    parser.add_argument("--out_dir", default="benchmark_output",
                        help="directory for the clicks and splits, which stay there")
    parser.add_argument("--click_count", type=number(int, 1000, COUNT), default=33_000_000, help="how many clicks")
    flags = parser.parse_args()
    folder = Path(flags.out_dir)
    clicks = folder / f"yoochoose-clicks-{flags.click_count}.dat"
    if not clicks.exists():
        measure("benchmarks/make_clicks.py", "--click_count", flags.click_count, "--output", clicks)
    lines, *preparing = measure("preprocess.py", "--input", clicks, "--out_dir", folder)
    ready = next(float(line.split()[0]) for line in lines if line.endswith("writing"))
    _, *converting = measure(
        "convert_format.py", "--train_input", folder / "rsc15_train_tr.txt",
        "--train_output", folder / "rsc15_train_tr_paddle.txt", "--test_input", "")
    today, version = datetime.date.today(), platform.python_version()
    print(f"\n{today}, {flags.click_count:,} clicks, {os.cpu_count()} processors, Python {version}\n")
    print("| script | ready, s | with writing, s | processor time, s | peak memory, GB |")
    print("|-|-|-|-|-|")
    print("| preprocess.py | {:.1f} | {:.1f} | {:.1f} | {:.2f} |".format(ready, *preparing))
    print("| convert_format.py (train_tr) | - | {:.1f} | {:.1f} | {:.2f} |".format(*converting))


def measure(script, *arguments):
    """Run a script of this repository.

    Returns
    -------
    list of str
        The lines that it prints.
    float
        The seconds that it takes.
    float
        The seconds of processor time.
    float
        Its largest resident memory in GB.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, ROOT / script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.strip())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))  # it has said why
    return lines, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9  # kB on Linux


if __name__ == "__main__":
    run(main)
