"""Train GRU4Rec with the cross-entropy over the full vocabulary.

    python train.py --train_dir train_data --use_cuda 0 --batch_size 50 --model_dir model_output

Reads session text (item indices, from text2paddle.py) and vocab.txt; writes a model directory with one epoch_N a pass.
The defaults are the best settings that we know; reproduce/rsc15.sh has those of Paddle's old example.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

from functools import partial

from utils import device
from utils.process import run
from utils.training.flags import asked_by, require_files
from utils.training.full_flags import make_trainer, parse_arguments


def main():
    options = parse_arguments(description=__doc__)
    require_files(options)
    prepared = device.start(options)
    from utils.training.fitting import fit  # they load Paddle, which device.start must come before
    from utils.training.loop import run_training

    fitted = fit(options, make_trainer, prepared) if options.fit else None
    run_training(asked_by(options, fitted), partial(make_trainer, options), prepared)


if __name__ == "__main__":
    run(main)
