"""Speed of training, evaluation and reading, beside what the machine can do at most, and where the time goes.

    python benchmarks/speed.py --train_dir train_data --test_dir test_data --vocab_path vocab.txt --threads 1,2
    ... --item_counts 10000,100000,1000000 --hid_sizes 100,512 --session_counts 10000    # also how it grows with those

A trainer is measured with the settings that its script has by default, or that a file in settings/ has. The limit is
the rate of a float32 product of 2048 x 2048 matrices, by NumPy or by Paddle, whichever is faster. It is measured right
before and after each part, since machines change their speed. With H units and V items scored, a prediction takes 6 V H
operations for the output layer in training and 2 V H in evaluation, and 36 H² and 12 H² for FC and GRU. V counts each
candidate of a step once. Each part is measured three times; the table has the medians and the range of the shares.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# None of these may load NumPy, whose library reads its number of threads as it loads.
from utils.options import COUNT, SECONDS, TEST_SESSIONS, VOCABULARY, Parser, add_device_flags, number  # noqa: E402
from utils.process import run  # noqa: E402


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--train_dir", default="train_data", help="training sessions")
    parser.add_argument("--test_dir", default="test_data", help=TEST_SESSIONS)
    parser.add_argument("--vocab_path", default="vocab.txt", help=VOCABULARY)
    for name, what in (("item_counts", "items"), ("hid_sizes", "units"), ("session_counts", "sessions")):
        parser.add_argument(f"--{name}", type=counts, default=[],
                            help=f"also measure with these numbers of {what}, such as 100,512")
    parser.add_argument("--click_count", type=number(int, 0, COUNT), default=31_637_239,
                        help="clicks of session text whose reading is timed (6 bytes each on the disk), by default as "
                        "many as RSC15 has; 0: none")
    parser.add_argument("--seconds", type=number(float, 0.1, SECONDS), default=5.0, help="length of each measurement")
    add_device_flags(parser)
    parser.set_defaults(threads=[1])
    threads = parser._option_string_actions["--threads"]
    threads.type = counts
    threads.help = "processor threads, such as 1 or 1,2; each number is measured in a process of its own"
    return parser.parse_args()


def counts(text):
    """A type for argparse: `1,2` as a list of positive integers."""
    return [number(int, 1, COUNT)(part) for part in text.split(",")]


def without_threads(words):
    """A command line without its --threads, which has to be there."""
    place = next(place for place, word in enumerate(words) if word.partition("=")[0] == "--threads")
    return words[:place] + words[place + (1 if "=" in words[place] else 2):]


def main():
    options = parse_arguments()
    if len(options.threads) > 1:
        for threads in options.threads:
            process = subprocess.run([sys.executable, *without_threads(sys.argv), f"--threads={threads}"])
            if process.returncode:
                sys.exit(process.returncode)  # it has said why
        return
    os.environ["OMP_NUM_THREADS"] = str(options.threads[0])
    from utils import device
    prepared = device.prepare(options.use_cuda, options.threads[0], options.tune_cpu)
    print(prepared.line, flush=True)
    from speed_rows import measure_all  # it loads Paddle, which device.prepare must come before
    measure_all(options, prepared.kernels)


if __name__ == "__main__":
    run(main)
