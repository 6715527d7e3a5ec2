"""Train GRU4Rec with losses over a sample of the items.

    python train_sample_neg.py                                        # this project's own settings
    python train_sample_neg.py --loss bpr-max                         # the same with another loss
    python train_sample_neg.py --config settings/official_xe.json     # the official GRU4Rec; or official_bpr_max.json
    python train_sample_neg.py --config settings/reference_bpr.json   # Paddle's old example; or reference_ce.json

Reads and writes what train.py does; infer_sample_neg.py evaluates. A loss is the mean over predictions. Negatives are
shared (--neg_size drawn by support^alpha, and with --in_batch 1 the targets of the batch) or tiled (each prediction has
its own, drawn from the targets of the batch). Sessions are trained on whole, or side by side one click at a time.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from functools import partial

from utils import device
from utils.files import InputError
from utils.launch import processes_to_start, watch
from utils.options import COUNT, FLOAT32, Parser, number
from utils.process import run
from utils.training.flags import add_training_flags, batching, parse_training_flags, training_run

LOSSES = ("ce", "bpr", "bpr-max", "top1", "top1-max")


def parse_arguments(arguments=None):
    parser = Parser(__doc__)
    add_training_flags(parser)
    parser.set_defaults(model_dir="model_neg_recall20", label_smoothing=0.0, batching="parallel", hid_dropout=0.4,
                        base_lr=0.15, pass_num=8, fit=1, neighbours=1)
    sampled = parser.add_argument_group("sampled training")
    sampled.add_argument("--loss", choices=LOSSES, default="ce",
                         help="loss of a prediction; --logq follows it where that isn't given")
    sampled.add_argument("--negatives", choices=["shared", "tiled"], default="shared",
                         help="shared by all predictions, or of each its own")
    sampled.add_argument("--in_batch", type=number(int, 0, 1),
                         help="shared: 1: the targets of a batch are negatives of each other too (the paper), 0: only "
                         "drawn ones; default: 1 with --batching parallel or --neg_size 0, else 0, since a whole "
                         "session would have its own next clicks as negatives")
    sampled.add_argument("--neg_size", type=number(int, 0, COUNT), default=2048,
                         help="negatives drawn: a step (shared) or a prediction (tiled)")
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
    sampled.add_argument("--optimizer", choices=["official", "adagrad", "adam"], default="official",
                         help="official: Adagrad with epsilon inside the root; adagrad and adam: Paddle's forms")
    sampled.add_argument("--momentum", type=number(float, 0, below=1), default=0.0,
                         help="of official and adagrad")
    sampled.add_argument("--grad_cap", type=number(float, 0, FLOAT32), default=0.0,
                         help="largest norm of all gradients together; 0: no limit")
    given = parse_training_flags(parser, arguments)
    if given.in_batch is None:
        given.in_batch = int(given.negatives == "shared" and (given.batching == "parallel" or given.neg_size == 0))
    if given.logq is None:
        given.logq = float(given.loss == "ce" and given.negatives == "shared")
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
    if options.optimizer == "adam" and options.momentum:
        raise InputError(f"--momentum: found {options.momentum:g} with --optimizer adam, expected 0; Adam has its own")
    return options


def make_trainer(options, network, sessions):
    """The trainer.Trainer that the flags ask for. Call it after `device.prepare`: it loads Paddle."""
    import numpy as np

    from utils.losses import Loss
    from utils.training.objectives import SharedNegatives, TiledNegatives, require_negatives
    from utils.training.optimizers import Adagrad, Adam
    from utils.training.trainer import Trainer

    loss = Loss(options.loss, options.label_smoothing, options.elu_param, options.bpreg)
    if options.negatives == "tiled":
        objective = TiledNegatives(network, loss, options.neg_size, options.candidate_dropout)
    else:
        support = np.bincount(sessions.items, minlength=network.item_count)
        objective = SharedNegatives(network, loss, support, options.neg_size, options.sample_alpha, options.logq,
                                    bool(options.in_batch))
    require_negatives(objective, sessions, batching(options))
    if options.optimizer == "adam":
        optimizer = Adam(options.base_lr)
    else:
        optimizer = Adagrad(options.base_lr, options.momentum, epsilon_inside=options.optimizer == "official")
    return Trainer(network, sessions, batching(options), objective, optimizer, options.grad_cap, options.amp)


def main():
    options = parse_arguments()
    if count := processes_to_start(options):
        watch(count, options.use_cuda)
    prepared = device.prepare(options.use_cuda, options.threads, options.tune_cpu, True, options.amp)
    from utils.training.fitting import fit  # they load Paddle, which device.prepare must come before
    from utils.training.loop import log, run_training

    log(prepared.line)
    log(describe(options))
    found = fit(options, make_trainer, prepared) if options.fit else None
    run_training(**training_run(options, found), make_trainer=partial(make_trainer, options), device=prepared)


def describe(options):
    """The log line of what the loss is taken over."""
    names = ["loss", "negatives", "neg_size"]
    names += ["in_batch", "sample_alpha", "logq"] if options.negatives == "shared" else ["candidate_dropout"]
    return " ".join(f"{name}:{getattr(options, name)}" for name in names)


if __name__ == "__main__":
    run(main)
