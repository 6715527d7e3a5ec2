"""--fit: short trainings on the newest sessions find how many epochs to train, and where the learning rate ends.

In E epochs the rate falls linearly to a share e of it. The first k of them train what k epochs do whose rate falls to
1 - (1 - e) k / E. So --pass_num and --lr_end can say any epoch of a short training.
"""

import math
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from net import Network
from utils.data.sessions import Sessions, choose
from utils.data.vocabulary import read_vocabulary
from utils.evaluation.ranks import Way, network_ranks
from utils.evaluation.validation import evenly_chosen, split_sessions, without_unknown
from utils.files import InputError
from utils.model import checkpoint, upkeep
from utils.runlog import log
from utils.training.flags import asked_by
from utils.training.preparation import read_whole, sessions_to_train_on
from utils.training.proof import prove
from utils.training.seeds import epoch_generator

NEWEST = 0.1  # the share of the sessions that judges
MOST, MOST_JUDGING = 60_000, 20_000  # predictions to train on and to judge by: with more, it takes longer
FEWEST = 500  # predictions to train on and to judge by; fewer say too little
CUTOFF = 20
CONSTANT = 1.0  # the end of a rate that doesn't fall
ERRORS = 2.0  # standard errors by which another schedule has to be ahead of the usual one
PATIENCE = 2  # epochs without a better one after which a short training at a constant rate ends


class Tried(NamedTuple):
    """An epoch of a short training.

    lr_end : float, of all its epochs
    epoch : int
    gains : float64 array [predictions], of each 1 + 1 / rank, or 0 beyond the cut-off: their mean is recall + MRR
    """

    lr_end: float
    epoch: int
    gains: np.ndarray

    @property
    def value(self):
        return float(self.gains.mean())

    def is_ahead(self, other):
        """Whether it is better than another one by more than chance explains."""
        differences = self.gains - other.gains
        return differences.mean() > ERRORS * differences.std() / math.sqrt(len(differences))


def fit(options, make_trainer, device):
    """Set `options.pass_num` and `options.lr_end` to what short trainings find.

    A resumed run goes on with what was found for it. Several processes train as usual: their steps are larger.

    Parameters
    ----------
    options : argparse.Namespace
        Of a trainer, with the usual values of both flags.
    make_trainer : function
        Of such options, a net.Network and sessions.Sessions; returns a trainer.Trainer.
    device : device.Device

    Returns
    -------
    dict
        For config.json: pass_num and lr_end, and what was tried.
    """
    processes = device.processes
    found = processes.from_first(processes.first_does(lambda: _found(options, make_trainer, device)))[0]
    options.pass_num, options.lr_end = found["pass_num"], found["lr_end"]
    return found


def _found(options, make_trainer, device):
    """What `fit` returns."""
    model_dir, usual = Path(options.model_dir), {"pass_num": options.pass_num, "lr_end": options.lr_end}
    if options.resume and (model_dir / "config.json").exists():
        then = checkpoint.read_config(model_dir)
        return then.get("fit") or {name: then["options"].get(name, usual[name]) for name in usual}
    if not device.processes.is_alone:
        return usual
    upkeep.require_room(model_dir, options.overwrite)
    training, judging = training_and_judging(options)
    if min(training.predictions, judging.predictions) < FEWEST:
        log(f"fit: as usual, epochs:{options.pass_num} lr_end:{options.lr_end:g}; too few sessions to try others: "
            f"{training.predictions} predictions to train on, {judging.predictions} to judge by")
        return usual
    log(f"fit: short trainings on {training.predictions} predictions, judged by {judging.predictions} newer ones")
    falling = _short_training(options, options.lr_end, make_trainer, device.kernels, training, judging)
    constant = _short_training(options, CONSTANT, make_trainer, device.kernels, training, judging, PATIENCE)
    return chosen_of(falling, constant, usual)


def chosen_of(falling, constant, usual):
    """What `fit` returns, from the epochs of the usual short training and of one at a constant rate, lists of Tried.

    `usual` is the dict of what is usual. It stays where nothing is better, and where that training diverged.
    """
    if len(falling) < usual["pass_num"]:
        return usual
    whole, best = falling[-1], max(falling + constant, key=lambda one: one.value)
    if not best.is_ahead(whole):
        log(f"fit: as usual, epochs:{usual['pass_num']} lr_end:{usual['lr_end']:g}; the sum of recall@{CUTOFF} and "
            f"mrr@{CUTOFF} is {whole.value:.4f} with them, and {best.value:.4f} at best")
        found = usual
    else:
        rate_left = round(1 - (1 - best.lr_end) * best.epoch / usual["pass_num"], 9)
        log(f"fit: epochs:{best.epoch} lr_end:{rate_left:g}; the sum of recall@{CUTOFF} and mrr@{CUTOFF} is "
            f"{best.value:.4f} with them, and {whole.value:.4f} as usual")
        found = {"pass_num": best.epoch, "lr_end": rate_left}
    return found | {"tried": [{"lr_end": one.lr_end, "epoch": one.epoch, "recall_and_mrr": one.value}
                              for one in falling + constant]}


def _short_training(options, lr_end, make_trainer, kernels, training, judging, patience=math.inf):
    """Train as asked, but with a rate that falls to `lr_end` of it: a list of Tried, one an epoch."""
    paddle.seed(options.seed)  # for dropout by Paddle's operations
    asked = asked_by(Namespace(**{**vars(options), "lr_end": lr_end}))
    schedule, item_count, tried = asked.schedule, int(training.items.max()) + 1, []
    trainer = make_trainer(options, Network(item_count, asked.network, options.seed), training)
    prove(trainer, kernels)
    best = None
    for epoch in range(1, schedule.epochs + 1):
        trainer.network.train()
        done = 0
        for batch in trainer.batches(epoch_generator(schedule.seed, epoch)):
            trainer.set_rate(schedule.rate_after((epoch - 1 + done / trainer.predictions) / schedule.epochs))
            trainer.step(batch)
            done += len(batch.targets)
        try:
            ranks = network_ranks(trainer.network, judging, Way(description=f"fit {epoch}", kernels=kernels))
        except InputError:  # weights that are no numbers: the rate is too high, as the whole training will say
            break
        tried.append(Tried(lr_end, epoch, np.where(ranks <= CUTOFF, 1 + 1 / ranks, 0)))
        best = tried[-1] if best is None or tried[-1].value > best.value else best
        if epoch - best.epoch >= patience:
            break
    return tried


def training_and_judging(options):
    """What short trainings train on and are judged by: two Sessions, whose items are numbered anew, without gaps."""
    _, item_count, vocab_sha256 = read_vocabulary(options.vocab_path)
    data = asked_by(options).data
    whole = read_whole(data, item_count, vocab_sha256)
    whole = split_sessions(whole, item_count, vocab_sha256, data.valid_dir, data.valid_fraction)[0]
    whole, _ = sessions_to_train_on(whole, data)
    count = len(whole.lengths)
    first = count - math.ceil(NEWEST * count)
    older = choose(whole, np.arange(first))
    predictions = np.cumsum(np.maximum(older.lengths - 1, 0)[::-1])  # of the newest 1, 2, ... of them
    older = choose(older, np.arange(first - int(np.searchsorted(predictions, MOST, side="right")), first))
    judging, _ = without_unknown(choose(whole, np.arange(first, count)), older, item_count)
    items, numbers = np.unique(older.items, return_inverse=True)
    judging = Sessions(np.searchsorted(items, judging.items).astype(np.int32), judging.offsets)
    return Sessions(numbers.astype(np.int32), older.offsets), evenly_chosen(judging, MOST_JUDGING)
