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
from utils.launch import processes_to_start, watch
from utils.process import run
from utils.training.flags import batching, training_run
from utils.training.optimizer_flags import make_optimizer
from utils.training.sampled_flags import parse_arguments


def make_trainer(options, network, sessions):
    """The trainer.Trainer that the flags ask for. Call it after `device.prepare`: it loads Paddle."""
    import numpy as np

    from utils.losses import Loss
    from utils.training.objectives import SharedNegatives, TiledNegatives, require_negatives
    from utils.training.trainer import Trainer

    loss = Loss(options.loss, options.label_smoothing, options.elu_param, options.bpreg)
    if options.negatives == "tiled":
        objective = TiledNegatives(network, loss, options.neg_size, options.candidate_dropout)
    else:
        support = np.bincount(sessions.items, minlength=network.item_count)
        objective = SharedNegatives(network, loss, support, options.neg_size, options.sample_alpha, options.logq,
                                    bool(options.in_batch))
    require_negatives(objective, sessions, batching(options))
    return Trainer(network, sessions, batching(options), objective, make_optimizer(options), options.grad_cap,
                   options.amp)


def main():
    options = parse_arguments(description=__doc__)
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
