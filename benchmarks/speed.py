"""Predictions per second of train.py's and infer.py's own code, beside what the machine can do at most.

    python benchmarks/speed.py --train_dir train_data --test_dir test_data --vocab_path vocab.txt --threads 1
    python benchmarks/speed.py --items 1000000 --threads 1

The second form makes sessions of random items. The limit is the rate of a float32 product of 2048 x 2048 matrices, by
NumPy or by Paddle as utils/device.py prepares it, whichever is faster. It is measured before and after each part of this
run, since machines change their speed. Counted per prediction, with V items and H units: 6 V H operations for the output
layer in training, 2 V H in evaluation, and 36 H² and 12 H² for FC and GRU.
"""

import datetime
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if "--threads" in sys.argv[:-1]:  # NumPy's library reads this as it loads, before the flags are parsed
    os.environ["OMP_NUM_THREADS"] = sys.argv[sys.argv.index("--threads") + 1]

import numpy as np  # noqa: E402

from utils import device  # noqa: E402
from utils.options import Parser, add_device_flags, number, run  # noqa: E402
from utils.sessions import Sessions, read_sessions  # noqa: E402
from utils.vocabulary import read_vocabulary  # noqa: E402

SIDE = 2048


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--train_dir", default="train_data", help="training sessions")
    parser.add_argument("--test_dir", default="test_data", help="test sessions")
    parser.add_argument("--vocab_path", default="vocab.txt", help="their vocabulary")
    parser.add_argument("--items", type=number(int, 0), default=0,
                        help="measure on random sessions over so many items; 0: on the files")
    parser.add_argument("--hid_size", type=number(int, 1), default=100, help="units, >= 1")
    parser.add_argument("--batch_size", type=number(int, 1), default=128, help="training sessions a step, >= 1")
    parser.add_argument("--seconds", type=number(float, 1), default=20.0, help="length of each of the three training parts, >= 1")
    add_device_flags(parser)
    parser.set_defaults(base_lr=0.1, shuffle=0, group_batches=1, batching="sessions")  # of which the trainer wants to know too
    return parser.parse_args()


def main():
    options = parse_arguments()
    print(device.prepare(options.use_cuda, options.threads, options.tune_cpu))
    from net import Network, NetworkSettings
    from utils.training import FullSoftmaxTrainer

    training, test, item_count = load_sessions(options)
    size = options.hid_size
    network = Network(item_count, NetworkSettings([size], size, hid_dropout=0.5, label_smoothing=0.05), seed=1)
    trainer = FullSoftmaxTrainer(network, training, options)
    operations = {"training": 6 * item_count * size + 36 * size * size, "evaluation": 2 * item_count * size + 12 * size * size}

    limits, rates = [gemm_rate()], {"training": [], "evaluation": []}
    for part in range(3):
        rates["training"].append(training_rate(trainer, options.seconds, part))
        limits.append(gemm_rate())
        rates["evaluation"].append(evaluation_rate(network, test))
        limits.append(gemm_rate())

    print(f"{device.processor_name()}, {datetime.date.today()}, {item_count} items, {size} units, batches of "
          f"{options.batch_size} sessions")
    print(f"{'':12}{'predictions/s':>15}{'GFLOP/s':>10}{'of the limit':>14}{'(lowest to highest of three)':>31}")
    print(f"{'GEMM limit':12}{'':15}{np.median(limits) / 1e9:10.0f}{'':14}{min(limits) / 1e9:19.0f} to "
          f"{max(limits) / 1e9:.0f} GFLOP/s")
    for first_limit, name in enumerate(rates):
        # Each rate beside the mean of the limits measured right before and right after it.
        around = [(limits[k] + limits[k + 1]) / 2 for k in range(first_limit, 6, 2)]
        shares = [rate * operations[name] / limit for rate, limit in zip(rates[name], around)]
        rate = np.median(rates[name])
        print(f"{name:12}{rate:15.0f}{rate * operations[name] / 1e9:10.0f}{np.median(shares):14.0%}"
              f"{min(shares):20.0%} to {max(shares):.0%}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def load_sessions(options):
    """Training and test sessions, and the number of items."""
    if not options.items:
        item_count = read_vocabulary(options.vocab_path)[1]
        return (read_sessions(options.train_dir, item_count, "--train_dir"),
                read_sessions(options.test_dir, item_count, "--test_dir"), item_count)
    random = np.random.default_rng(1)
    lengths = np.minimum(1 + random.geometric(0.31, 40000), 50)
    items = random.integers(options.items, size=lengths.sum()).astype(np.int32)
    sessions = Sessions(items, np.concatenate([[0], np.cumsum(lengths)]))
    few = 500
    return sessions, Sessions(sessions.items[:sessions.offsets[few]], sessions.offsets[:few + 1]), options.items


def gemm_rate():
    """Operations a second of the faster of NumPy's and Paddle's float32 matrix product, the best of five."""
    import paddle
    left, right = np.random.default_rng(1).random((2, SIDE, SIDE), dtype=np.float32)
    tensors = paddle.to_tensor(left), paddle.to_tensor(right)
    products = [lambda: float(paddle.matmul(*tensors)[0, 0]), lambda: np.matmul(left, right)]
    return 2 * SIDE**3 / min(seconds(product) for product in products for _ in range(5))


def training_rate(trainer, wanted_seconds, part):
    """Predictions a second of training steps, batching included."""
    trainer.network.train()
    began, done = time.perf_counter(), 0
    for batch in trainer.batches(np.random.default_rng(part)):
        trainer.step(batch)
        done += len(batch.targets)
        if time.perf_counter() - began > wanted_seconds:
            break
    return done / (time.perf_counter() - began)


def evaluation_rate(network, sessions):
    """Predictions a second of the ranking that infer.py does."""
    from utils.evaluation import network_ranks
    return sessions.predictions / seconds(lambda: network_ranks(network, sessions, batch_size=512))


def seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


if __name__ == "__main__":
    run(main)
