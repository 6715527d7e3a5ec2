"""What comes before the first step of a run: the data are read, the network made, the C++ proved."""

import sys
from pathlib import Path
from typing import NamedTuple

import paddle

from net import Network
from utils.data.chosen_sessions import chances_by_recency, newest, without_one_item
from utils.data.session_files import read_conversion
from utils.data.sessions import Sessions, cut_windows, joined, read_sessions
from utils.data.vocabulary import read_vocabulary
from utils.evaluation.validation import sessions_checksum, split_sessions
from utils.files import InputError
from utils.model.directory import net_checksum
from utils.model.popular import count_popular
from utils.runlog import log, warn
from utils.training.initial import InitialModel, find_initial
from utils.training.limits import (
    require_memory_for_network,
    require_memory_for_steps,
    require_memory_for_windows,
)
from utils.training.objectives import AllItems
from utils.training.proof import prove
from utils.training.remembering import Remembering, divide, memory_before
from utils.training.trainer import Trainer
from utils.training.versions import versions


class Prepared(NamedTuple):
    """What a run begins with.

    trainer : trainer.Trainer
    validation : Sessions or None, to validate with
    remembering : remembering.Remembering or None
    initial_model : initial.InitialModel or None
    popular : dict, for popular.json
    config : dict, for config.json
    """

    trainer: Trainer
    validation: Sessions
    remembering: Remembering
    initial_model: InitialModel
    popular: dict
    config: dict


def require_possible(asked, processes):
    """InputError for what `processes` can't do together of a settings.Asked."""
    data, exchange_steps = asked.data, asked.exchange_steps
    if asked.splits_items and processes.is_alone:
        raise InputError("--split_items: found 1 with one process, expected 0, or several processes")
    if asked.splits_items and (data.valid_dir or data.valid_fraction):
        raise InputError("--split_items: found 1 with validation, expected no validation; infer.py evaluates")
    if exchange_steps > 1 and processes.is_alone:
        raise InputError(f"--exchange_steps: found {exchange_steps} with one process, expected 1, or several processes")
    if data.window_overlap and not processes.is_alone:
        raise InputError("--window_overlap, --look_back: found windows that overlap with several processes, expected "
                         "none, or one process")
    if exchange_steps > 1 and asked.splits_items:
        raise InputError(f"--exchange_steps: found {exchange_steps} with --split_items 1, expected 1")


def prepare(asked, make_trainer, kernels, rows):
    """The Prepared of a settings.Asked; `make_trainer` is that of `loop.run_training`, `rows` those of net.Network."""
    item_ids, item_count, vocab_sha256 = _read_vocabulary(asked.data.vocab_path)
    initial_model = find_initial(asked.data.init_from, item_ids) if asked.data.init_from else None
    require_memory_for_network(len(range(item_count)[rows]), asked.network, asked.data)
    training, validation, remembering, description, popular = _read_sessions(asked, item_count, vocab_sha256,
                                                                             initial_model)
    paddle.seed(asked.schedule.seed)  # for what an edited network draws by Paddle
    # Before an older run is deleted: the network may be too large for the memory.
    network = Network(item_count, asked.network, asked.schedule.seed, rows)
    trainer = make_trainer(network, training)
    proof = _prove(trainer, kernels, rows != slice(None))
    return Prepared(trainer, validation, remembering, initial_model, popular, {
        "script": Path(sys.argv[0]).name, "network": asked.network.as_dict(),
        "network_is_known": proof.agrees("scorer"), "net_sha256": net_checksum(), "definitions": proof.definitions,
        "computed_by": proof.computed_by, "loss": trainer.objective.name,
        "loss_is_sampled": trainer.objective.is_sampled, "data": description, "versions": versions(),
        "options": asked.flags, **({"fit": asked.fitted} if asked.fitted else {}),
        **({"init_from": initial_model.as_dict()} if initial_model else {})})


def _prove(trainer, kernels, splits_items):
    """Prove the C++, let the trainer use what agrees with net.py, and log it: a proof.Proof."""
    proof, line = prove(trainer, kernels)
    log(line)
    if splits_items and isinstance(trainer.objective, AllItems) and not proof.agrees("loss"):
        raise InputError("--split_items 1: found scores or a loss in net.py that differ in "
                         f"{', '.join(proof.differs['loss'])}, expected those as they come; train_sample_neg.py splits "
                         "with any loss")
    if proof.differs["carrying"] and trainer.batching.side_by_side:
        warn("net.py gives other hidden states click by click than for whole sessions (first_states and `before` carry "
             "what it keeps): sessions side by side train it without what is not carried; --batching sessions trains "
             "it whole")
    return proof


def read_whole(data, item_count, vocab_sha256):
    """All training sessions of a settings.Data, the newest last: Sessions."""
    for path in data.train_paths:
        read_conversion(path, vocab_sha256, "--train_dir")
    return joined([read_sessions(path, item_count, "--train_dir") for path in data.train_paths])


def _read_sessions(asked, item_count, vocab_sha256, initial_model):
    """The sessions to train on; those to validate with and to remember; and what config.json and popular.json say of
    them.

    The second and third may be None, and so may the model to begin with.
    """
    data = asked.data
    whole = read_whole(data, item_count, vocab_sha256)
    training, validation, left_out = split_sessions(whole, item_count, vocab_sha256, data.valid_dir,
                                                    data.valid_fraction, initial_model and initial_model.is_known)
    training, dropped = sessions_to_train_on(training, data)
    remembering = None
    if data.neighbours:
        training, remembering = divide(training, validation, item_count,
                                       initial_model and memory_before(initial_model))
    require_memory_for_windows(training, data)
    windows, _ = cut_windows(training, data.max_length, data.window_overlap)
    if not training.predictions:
        raise InputError(f"--train_dir: found no session of two clicks in {','.join(data.train_paths)}"
                         f"{' that is trained on' * bool(dropped)}, expected at least one")
    require_memory_for_steps(windows, asked.network.hid_size, asked.flags)
    description = {"sessions": len(windows.lengths), "events": len(windows.items), "items": item_count,
                   "vocab_sha256": vocab_sha256, "sessions_sha256": sessions_checksum(whole),
                   "validation_sha256": sessions_checksum(validation), **({"left_out": dropped} if dropped else {})}
    log(f"sessions:{description['sessions']} events:{description['events']} items:{item_count} "
        f"predictions:{training.predictions}")
    _log_what_is_trained(training, data, dropped)
    if validation:
        log(f"validation sessions:{len(validation.lengths)} predictions:{validation.predictions} "
            f"unknown_clicks_left_out:{left_out}")
    elif remembering and remembering.weight is None:
        log(f"sessions not trained on, which choose the weight of the memory of neighbours: {remembering.held_out}")
    return training, validation, remembering, description, count_popular(whole, item_count)


def sessions_to_train_on(sessions, data):
    """What the flags leave of the sessions, and how many sessions and clicks each left out, a dict by flags."""
    dropped = {}
    if data.drop_one_item:
        sessions = _counted("drop_one_item", sessions, without_one_item(sessions), dropped)
    if data.newest_sessions:
        sessions = _counted("newest_sessions", sessions, newest(sessions, data.newest_sessions), dropped)
    return sessions, dropped


def _counted(flag, before, after, dropped):
    """The sessions `after`; what they lack of those `before` is counted in the dict `dropped`."""
    dropped[flag] = {"sessions": len(before.lengths) - len(after.lengths),
                     "events": len(before.items) - len(after.items)}
    return after


def _log_what_is_trained(sessions, data, dropped):
    """Say what was left out, what was cut, and how many sessions an epoch takes, where that isn't all as it came."""
    if dropped:
        log("left out of training: " + "; ".join(
            f"--{flag}: {counts['sessions']} sessions, {counts['events']} clicks" for flag, counts in dropped.items()))
    if cut := int((sessions.lengths > data.max_length + 1).sum()):
        overlap = f", {data.window_overlap} of them the last of the window before" if data.window_overlap else ""
        log(f"cut into windows of {data.max_length} predictions{overlap}: {cut} sessions (--max_length, --look_back)")
    if data.recency_half_life:
        chances = chances_by_recency(sessions, data.recency_half_life)
        log(f"an epoch takes about {chances.sum():.0f} of {len(chances)} sessions of several clicks "
            f"(--recency_half_life)")


def _read_vocabulary(path):
    """The Vocabulary; a file that holds only the number of items is accepted, with a warning."""
    vocabulary = read_vocabulary(path)
    if vocabulary.item_ids is None:
        warn(f"{path} holds only the number of items: this model can be evaluated, but its indices can't be turned "
             "into item ids")
    return vocabulary
