"""The flags of train.py, and the trainer that they ask for. Only `make_trainer` loads Paddle."""

from utils.files import InputError
from utils.options import COUNT, Parser, number
from utils.training.flags import add_smoothing_flag, add_training_flags, batching, parse_training_flags
from utils.training.optimizer_flags import make_optimizer, rates_of

RATES = rates_of(adagrad=0.1)


def parse_arguments(arguments=None, description=""):
    """The checked options of train.py; `arguments` is a list of str, by default the command line's."""
    parser = Parser(description)
    add_training_flags(parser, RATES)
    parser.set_defaults(optimizer="adagrad")
    add_smoothing_flag(parser.group("loss and negatives"), 0.05)
    old = parser.group("flags of Paddle's old example")
    old.add_argument("--enable_ce", action="store_true",
                     help="stop every epoch after --step_num steps, for a quick check")
    old.add_argument("--step_num", type=number(int, 1, COUNT), default=1000, help="with --enable_ce: steps an epoch")
    options = parse_training_flags(parser, RATES, arguments)
    if options.grad_cap and options.split_items:
        raise InputError(f"--grad_cap: found {options.grad_cap:g} with --split_items 1, expected 0; no process has the "
                         "gradient of all items")
    return options


def make_trainer(options, network, sessions):
    """The trainer.Trainer that the flags ask for. Call it after `device.prepare`: it loads Paddle."""
    from utils.training.objectives import AllItems
    from utils.training.trainer import Trainer
    return Trainer(network, sessions, batching(options), AllItems(network), make_optimizer(options), options.grad_cap,
                   options.amp)
