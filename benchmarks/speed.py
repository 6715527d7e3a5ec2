"""Speed of training, evaluation and reading, beside what the machine can do at most, and where the time goes.

    python benchmarks/speed.py --train_dir train_data --test_dir test_data --vocab_path vocab.txt --threads 1,2
    ... --items 10000,100000,1000000 --units 100,512 --sessions 10000,100000,1000000     # also how it grows with those

The limit is the rate of a float32 product of 2048 x 2048 matrices, by NumPy or by Paddle as utils/device.py prepares it,
whichever is faster; it is measured right before and after each part, since machines change their speed. The operations of a
prediction, with H units and V items scored: 6 V H for the output layer in training and 2 V H in evaluation, 36 H² and 12 H²
for FC and GRU. Each part is measured three times; the table has the medians and the range of the shares.
"""

import datetime
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if "--threads" in sys.argv[:-1]:  # NumPy's library reads this as it loads, before the flags are parsed
    os.environ["OMP_NUM_THREADS"] = sys.argv[sys.argv.index("--threads") + 1].split(",")[0]

import numpy as np  # noqa: E402

from utils import device  # noqa: E402
from utils.options import Parser, add_device_flags, number, run  # noqa: E402
from utils.sessions import Sessions, read_sessions  # noqa: E402
from utils.vocabulary import read_vocabulary  # noqa: E402

TIMES = 3
RSC15_ITEMS, RSC15_CLICKS = 37_483, 31_637_239
SAMPLED = {"label_smoothing": 0.0, "shuffle": 0, "group_batches": 1, "loss": "ce", "negatives": "shared", "in_batch": 1,
           "neg_size": 2048, "sample_alpha": 0.5, "logq": 1.0, "grad_cap": 0.0}


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--train_dir", default="train_data", help="training sessions")
    parser.add_argument("--test_dir", default="test_data", help="test sessions")
    parser.add_argument("--vocab_path", default="vocab.txt", help="their vocabulary")
    for name in ("items", "units", "sessions"):
        parser.add_argument(f"--{name}", type=counts, default=[], help=f"also measure with these numbers of {name}, such as 100,512")
    parser.add_argument("--clicks", type=number(int, 0), default=RSC15_CLICKS,
                        help="clicks of session text whose reading is timed (6 bytes each on the disk); 0: none")
    parser.add_argument("--seconds", type=number(float, 0.1), default=5.0, help="length of each measurement, >= 0.1")
    add_device_flags(parser)
    parser.set_defaults(threads=[1])
    for action in parser._actions:
        if action.dest == "threads":
            action.type, action.help = counts, "processor threads, such as 1 or 1,2; each number is measured in a process of its own"
    return parser.parse_args()


def counts(text):
    """A type for argparse: `1,2` as a list of positive integers."""
    return [number(int, 1)(part) for part in text.split(",")]


def main():
    options = parse_arguments()
    if len(options.threads) > 1:  # the libraries take their number of threads as they load
        position = sys.argv.index("--threads")
        for threads in options.threads:
            arguments = [*sys.argv[:position], "--threads", str(threads), *sys.argv[position + 2:]]
            subprocess.run([sys.executable, *arguments], check=True)
        return
    print(device.prepare(options.use_cuda, options.threads[0], options.tune_cpu), flush=True)
    training, test, item_count = load_sessions(options)
    print(f"{device.processor_name()}, {datetime.date.today()}, {options.threads[0]} threads, "
          f"{item_count} items and {training.predictions} predictions in {options.train_dir}")
    print(f"{'':46}{'predictions/s':>14}{'kFLOP each':>12}{'GFLOP/s':>9}{'limit':>7}{'share':>7}{'from to':>10}", flush=True)

    full = full_softmax(training, item_count, 100)
    measure("products of the softmax alone", products_alone(training, item_count), options)
    measure("train.py", full, options)
    measure(f"train.py, {RSC15_ITEMS} items", full_softmax(random_sessions(RSC15_ITEMS, 50_000), RSC15_ITEMS, 100), options)
    measure("infer.py", evaluation(full.network, test, item_count), options)
    sampled_parts = {
        "train_sample_neg.py": sampled(training, item_count, 100, batching="parallel", batch_size=128, hid_dropout=0.4),
        "  whole sessions (--batching sessions)": sampled(training, item_count, 100, batching="sessions", batch_size=64, in_batch=0),
        "  the official settings": sampled(training, item_count, 100, batching="parallel", batch_size=32, hid_dropout=0.4,
                                           carry_dropped=True),
        "  no negatives but the batch's, 512 sessions": sampled(training, item_count, 100, batching="parallel", batch_size=512,
                                                                neg_size=0),
    }
    for name, part in sampled_parts.items():
        measure(name, part, options)
    measure_growth(options)
    print(f"peak memory: {peak_memory():.0f} MiB")
    profile("train.py", full, options)
    for name in ("train_sample_neg.py", "  the official settings"):
        profile(name.strip(), sampled_parts[name], options)
    if options.clicks:
        measure_reading(options)


def measure_growth(options):
    """Rates with the numbers of items, units and sessions that the flags name."""
    cases = [(f"{items} items", items, 100, 20_000) for items in options.items]
    cases += [(f"{units} units, {RSC15_ITEMS} items", RSC15_ITEMS, units, 50_000) for units in options.units]
    cases += [(f"{count} sessions, {RSC15_ITEMS} items", RSC15_ITEMS, 100, count) for count in options.sessions]
    for name, items, units, count in cases:
        sessions = random_sessions(items, count)
        measure(f"train.py, {name}", full_softmax(sessions, items, units), options)
        measure(f"train_sample_neg.py, {name}", sampled(sessions, items, units, batching="parallel", batch_size=128), options)


def measure(name, part, options):
    """Print the rate of `part`: a function of seconds that returns predictions and operations done, and the seconds it took."""
    rates, shares, operations = [], [], 0
    part.run(min(1.0, options.seconds))  # the first steps make what the others find made
    side = 2048 if options.seconds >= 1 else 256  # less is a try of this script, no measurement
    limit_before = gemm_rate(side)
    for _ in range(TIMES):
        predictions, operations, seconds = part.run(options.seconds)
        limit_after = gemm_rate(side)
        rates.append(predictions / seconds)
        shares.append(operations / seconds / ((limit_before + limit_after) / 2))
        limit_before = limit_after
    rate, each = np.median(rates), operations / predictions
    print(f"{name:46}{rate:14.0f}{each / 1e3:12.0f}{rate * each / 1e9:9.0f}{rate * each / np.median(shares) / 1e9:7.0f}"
          f"{np.median(shares):7.0%}{min(shares):6.0%}{max(shares):4.0%}", flush=True)


class TrainingPart:
    """Steps of a trainer, for `measure` and `profile`."""

    def __init__(self, network, trainer, scored):
        self.network, self.trainer, self.scored, self.epochs = network, trainer, scored, 0

    def run(self, wanted_seconds):
        units = self.network.settings.hid_size[-1]
        self.network.train()
        self.epochs += 1
        began, done, operations = time.perf_counter(), 0, 0
        while time.perf_counter() - began < wanted_seconds:  # a small data set has more than one epoch in it
            for batch in self.trainer.batches(np.random.default_rng(self.epochs)):
                self.trainer.step(batch)
                done += len(batch.targets)
                operations += len(batch.targets) * (6 * self.scored(self.trainer) * units + 36 * units**2)
                if time.perf_counter() - began > wanted_seconds:
                    break
        return done, operations, time.perf_counter() - began


def full_softmax(sessions, item_count, units):
    """train.py's own steps."""
    from utils.training import FullSoftmaxTrainer
    network = make_network(item_count, units, hid_dropout=0.45, label_smoothing=0.05)
    options = Namespace(base_lr=0.1, batching="sessions", batch_size=128, shuffle=0, group_batches=1)
    return TrainingPart(network, FullSoftmaxTrainer(network, sessions, options), lambda trainer: item_count)


def sampled(sessions, item_count, units, hid_dropout=0.0, carry_dropped=False, **options):
    """train_sample_neg.py's own steps."""
    from utils.optimizers import Adagrad
    from utils.sampled_training import SampledTrainer

    class CountingTrainer(SampledTrainer):
        def _candidates(self, batch):
            candidates, rows = super()._candidates(batch)
            self.scored = len(rows.items)  # distinct ones: what has to be computed
            return candidates, rows

    network = make_network(item_count, units, hid_dropout=hid_dropout, carry_dropped=carry_dropped)
    trainer = CountingTrainer(network, sessions, Adagrad(0.15), Namespace(**{**SAMPLED, **options}))
    return TrainingPart(network, trainer, lambda trainer: trainer.scored)


def make_network(item_count, units, **settings):
    from net import Network, NetworkSettings
    return Network(item_count, NetworkSettings([units], units, **settings), seed=1)


def products_alone(sessions, item_count, units=100):
    """The three products of a chunk of the softmax, for as many predictions as a step of train.py has, and nothing else."""
    import paddle

    from utils.losses import chunk_rows
    rows = chunk_rows(item_count)
    random = np.random.default_rng(1)
    hidden, matrix = (paddle.to_tensor(random.random(shape, dtype=np.float32)) for shape in ([rows, units], [item_count, units]))

    class Part:
        def run(self, wanted_seconds):
            began, chunks = time.perf_counter(), 0
            while time.perf_counter() - began < wanted_seconds:
                scores = paddle.matmul(hidden, matrix, transpose_y=True)
                paddle.matmul(scores, matrix)
                float(paddle.matmul(scores, hidden, transpose_x=True)[0, 0])
                chunks += 1
            return chunks * rows, chunks * 6 * rows * item_count * units, time.perf_counter() - began
    return Part()


def evaluation(network, sessions, item_count):
    """The ranking that infer.py does; always of all sessions."""
    from utils.evaluation import network_ranks

    class Part:
        def run(self, wanted_seconds):
            began = time.perf_counter()
            network_ranks(network, sessions, batch_size=512)
            units = network.settings.hid_size[-1]
            operations = sessions.predictions * (2 * item_count * units + 12 * units**2)
            return sessions.predictions, operations, time.perf_counter() - began
    return Part()


def profile(name, part, options):
    """Print how the time of a training step divides."""
    from utils import native, native_step
    trainer = part.trainer
    if trainer.native_step is None:
        return
    spent = dict.fromkeys(["batching", "drawing", "forward", "loss", "backward", "optimiser"], 0.0)

    @contextmanager
    def timed(owner, method, kind):
        original = getattr(owner, method)

        def wrapped(*arguments, **keywords):
            began = time.perf_counter()
            try:
                return original(*arguments, **keywords)
            finally:
                spent[kind] += time.perf_counter() - began
        setattr(owner, method, wrapped)
        yield
        setattr(owner, method, original)

    def timed_batches(batches):
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            spent["batching"] += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    step = native_step.NativeStep
    drawing = timed(type(trainer), "_candidates", "drawing") if hasattr(trainer, "_candidates") else nullcontext()
    with drawing, timed(step, "forward", "forward"), timed(native, "softmax_cross_entropy", "loss"), \
            timed(step, "backward", "backward"), timed(step, "update", "optimiser"):
        began, steps = time.perf_counter(), 0
        for batch in timed_batches(iter(trainer.batches(np.random.default_rng(0)))):
            trainer.step(batch)
            steps += 1
            if time.perf_counter() - began > options.seconds:
                break
        total = time.perf_counter() - began
    spent["rest"] = total - sum(spent.values())
    print(f"a step of {name}: {total / steps * 1e3:.2f} ms: "
          + ", ".join(f"{kind} {seconds / total:.1%}" for kind, seconds in spent.items() if seconds), flush=True)


def measure_reading(options):
    """Print how long session text takes to be ready to train, the first time and afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        write_session_text(Path(directory) / "train.txt", options.clicks)
        program = ("import sys, time; sys.path.insert(0, sys.argv[1]); began = time.perf_counter()\n"
                   "from utils.sessions import read_sessions\n"
                   f"sessions = read_sessions(sys.argv[2], {RSC15_ITEMS}, '--train_dir')\n"
                   "print(f'{len(sessions.items)} clicks ready in {time.perf_counter() - began:.2f} s', end=', ')\n"
                   "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')] or ['? ?']\n"
                   "print(f'peak {peak[0].split()[1]} kB')")
        for when in ("first time", "again"):
            process = subprocess.run([sys.executable, "-c", program, str(ROOT), directory], check=True, capture_output=True, text=True)
            print(f"reading, {when}: {process.stdout.strip()}", flush=True)


def write_session_text(path, clicks):
    sessions = random_sessions(RSC15_ITEMS, clicks // 4 + 1)
    with open(path, "w", encoding="ascii") as file:
        for start in range(0, len(sessions.lengths), 100_000):
            offsets = sessions.offsets[start:start + 100_001]
            items = sessions.items[offsets[0]:offsets[-1]].tolist()
            offsets = (offsets - offsets[0]).tolist()
            file.write("".join(" ".join(map(str, items[begin:end])) + "\n" for begin, end in zip(offsets, offsets[1:])))


def load_sessions(options):
    """Training and test sessions, and the number of items."""
    item_count = read_vocabulary(options.vocab_path)[1]
    return (read_sessions(options.train_dir, item_count, "--train_dir"),
            read_sessions(options.test_dir, item_count, "--test_dir"), item_count)


def random_sessions(item_count, count):
    """`count` sessions with RSC15's mean length of four clicks, over items of which the first are the most popular."""
    random = np.random.default_rng(1)
    lengths = np.minimum(1 + random.geometric(1 / 3, count), 200)
    items = (item_count * random.random(lengths.sum()) ** 3).astype(np.int32)
    return Sessions(items, np.concatenate([[0], np.cumsum(lengths)]))


def gemm_rate(side):
    """Operations a second of the faster of NumPy's and Paddle's float32 product of square matrices, the best of three."""
    import paddle
    left, right = np.random.default_rng(1).random((2, side, side), dtype=np.float32)
    tensors = paddle.to_tensor(left), paddle.to_tensor(right)
    products = [lambda: float(paddle.matmul(*tensors)[0, 0]), lambda: np.matmul(left, right)]
    return 2 * side**3 / min(seconds_of(product) for product in products for _ in range(3))


def seconds_of(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def peak_memory():
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run(main)
