"""What a run is asked to do, as the trainers' flags say it (flags.py). Nothing here needs Paddle."""

import math
from dataclasses import dataclass

from utils.model.layout import NetworkSettings

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
