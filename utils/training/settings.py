"""What a run is asked to do, as the trainers' flags say it (utils/options.py): small dataclasses without Paddle."""

from dataclasses import dataclass


@dataclass
class Data:
    """What to train on and to validate with.

    train_dir, vocab_path : str
    max_length : int, predictions of a session at most; longer ones are cut
    valid_dir : str, sessions to validate with; empty: none
    valid_fraction : float, the share of the training sessions to validate with instead, the newest; 0: none
    """

    train_dir: str
    vocab_path: str
    max_length: int = 1000
    valid_dir: str = ""
    valid_fraction: float = 0.0


@dataclass
class Schedule:
    """How long, how fast, from which seed.

    epochs : int
    steps : int or None, of an epoch at most
    rate : float, learning rate
    rate_end : float, share of it at the end of the last epoch; it changes linearly
    seed : int
    watch : str, the figure of the validation that finds the best epoch
    patience : int, epochs without a better one after which training stops; 0: never
    """

    epochs: int
    rate: float
    rate_end: float = 1.0
    seed: int = 1
    steps: int = None
    watch: str = "recall@20"
    patience: int = 0

    def rate_after(self, share_done):
        """The learning rate after a share of the whole training."""
        return self.rate * (1 + (self.rate_end - 1) * share_done)


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
