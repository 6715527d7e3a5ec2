"""The flags of train_sample_neg.py, and the trainer that they ask for. Only `make_trainer` loads Paddle."""

from utils.files import InputError
from utils.options import COUNT, FLOAT32, Parser, number
from utils.training.flags import add_smoothing_flag, add_training_flags, batching, parse_training_flags
from utils.training.optimizer_flags import make_optimizer, rates_of

# The names of losses.FUNCTIONS; for the parameters of each, the flags that they come from.
LOSSES = {
    "ce": {"smoothing": "label_smoothing"},
    "bpr": {},
    "bpr-max": {"elu": "elu_param", "regularisation": "bpreg"},
    "top1": {},
    "top1-max": {},
}
RATES = rates_of(adagrad=0.15)
SCALE = 30.0  # default score scale of ce with shared negatives


def parse_arguments(arguments=None, description=""):
    """The checked options of train_sample_neg.py; `arguments` is a list of str, by default the command line's."""
    parser = Parser(description)
    add_training_flags(parser, RATES)
    parser.set_defaults(model_dir="model_neg_recall20", batching="parallel", hid_dropout=0.4, pass_num=8,
                        fit=1, neighbours=1, score_scale=None)
    sampled = parser.group("loss and negatives")
    sampled.add_argument("--loss", choices=LOSSES, default="ce",
                         help="loss of a prediction; --logq and --score_scale follow it where they aren't given")
    sampled.add_argument("--neg_size", type=number(int, 0, COUNT), default=2048,
                         help="negatives drawn: a step (shared) or a prediction (tiled)")
    sampled.add_argument("--negatives", choices=["shared", "tiled"], default="shared",
                         help="shared by all predictions, or of each its own")
    sampled.add_argument("--in_batch", type=number(int, 0, 1),
                         help="shared: 1: the targets of a batch are negatives of each other too (the paper), 0: only "
                         "drawn ones; default: 1 with --batching parallel or --neg_size 0, else 0, since a whole "
                         "session would have its own next clicks as negatives")
    sampled.add_argument("--sample_alpha", type=number(float, 0, 10), default=0.5,
                         help="shared negatives are drawn by support^alpha")
    sampled.add_argument("--logq", type=number(float, 0, FLOAT32),
                         help="strength of the logQ correction of the scores; default: 1 for ce with shared "
                         "negatives, else 0")
    sampled.add_argument("--elu_param", type=number(float, 0, FLOAT32), default=0.5,
                         help="bpr-max: alpha of the ELU on the scores; 0: none")
    sampled.add_argument("--bpreg", type=number(float, 0, FLOAT32), default=1.0,
                         help="bpr-max: strength of the score regularisation")
    sampled.add_argument("--candidate_dropout", type=number(float, 0, below=1), default=0.0,
                         help="tiled: dropout on the candidates' rows")
    add_smoothing_flag(sampled, 0.0)
    given = parse_training_flags(parser, RATES, arguments)
    if given.in_batch is None:
        given.in_batch = int(given.negatives == "shared" and (given.batching == "parallel" or given.neg_size == 0))
    if given.logq is None:
        given.logq = float(given.loss == "ce" and given.negatives == "shared")
    if given.score_scale is None:
        given.score_scale = SCALE if given.loss == "ce" and given.negatives == "shared" else 0.0
    return check(given)


def check(options):
    """Refuse combinations that make no sense, and flags that would do nothing."""
    if options.negatives == "tiled" and options.neg_size == 0:
        raise InputError("--neg_size: found 0 with --negatives tiled, expected at least 1")
    if options.negatives == "shared" and options.neg_size == 0 and not options.in_batch:
        raise InputError("--neg_size: found 0 with --in_batch 0, expected at least 1, or --in_batch 1: there is no "
                         "negative")
    if options.negatives == "tiled" and options.in_batch:
        raise InputError("--in_batch: found 1 with --negatives tiled, expected 0; those come from the batch anyway")
    if options.negatives == "tiled" and options.batching == "parallel":
        raise InputError("--negatives: found tiled with --batching parallel, expected shared, or --batching sessions")
    if options.negatives == "tiled" and options.logq:
        raise InputError(f"--logq: found {options.logq:g} with --negatives tiled, expected 0; the correction is for "
                         "shared negatives")
    if options.negatives == "shared" and options.candidate_dropout:
        raise InputError(f"--candidate_dropout: found {options.candidate_dropout:g} with --negatives shared, "
                         "expected 0")
    if options.loss != "ce" and options.label_smoothing:
        raise InputError(f"--label_smoothing: found {options.label_smoothing:g} with --loss {options.loss}, "
                         "expected 0; only ce has it")
    return options


def describe(options):
    """The log line of what the loss is taken over."""
    names = ["loss", "negatives", "neg_size"]
    names += ["in_batch", "sample_alpha", "logq"] if options.negatives == "shared" else ["candidate_dropout"]
    return " ".join(f"{name}:{getattr(options, name)}" for name in names)


def make_trainer(options, network, sessions):
    """The trainer.Trainer that the flags ask for. Call it after `device.prepare`: it loads Paddle."""
    import numpy as np

    from utils.losses import Loss
    from utils.training.objectives import SharedNegatives, TiledNegatives, require_negatives
    from utils.training.trainer import Trainer

    loss = Loss(options.loss, **{name: getattr(options, flag) for name, flag in LOSSES[options.loss].items()})
    if options.negatives == "tiled":
        objective = TiledNegatives(network, loss, options.neg_size, options.candidate_dropout)
    else:
        support = np.bincount(sessions.items, minlength=network.item_count)
        objective = SharedNegatives(network, loss, support, options.neg_size, options.sample_alpha, options.logq,
                                    bool(options.in_batch))
    require_negatives(objective, sessions, batching(options))
    return Trainer(network, sessions, batching(options), objective, make_optimizer(options), options.grad_cap,
                   options.amp)
