"""Train GRU4Rec with the cross-entropy over the full vocabulary.

    python train.py --train_dir train_data --use_cuda 0 --batch_size 50 --model_dir model_output

Reads session text (item indices, from text2paddle.py) and vocab.txt; writes a model directory with one epoch_N a pass.
The defaults are the best settings that we know; reproduce/rsc15_reference.sh has those of Paddle's old example.
"""

from pathlib import Path

from utils import device
from utils.files import InputError
from utils.options import Parser, add_device_flags, number, run, sizes
from utils.sessions import cut_windows, read_conversion, read_sessions
from utils.vocabulary import checksum, read_vocabulary


def parse_arguments():
    parser = Parser(__doc__)
    data = parser.add_argument_group("data")
    data.add_argument("--train_dir", default="train_data", help="directory of session files (or one file)")
    data.add_argument("--vocab_path", default="vocab.txt", help="item ids, one a line, in the order of their indices")
    data.add_argument("--model_dir", default="model_recall20", help="directory to write")
    data.add_argument("--overwrite", type=number(int, 0, 1), default=0, help="1: delete the run that --model_dir holds")
    data.add_argument("--max_length", type=number(int, 1), default=1000,
                      help="predictions in a session at most, >= 1; longer sessions are cut into windows")

    network = parser.add_argument_group("network")
    network.add_argument("--hid_size", type=sizes, default=[100], help="units of each GRU layer, such as 100 or 100,100")
    network.add_argument("--emb_size", type=number(int, 0), default=0, help="units of the item embedding; 0: as the last layer")
    network.add_argument("--embedding", choices=["shared", "separate", "none"], default="shared",
                         help="one matrix for embedding and output, two, or none: the first layer's gates have a weight an item")
    network.add_argument("--reset_gate", choices=["after", "before"], default="after",
                         help="where the GRU's reset gate acts: after the recurrent product (nn.GRU, cuDNN) or before (fluid)")
    network.add_argument("--init_range", type=number(float, 0), default=0.0,
                         help="weights start from U(-x, x), x >= 0; 0: Glorot's range of each matrix")

    training = parser.add_argument_group("training")
    training.add_argument("--batch_size", type=number(int, 1), default=128, help="sessions a step, >= 1")
    training.add_argument("--pass_num", type=number(int, 1), default=10, help="epochs, >= 1")
    training.add_argument("--base_lr", type=number(float, 0), default=0.1, help="learning rate of Adagrad, >= 0")
    for name, what in (("emb", "the embedding"), ("gru", "FC and GRU"), ("fc", "the output layer")):
        training.add_argument(f"--{name}_lr_x", type=number(float, 0), default=1.0, help=f"learning-rate multiplier of {what}, >= 0")
    training.add_argument("--emb_dropout", type=number(float, 0, below=1), default=0.0, help="dropout on the embedding, 0 to < 1")
    training.add_argument("--hid_dropout", type=number(float, 0, below=1), default=0.5, help="dropout on the GRU's output, 0 to < 1")
    training.add_argument("--label_smoothing", type=number(float, 0, below=1), default=0.0,
                          help="share of each target that is spread over all items, 0 to < 1")
    training.add_argument("--shuffle", type=number(int, 0, 1), default=0,
                          help="1: sessions in random order, 0: in the order of the files, which keeps the newest for last")
    training.add_argument("--seed", type=number(int, 0), default=1, help="of all random draws, >= 0")
    training.add_argument("--print_batch", type=number(int, 1), default=100, help="steps between two log lines, >= 1")
    add_device_flags(parser)

    old = parser.add_argument_group("flags of the reference")
    old.add_argument("--parallel", type=number(int, 0, 1), default=0, help="1: several devices (not available yet)")
    old.add_argument("--num_devices", type=number(int, 1), default=1, help="devices (only 1 yet)")
    old.add_argument("--step_num", type=number(int, 1), default=1000, help="with --enable_ce: steps an epoch, >= 1")
    old.add_argument("--enable_ce", action="store_true", help="stop every epoch after --step_num steps, for a quick check")
    old.add_argument("--is_local", type=int, default=1, help="accepted for old command lines, without effect")
    return check(parser.parse_args())


def check(options):
    """Refuse what single flags can't show to be wrong; fill in what depends on others."""
    if options.parallel or options.num_devices > 1:
        raise InputError("--parallel, --num_devices: found more than one device, expected --parallel 0 and --num_devices 1 "
                         "(training on several devices is not available yet)")
    options.emb_size = options.emb_size or options.hid_size[-1]
    if options.embedding == "shared" and options.emb_size != options.hid_size[-1]:
        raise InputError(f"--emb_size: found {options.emb_size} with {options.hid_size[-1]} units in the last layer, expected the "
                         "same for a shared matrix; add --embedding separate for two matrices")
    options.step_limit = options.step_num if options.enable_ce else 0
    return options


def main():
    options = parse_arguments()
    device_line = device.prepare(options.use_cuda, options.threads, options.tune_cpu)
    # These load Paddle, which device.prepare must come before.
    from net import Network, NetworkSettings
    from utils import checkpoint, training
    from utils.runlog import log

    log(device_line)
    item_count = read_vocabulary_for_training(options.vocab_path)
    vocab_sha256 = checksum(options.vocab_path)
    read_conversion(options.train_dir, vocab_sha256, "--train_dir")
    sessions, cut = cut_windows(read_sessions(options.train_dir, item_count, "--train_dir"), options.max_length)
    if not sessions.predictions:
        raise InputError(f"--train_dir: found no session of two clicks in {options.train_dir}, expected at least one")
    log(f"sessions:{len(sessions.lengths)} events:{len(sessions.items)} items:{item_count} predictions:{sessions.predictions}")
    if cut:
        log(f"cut into windows of {options.max_length} predictions: {cut} sessions (--max_length)")

    same_name = "hid_size", "emb_size", "embedding", "emb_dropout", "hid_dropout", "label_smoothing", "init_range"
    multipliers = "emb_lr_x", "gru_lr_x", "fc_lr_x"
    settings = NetworkSettings(reset_after=options.reset_gate == "after",
                               **{name: getattr(options, name) for name in same_name + multipliers})
    data = {"sessions": len(sessions.lengths), "events": len(sessions.items), "items": item_count,
            "vocab_sha256": vocab_sha256}
    config = {"network": settings.as_dict(), "data": data, "versions": training.versions(), "options": vars(options)}
    model_dir = Path(options.model_dir)
    checkpoint.start_run(model_dir, config, options.vocab_path, bool(options.overwrite))
    training.train(Network(item_count, settings, options.seed), sessions, model_dir, options)


def read_vocabulary_for_training(path):
    """The number of items; a vocabulary that holds only that is accepted, with a warning."""
    item_ids, item_count = read_vocabulary(path)
    if item_ids is None:
        from utils.runlog import warn
        warn(f"{path} holds only the number of items: this model can be evaluated, but its indices can't be turned into item ids")
    return item_count


if __name__ == "__main__":
    run(main)
