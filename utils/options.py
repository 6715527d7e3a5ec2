"""Command lines: the parser of every script, and the flags that several scripts share, written once."""

import argparse
import json
import math

from utils.data.session_files import refuse_sessions
from utils.files import InputError, require_file

WATCHED = "recall@20", "mrr@20", "valid_loss", "train_loss", "loss_ratio"
# Upper limits of flags that would make sense without any.
COUNT = 2**31 - 1  # what a 32-bit integer holds
SEED = 2**63 - 1
FLOAT32 = 1e38  # nearly the largest
SECONDS = 1e9  # 32 years


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every flag's limits and default, and the script's docstring as it is written."""

    def _get_help_string(self, action):
        text = action.help if action.default is None else super()._get_help_string(action)
        limits = getattr(action.type, "limits", "")
        if not limits:
            return text
        return f"{text[:-1]}, {limits})" if text.endswith("(default: %(default)s)") else f"{text} ({limits})"


class _OnlyOnce:
    """Part of an action: the flag is refused where it comes a second time, since the first would be lost."""

    def __call__(self, parser, namespace, values, option_string=None):
        if option_string and self.dest in parser.given:
            raise argparse.ArgumentError(self, "found twice, expected once")
        parser.given.add(self.dest)
        super().__call__(parser, namespace, values, option_string)


class _Store(_OnlyOnce, argparse._StoreAction):
    pass


class _StoreTrue(_OnlyOnce, argparse._StoreTrueAction):
    pass


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors take one line and whose help shows every default."""

    def __init__(self, description):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        for name, action in ((None, _Store), ("store", _Store), ("store_true", _StoreTrue)):
            self.register("action", name, action)
        self.given = set()

    def parse_known_args(self, args=None, namespace=None):
        self.given = set()
        return super().parse_known_args(args, namespace)

    def parse_with_config(self, arguments=None):
        """Parse the command line and the file that --config names; flags of the command line win over the file's."""
        given = self.parse_args(arguments)
        return self.parse_args(arguments, self._read_config(given.config)) if given.config else given

    def _read_config(self, path):
        """The flags of a JSON file, as a namespace for the command line to change."""
        try:
            text = require_file(path, "--config").read_text(encoding="utf-8")
            values = [(f"--{name}", value) for name, value in json.loads(text, object_pairs_hook=_JsonObject).pairs]
        except (ValueError, AttributeError, RecursionError):
            raise InputError(f"--config: found no JSON object in {path}, expected one as in settings/") from None
        flags = []
        for flag, value in values:
            action = self._option_string_actions.get(flag)
            if action is None or flag in ("--config", "--help"):
                raise InputError(f"--config: found {flag.removeprefix('--')!r} in {path}, expected names of flags as "
                                 f"{self.prog} -h lists them")
            kinds, expected = _kinds_in_config(action)
            if type(value) not in kinds:
                raise InputError(f"--config: found {json.dumps(value)[:40]} for {flag.removeprefix('--')} in {path}, "
                                 f"expected {expected}")
            if type(value) is not bool:
                flags.append(f"{flag}={','.join(map(str, value)) if type(value) is list else value}")
            elif value:
                flags.append(flag)
        try:
            return self.parse_args(flags)
        except InputError as error:
            raise InputError(f"--config {path}: {error}") from None

    def error(self, message):
        raise InputError(message.replace("\n", " ") + f" ({self.prog} -h lists the flags)")


class _JsonObject(dict):
    """A dict that also knows names that came twice."""

    def __init__(self, pairs):
        super().__init__(pairs)
        self.pairs = pairs


def _kinds_in_config(action):
    """The types that a flag's value may have in a JSON file, and how a message names them."""
    if action.nargs == 0:
        return [bool], "true or false"
    if action.type in (sizes, cutoffs):
        return [int, list, str], "an integer, or a list of them"
    if action.type in (None, separator):
        return [str], "a text"
    return [int, float, str], "a number"


def number(kind, low=-math.inf, high=math.inf, below=math.inf):
    """A type for argparse: a finite `kind` (int or float, 64 bits) with low <= value <= high and value < below."""
    limits = [f">= {low}"] * (low > -math.inf) + [f"<= {high}"] * (high < math.inf)
    limits += [f"< {below}"] * (below < math.inf)
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

    if low > -math.inf and min(high, below) < math.inf and (kind, high) != (int, 1):  # a switch's help names 0 and 1
        parse.limits = f"from {low} to {high}" if high < math.inf else f"from {low} to below {below}"
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
    """Add the flags of every script that reads a table of clicks."""
    parser.add_argument("--session_column", default="SessionId", help="name of the column of session ids, any text")
    parser.add_argument("--item_column", default="ItemId", help="name of the column of item ids, any text")
    parser.add_argument("--time_column", default="Time",
                        help="name of the column of times: ISO 8601 dates (in UTC if no time zone is given) or "
                        "numbers")
    parser.add_argument("--time_unit", choices=("s", "ms"), default="s",
                        help="unit of times that are numbers: seconds or milliseconds since 1970")
    parser.add_argument("--separator", type=separator, default="",
                        help="what separates the columns, one character or tab; empty: detected from the header line")


def table_columns(options):
    """The click_columns.Columns that these flags ask for."""
    from utils.data.click_columns import Columns  # slow to import: only for arguments that are right
    return Columns(options.session_column, options.item_column, options.time_column, options.time_unit,
                   options.separator)


def add_training_flags(parser):
    """Add the flags of both trainers."""
    _add_data_flags(parser.add_argument_group("data"))
    _add_network_flags(parser.add_argument_group("network"))
    _add_step_flags(parser.add_argument_group("training"))
    _add_validation_flags(parser.add_argument_group("validation"))
    _add_record_flags(parser.add_argument_group("records"))
    add_device_flags(parser)
    add_process_flags(parser)
    together = parser.add_argument_group("training by several processes")
    together.add_argument("--split_items", type=number(int, 0, 1), default=0,
                          help="1: each holds some rows of the item matrices, for what is too large")
    together.add_argument("--exchange_steps", type=number(int, 1, COUNT), default=1,
                          help="steps that each trains by itself before all take the means of their weights")
    old = parser.add_argument_group("flags of Paddle's old example")
    old.add_argument("--is_local", type=number(int, 0, 1), default=1, help="for old command lines, without effect")


def _add_data_flags(data):
    data.add_argument("--config", default="",
                      help="JSON file of flags and values, as in settings/; flags on the command line win over it")
    data.add_argument("--train_dir", default="train_data", help="directory of session files (or one file)")
    data.add_argument("--vocab_path", default="vocab.txt", help="item ids, one per line, in the order of their indices")
    data.add_argument("--model_dir", default="model_recall20", help="directory to write")
    data.add_argument("--overwrite", type=number(int, 0, 1), default=0, help="1: delete the run in --model_dir first")
    data.add_argument("--resume", type=number(int, 0, 1), default=0,
                      help="1: continue the run in --model_dir exactly as if it had never stopped; if there is none, "
                      "start one")
    data.add_argument("--max_length", type=number(int, 1, COUNT), default=1000,
                      help="most predictions in a session; longer sessions are cut into windows")


def _add_network_flags(network):
    network.add_argument("--hid_size", type=sizes, default=[100],
                         help="units of each GRU layer, such as 100 or 100,100")
    network.add_argument("--emb_size", type=number(int, 0, 100_000), default=0,
                         help="units of the item embedding; 0: as many as in the last layer")
    network.add_argument("--embedding", choices=["shared", "separate", "none"], default="shared",
                         help="one matrix for embedding and output, two matrices, or no embedding: the first layer's "
                         "gates then have one weight per item")
    network.add_argument("--reset_gate", choices=["after", "before"], default="after",
                         help="whether the GRU's reset gate acts after the recurrent product (nn.GRU, cuDNN) or before "
                         "it (fluid)")
    network.add_argument("--init_range", type=number(float, 0, 10), default=0.0,
                         help="initial weights are drawn from U(-x, x); 0: x is each matrix's Glorot range")
    network.add_argument("--emb_dropout", type=number(float, 0, below=1), default=0.0,
                         help="dropout on the embedding")
    network.add_argument("--hid_dropout", type=number(float, 0, below=1), default=0.45,
                         help="dropout on each GRU layer's output")
    network.add_argument("--carry_dropped", type=number(int, 0, 1), default=0,
                         help="1: the next click sees the GRU's state with dropout (the official code), 0: without")
    network.add_argument("--through_time", type=number(int, 0, 1), default=1,
                         help="1: gradients go back through a session's clicks, 0: they stop at the previous state, as "
                         "they always do with sessions side by side (the official code)")


def _add_step_flags(training):
    training.add_argument("--batching", choices=["sessions", "parallel"], default="sessions",
                          help="whole sessions, or --batch_size sessions side by side, one click a step (the paper's "
                          "way)")
    training.add_argument("--batch_size", type=number(int, 1, COUNT), default=128, help="sessions per step and process")
    training.add_argument("--pass_num", type=number(int, 1, COUNT), default=10, help="epochs")
    training.add_argument("--base_lr", type=number(float, 0, FLOAT32), default=0.1, help="learning rate")
    training.add_argument("--lr_end", type=number(float, 0, FLOAT32), default=0.1,
                          help="share of the learning rate that is left at the end; it changes linearly")
    for name, what in (("emb", "the embedding"), ("gru", "FC and GRU"), ("fc", "the output layer")):
        training.add_argument(f"--{name}_lr_x", type=number(float, 0, FLOAT32), default=1.0,
                              help=f"learning-rate multiplier of {what}")
    training.add_argument("--label_smoothing", type=number(float, 0, below=1), default=0.05,
                          help="share of each target that is spread over all scored items")
    training.add_argument("--shuffle", type=number(int, 0, 1), default=0,
                          help="1: sessions in random order, 0: in the order of the files, with the newest last")
    training.add_argument("--group_batches", type=number(int, 1, COUNT), default=1,
                          help="neighbouring batches whose sessions are sorted by length together; 1: no sorting, the "
                          "best results; 20: as in the old example, faster")
    training.add_argument("--amp", choices=["bf16"],
                          help="bf16: a GPU multiplies matrices in bfloat16; weights and losses stay float32")
    training.add_argument("--seed", type=number(int, 0, SEED), default=1, help="seed of all random draws")
    training.add_argument("--print_batch", type=number(int, 1, COUNT), default=100, help="steps between two log lines")


def _add_validation_flags(epochs):
    """Add the flags that say how epochs are judged, and which are kept."""
    epochs.add_argument("--valid_dir", default="",
                        help="directory of validation session files (or one file); empty: none")
    epochs.add_argument("--valid_fraction", type=number(float, 0, below=1), default=0.0,
                        help="share of the training sessions to validate with instead, the newest (the last)")
    epochs.add_argument("--watch", choices=WATCHED,
                        help="validation figure that decides which epoch is the best; default: recall@20")
    epochs.add_argument("--patience", type=number(int, 0, COUNT), default=0,
                        help="stop training after this many epochs without a better one; 0: never")
    epochs.add_argument("--keep", type=number(int, 0, COUNT), default=0,
                        help="how many of the newest epochs to keep; the best one stays too; 0: all")


def _add_record_flags(records):
    """Add the flags that say what the trainers write on the way."""
    records.add_argument("--save_seconds", type=number(float, 0, SECONDS), default=600.0,
                         help="seconds between two checkpoints within an epoch, to resume from; 0: only when stopped")
    records.add_argument("--tensorboard", type=number(int, 0, 1), default=0,
                         help="1: write the figures of the epochs for TensorBoard too, to tensorboard/ in --model_dir")
    records.add_argument("--visualdl", type=number(int, 0, 1), default=0, help="1: the same for VisualDL, to visualdl/")


def check_training_flags(options):
    """Refuse combinations of flags that can't work, and fill in values that depend on other flags."""
    refuse_sessions(options.model_dir, "--model_dir")
    if options.resume and options.overwrite:
        raise InputError("--resume: found 1 with --overwrite 1, expected one of them")
    if options.valid_dir and options.valid_fraction:
        raise InputError(f"--valid_fraction: found {options.valid_fraction:g} with --valid_dir, expected one of them")
    if (options.patience or options.watch) and not (options.valid_dir or options.valid_fraction):
        raise InputError("--patience, --watch: found one of them without validation, "
                         "expected --valid_dir or --valid_fraction too")
    options.watch = options.watch or WATCHED[0]
    if options.embedding == "none" and options.emb_size:
        raise InputError(f"--emb_size: found {options.emb_size} with --embedding none, expected 0; there is none")
    if options.embedding == "none" and options.emb_lr_x != 1:
        raise InputError(f"--emb_lr_x: found {options.emb_lr_x:g} with --embedding none, expected 1; "
                         "--gru_lr_x is that of the gates")
    if options.embedding == "shared" and options.fc_lr_x != 1:
        raise InputError(f"--fc_lr_x: found {options.fc_lr_x:g} with --embedding shared, expected 1; "
                         "--emb_lr_x is that of the shared matrix")
    if options.batching == "parallel":
        if options.shuffle or options.group_batches > 1:
            raise InputError("--shuffle, --group_batches: found another order with --batching parallel, "
                             "expected 0 and 1; sessions side by side are taken in order")
        options.through_time = 0
    if options.carry_dropped and options.through_time:
        raise InputError("--carry_dropped: found 1 with --through_time 1, expected 0 or --through_time 0; "
                         "scaled up from click to click, the gradients would explode")
    options.emb_size = options.emb_size or options.hid_size[-1]
    if options.embedding == "shared" and options.emb_size != options.hid_size[-1]:
        raise InputError(f"--emb_size: found {options.emb_size} with {options.hid_size[-1]} units in the last layer, "
                         "expected the same for a shared matrix; add --embedding separate for two matrices")
    return options


def training_run(options):
    """What the trainers' flags ask for, as keyword arguments of `training.loop.run_training`."""
    from utils.model.layout import NetworkSettings
    from utils.training.settings import Data, Output, Schedule  # slow to import, so only once the flags are checked
    steps = options.step_num if getattr(options, "enable_ce", False) else None
    event_files = [name for name in ("tensorboard", "visualdl") if getattr(options, name)]
    same_names = ["hid_size", "emb_size", "embedding", "emb_dropout", "hid_dropout", "label_smoothing", "init_range",
                  "emb_lr_x", "gru_lr_x", "fc_lr_x"]
    return {
        "data": Data(options.train_dir, options.vocab_path, options.max_length, options.valid_dir,
                     options.valid_fraction),
        "schedule": Schedule(options.pass_num, options.base_lr, options.lr_end, options.seed, steps, options.watch,
                             options.patience),
        "output": Output(options.model_dir, bool(options.overwrite), bool(options.resume), options.keep,
                         options.save_seconds, options.print_batch, event_files),
        "network_settings": NetworkSettings(
            reset_after=options.reset_gate == "after", carry_dropped=bool(options.carry_dropped),
            through_time=bool(options.through_time), **{name: getattr(options, name) for name in same_names}),
        "flags": vars(options), "splits_items": bool(options.split_items),
        "exchange_steps": options.exchange_steps,
    }


def batching(options):
    """The batches.Batching that the trainers' flags ask for."""
    from utils.data.batches import Batching
    return Batching(options.batching == "parallel", options.batch_size, bool(options.shuffle), options.group_batches)


def add_device_flags(parser):
    """Add the flags of every script that computes with Paddle."""
    parser.add_argument("--use_cuda", type=number(int, 0, 1), default=0,
                        help="1: compute on the GPU, 0: on the processor")
    parser.add_argument("--threads", type=number(int, 0, 1024), default=0,
                        help="processor threads; 0: all, but a training in C++ takes as many as pay (docs/devices.md)")
    parser.add_argument("--tune_cpu", type=number(int, 0, 1), default=1,
                        help="1: set up MKL and malloc for speed and use the C++ in utils/native/ (a log line says "
                        "what was done), 0: do none of that")


def add_process_flags(parser):
    """Add the flags of every script that divides its work among several processes."""
    parser.add_argument("--parallel", type=number(int, 0, 1), default=0, help="1: work by --num_devices processes")
    parser.add_argument("--num_devices", type=number(int, 1, 1024), default=1, help="processes, with --parallel 1")
