"""The trainers' flags: what both of them have, and what of it goes together. Nothing here loads Paddle."""

import os

from utils.data.session_files import refuse_sessions, session_files
from utils.files import InputError, require_file
from utils.options import (
    COUNT,
    FLOAT32,
    SECONDS,
    VOCABULARY,
    add_device_flags,
    add_overwrite_flag,
    add_process_flags,
    add_seed_flag,
    number,
    sizes,
)
from utils.process import place
from utils.training.optimizer_flags import add_rate_flags, add_update_flags, check_optimizer_flags
from utils.training.sequence_flags import add_sequence_flags, check_sequence_flags, train_paths, window_sizes

UPDATE = {"pass_num": 1}  # defaults of a run that goes on from a model, beside those of optimizer_flags.py
SHAPE = "hid_size", "embedding", "emb_size", "reset_gate", "score_scale", "last_click"  # of a network; a model keeps it
WATCHED = "recall@20", "mrr@20", "valid_loss", "train_loss", "loss_ratio"
# What the help says of flags that train_intent.py has, too.
ITEM_DROPOUT = "dropout on the items' vectors where they enter the network"
HIDDEN_DROPOUT = "dropout on each GRU layer's output"
GROUPING = "neighbouring batches whose sessions are sorted by length together"


def add_training_flags(parser, rates):
    """Add the flags of both trainers; `rates` are the default learning rates, as of `rates_of`."""
    _add_data_flags(parser.group("input and output"))
    add_length_flags(parser.group("training"), 10)
    parser.group("training").add_argument(
        "--fit", type=number(int, 0, 1), default=0,
        help="1: short trainings on the newest sessions find --pass_num and --lr_end, where neither is given, nor "
        "--init_from or several processes (docs/runs.md); 0: these are as they are")
    _add_network_flags(parser.group("network"))
    parser.group("loss and negatives")  # its place: each trainer has its own
    _add_optimizer_flags(parser.group("optimiser"), rates)
    _add_validation_flags(parser.group("evaluation"))
    _add_batch_flags(parser.group("batching"))
    add_sequence_flags(parser)
    add_record_flags(parser.group("log and checkpoints"))
    add_device_flags(parser)
    add_process_flags(parser)
    _add_machine_flags(parser.group("machine"))
    parser.group("flags of Paddle's old example").add_argument(
        "--is_local", type=number(int, 0, 1), default=1, help="for old command lines, without effect")


def _add_data_flags(data):
    data.add_argument("--train_dir", default="train_data",
                      help="directory of training session files (or one file), the newest session last; several are "
                      "separated by commas, the oldest first")
    data.add_argument("--vocab_path", default="vocab.txt", help=VOCABULARY)
    data.add_argument("--model_dir", default="model_recall20", help="model directory to write")
    add_run_flags(data)
    data.add_argument("--init_from", default="", metavar="DIR",
                      help="model directory to go on from, with new sessions and a vocabulary that may have grown; "
                      "its network, dropout and --neighbours, --pass_num 1, --base_lr 0.1 and --lr_end 1 are the "
                      "defaults then; empty: begin with drawn weights")


def _add_network_flags(network):
    network.add_argument("--hid_size", type=sizes, default=[100],
                         help="units of each GRU layer, such as 100 or 100,100")
    network.add_argument("--hid_dropout", type=number(float, 0, below=1), default=0.45, help=HIDDEN_DROPOUT)
    network.add_argument("--emb_dropout", type=number(float, 0, below=1), default=0.0, help=ITEM_DROPOUT)
    network.add_argument("--neighbours", type=number(int, 0, 1), default=0,
                         help="1: a memory of the training sessions, and of how readily sessions come back to items, "
                         "answers beside the network, as much as does best on the validation, or on 2 %% of the "
                         "sessions that the network is not trained on (docs/runs.md); 0: the network alone")
    network.add_argument("--embedding", choices=["shared", "separate", "none"], default="shared",
                         help="one matrix for embedding and output, two matrices, or no embedding: the first layer's "
                         "gates then have one weight per item")
    network.add_argument("--emb_size", type=number(int, 0, 100_000), default=0,
                         help="units of the item embedding; 0: as many as in the last layer")
    network.add_argument("--score_scale", type=number(float, 0, 1000), default=0.0,
                         help="the largest product of a state and an item's vector, such as 30: all vectors are made "
                         "equally long; 0: they are as long as they become; train_sample_neg.py: 30 by default for ce "
                         "with shared negatives")
    network.add_argument("--last_click", type=number(int, 0, 1), default=0,
                         help="1: the last click's vector, times a learned one, is added to the state that items are "
                         "scored with")
    network.add_argument("--reset_gate", choices=["after", "before"], default="after",
                         help="whether the GRU's reset gate acts after the recurrent product (nn.GRU, cuDNN) or before "
                         "it (fluid)")
    network.add_argument("--carry_dropped", type=number(int, 0, 1), default=0,
                         help="1: the next click sees the GRU's state with dropout (the official code), 0: without")
    network.add_argument("--through_time", type=number(int, 0, 1), default=1,
                         help="1: gradients go back through a session's clicks, 0: they stop at the previous state, as "
                         "they always do with sessions side by side (the official code)")
    network.add_argument("--init_range", type=number(float, 0, 10), default=0.0,
                         help="initial weights are drawn from U(-x, x); 0: x is each matrix's Glorot range")


def add_smoothing_flag(loss, default):
    """Add the flag of the cross-entropy's targets; each trainer has another default."""
    loss.add_argument("--label_smoothing", type=number(float, 0, below=1), default=default,
                      help="share of each target that is spread over all scored items")


def _add_optimizer_flags(optimiser, rates):
    add_rate_flags(optimiser, rates)
    add_update_flags(optimiser, "official")
    for name, what in (("emb", "the embedding"), ("gru", "FC and GRU"), ("fc", "the output layer")):
        optimiser.add_argument(f"--{name}_lr_x", type=number(float, 0, FLOAT32), default=1.0,
                               help=f"learning-rate multiplier of {what}")


def _add_batch_flags(batching):
    batching.add_argument("--batch_size", type=number(int, 1, COUNT), default=128, help="sessions per step and process")
    batching.add_argument("--batching", choices=["sessions", "parallel"], default="sessions",
                          help="whole sessions, or --batch_size sessions side by side, one click a step (the paper's "
                          "way)")
    batching.add_argument("--shuffle", type=number(int, 0, 1), default=0,
                          help="1: sessions in random order, 0: in the order of the files, with the newest last")
    batching.add_argument("--group_batches", type=number(int, 1, COUNT), default=1,
                          help=f"{GROUPING}; 1: no sorting, the best results; 20: as in the old example, faster")


def _add_validation_flags(validation):
    validation.add_argument("--valid_dir", default="",
                            help="directory of validation session files (or one file); empty: --valid_fraction")
    validation.add_argument("--valid_fraction", type=number(float, 0, below=1), default=0.0,
                            help="share of the training sessions to validate with instead, the newest (the last)")
    validation.add_argument("--watch", choices=WATCHED,
                            help="validation figure that decides which epoch is the best; default: recall@20")
    add_patience_flag(validation)


def _add_machine_flags(machine):
    machine.add_argument("--split_items", type=number(int, 0, 1), default=0,
                         help="1: each process holds some rows of the item matrices, for what is too large")
    machine.add_argument("--exchange_steps", type=number(int, 1, COUNT), default=1,
                         help="steps that each process trains by itself before all take the means of their weights")
    machine.add_argument("--amp", choices=["bf16"],
                         help="bf16: a GPU multiplies matrices in bfloat16; weights and losses stay float32")


def add_run_flags(data):
    """Add the flags that say what a run begins with: a file of settings, or the run that is there already."""
    data.add_argument("--config", default="", metavar="FILE",
                      help="JSON file of flags and values, as in settings/; flags on the command line win over it")
    data.add_argument("--resume", type=number(int, 0, 1), default=0,
                      help="1: continue the run in --model_dir exactly as if it had never stopped; if there is none, "
                      "start one")
    add_overwrite_flag(data)


def add_length_flags(training, epochs):
    """Add the flags that say how long training goes on, and what it draws; `epochs` is the default of --pass_num."""
    training.add_argument("--pass_num", type=number(int, 1, COUNT), default=epochs, help="epochs")
    add_seed_flag(training)


def add_patience_flag(validation):
    """Add the flag that says when training stops early."""
    validation.add_argument("--patience", type=number(int, 0, COUNT), default=0,
                            help="stop training after this many epochs without a better one; 0: never")


def add_record_flags(records):
    """Add the flags that say what the trainers print and write on the way, and what of it stays."""
    records.add_argument("--print_batch", type=number(int, 1, COUNT), default=100, help="steps between two log lines")
    records.add_argument("--save_seconds", type=number(float, 0, SECONDS), default=600.0,
                         help="seconds between two checkpoints within an epoch, to resume from; 0: only when stopped")
    records.add_argument("--keep", type=number(int, 0, COUNT), default=0,
                         help="how many of the newest epochs to keep; the best one stays too; 0: all")
    records.add_argument("--tensorboard", type=number(int, 0, 1), default=0,
                         help="1: write the figures of the epochs for TensorBoard too, to tensorboard/ in --model_dir")
    records.add_argument("--visualdl", type=number(int, 0, 1), default=0, help="1: the same for VisualDL, to visualdl/")


def parse_training_flags(parser, rates, arguments=None):
    """The checked options of a trainer's command line; with --init_from, those of the network come from that model.

    `rates` are the default learning rates.
    """
    options = parser.parse_with_config(arguments)
    if options.init_from:
        inherited = _network_flags(options.init_from)
        parser.set_defaults(**UPDATE, **inherited)
        options = parser.parse_with_config(arguments)
        for name in SHAPE:
            found, expected = (of_run["hid_size"][-1] if name == "emb_size" and not of_run[name] else of_run[name]
                               for of_run in (vars(options), inherited))
            if found != expected:
                shown = [",".join(map(str, value)) if type(value) is list else value for value in (found, expected)]
                raise InputError(f"--{name}: found {shown[0]} with --init_from {options.init_from}, expected {shown[1]}"
                                 " as that model has")
    check_optimizer_flags(options, rates)
    return check_training_flags(options, parser.given)


def require_files(options):
    """InputError where what a trainer reads isn't there, or where --model_dir has another run: before Paddle loads."""
    from utils.model.upkeep import require_no_run  # slow to import, so only once the flags are checked
    require_file(options.vocab_path, "--vocab_path")
    for flag, path in [("--train_dir", path) for path in train_paths(options.train_dir)] + (
            [("--valid_dir", options.valid_dir)] * bool(options.valid_dir)):
        session_files(path, flag)
    if not options.resume and not place().rank:  # process 0 alone writes
        require_no_run(options.model_dir, options.overwrite)


def _network_flags(model_dir):
    """The flags that a model was made by: those of SHAPE, its dropout, and whether it has a memory, as a dict."""
    from utils.training.initial import has_memory, network_of  # slow to import, and only needed here
    settings = network_of(model_dir)
    return {"hid_size": settings.hid_size, "embedding": settings.embedding,
            "emb_size": 0 if settings.embedding == "none" else settings.emb_size,
            "reset_gate": "after" if settings.reset_after else "before", "score_scale": settings.score_scale,
            "last_click": int(settings.last_click),
            "emb_dropout": settings.emb_dropout, "hid_dropout": settings.hid_dropout,
            "neighbours": int(has_memory(model_dir))}


def check_training_flags(options, given):
    """Refuse combinations of flags that can't work, and fill in values that depend on other flags.

    `given` is the set of the names that the command line or --config has.
    """
    refuse_sessions(options.model_dir, "--model_dir")
    check_sequence_flags(options)
    if options.init_from and os.path.realpath(options.init_from) == os.path.realpath(options.model_dir):
        raise InputError(f"--init_from: found {options.init_from}, which is --model_dir, expected another directory")
    if options.resume and options.overwrite:
        raise InputError("--resume: found 1 with --overwrite 1, expected one of them")
    if options.valid_dir and options.valid_fraction:
        raise InputError(f"--valid_fraction: found {options.valid_fraction:g} with --valid_dir, expected one of them")
    if options.split_items and options.neighbours and "neighbours" in given:
        raise InputError("--neighbours: found 1 with --split_items 1, expected 0: no process has the whole model")
    options.neighbours = int(options.neighbours and not options.split_items)
    if (options.patience or options.watch) and not (options.valid_dir or options.valid_fraction):
        raise InputError("--patience, --watch: found one of them without validation, "
                         "expected --valid_dir or --valid_fraction too")
    options.watch = options.watch or WATCHED[0]
    _check_fit(options, given)
    if options.embedding == "none" and options.emb_size:
        raise InputError(f"--emb_size: found {options.emb_size} with --embedding none, expected 0; there is none")
    if options.embedding == "none" and options.emb_lr_x != 1:
        raise InputError(f"--emb_lr_x: found {options.emb_lr_x:g} with --embedding none, expected 1; "
                         "--gru_lr_x is that of the gates")
    if options.embedding == "shared" and options.fc_lr_x != 1:
        raise InputError(f"--fc_lr_x: found {options.fc_lr_x:g} with --embedding shared, expected 1; "
                         "--emb_lr_x is that of the shared matrix")
    if options.last_click and options.embedding != "shared":
        raise InputError(f"--last_click: found 1 with --embedding {options.embedding}, expected 0; only a shared "
                         "matrix's vectors are added to states")
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


def _check_fit(options, given):
    """Leave --fit out where the user says what it would find."""
    said = [f"--{name}" for name in ("pass_num", "lr_end", "init_from", "split_items")
            if name in given and getattr(options, name)]
    said += ["--lr_schedule"] * (options.lr_schedule != "linear") + ["--warmup"] * bool(options.warmup)
    if said and options.fit and "fit" in given:
        raise InputError(f"--fit: found 1 with {said[0]}, expected one of them")
    options.fit = int(options.fit and not said)


def asked_by(options, fitted=None):
    """The settings.Asked of the flags of train.py or train_sample_neg.py; `fitted` is what fitting.fit returned."""
    from utils.model.layout import NetworkSettings
    from utils.training.settings import Asked, Data  # slow to import, so only once the flags are checked
    same_names = ["hid_size", "emb_size", "embedding", "emb_dropout", "hid_dropout", "label_smoothing", "score_scale",
                  "init_range", "emb_lr_x", "gru_lr_x", "fc_lr_x"]
    network = NetworkSettings(
        reset_after=options.reset_gate == "after", carry_dropped=bool(options.carry_dropped),
        through_time=bool(options.through_time), last_click=bool(options.last_click),
        **{name: getattr(options, name) for name in same_names})
    max_length, window_overlap = window_sizes(options)
    data = Data(train_paths(options.train_dir), options.vocab_path, max_length, window_overlap,
                valid_dir=options.valid_dir, valid_fraction=options.valid_fraction, init_from=options.init_from,
                drop_one_item=bool(options.drop_one_item), newest_sessions=options.newest_sessions,
                recency_half_life=options.recency_half_life, neighbours=bool(options.neighbours))
    steps = options.step_num if getattr(options, "enable_ce", False) else None
    return Asked(data, schedule_of(options, steps), output_of(options), network, vars(options), fitted=fitted,
                 splits_items=bool(options.split_items), exchange_steps=options.exchange_steps)


def schedule_of(options, steps=None):
    """The settings.Schedule of a trainer's flags, with so many steps an epoch at most."""
    from utils.training.settings import Schedule
    return Schedule(epochs=options.pass_num, rate=options.base_lr, rate_end=options.lr_end, kind=options.lr_schedule,
                    warmup=options.warmup, seed=options.seed, steps=steps, watch=options.watch,
                    patience=options.patience)


def output_of(options):
    """The settings.Output of a trainer's flags."""
    from utils.training.settings import Output
    event_files = [name for name in ("tensorboard", "visualdl") if getattr(options, name)]
    return Output(options.model_dir, overwrite=bool(options.overwrite), resume=bool(options.resume),
                  keep=options.keep, save_seconds=options.save_seconds, print_batch=options.print_batch,
                  event_files=event_files)


def batching(options):
    """The batches.Batching that the trainers' flags ask for."""
    from utils.data.batches import Batching
    longest, overlap = window_sizes(options)
    return Batching(side_by_side=options.batching == "parallel", size=options.batch_size,
                    shuffle=bool(options.shuffle), group=options.group_batches, longest=longest, overlap=overlap,
                    half_life=options.recency_half_life)
