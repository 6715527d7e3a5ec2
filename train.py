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
from utils.launch import processes_to_start, watch
from utils.process import run
from utils.training.flags import batching, training_run
from utils.training.full_flags import parse_arguments
from utils.training.optimizer_flags import make_optimizer


def make_trainer(options, network, sessions):
    """The trainer.Trainer that the flags ask for. Call it after `device.prepare`: it loads Paddle."""
    from utils.training.objectives import AllItems
    from utils.training.trainer import Trainer
    return Trainer(network, sessions, batching(options), AllItems(network), make_optimizer(options), options.grad_cap,
                   options.amp)


def main():
    options = parse_arguments(description=__doc__)
    if count := processes_to_start(options):
        watch(count, options.use_cuda)
    prepared = device.prepare(options.use_cuda, options.threads, options.tune_cpu, True, options.amp)
    from utils.training.fitting import fit  # they load Paddle, which device.prepare must come before
    from utils.training.loop import log, run_training

    log(prepared.line)
    found = fit(options, make_trainer, prepared) if options.fit else None
    run_training(**training_run(options, found), make_trainer=partial(make_trainer, options), device=prepared)


if __name__ == "__main__":
    run(main)
