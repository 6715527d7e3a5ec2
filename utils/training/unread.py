"""Losses that a GPU may still be computing, read many at a time: a step need not wait for the one before it."""

import math

import paddle

from utils.tensors import as_array


class UnreadLosses:
    """The losses of the steps since the last reading."""

    def __init__(self):
        self.waiting = []

    def add(self, step, loss, predictions):
        """Keep the mean loss of a step's predictions: a float, or a tensor of one number that is not read yet."""
        self.waiting.append((step, loss, predictions))

    def count(self, progress):
        """Read them all, and count them in a resume.Progress; the steps whose losses are no finite numbers, and these.
        """
        waiting, self.waiting, bad = self.waiting, [], []
        tensors = [loss for _, loss, _ in waiting if not isinstance(loss, float)]
        read = iter(as_array(paddle.stack(tensors)).tolist() if tensors else [])  # the GPU is waited for once
        for step, loss, predictions in waiting:
            loss = loss if isinstance(loss, float) else next(read)
            if not math.isfinite(loss):
                bad.append((step, loss))
            progress.recent.append(loss)
            progress.loss_sum += loss * predictions
        return bad
