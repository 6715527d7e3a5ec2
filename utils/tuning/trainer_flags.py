"""A trainer's flags, as a search gives them to it: dicts of names without dashes to values, as in a settings file."""

import json
import random
import sys
from pathlib import Path

from utils.files import InputError
from utils.intent import flags as intent_flags
from utils.memory import read_bytes
from utils.training import full_flags, sampled_flags
from utils.tuning.space import all_parameters, corners, flags_of

ROOT = Path(__file__).resolve().parent.parent.parent
INTENT = "train_intent.py"
TRAINERS = {"train_sample_neg.py": sampled_flags.parse_arguments, "train.py": full_flags.parse_arguments,
            INTENT: intent_flags.parse_arguments}
WATCHED = {INTENT: ("auc", "average_precision", "item_auc", "score", "valid_loss")}  # the default first
WATCHED |= {script: ("recall@20", "mrr@20", "valid_loss") for script in TRAINERS if script not in WATCHED}
DIRECTIONS = {"recall@20": "maximize", "mrr@20": "maximize", "valid_loss": "minimize",  # of --watch, in a search
              "auc": "maximize", "average_precision": "maximize", "item_auc": "maximize", "score": "maximize"}
# What tune.py says itself, or what doesn't belong to a settings file: where the data are, how epochs are judged and
# kept, what is shown, and on what it runs.
OTHERS = {"config", "train_dir", "vocab_path", "model_dir", "overwrite", "resume", "init_from", "valid_dir",
          "valid_fraction", "watch", "patience", "keep", "save_seconds", "print_batch", "tensorboard", "visualdl",
          "seed", "use_cuda", "threads", "tune_cpu", "parallel", "num_devices", "split_items", "exchange_steps",
          "is_local", "enable_ce", "step_num", "amp", "fit"}
LARGEST = 1 << 20  # bytes of a settings file
COMBINATIONS = 60  # that are drawn at random to see whether the trainer takes them


def parse(script, flags):
    """The trainer's options, a Namespace; InputError if it refuses the flags."""
    try:
        return TRAINERS[script](words(as_a_trial(script) | flags))
    except InputError as error:
        raise InputError(str(error).replace(Path(sys.argv[0]).name, script)) from None


def as_a_trial(script):
    """The flags with which a trainer trains the network alone, as it is told to."""
    return {} if script == INTENT else {"fit": 0, "neighbours": 0}


def words(flags):
    """The flags as a command line, a list of str."""
    return [f"--{name}={','.join(map(str, value)) if type(value) is list else value}" for name, value in flags.items()]


def whole_settings(script, flags):
    """The flags, and the trainer's defaults for all others that change what it trains: a settings file's contents."""
    options = parse(script, flags)
    left_out = OTHERS | {"emb_size", "neighbours"}  # that follows --hid_size; networks are tried alone
    defaults = {name: value for name, value in vars(options).items() if name not in left_out and value is not None}
    whole = {name: ",".join(map(str, value)) if type(value) is list else value
             for name, value in {**defaults, **flags}.items()}
    return whole if parse(script, whole) == options else flags


def read_settings(path, script, flag):
    """The flags in a settings file; InputError if there is none, or the trainer refuses it."""
    data = read_bytes(path, flag, most=LARGEST)
    try:
        parse(script, {"config": str(path)})
        flags = json.loads(data)
    except InputError as error:
        raise InputError(str(error).replace("--config", flag)) from None
    _require_known(flags, script, f"{flag} {path}")
    return flags


def _require_known(names, script, where):
    """InputError if one of the names is no flag of the trainer, or none that a search may set."""
    known = set(vars(parse(script, {})))
    for name in names:
        if name not in known:
            raise InputError(f"{where}: found {name!r}, expected names of flags as {script} -h lists them")
        if name in OTHERS:
            raise InputError(f"{where}: found {name!r}, expected flags that change what is trained; tune.py sets that "
                             "one, or leaves it as it is")


def require_possible(parameters, base, script, path):
    """InputError if there are values in a space that the trainer refuses, alone or together.

    Each value of a choice and both ends of each range are tried, and some combinations at random.

    Parameters
    ----------
    parameters : list of space.Parameter
    base : dict
        The flags that the space doesn't name.
    script : str
        The trainer.
    path : str
        The space's file, for errors.
    """
    where = f"--space {path}"
    _require_known([parameter.name for parameter in all_parameters(parameters)], script, where)
    draw = random.Random(1)
    chosen = [lambda parameter, here=here: here.get(parameter.key, parameter.ends()[0]) for here in corners(parameters)]
    chosen += [lambda parameter: draw.choice(parameter.ends())] * COMBINATIONS
    for choose in chosen:
        drawn = flags_of(parameters, choose)
        try:
            parse(script, base | drawn)
        except InputError as error:
            together = " ".join(words(drawn))
            raise InputError(f"{where}: {error}; that was with {together}") from None


def most_epochs(parameters, base, script):
    """The largest --pass_num that the space allows, or that of the base, or the trainer's."""
    found = [parameter.value_of(drawn) for parameter in all_parameters(parameters) if parameter.name == "pass_num"
             for drawn in parameter.ends()]
    return max(map(int, found), default=parse(script, base).pass_num)
