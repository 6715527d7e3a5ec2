"""Validation: its sessions, what they say about the network after an epoch, and which epoch is the best."""

import hashlib

import numpy as np

from utils.data.session_files import read_conversion
from utils.data.sessions import Sessions, choose, read_sessions
from utils.evaluation.metrics import recall_and_mrr
from utils.evaluation.ranks import Way, network_ranks_and_losses
from utils.files import InputError
from utils.processes import ALONE

CUTOFFS = [20]
SMALLER_IS_BETTER = "valid_loss", "train_loss", "loss_ratio"


def split_sessions(sessions, item_count, vocab_sha256, valid_dir, valid_fraction, is_known=None):
    """The sessions to train on, and those to validate with or None, as the flags with these names say.

    Validation clicks on items that no training session holds are left out, as test clicks are; but those stay that a
    model knew before, bool array `is_known` [items].

    Returns
    -------
    Sessions
    Sessions or None
    int
        How many clicks were left out.
    """
    if valid_dir:
        read_conversion(valid_dir, vocab_sha256, "--valid_dir")
        training, validation = sessions, read_sessions(valid_dir, item_count, "--valid_dir")
    elif valid_fraction:
        count = len(sessions.lengths)
        first = count - int(np.ceil(valid_fraction * count))
        training, validation = choose(sessions, np.arange(first)), choose(sessions, np.arange(first, count))
    else:
        return sessions, None, 0
    validation, left_out = without_unknown(validation, training, item_count, is_known)
    if not validation.predictions:
        flag = f"--valid_dir {valid_dir}" if valid_dir else f"--valid_fraction {valid_fraction:g}"
        raise InputError(f"{flag}: found no validation session of two clicks on items of the training, "
                         "expected at least one")
    return training, validation, left_out


def without_unknown(sessions, training, item_count, is_known=None):
    """`sessions` without clicks on items that neither occur in `training` nor `is_known`; and how many these are."""
    known = np.bincount(training.items, minlength=item_count) > 0
    known = (known if is_known is None else known | is_known)[sessions.items]
    offsets = np.concatenate([[0], np.cumsum(known)])[sessions.offsets]
    return Sessions(sessions.items[known], offsets), int(len(known) - known.sum())


def sessions_checksum(sessions):
    """SHA-256, as hexadecimal digits, of all clicks and of the positions where sessions begin; None for None."""
    if sessions is None:
        return None
    digest = hashlib.sha256(np.ascontiguousarray(sessions.items, "<i4"))
    digest.update(np.ascontiguousarray(sessions.offsets, "<i8"))
    return digest.hexdigest()


def evenly_chosen(sessions, predictions):
    """Every n-th session, so that there are roughly this many `predictions`; all sessions if there are fewer."""
    step = max(1, round(sessions.predictions / predictions))
    return choose(sessions, np.arange(0, len(sessions.lengths), step))


def validation_figures(network, validation, training_sample, processes=ALONE):
    """The figures that an epoch is judged by.

    Returns
    -------
    dict
        recall@20 and mrr@20 among all items, as infer.py computes them; valid_loss, the mean cross-entropy over all
        items in nats; train_loss, the same for some of the training sessions; and loss_ratio, valid_loss / train_loss.
        Both losses are without dropout, smoothing and sampling, unlike the loss that training minimises, so they can be
        compared. Several `processes` compute them together, and all have the result.
    """
    way = Way(description="validation", processes=processes)
    ranks, losses = network_ranks_and_losses(network, validation, way)
    _, train_losses = network_ranks_and_losses(network, training_sample, way._replace(description="training loss"))
    valid_loss, train_loss = float(losses.mean()), float(train_losses.mean())
    return {**recall_and_mrr(ranks, CUTOFFS), "valid_loss": valid_loss, "train_loss": train_loss,
            "loss_ratio": valid_loss / max(train_loss, 1e-9)}


def better_of(best, epoch, figures, watched):
    """The best epoch so far, in the form of Progress.best, given one more epoch's figures; a tie keeps the earlier."""
    value = figures[watched]
    if best and not (value < best["value"] if watched in SMALLER_IS_BETTER else value > best["value"]):
        return best
    return {"epoch": epoch, "watched": watched, "value": value}
