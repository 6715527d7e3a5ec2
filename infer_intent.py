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
from utils.evaluation.flags import add_draws_flag
from utils.files import InputError, require_different
from utils.intent.flags import SESSIONS, require_other_sessions
from utils.intent.preparation_flags import CLICKS, PURCHASES
from utils.options import Parser, add_device_flags, add_epoch_flag, add_seed_flag
from utils.process import run


def parse_arguments():
    parser = Parser(__doc__)
    data, evaluation = parser.group("input and output"), parser.group("evaluation")
    data.add_argument("--test_dir", default="intent_data/test", help=f"directory of the test sessions: {SESSIONS}")
    data.add_argument("--model_dir", default="model_intent", help="model directory, as train_intent.py writes it")
    add_epoch_flag(data)
    data.add_argument("--train_dir", default="",
                      help=f"directory of the training sessions: {SESSIONS}; with it, simple methods are fitted and "
                      "evaluated too")
    data.add_argument("--valid_dir", default="",
                      help="directory of the validation sessions, in the same form, for the thresholds of the simple "
                      "methods")
    data.add_argument("--submission", default="", metavar="FILE",
                      help="file to write in the challenge's form, SessionId;item,item for each session that is said "
                      "to buy")
    data.add_argument("--per_session", default="", metavar="FILE",
                      help="TSV file to write with each session's probability and those of its items")
    data.add_argument("--picture", default="", metavar="FILE", help="PNG file to write of the reliability curve")
    add_draws_flag(evaluation, 1000)  # each draw counts all sessions anew
    add_seed_flag(evaluation)
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
