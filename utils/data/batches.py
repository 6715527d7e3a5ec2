"""Batches of sessions: whole sessions packed without gaps, or sessions side by side, one click a step."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.data.chosen_sessions import drawn_by_recency
from utils.data.sessions import cut_windows
from utils.processes import ALONE


@dataclass
class Batching:
    """How an epoch is divided into steps.

    side_by_side : bool, sessions side by side, one click a step (the paper's way); otherwise whole sessions
    size : int, sessions per step
    shuffle : bool, whole sessions in random order; otherwise in the order of the files
    group : int, neighbouring batches of whole sessions that are sorted by length together
    longest : int or None, predictions of a session at most; longer ones are cut into windows. None: any number
    overlap : int, of a window's predictions, how many are also those of the window before, and only trained there
    half_life : float, a session with so many newer ones takes part in half of the epochs; 0: all take part in all
    """

    side_by_side: bool
    size: int
    shuffle: bool = False
    group: int = 1
    longest: int = None
    overlap: int = 0
    half_life: float = 0.0

    def sessions_of_epoch(self, sessions, random):
        """Those of the Sessions that an epoch takes, by draws from a numpy.random.Generator where any are needed."""
        return drawn_by_recency(sessions, self.half_life, random) if self.half_life else sessions

    def windows(self, sessions):
        """The Sessions cut into windows, as by sessions.cut_windows."""
        return cut_windows(sessions, self.longest, self.overlap) if self.longest else (sessions, None)

    def batches(self, sessions, random, fewest_slots=1):
        """Yield the steps of an epoch: SideBySideStep, or Batch in an order drawn from a numpy.random.Generator."""
        windows, context = self.windows(sessions)
        if self.side_by_side:
            return side_by_side_steps(windows, self.size, fewest_slots, context)
        return training_batches(windows, self.size, random, self.shuffle, self.group, context)


class Batch(NamedTuple):
    """Whole sessions packed without gaps: first every session's first click, then every second one, and so on.

    Rows are in descending order of length, so that the rows still running at a time step are always the first ones.

    inputs : int64 [clicks], the click seen
    targets : int64 [predictions], the click that follows it
    positions : int64 [predictions], the target's position in Sessions.items; -1 for padding
    rows_per_step : list of int, how many rows take part in each time step; their sum is `clicks`
    predicted : int64 [predictions] or None, after which of the clicks there is a prediction; None: after each of them
    """

    inputs: np.ndarray
    targets: np.ndarray
    positions: np.ndarray
    rows_per_step: list
    predicted: np.ndarray = None


def pack(sessions, rows, minimum_rows=1, context=None):
    """Pack the sessions numbered `rows` into a Batch.

    Parameters
    ----------
    sessions : Sessions
    rows : int array [batch]
        Session numbers; sessions with fewer than two clicks add nothing.
    minimum_rows : int
        Pad every time step to at least this many rows, with item 0 and position -1.
    context : int64 [sessions], optional
        As many of a session's clicks, the first ones, have no prediction.
    """
    lengths = sessions.offsets[rows + 1] - sessions.offsets[rows]
    by_length = np.argsort(-lengths, kind="stable")
    starts, steps = sessions.offsets[rows[by_length]], np.maximum(lengths[by_length] - 1, 0)
    if len(rows) < minimum_rows:
        padding = np.zeros(minimum_rows - len(rows), np.int64)
        starts, steps = np.concatenate([starts, padding]), np.concatenate([steps, padding])
    padded_steps = steps.copy()
    padded_steps[:minimum_rows] = steps[0]
    rows_per_step = np.searchsorted(-padded_steps, -np.arange(padded_steps[0]), side="left")
    time = np.repeat(np.arange(padded_steps[0]), rows_per_step)
    row = np.arange(len(time)) - np.repeat(np.cumsum(rows_per_step) - rows_per_step, rows_per_step)
    is_real = time < steps[row]
    positions = np.where(is_real, starts[row] + time + 1, -1)
    inputs = np.where(is_real, sessions.items[positions - 1], 0).astype(np.int64)
    targets = np.where(is_real, sessions.items[positions], 0).astype(np.int64)
    if context is None or not context[rows].any():
        return Batch(inputs, targets, positions, rows_per_step.tolist())
    predicted = np.flatnonzero(time >= context[rows[by_length]][row])
    return Batch(inputs, targets[predicted], positions[predicted], rows_per_step.tolist(), predicted)


def training_batches(sessions, batch_size, random, shuffle=False, group=1, context=None):
    """Batches of whole sessions, each session in exactly one.

    Neighbouring sessions form groups of `group` batches. A group is sorted by length, cut into batches, and its batches
    come in random order. A batch then has fewer steps with few rows, but it also pulls the weights towards sessions of
    its own length. With a group of 1 the batches keep the order of the sessions, and the network learns more.

    Parameters
    ----------
    sessions : Sessions
    batch_size : int
        Sessions per batch; the last batch of a group holds what is left.
    random : numpy.random.Generator
    shuffle : bool
        Draw the order of the sessions at random instead of keeping that of the file.
    context : int64 [sessions], optional
        As in `pack`.

    Yields
    ------
    Batch
    """
    lengths = sessions.lengths
    order = np.flatnonzero(lengths > 1)
    if shuffle:
        random.shuffle(order)
    for start in range(0, len(order), group * batch_size):
        members = order[start:start + group * batch_size]
        members = members[np.argsort(lengths[members], kind="stable")]
        cuts = np.arange(0, len(members), batch_size)
        for cut in random.permutation(cuts):
            yield pack(sessions, members[cut:cut + batch_size], context=context)


class SideBySideStep(NamedTuple):
    """One step of session-parallel training: one click of each running session.

    inputs : int64 [slots], the click seen
    targets : int64 [predictions], the click that follows it
    kept : int64 [slots] or None, the previous step's slots that are still there; None for all of them
    restarted : bool [slots] or None, slots where a new session began after the previous step; None for no slot
    predicted : int64 [predictions] or None, the slots that have a prediction, which may be none; None: all have
    """

    inputs: np.ndarray
    targets: np.ndarray
    kept: np.ndarray
    restarted: np.ndarray
    predicted: np.ndarray = None

    @property
    def rows_per_step(self):
        """As in Batch; here all slots take part in the only step."""
        return [len(self.inputs)]


def side_by_side_steps(sessions, batch_size, fewest_slots=1, context=None):
    """Steps through all sessions in their order, `batch_size` side by side (Hidasi et al., ICLR 2016, figure 2).

    When a slot's session ends, the slot takes the next waiting session. If none is left the slot goes, so the last
    steps have fewer slots. The steps end when fewer than `fewest_slots` are left. `context` is as in `pack`.

    Yields
    ------
    SideBySideStep
    """
    waiting = np.flatnonzero(sessions.lengths > 1)
    running, next_waiting = waiting[:batch_size], min(batch_size, len(waiting))
    firsts = sessions.offsets[:-1] if context is None else sessions.offsets[:-1] + context  # clicks with a prediction
    positions, begins, ends = sessions.offsets[running], firsts[running], sessions.offsets[running + 1]
    kept, restarted = None, np.ones(len(running), bool)
    while len(positions) >= fewest_slots:
        for _ in range(int((ends - positions).min()) - 1):
            inputs, targets = (sessions.items[at].astype(np.int64) for at in (positions, positions + 1))
            if (positions >= begins).all():
                yield SideBySideStep(inputs, targets, kept, restarted)
            else:
                predicted = np.flatnonzero(positions >= begins)
                yield SideBySideStep(inputs, targets[predicted], kept, restarted, predicted)
            kept = restarted = None
            positions = positions + 1
        restarted = ends - positions <= 1
        slots = np.flatnonzero(restarted)
        taken = waiting[next_waiting:next_waiting + len(slots)]
        next_waiting += len(taken)
        positions[slots[:len(taken)]], ends[slots[:len(taken)]] = sessions.offsets[taken], sessions.offsets[taken + 1]
        begins[slots[:len(taken)]] = firsts[taken]
        if len(taken) < len(slots):
            kept = np.delete(np.arange(len(positions)), slots[len(taken):])
            positions, begins, ends, restarted = positions[kept], begins[kept], ends[kept], restarted[kept]


def evaluation_batches(sessions, batch_size, minimum_rows=8, processes=ALONE):
    """Batches of whole sessions, longest first, each session in exactly one batch of one process.

    Every time step is padded to `minimum_rows`, since no figure may depend on the batch size: with only one or two
    rows, the processor's libraries compute matrix products in another way and round differently.

    Of several `processes` that evaluate the sessions together, each has its own batches.

    Yields
    ------
    Batch
    """
    lengths = sessions.lengths
    order = np.flatnonzero(lengths > 1)
    order = order[np.argsort(-lengths[order], kind="stable")][processes.rank::processes.count]
    for start in range(0, len(order), batch_size):
        yield pack(sessions, order[start:start + batch_size], minimum_rows)
