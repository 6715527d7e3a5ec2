"""Command lines: the flags that several scripts share, written once, and how a script starts and ends."""

import argparse
import json
import math
import os
import signal
import sys
from pathlib import Path

from utils.files import InputError, require_file

WATCHED = "recall@20", "mrr@20", "valid_loss", "train_loss", "loss_ratio"
STOPPED = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}  # status 128 + the signal, as in a shell


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Every default shown, and the script's docstring as it is written."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line and whose help shows every default."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)

    def parse_with_config(self, arguments=None):
        """Parse the command line, with the flags of the file that --config names before it, so that its own flags win."""
        arguments = sys.argv[1:] if arguments is None else arguments
        given = self.parse_args(arguments)
        return self.parse_args([*self._flags_of_config(given.config), *arguments]) if given.config else given

    def _flags_of_config(self, path):
        """The flags of a JSON file as command line arguments, to stand before the user's own."""
        try:
            settings = json.loads(require_file(path, "--config").read_text(encoding="utf-8"))
            values = {f"--{name}": value for name, value in settings.items()}
        except (ValueError, AttributeError, RecursionError):
            raise InputError(f"--config: found no JSON object in {path}, expected one such as those in settings/") from None
        flags = []
        for flag, value in values.items():
            action = self._option_string_actions.get(flag)
            if action is None or flag in ("--config", "--help"):
                raise InputError(f"--config: found {flag.removeprefix('--')!r} in {path}, expected names of flags as "
                                 f"{self.prog} -h lists them")
            is_switch = action.nargs == 0
            if isinstance(value, bool) != is_switch or value is None or isinstance(value, dict):
                raise InputError(f"--config: found {json.dumps(value)[:40]} for {flag.removeprefix('--')} in {path}, expected "
                                 + ("true or false" if is_switch else "a number, a text or a list"))
            if not is_switch:
                flags.append(f"{flag}={','.join(map(str, value)) if isinstance(value, list) else value}")
            elif value:
                flags.append(flag)
        try:
            self.parse_args(flags)
        except InputError as error:
            raise InputError(f"--config {path}: {error}") from None
        return flags

    def error(self, message):
        raise InputError(message.replace("\n", " ") + f" ({self.prog} -h lists the flags)")


def number(kind, low=-math.inf, high=math.inf, below=math.inf):
    """A type for argparse: a finite `kind` (int or float, of 64 bits) with low <= value <= high and value < below."""
    limits = [f">= {low}"] * (low > -math.inf) + [f"<= {high}"] * (high < math.inf) + [f"< {below}"] * (below < math.inf)
    wanted = " ".join(["an integer" if kind is int else "a number"] + [" and ".join(limits)] * bool(limits))

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if kind is int and abs(value) >= 2**63:
            raise argparse.ArgumentTypeError(f"found {text[:40]!r}, expected {wanted} of at most 64 bits")
        if not (math.isfinite(value) and low <= value <= high and value < below):
            raise argparse.ArgumentTypeError(f"found {text!r}, expected {wanted}")
        return value

    return parse


def sizes(text):
    """A type for argparse: `100` or `100,50` as a list of positive integers."""
    try:
        return [number(int, 1, 100_000)(part) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected integers from 1 to 100000 separated by commas, "
                                         "such as 5,20") from None


def cutoffs(text):
    """A type for argparse: `20` or `1,5,20` as an ascending list of distinct positive integers."""
    return sorted(set(sizes(text)))


def separator(text):
    """A type for argparse: one character, or `tab`, or nothing."""
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) > 1 or text and text in '"\r\n' or not text.isascii():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected one ASCII character or tab")
    return text


def add_table_flags(parser):
    """Flags of every script that reads a table of clicks."""
    parser.add_argument("--session_column", default="SessionId", help="name of the column of session ids, any words")
    parser.add_argument("--item_column", default="ItemId", help="name of the column of item ids, any words")
    parser.add_argument("--time_column", default="Time", help="name of the column of times: ISO 8601 dates (UTC where they name "
                        "no zone) or numbers")
    parser.add_argument("--time_unit", choices=("s", "ms"), default="s", help="unit of times that are numbers, since 1970: "
                        "seconds or milliseconds")
    parser.add_argument("--separator", type=separator, default="", help="what separates the columns, one character or tab; "
                        "empty: found out from the header line")


def add_training_flags(parser):
    """Flags of both trainers."""
    data = parser.add_argument_group("data")
    data.add_argument("--config", default="", help="JSON file of flags and values, as in settings/; flags given beside it win")
    data.add_argument("--train_dir", default="train_data", help="directory of session files (or one file)")
    data.add_argument("--vocab_path", default="vocab.txt", help="item ids, one a line, in the order of their indices")
    data.add_argument("--model_dir", default="model_recall20", help="directory to write")
    data.add_argument("--overwrite", type=number(int, 0, 1), default=0, help="1: delete the run that --model_dir holds")
    data.add_argument("--resume", type=number(int, 0, 1), default=0,
                      help="1: go on with the run that --model_dir holds, exactly as if it had never stopped; start one if there is none")
    data.add_argument("--max_length", type=number(int, 1), default=1000,
                      help="predictions in a session at most, >= 1; longer sessions are cut into windows")

    network = parser.add_argument_group("network")
    network.add_argument("--hid_size", type=sizes, default=[100], help="units of each GRU layer, such as 100 or 100,100")
    network.add_argument("--emb_size", type=number(int, 0, 100_000), default=0,
                         help="units of the item embedding; 0: as the last layer")
    network.add_argument("--embedding", choices=["shared", "separate", "none"], default="shared",
                         help="one matrix for embedding and output, two, or none: the first layer's gates have a weight an item")
    network.add_argument("--reset_gate", choices=["after", "before"], default="after",
                         help="where the GRU's reset gate acts: after the recurrent product (nn.GRU, cuDNN) or before (fluid)")
    network.add_argument("--init_range", type=number(float, 0, 10), default=0.0,
                         help="weights start from U(-x, x), 0 <= x <= 10; 0: Glorot's range of each matrix")
    network.add_argument("--emb_dropout", type=number(float, 0, below=1), default=0.0, help="dropout on the embedding, 0 to < 1")
    network.add_argument("--hid_dropout", type=number(float, 0, below=1), default=0.45,
                         help="dropout on each GRU layer's output, 0 to < 1")

    network.add_argument("--carry_dropped", type=number(int, 0, 1), default=0,
                         help="1: the next click sees the GRU's state with dropout (the official code), 0: without")
    network.add_argument("--through_time", type=number(int, 0, 1), default=1,
                         help="1: gradients go back through a session's clicks, 0: they stop at the state before, as they always do "
                         "with sessions side by side (the official code)")

    training = parser.add_argument_group("training")
    training.add_argument("--batching", choices=["sessions", "parallel"], default="sessions",
                          help="whole sessions, or --batch_size sessions side by side, one click a step (the paper's way)")
    training.add_argument("--batch_size", type=number(int, 1), default=128, help="sessions a step, >= 1")
    training.add_argument("--pass_num", type=number(int, 1), default=10, help="epochs, >= 1")
    training.add_argument("--base_lr", type=number(float, 0), default=0.1, help="learning rate, >= 0")
    training.add_argument("--lr_end", type=number(float, 0), default=0.1,
                          help="share of the learning rate at the end of the last epoch, >= 0; it changes linearly")
    for name, what in (("emb", "the embedding"), ("gru", "FC and GRU"), ("fc", "the output layer")):
        training.add_argument(f"--{name}_lr_x", type=number(float, 0), default=1.0,
                              help=f"learning-rate multiplier of {what}, >= 0")
    training.add_argument("--label_smoothing", type=number(float, 0, below=1), default=0.05,
                          help="share of each target that is spread over all items scored, 0 to < 1")
    training.add_argument("--shuffle", type=number(int, 0, 1), default=0,
                          help="1: sessions in random order, 0: in the order of the files, which keeps the newest for last")
    training.add_argument("--group_batches", type=number(int, 1), default=1,
                          help="neighbouring batches whose sessions are sorted by length together, >= 1; 1: none, the best known; "
                          "20: the reference, faster")
    training.add_argument("--seed", type=number(int, 0), default=1, help="of all random draws, >= 0")
    training.add_argument("--print_batch", type=number(int, 1), default=100, help="steps between two log lines, >= 1")
    add_validation_flags(parser)
    add_record_flags(parser)
    add_device_flags(parser)

    old = parser.add_argument_group("flags of the reference")
    old.add_argument("--parallel", type=number(int, 0, 1), default=0, help="1: several devices (not available yet)")
    old.add_argument("--num_devices", type=number(int, 1), default=1, help="devices (only 1 yet)")
    old.add_argument("--is_local", type=int, default=1, help="accepted for old command lines, without effect")


def add_validation_flags(parser):
    """Flags of both trainers about the epochs: how they are judged, and which are kept."""
    epochs = parser.add_argument_group("validation")
    epochs.add_argument("--valid_dir", default="", help="directory of validation session files (or one file); empty: none")
    epochs.add_argument("--valid_fraction", type=number(float, 0, below=1), default=0.0,
                        help="share of the training sessions to validate with instead, the newest (the last lines), 0 to < 1")
    epochs.add_argument("--watch", choices=WATCHED,
                        help="figure of the validation by which the best epoch is found; default: recall@20")
    epochs.add_argument("--patience", type=number(int, 0), default=0,
                        help="epochs without a better one after which training stops, >= 1; 0: never")
    epochs.add_argument("--keep", type=number(int, 0), default=0,
                        help="newest epochs to keep, >= 1, the best one stays too; 0: all")


def add_record_flags(parser):
    """Flags of both trainers about what they write on the way."""
    records = parser.add_argument_group("records")
    records.add_argument("--save_seconds", type=number(float, 0), default=600.0,
                         help="seconds between two savings within an epoch, to resume from, >= 0; 0: only when stopped")
    records.add_argument("--tensorboard", type=number(int, 0, 1), default=0,
                         help="1: figures of the epochs also for TensorBoard, in tensorboard/ of --model_dir")
    records.add_argument("--visualdl", type=number(int, 0, 1), default=0, help="1: the same for VisualDL, in visualdl/")


def check_training_flags(options):
    """Refuse what single flags can't show to be wrong; fill in what depends on others."""
    if options.resume and options.overwrite:
        raise InputError("--resume: found 1 with --overwrite 1, expected one of them")
    if options.valid_dir and options.valid_fraction:
        raise InputError(f"--valid_fraction: found {options.valid_fraction:g} with --valid_dir, expected one of them")
    if (options.patience or options.watch) and not (options.valid_dir or options.valid_fraction):
        raise InputError("--patience, --watch: found one of them without validation, expected --valid_dir or --valid_fraction too")
    options.watch = options.watch or WATCHED[0]
    if options.parallel or options.num_devices > 1:
        raise InputError("--parallel, --num_devices: found more than one device, expected --parallel 0 and --num_devices 1 "
                         "(training on several devices is not available yet)")
    if options.embedding == "none" and options.emb_size:
        raise InputError(f"--emb_size: found {options.emb_size} with --embedding none, expected 0; there is no embedding")
    if options.embedding == "none" and options.emb_lr_x != 1:
        raise InputError(f"--emb_lr_x: found {options.emb_lr_x:g} with --embedding none, expected 1; --gru_lr_x is that of the "
                         "gates")
    if options.embedding == "shared" and options.fc_lr_x != 1:
        raise InputError(f"--fc_lr_x: found {options.fc_lr_x:g} with --embedding shared, expected 1; --emb_lr_x is that of the "
                         "shared matrix")
    if options.batching == "parallel":
        if options.shuffle or options.group_batches > 1:
            raise InputError("--shuffle, --group_batches: found another order with --batching parallel, expected 0 and 1; sessions "
                             "side by side are taken in order")
        options.through_time = 0
    if options.carry_dropped and options.through_time:
        raise InputError("--carry_dropped: found 1 with --through_time 1, expected 0 or --through_time 0; scaled up from click to "
                         "click, the gradients would explode")
    options.emb_size = options.emb_size or options.hid_size[-1]
    if options.embedding == "shared" and options.emb_size != options.hid_size[-1]:
        raise InputError(f"--emb_size: found {options.emb_size} with {options.hid_size[-1]} units in the last layer, expected "
                         "the same for a shared matrix; add --embedding separate for two matrices")
    return options


def add_inference_flags(parser):
    """Flags of both infer scripts."""
    from utils.metrics import TIES  # brings NumPy, which scripts without these flags start faster without
    parser.add_argument("--test_dir", default="test_data", help="directory of test session files (or one file)")
    parser.add_argument("--model_dir", default="model_recall20", help="model directory, as train.py writes")
    parser.add_argument("--start_index", type=number(int, 1), help="first epoch, >= 1; default: 1, and with neither of the two the "
                        "best epoch alone where the training had a validation")
    parser.add_argument("--last_index", type=number(int, 1), help="last epoch, >= 1; default: 10")
    parser.add_argument("--topk", type=cutoffs, default=[20], help="cut-offs k of recall@k and MRR@k, such as 20 or 1,5,20")
    parser.add_argument("--ties", choices=TIES, default="standard",
                        help="rank of a target whose score others have too: best, worst or middle of theirs")
    parser.add_argument("--train_dir", default="", help="training sessions: adds POP and item transitions, fitted on them")
    parser.add_argument("--vocab_path", default="", help="vocab.txt of the test sessions, to check that it is the model's; "
                        "empty: the model's own")
    parser.add_argument("--batch_size", type=number(int, 1), default=512, help="sessions at once, >= 1; changes no figure")
    add_device_flags(parser)


def check_inference_flags(options):
    """Refuse what single flags can't show to be wrong."""
    options.epochs_given = bool(options.start_index or options.last_index)
    options.start_index, options.last_index = options.start_index or 1, options.last_index or 10
    if options.start_index > options.last_index:
        raise InputError(f"--start_index: found {options.start_index}, expected at most --last_index {options.last_index}")
    return options


def add_device_flags(parser):
    """Flags of every script that computes with Paddle."""
    parser.add_argument("--use_cuda", type=number(int, 0, 1), default=0, help="1: compute on the GPU, 0: on the processor")
    parser.add_argument("--threads", type=number(int, 0, 1024), default=0,
                        help="processor threads; 0: all that this process may use")
    parser.add_argument("--tune_cpu", type=number(int, 0, 1), default=1,
                        help="1: prepare MKL and malloc for speed and use utils/native.cc (one log line says what was done), 0: don't")


def run(main):
    """Run a script's `main()` and end the process as a command line user expects.

    A user's mistake, a failing file or a lack of memory ends with one line on stderr and status 2, Ctrl-C with 130,
    SIGTERM with 143, and a reader that closes our output early (`| head`) silently with 141.
    """
    stopped_by = _raise_when_stopped()
    name = Path(sys.argv[0]).name
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what this terminal's encoding lacks
    try:
        main()
        if stopped_by:  # where Python can only print an exception, as in a destructor, it goes on
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if stopped_by:  # whatever the libraries on the way made of the KeyboardInterrupt: Paddle makes it an OSError
            sys.exit(_fail(name, *STOPPED[stopped_by[0]]))
        if isinstance(error, BrokenPipeError):
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        message = _message(error)
        if message is None:
            raise
        sys.exit(_fail(name, message, 2))


def _raise_when_stopped():
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt; a list that then holds the signal's number."""
    received = []

    def stop(number, frame):
        received.append(number)
        raise KeyboardInterrupt

    for number in STOPPED:
        if signal.getsignal(number) != signal.SIG_IGN:  # as for a job that a shell started in the background
            signal.signal(number, stop)
    return received


def _message(error):
    """The line for what a user can cause, None for any other exception."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError) and not str(error).startswith("(External)"):  # Paddle's, for any exception in a PyLayer
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
    if isinstance(error, MemoryError):
        return f"found too little memory ({error}), expected room for what the flags and the data ask for"
    return None


def _fail(name, message, status):
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or nobody reads it any more
        _discard_output()
    print(f"{name}: " + " ".join(message.splitlines()), file=sys.stderr)
    return status


def _discard_output():
    """Send what stdout still holds to nowhere, so that Python's own flush at exit stays silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
