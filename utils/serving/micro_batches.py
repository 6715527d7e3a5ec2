"""Waiting questions are answered together, with one product with the item matrix for all of them.

Larger batches take less processor time per question, so that under load all wait less. Therefore a worker lets a
millisecond pass from the start of one batch to that of the next, and questions that arrive meanwhile join it. But once
as many wait as lately came together at most, nobody else is expected, and they are answered at once. So a client that
asks one question after another waits for nobody.
"""

import asyncio
from collections import deque
from typing import NamedTuple

import numpy as np

from utils.data.sessions import Sessions

SPACING = 0.001  # time between the starts of two batches while more questions are expected, in seconds
LATELY = 32  # batches


class Question(NamedTuple):
    """What comes next in a session?

    clicks : list of str, item ids in time order
    k : int, how many items to answer with
    excluded : list of str, item ids to leave out
    allowed : list of str or None, item ids to choose from; None: all
    wanted : dict or None, a filter as in item_filter.py that they must pass
    covered : int, how many of the first `clicks` are covered by `state`
    model : str, the checksum of the model that `state` belongs to; another model replays all clicks
    state : bytes, as in Answer; empty: none
    """

    clicks: list
    k: int
    excluded: list = ()
    allowed: list | None = None
    wanted: dict | None = None
    covered: int = 0
    model: str = ""
    state: bytes = b""


class Answer(NamedTuple):
    """The best items for a question.

    model : model_reload.ServedModel that answered
    item_ids : list of str
    scores : list of float
    unknown : int, how many clicks of the question were left out, because the model doesn't know their items
    state : bytes, the layers' states after the last click; empty if no click is known, or the scorer can't use it
    fallback : str, what was answered instead where no click is known: `popular` items, or `none`; empty otherwise
    """

    model: object
    item_ids: list
    scores: list
    unknown: int
    state: bytes
    fallback: str = ""


class QueueFull(Exception):
    """Too many questions are waiting."""


class Batcher:
    """Collects questions and answers them in batches, in the thread of the event loop.

    Parameters
    ----------
    slot : model_reload.ModelSlot
        Each batch is answered by the model that is there when its turn comes.
    max_batch, max_queue : int
        Questions in one product, and questions that may wait. Questions asked together stay together, so that one model
        answers them, even if that makes the product larger.
    on_batch : function
        Called with the size of each batch.
    """

    def __init__(self, slot, max_batch, max_queue, on_batch=lambda size: None):
        self.slot, self.max_batch, self.max_queue, self.on_batch = slot, max_batch, max_queue, on_batch
        self.waiting, self.size = deque(), 0  # (questions, their future, what they count), and the sum of the last
        self.began = -SPACING  # when the last batch started, by the event loop's clock
        self.sizes, self.expected = deque(maxlen=LATELY), 1  # calls of `ask` in the last batches; the most of these
        self.next, self.is_at_once = None, False  # how the event loop will call `_answer_waiting`

    async def ask(self, questions, more=0):
        """The Answers to a list of Questions; QueueFull if there is no room for all of them.

        They count as so many more than they are. That alone doesn't keep them out of an empty queue.
        """
        counted = len(questions) + more
        if self.size + counted > self.max_queue and (self.size or len(questions) > self.max_queue):
            raise QueueFull
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.waiting.append((questions, future, counted))
        self.size += counted
        self._schedule(loop)
        return await future

    def _schedule(self, loop):
        """See to it that what waits is answered: at once if nobody else is expected, otherwise when it is time."""
        if self.is_at_once or not self.waiting:
            return
        if len(self.waiting) >= self.expected:
            if self.next:
                self.next.cancel()
            self.next, self.is_at_once = loop.call_soon(self._answer_waiting, loop), True
        elif not self.next:
            self.next = loop.call_later(max(self.began + SPACING - loop.time(), 0), self._answer_waiting, loop)

    def _answer_waiting(self, loop):
        self.next, self.is_at_once, self.began = None, False, loop.time()
        batch, futures = [], []
        while self.waiting and len(batch) < self.max_batch:
            questions, future, counted = self.waiting.popleft()
            self.size -= counted
            if not future.done():  # cancelled: the client is gone
                futures.append((future, len(batch), len(batch) + len(questions)))
                batch += questions
        self.sizes.append(len(futures))
        self.expected = max(self.sizes)
        self._schedule(loop)  # the rest, after the event loop has looked at the connections
        if not batch:
            return
        self.on_batch(len(batch))
        try:
            answers = answer(self.slot.model, batch)
        except Exception as error:
            for future, _, _ in futures:
                future.set_exception(error)
            return
        for future, start, end in futures:
            future.set_result(answers[start:end])


def answer(model, questions):
    """The Answers of `model`, a model_reload.ServedModel, to a list of Questions."""
    scorer, index_of = model.scorer, model.index_of
    no_click = bytes(4 * scorer.state_size)
    items, offsets, states, unknown = [], [0], [], []
    for question in questions:
        known = [index_of.get(item_id) for item_id in question.clicks]
        unknown.append(known.count(None))
        carried = scorer.state_size and question.model == model.checksum and len(question.state) == len(no_click)
        states.append(question.state if carried else no_click)
        items += [item for item in known[question.covered if carried else 0:] if item is not None]
        offsets.append(len(items))
    before = np.frombuffer(b"".join(states), np.float32).reshape(len(questions), scorer.state_size)
    after = scorer.replay(Sessions(np.array(items, np.int32), np.array(offsets)), before)

    rows = [row for row in range(len(questions)) if offsets[row] < offsets[row + 1] or states[row] is not no_click]
    excluded = [model.known(question.excluded) for question in questions]
    allowed = [model.choice(question.allowed, question.wanted) for question in questions]
    best = scorer.best(scorer.last_layer(after)[rows], [questions[row].k for row in rows],
                       [excluded[row] for row in rows], [allowed[row] for row in rows])
    answers = [None] * len(questions)
    for row, (found, scores) in zip(rows, best):
        answers[row] = Answer(model, [model.item_ids[item] for item in found.tolist()], scores.tolist(), unknown[row],
                              after[row].tobytes() if scorer.state_size else b"")
    for row, question in enumerate(questions):
        if answers[row] is None:
            answers[row] = _fall_back(model, question, unknown[row], excluded[row], allowed[row])
    return answers


def _fall_back(model, question, unknown, excluded, allowed):
    """The Answer to a Question none of whose clicks is known."""
    if model.popular is None:
        return Answer(model, [], [], unknown, b"", "none")
    found, clicks = model.popular.best(not question.clicks, question.k, excluded, allowed)
    return Answer(model, [model.item_ids[item] for item in found.tolist()], clicks.tolist(), unknown, b"", "popular")
