"""The flags of the update and of its learning rate, of both trainers. Only `make_optimizer` loads Paddle."""

from utils.files import InputError
from utils.options import FLOAT32, number

# The learning rates where --base_lr isn't given, of all trainers alike.
RATES = {"rmsprop": 0.03, "adam": 0.01, "adamw": 0.01, "nadam": 0.01, "sgd": 5.0}
UPDATE_RATE = 0.1  # of official and adagrad, in a run that goes on from a model
OPTIMIZERS = "official", "adagrad", *RATES
ADAMS = "adam", "adamw", "nadam"
ADAMW_DECAY = 0.01
RISE = 0.3  # share of the training that is the warm-up of one-cycle


def rates_of(adagrad, **others):
    """A trainer's learning rates where --base_lr isn't given: a dict of those of all optimisers, by their names."""
    return {"official": adagrad, "adagrad": adagrad, **RATES, **others}


def add_rate_flags(optimiser, rates):
    """Add the flags of the learning rate; `rates` are the trainer's, as of `rates_of`."""
    optimiser.add_argument("--base_lr", type=number(float, 0, FLOAT32),
                           help="largest learning rate; default: "
                           + ", ".join(f"{value:g} with {name}" for name, value in rates.items()))
    optimiser.add_argument("--lr_schedule", choices=["linear", "constant", "cosine", "one-cycle"], default="linear",
                           help="how the rate falls, linearly, not at all, or by half a cosine; one-cycle: it rises by "
                           "half a cosine too")
    optimiser.add_argument("--lr_end", type=number(float, 0, FLOAT32),
                           help="share of the learning rate that is left at the end; default: 0.1, and 1 with "
                           "--init_from and linear")
    optimiser.add_argument("--warmup", type=number(float, 0, below=1),
                           help="share of the training in which the rate rises, linearly from 0; default: 0, and "
                           f"{RISE:g} with one-cycle, which begins at a 25th of the rate")


def add_update_flags(optimiser, default):
    """Add the flags of the update; `default` is that of --optimizer."""
    optimiser.add_argument("--optimizer", choices=OPTIMIZERS, default=default,
                           help="official: Adagrad with epsilon inside the root; others: Paddle's forms; items that a "
                           "step doesn't touch rest")
    optimiser.add_argument("--momentum", type=number(float, 0, below=1), default=0.0,
                           help="momentum of official, adagrad, rmsprop and sgd; 0: none")
    optimiser.add_argument("--weight_decay", type=number(float, 0, 1),
                           help="what is added to the gradient, times the weight (L2); adamw: times the rate, what the "
                           "weight loses; in both cases of the items that a step touches; default: "
                           f"{ADAMW_DECAY:g} with adamw, else 0")
    optimiser.add_argument("--grad_cap", type=number(float, 0, FLOAT32), default=0.0,
                           help="largest norm of all gradients together; 0: no limit")


def check_optimizer_flags(options, rates):
    """Refuse what would do nothing, and fill in values that depend on other flags; `rates` as in `add_rate_flags`."""
    if options.optimizer in ADAMS and options.momentum:
        raise InputError(f"--momentum: found {options.momentum:g} with --optimizer {options.optimizer}, expected 0; "
                         "it has its own")
    schedule = options.lr_schedule
    if schedule == "constant" and options.lr_end not in (None, 1):
        raise InputError(f"--lr_end: found {options.lr_end:g} with --lr_schedule constant, expected 1 or none; the "
                         "rate stays as it is")
    if options.lr_end is None:
        stays = schedule == "constant" or (options.init_from and schedule == "linear")
        options.lr_end = 1.0 if stays else 0.1
    if schedule == "cosine" and options.lr_end == 1:
        raise InputError("--lr_end: found 1 with --lr_schedule cosine, expected another share; the rate would not "
                         "change")
    if options.warmup is None:
        options.warmup = RISE if schedule == "one-cycle" else 0.0
    if schedule == "one-cycle" and not options.warmup:
        raise InputError("--warmup: found 0 with --lr_schedule one-cycle, expected more, or --lr_schedule cosine; the "
                         "rate would not rise")
    if options.base_lr is None:
        goes_on = options.init_from and options.optimizer not in RATES
        options.base_lr = UPDATE_RATE if goes_on else rates[options.optimizer]
    if options.weight_decay is None:
        options.weight_decay = ADAMW_DECAY if options.optimizer == "adamw" else 0.0


def make_optimizer(options):
    """The optimizers.RowOptimizer that the flags ask for."""
    from utils.training.optimizers import SGD, Adagrad, Adam, Nadam, RMSProp
    of_all = {"rate": options.base_lr, "weight_decay": options.weight_decay}
    if options.optimizer == "rmsprop":
        return RMSProp(momentum=options.momentum, **of_all)
    if options.optimizer == "sgd":
        return SGD(momentum=options.momentum, **of_all)
    if options.optimizer == "nadam":
        return Nadam(**of_all)
    if options.optimizer in ADAMS:
        return Adam(decoupled=options.optimizer == "adamw", **of_all)
    if options.optimizer in ("official", "adagrad"):
        return Adagrad(momentum=options.momentum, epsilon_inside=options.optimizer == "official", **of_all)
    raise InputError(f"--optimizer: found {options.optimizer}, expected one that make_optimizer in "
                     "utils/training/optimizer_flags.py makes")
