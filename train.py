"""Train GRU4Rec with the cross-entropy over the full vocabulary.

    python train.py --train_dir train_data --use_cuda 0 --batch_size 50 --model_dir model_output

Reads session text (item indices, from text2paddle.py) and vocab.txt; writes a model directory with one epoch_N a pass.
The defaults are the best settings that we know; reproduce/rsc15.sh has those of Paddle's old example.
"""

from utils import device
from utils.options import Parser, add_training_flags, check_training_flags, number, run


def parse_arguments():
    parser = Parser(__doc__)
    add_training_flags(parser)
    parser.add_argument("--step_num", type=number(int, 1), default=1000, help="with --enable_ce: steps an epoch, >= 1")
    parser.add_argument("--enable_ce", action="store_true", help="stop every epoch after --step_num steps, for a quick check")
    return check_training_flags(parser.parse_with_config())


def main():
    options = parse_arguments()
    device_line = device.prepare(options.use_cuda, options.threads, options.tune_cpu)
    from utils.training import FullSoftmaxTrainer, log, run_training  # they load Paddle, which device.prepare must come before

    log(device_line)
    run_training(options, lambda network, sessions: FullSoftmaxTrainer(network, sessions, options))


if __name__ == "__main__":
    run(main)
