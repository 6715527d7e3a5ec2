"""What a run is asked to do, as the trainers' flags say it (flags.py), and what of it goes too far.

Nothing here needs Paddle.
"""

import math
from dataclasses import dataclass

import numpy as np

from utils.data.sessions import window_counts
from utils.memory import require_memory
from utils.model.layout import NetworkSettings, weight_count

# Bytes that are in use at once, to the least: of a weight when an epoch is saved, the weight, the optimiser's sum of
# squares, and of both a copy and the file; of a negative, as it is drawn and numbered; of a click and a unit, what a
# GRU layer computes and its gradients; of a click in a window, it and from where it is copied.
WEIGHT_BYTES, NEGATIVE_BYTES, CLICK_BYTES, WINDOW_BYTES = 24, 32, 48, 12
# What makes a training diverge, and how large it is in trainings that don't.
USUAL = {"base_lr": 1.0, "lr_end": 1.0, "emb_lr_x": 10.0, "gru_lr_x": 10.0, "fc_lr_x": 10.0, "init_range": 1.0,
         "logq": 1.0, "bpreg": 10.0, "elu_param": 10.0, "weight_decay": 0.1}
FIRST = 0.04  # share of the learning rate that one-cycle begins with


@dataclass
class Data:
    """What to train on and to validate with.

    train_paths : list of str, directories or files of sessions, the oldest first
    vocab_path : str
    max_length : int, predictions of a session at most; longer ones are cut into windows
    window_overlap : int, of a window's predictions, how many are also those of the window before, and trained there
    valid_dir : str, sessions to validate with; empty: none
    valid_fraction : float, the share of the training sessions to validate with instead, the newest; 0: none
    init_from : str, directory of a model to begin with; empty: none
    drop_one_item : bool, whether sessions are left out whose clicks are all on the same item
    newest_sessions : int, how many of the others are trained on; 0: all
    recency_half_life : float, newer sessions beside which one counts half; 0: all count the same
    neighbours : bool, the model gets a memory of neighbours
    """

    train_paths: list
    vocab_path: str
    max_length: int = 1000
    window_overlap: int = 0
    valid_dir: str = ""
    valid_fraction: float = 0.0
    init_from: str = ""
    drop_one_item: bool = False
    newest_sessions: int = 0
    recency_half_life: float = 0.0
    neighbours: bool = False


@dataclass
class Schedule:
    """How long, how fast, from which seed.

    epochs : int
    rate : float, the largest learning rate
    rate_end : float, share of it at the end of the last epoch
    kind : str, how the rate changes: linear, constant, cosine or one-cycle
    warmup : float, share of the training in which it rises first
    seed : int
    steps : int or None, of an epoch at most
    watch : str, the figure of the validation that finds the best epoch
    patience : int, epochs without a better one after which training stops; 0: never
    """

    epochs: int
    rate: float
    rate_end: float = 1.0
    kind: str = "linear"
    warmup: float = 0.0
    seed: int = 1
    steps: int = None
    watch: str = "recall@20"
    patience: int = 0

    def rate_after(self, share_done):
        """The learning rate after a share of the whole training.

        It falls by half a cosine as of Loshchilov and Hutter (ICLR 2017, formula 5), without their restarts. one-cycle
        is the policy of Smith and Topin (2018) as in PyTorch, but for the momentum, which stays.
        """
        if share_done < self.warmup:
            rise = share_done / self.warmup
            return self.rate * (FIRST + (1 - FIRST) * _half_cosine(rise) if self.kind == "one-cycle" else rise)
        fall = (share_done - self.warmup) / (1 - self.warmup)
        if self.kind in ("cosine", "one-cycle"):
            fall = _half_cosine(fall)
        return self.rate * (1 + (self.rate_end - 1) * fall)


def _half_cosine(share):
    """From 0 to 1 as the share goes from 0 to 1, slowly at both ends."""
    return (1 - math.cos(math.pi * share)) / 2


@dataclass
class Output:
    """Where a run is written, and what else than its epochs.

    model_dir : str
    overwrite, resume : bool, delete the run that is there, or go on with it
    keep : int, newest epochs to keep, the best one stays too; 0: all
    save_seconds : float, between two savings within an epoch; 0: only when stopped
    print_batch : int, steps between two log lines
    event_files : list of str, programs that get the epochs' figures too: tensorboard, visualdl
    """

    model_dir: str
    overwrite: bool = False
    resume: bool = False
    keep: int = 0
    save_seconds: float = 600.0
    print_batch: int = 100
    event_files: list = ()


@dataclass
class Asked:
    """What a run of a trainer is asked to do.

    data, schedule, output : Data, Schedule, Output
    network : layout.NetworkSettings
    flags : dict, what was asked for, for config.json: a run is resumed with the same
    splits_items : bool, each process holds some of the rows of the item matrices instead of all
    exchange_steps : int, steps that each process trains by itself before all take the means of their weights; 1: all
        train together
    fitted : dict or None, what fitting.fit returned, for config.json
    """

    data: Data
    schedule: Schedule
    output: Output
    network: NetworkSettings
    flags: dict
    splits_items: bool = False
    exchange_steps: int = 1
    fitted: dict = None


def require_memory_for_network(item_count, network_settings, data):
    """InputError where there is too little memory for the weights of a layout.NetworkSettings; `data` is the Data."""
    units = ",".join(map(str, network_settings.hid_size))
    require_memory(WEIGHT_BYTES * weight_count(network_settings, item_count),
                   f"--vocab_path {data.vocab_path}, --hid_size {units}: found a network of {item_count} items")


def require_memory_for_windows(sessions, data):
    """InputError where there is too little memory for the windows of the Sessions, as the Data ask for them."""
    counts = window_counts(sessions.lengths - 1, data.max_length, data.window_overlap)
    clicks = int((counts - 1).sum()) * data.max_length
    require_memory(WINDOW_BYTES * clicks, f"--window_overlap, --look_back: found windows of {clicks} clicks together")


def require_memory_for_steps(sessions, hid_size, flags):
    """InputError where there is too little memory for a step on the Sessions, as the trainer's flags ask for it."""
    batch, negatives = flags.get("batch_size", 1), flags.get("neg_size", 0)
    if flags.get("batching") == "parallel":
        clicks = min(batch, int(np.count_nonzero(sessions.lengths > 1)))
    else:
        clicks = sessions.predictions // -(-len(sessions.lengths) // batch)  # of a mean step: the largest has no fewer
    if not flags.get("use_cuda"):
        require_memory(CLICK_BYTES * clicks * sum(hid_size), f"--batch_size: found {batch}")
    each = clicks if flags.get("negatives") == "tiled" else 1
    require_memory(NEGATIVE_BYTES * negatives * each, f"--neg_size: found {negatives}")


def flag_to_blame(flags):
    """The flag that most likely made a training diverge, with its value: the one farthest above what is usual."""
    excess = {name: flags.get(name, 0) / usual for name, usual in USUAL.items()}
    name = max(excess, key=excess.get)
    name = name if excess[name] > 1 else "base_lr"
    return f"--{name} {flags.get(name, 0):g}"
