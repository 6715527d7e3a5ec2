"""Time and memory of preparing clicks by the hundred million, from Parquet to what the trainers read.

    python benchmarks/large_preparation.py --out_dir /tmp/clicks   # 33 and 330 million clicks, 35 GB of disk, an hour
    python benchmarks/large_preparation.py --out_dir /tmp/clicks --purchases 1 --click_counts 33000000  # with purchases

The clicks are those of make_clicks.py. `preprocess.py --to_text` prepares them with --memory; the fewest of them with
all the memory, and again with half of what they take, to see that it writes the same. Then `train.py` starts on them
twice and makes a few steps: first it reads the text, then it maps the copy. Memory is divided in that of the process
alone and that of files, which the system takes back when it is needed.

With --purchases 1 it measures `preprocess.py --to_intent` on clicks and purchases as text, and one epoch of
`train_intent.py`.
"""

import datetime
import filecmp
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.data.stored_clicks import BYTES_A_CLICK  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.options import Parser, number  # noqa: E402
from utils.process import run  # noqa: E402

FILES = "train_data/train.txt", "test_data/test.txt", "vocab.txt"
# The flags of train_intent.py in reproduce/intent.sh.
FOR_MILLIONS = "--batch_size 1024 --group_batches 32 --networks 1 --hid_size 64 --emb_size 32".split()


def main():
    parser = Parser("Measure the preparation of many made-up clicks, and the start of training on them.")
    parser.add_argument("--out_dir", default="benchmark_output", help="directory for the clicks, which stay there")
    parser.add_argument("--click_counts", default="33000000,330000000", help="how many clicks, one number or several")
    parser.add_argument("--memory", type=number(float, 0, 1e6), default=4, help="GB, for preprocess.py")
    parser.add_argument("--training", type=number(int, 0, 1), default=1, help="0: don't begin to train on them")
    parser.add_argument("--purchases", type=number(int, 0, 1), default=0,
                        help="1: sessions with what they bought, as text, in memory")
    flags = parser.parse_args()
    if not all(word.isdecimal() and int(word) for word in flags.click_counts.split(",")):
        raise InputError(f"--click_counts: found {flags.click_counts!r}, expected numbers such as 33000000,330000000")
    print(f"{datetime.date.today()}, {os.cpu_count()} processors, --memory {flags.memory:g}", flush=True)
    print("| clicks | step | seconds | processor time, s | own memory, GB | with files, GB | temporary files, GB |")
    print("|-|-|-|-|-|-|-|")
    sizes = sorted(map(int, flags.click_counts.split(",")))
    for clicks in sizes:
        if flags.purchases:
            measure_purchases(Path(flags.out_dir), clicks, flags)
            continue
        measure_size(Path(flags.out_dir), clicks, flags, is_compared=clicks == sizes[0])


def measure_size(folder, clicks, flags, is_compared):
    """Make, prepare and begin to train on this many clicks, and print rows of the table."""
    table, text, model = (folder / f"{name}-{clicks}" for name in ("clicks", "text", "model"))
    table = table.with_suffix(".parquet")
    if not table.exists():
        measure(clicks, "make_clicks.py", ["benchmarks/make_clicks.py", "--click_count", clicks, "--output", table])
    prepare = ["preprocess.py", "--input", table, "--to_text"]
    if is_compared:
        in_memory = folder / f"in_memory-{clicks}"
        measure(clicks, "preprocess.py, all memory", [*prepare, in_memory, "--memory", 1e6])
    memory = min(flags.memory, BYTES_A_CLICK * clicks / 2e9) if is_compared else flags.memory
    measure(clicks, f"preprocess.py --memory {memory:.2g}", [*prepare, text, "--memory", memory], text)
    if is_compared:
        for name in FILES:
            if not filecmp.cmp(in_memory / name, text / name, shallow=False):
                raise InputError(f"{text / name}: found other bytes than in {in_memory}, expected the same")
        shutil.rmtree(in_memory)
    if flags.training:
        for step in "training starts on text", "training starts on its copy":
            measure(clicks, step, ["train.py", "--train_dir", text / "train_data", "--vocab_path", text / "vocab.txt",
                                   "--model_dir", model, "--overwrite", 1, "--enable_ce", "--step_num", 20,
                                   "--pass_num", 1])
        shutil.rmtree(model)
    shutil.rmtree(text)


def measure_purchases(folder, clicks, flags):
    """Make and prepare this many clicks with purchases, train on them, and print rows of the table."""
    table, buys, out, model = (folder / f"{name}-{clicks}" for name in ("clicks.dat", "buys.dat", "intent", "model"))
    if not buys.exists():
        measure(clicks, "make_clicks.py --buys_output", ["benchmarks/make_clicks.py", "--click_count", clicks,
                                                         "--output", table, "--buys_output", buys])
    measure(clicks, "preprocess.py --to_intent", ["preprocess.py", "--input", table, "--buys", buys, "--to_intent", out,
                                                  "--split_by", "hash"])
    if flags.training:
        measure(clicks, "train_intent.py, one epoch", ["train_intent.py", "--train_dir", out / "train", "--valid_dir",
                                                       out / "valid", "--model_dir", model, "--pass_num", 1,
                                                       "--overwrite", 1, *FOR_MILLIONS])
        measure(clicks, "infer_intent.py", ["infer_intent.py", "--test_dir", out / "test", "--model_dir", model])
        shutil.rmtree(model)
    shutil.rmtree(out)


def measure(clicks, step, command, folder=None):
    """Run a script of this repository and print a row of the table."""
    begin = time.perf_counter()
    command = [sys.executable, ROOT / command[0], *map(str, command[1:])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks, ended = {"RssAnon": 0, "VmRSS": 0, "files": 0}, threading.Event()
    watching = threading.Thread(target=watch, args=(process.pid, folder, peaks, ended))
    watching.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    ended.set()
    watching.join()
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))  # it has said why
    print("| {:,} | {} | {:.1f} | {:.1f} | {:.2f} | {:.2f} | {:.1f} |".format(
        clicks, step, seconds, usage.ru_utime + usage.ru_stime,
        *(peaks[name] / 1e9 for name in ("RssAnon", "VmRSS", "files"))), flush=True)


def watch(pid, folder, peaks, ended):
    """Until `ended`, keep the largest memory of a process and size of temporary files in the dict `peaks`, in bytes."""
    while not ended.wait(0.1):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        for line in status.splitlines():
            name, _, value = line.partition(":")
            if name in peaks:
                peaks[name] = max(peaks[name], 1024 * int(value.split()[0]))
        if folder:
            peaks["files"] = max(peaks["files"], size_of_files(folder))


def size_of_files(folder):
    """Bytes on the disk in the temporary folder of preprocess.py in `folder`."""
    size = 0
    for path in folder.glob(".clicks_*/*"):
        try:
            size += 512 * path.stat().st_blocks
        except OSError:  # gone meanwhile
            pass
    return size


if __name__ == "__main__":
    run(main)
