"""Recall and MRR of the next clicks, for each epoch of a model directory.

    python infer.py --test_dir test_data/ --model_dir model_output/ --start_index 1 --last_index 10 --use_cuda 0

Every click after the first of every test session is predicted from those before it and ranked among all items of the
training sessions; items already seen in the session are not removed. The figures are means over these predictions; they
are printed, and appended to metrics.jsonl in the model directory.
"""

import time
from pathlib import Path

from utils import device
from utils.files import InputError, require_file
from utils.metrics import TIES, recall_and_mrr
from utils.options import Parser, add_device_flags, cutoffs, number, run
from utils.sessions import read_conversion, read_sessions
from utils.vocabulary import checksum, read_vocabulary


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--test_dir", default="test_data", help="directory of test session files (or one file)")
    parser.add_argument("--model_dir", default="model_recall20", help="model directory, as train.py writes")
    parser.add_argument("--start_index", type=number(int, 1), default=1, help="first epoch, >= 1")
    parser.add_argument("--last_index", type=number(int, 1), default=10, help="last epoch, >= 1")
    parser.add_argument("--topk", type=cutoffs, default=[20], help="cut-offs k of recall@k and MRR@k, such as 20 or 1,5,20")
    parser.add_argument("--ties", choices=TIES, default="standard",
                        help="rank of a target whose score others have too: best, worst or middle of theirs")
    parser.add_argument("--train_dir", default="", help="training sessions: adds POP and item transitions, fitted on them")
    parser.add_argument("--vocab_path", default="", help="vocab.txt of the test sessions, to check that it is the model's; "
                        "empty: the model's own")
    parser.add_argument("--batch_size", type=number(int, 1), default=512, help="sessions at once, >= 1; changes no figure")
    add_device_flags(parser)
    options = parser.parse_args()
    if options.start_index > options.last_index:
        raise InputError(f"--start_index: found {options.start_index}, expected at most --last_index {options.last_index}")
    return options


def main():
    options = parse_arguments()
    device_line = device.prepare(options.use_cuda, options.threads, options.tune_cpu)
    # These load Paddle, which device.prepare must come before.
    from utils import checkpoint
    from utils.runlog import line_of, log, print_table, warn

    log(device_line)
    model_dir = Path(options.model_dir)
    config = checkpoint.read_config(model_dir)
    epochs = epochs_to_evaluate(checkpoint.finished_epochs(model_dir), options, warn)
    item_count = read_items(model_dir, config, options)
    record = read_conversion(options.test_dir, checksum(model_dir / "vocab.txt"), "--test_dir")
    sessions = read_sessions(options.test_dir, item_count, "--test_dir")
    if not sessions.predictions:
        raise InputError(f"--test_dir: found no session of two known clicks in {options.test_dir}, expected at least one")
    unknown = record.get("clicks_left_out", 0)
    log(f"test:{options.test_dir} sessions:{len(sessions.lengths)} predictions:{sessions.predictions} items:{item_count} "
        f"unknown_clicks_left_out:{unknown} ties:{options.ties}")

    results = {}
    if options.train_dir:
        results.update(evaluate_baselines(sessions, item_count, options))
    for epoch in epochs:
        figures, seconds = evaluate_epoch(model_dir, epoch, config, item_count, sessions, options)
        log(f"model:{checkpoint.epoch_directory(model_dir, epoch)} {line_of(figures)} time_cost(s):{seconds:.2f}")
        results[f"epoch_{epoch}"] = figures
        record_figures(model_dir, {"event": "test", "epoch": epoch, **figures, "ties": options.ties, "test_dir": options.test_dir,
                                   "predictions": sessions.predictions, "unknown_clicks_left_out": unknown,
                                   "time_cost": seconds}, warn)
    if options.train_dir:
        print_table(results)


def epochs_to_evaluate(finished, options, warn):
    """The finished epochs that were asked for; those that are not there are named."""
    found = [epoch for epoch in finished if options.start_index <= epoch <= options.last_index]
    if not found:
        there = ", ".join(map(str, finished)) or "none"
        raise InputError(f"--model_dir: found none of the epochs {options.start_index} to {options.last_index} in "
                         f"{options.model_dir}, expected at least one (epochs there: {there})")
    around = [options.start_index - 1, *found, options.last_index + 1]
    missing = [f"{before + 1}" if after - before == 2 else f"{before + 1} to {after - 1}"
               for before, after in zip(around, around[1:]) if after - before > 1]
    if missing:
        warn(f"{options.model_dir}: skipped epochs that are not there: {', '.join(missing)}")
    return found


def read_items(model_dir, config, options):
    """The number of items that the model knows; a --vocab_path that is given must be the model's."""
    own = model_dir / "vocab.txt"
    try:
        expected = str(config["data"]["vocab_sha256"])
    except (KeyError, TypeError):
        raise InputError(f"{model_dir / 'config.json'}: found no checksum of vocab.txt, expected one of train.py") from None
    paths = [(own, "--model_dir"), (options.vocab_path, "--vocab_path")] if options.vocab_path else [(own, "--model_dir")]
    for path, flag in paths:
        if checksum(require_file(path, flag)) != expected:
            raise InputError(f"{flag}: found another vocabulary in {path} than the model was trained with, expected "
                             f"SHA-256 {expected[:12]}...")
    return read_vocabulary(own, "--model_dir")[1]


def evaluate_epoch(model_dir, epoch, config, item_count, sessions, options):
    """Figures of one epoch as a dict, and the seconds that they took."""
    import paddle
    from net import Network, NetworkSettings
    from utils import checkpoint
    from utils.evaluation import network_ranks

    began = time.perf_counter()
    try:
        network = Network(item_count, NetworkSettings(**config["network"]))
    except (LookupError, TypeError, ValueError, ArithmeticError, AssertionError) as error:
        raise InputError(f"{model_dir / 'config.json'}: found no complete network settings ({error}), expected those of train.py")
    shapes = {name: list(weight.shape) for name, weight in network.named_parameters()}
    for name, values in checkpoint.load_weights(model_dir, epoch, shapes).items():
        network.state_dict()[name].set_value(paddle.to_tensor(values))
    try:
        ranks = network_ranks(network, sessions, options.batch_size, options.ties, f"epoch {epoch}")
    except InputError as error:
        raise InputError(f"{checkpoint.epoch_directory(model_dir, epoch)}: {error}") from None
    return recall_and_mrr(ranks, options.topk), time.perf_counter() - began


def evaluate_baselines(sessions, item_count, options):
    """Figures of what needs no network, by name."""
    from utils.baselines import baseline_ranks, popularity_scores, transition_scores

    read_conversion(options.train_dir, checksum(Path(options.model_dir) / "vocab.txt"), "--train_dir")
    training = read_sessions(options.train_dir, item_count, "--train_dir")
    baselines = {"POP": popularity_scores, "transitions": transition_scores}
    return {name: recall_and_mrr(baseline_ranks(fit(training, item_count), sessions, options.ties), options.topk)
            for name, fit in baselines.items()}


def record_figures(model_dir, record, warn):
    """Append to metrics.jsonl; a model directory that can't be written must not keep anyone from their figures."""
    from utils.runlog import append_record
    try:
        append_record(model_dir, record)
    except OSError as error:
        warn(f"{model_dir / 'metrics.jsonl'}: figures are not recorded ({error.strerror})")


if __name__ == "__main__":
    run(main)
