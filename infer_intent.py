"""How well a model of train_intent.py says which sessions buy, and what.

    python infer_intent.py --test_dir intent_data/test --model_dir model_intent
    python infer_intent.py --test_dir intent_data/test --train_dir intent_data/train --valid_dir intent_data/valid

Prints the metrics with 95 % intervals, and appends them to metrics.jsonl in the model directory. The thresholds are
those of the model, which were tuned on its validation sessions. With --train_dir, the table also has simple methods,
whose thresholds are tuned on --valid_dir; they need scikit-learn (requirements-intent.txt). docs/intent.md explains the
metrics.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from pathlib import Path

from utils import device
from utils.files import InputError, require_different
from utils.intent.flags import require_other_sessions
from utils.intent.preparation_flags import CLICKS, PURCHASES
from utils.options import COUNT, SEED, Parser, add_device_flags, number
from utils.process import run


def parse_arguments():
    parser = Parser(__doc__)
    parser.add_argument("--model_dir", default="model_intent", help="model directory of train_intent.py")
    parser.add_argument("--epoch", type=number(int, 0, COUNT), default=0,
                        help="which epoch to use; 0: the best one by validation")
    parser.add_argument("--test_dir", default="intent_data/test",
                        help="directory of clicks.tsv and buys.tsv, as preprocess.py --to_intent writes it")
    parser.add_argument("--train_dir", default="",
                        help="training sessions, for simple methods in the same table; empty: without these")
    parser.add_argument("--valid_dir", default="", help="validation sessions, for their thresholds")
    parser.add_argument("--draws", type=number(int, 10, 1_000_000), default=1000,
                        help="bootstrap samples of the sessions, for the intervals")
    parser.add_argument("--seed", type=number(int, 0, SEED), default=1, help="seed of these draws")
    parser.add_argument("--submission", default="",
                        help="file to write in the challenge's form, SessionId;item,item for each session that is said "
                        "to buy; empty: none")
    parser.add_argument("--per_session", default="",
                        help="TSV file to write with each session's probability and those of its items; empty: none")
    parser.add_argument("--picture", default="", help="PNG file to write of the reliability curve; empty: none")
    add_device_flags(parser)
    options = parser.parse_args()
    if bool(options.train_dir) != bool(options.valid_dir):
        raise InputError("--train_dir, --valid_dir: found one without the other, expected both or none")
    outputs = [(f"--{name}", getattr(options, name)) for name in ("submission", "per_session", "picture")]
    directories = "test_dir", "train_dir", "valid_dir"
    inputs = [(f"--{name}", Path(getattr(options, name), file)) for name in directories if getattr(options, name)
              for file in (CLICKS, PURCHASES)]
    require_different(inputs, [(flag, path) for flag, path in outputs if path])
    require_other_sessions(options, *directories)
    return options


def main():
    options = parse_arguments()
    prepared = device.prepare(options.use_cuda, options.threads, options.tune_cpu)
    from utils.intent.evaluation import evaluate  # it loads Paddle, which device.prepare must come before
    from utils.runlog import log

    log(prepared.line)
    evaluate(options)


if __name__ == "__main__":
    run(main)
