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
from utils.process import run
from utils.training.flags import asked_by, require_files
from utils.training.sampled_flags import describe, make_trainer, parse_arguments


def main():
    options = parse_arguments(description=__doc__)
    require_files(options)
    prepared = device.start(options, describe(options))
    from utils.training.fitting import fit  # they load Paddle, which device.start must come before
    from utils.training.loop import run_training

    fitted = fit(options, make_trainer, prepared) if options.fit else None
    run_training(asked_by(options, fitted), partial(make_trainer, options), prepared)


if __name__ == "__main__":
    run(main)
