"""Validation: the sessions that it takes, what they tell of the network after an epoch, and which epoch is the best."""

import hashlib

import numpy as np

from utils.evaluation import network_ranks_and_losses
from utils.files import InputError
from utils.metrics import recall_and_mrr
from utils.sessions import Sessions, choose, read_conversion, read_sessions

CUTOFFS = [20]
LARGER_IS_BETTER = {"recall@20": True, "mrr@20": True, "valid_loss": False, "train_loss": False, "loss_ratio": False}
BATCH_SIZE = 512  # sessions at once; changes no figure


def split_sessions(sessions, item_count, vocab_sha256, options):
    """The sessions to train on, and those to validate with or None, as --valid_dir or --valid_fraction ask for.

    Validation's clicks on items that no session to train on holds are left out, as those of the test are.

    Returns
    -------
    Sessions
    Sessions or None
    int
        How many clicks were left out.
    """
    if options.valid_dir:
        read_conversion(options.valid_dir, vocab_sha256, "--valid_dir")
        training, validation = sessions, read_sessions(options.valid_dir, item_count, "--valid_dir")
    elif options.valid_fraction:
        count = len(sessions.lengths)
        first = count - int(np.ceil(options.valid_fraction * count))
        training, validation = choose(sessions, np.arange(first)), choose(sessions, np.arange(first, count))
    else:
        return sessions, None, 0
    validation, left_out = without_unknown(validation, training, item_count)
    if not validation.predictions:
        flag = f"--valid_dir {options.valid_dir}" if options.valid_dir else f"--valid_fraction {options.valid_fraction:g}"
        raise InputError(f"{flag}: found no validation session of two clicks on items of the training, expected at least one")
    return training, validation, left_out


def without_unknown(sessions, training, item_count):
    """`sessions` without clicks on items that `training` lacks, and how many those were."""
    known = np.bincount(training.items, minlength=item_count)[sessions.items] > 0
    offsets = np.concatenate([[0], np.cumsum(known)])[sessions.offsets]
    return Sessions(sessions.items[known], offsets), int(len(known) - known.sum())


def sessions_checksum(sessions):
    """SHA-256, as hexadecimal digits, of all clicks and of where the sessions begin; None for None."""
    if sessions is None:
        return None
    digest = hashlib.sha256(np.ascontiguousarray(sessions.items, "<i4"))
    digest.update(np.ascontiguousarray(sessions.offsets, "<i8"))
    return digest.hexdigest()


def evenly_chosen(sessions, predictions):
    """About every n-th of the sessions, so that they have about so many `predictions`, or all."""
    return choose(sessions, np.arange(0, len(sessions.lengths), max(1, round(sessions.predictions / predictions))))


def validation_figures(network, validation, training_sample):
    """What an epoch is judged by.

    Returns
    -------
    dict
        recall@20 and mrr@20 among all items, as infer.py has them; valid_loss, the mean cross-entropy over all items in nats,
        train_loss, the same of some of the training sessions (unlike the loss that training minimises, both are without
        dropout, smoothing and sampling, and so can be compared), and loss_ratio, the former by the latter.
    """
    ranks, losses = network_ranks_and_losses(network, validation, BATCH_SIZE, "validation")
    _, train_losses = network_ranks_and_losses(network, training_sample, BATCH_SIZE, "training loss")
    valid_loss, train_loss = float(losses.mean()), float(train_losses.mean())
    return {**recall_and_mrr(ranks, CUTOFFS), "valid_loss": valid_loss, "train_loss": train_loss,
            "loss_ratio": valid_loss / max(train_loss, 1e-9)}


def better_of(best, epoch, figures, watched):
    """The best epoch so far, as Progress.best has it, after one more epoch with these figures; of equals the earlier."""
    value = figures[watched]
    if best and not (value > best["value"] if LARGER_IS_BETTER[watched] else value < best["value"]):
        return best
    return {"epoch": epoch, "watched": watched, "value": value}
