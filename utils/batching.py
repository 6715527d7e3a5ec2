"""Questions that wait are answered together: one product with the item matrix for all of them.

Nothing waits for company. A worker answers between two looks at its connections; what came in while it computed is the next
batch. So a lone question is answered at once, and the busier the server, the larger the batches.
"""

import asyncio
from collections import deque
from typing import NamedTuple

import numpy as np

from utils.sessions import Sessions


class Question(NamedTuple):
    """What follows a session?

    clicks : list of str, item ids in time order
    k : int, how many items to answer with
    excluded : list of str, item ids to leave out
    allowed : list of str or None, item ids to choose from; None: all
    covered : int, how many of `clicks`, the first ones, `state` covers
    model : str, the checksum of the model that `state` belongs to; another model replays all clicks
    state : bytes, as Answer.state; empty: none
    """

    clicks: list
    k: int
    excluded: list = ()
    allowed: list | None = None
    covered: int = 0
    model: str = ""
    state: bytes = b""


class Answer(NamedTuple):
    """The best items for a question.

    model : model_reload.ServedModel that answered
    item_ids : list of str
    scores : list of float
    unknown : int, how many of the question's clicks the model doesn't know the items of; they are left out
    state : bytes, the layers' states after the last click; empty where no click is known
    """

    model: object
    item_ids: list
    scores: list
    unknown: int
    state: bytes


class QueueFull(Exception):
    """More questions wait than may."""


class Batcher:
    """Collects questions and answers them in batches, in the thread of the event loop.

    Parameters
    ----------
    slot : model_reload.ModelSlot
        Each batch is answered by the model that is there when its turn comes.
    max_batch, max_queue : int
        Questions in one product, and questions that may wait. Those asked together stay together, and so get one model's
        answers, even where that makes the product larger.
    on_batch : function
        Called with the size of each batch.
    """

    def __init__(self, slot, max_batch, max_queue, on_batch=lambda size: None):
        self.slot, self.max_batch, self.max_queue, self.on_batch = slot, max_batch, max_queue, on_batch
        self.waiting, self.size, self.is_scheduled = deque(), 0, False

    async def ask(self, questions):
        """The Answers to a list of Questions; QueueFull where there is no room for all of them."""
        if self.size + len(questions) > self.max_queue:
            raise QueueFull
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.waiting.append((questions, future))
        self.size += len(questions)
        self._schedule(loop)
        return await future

    def _schedule(self, loop):
        if self.waiting and not self.is_scheduled:
            self.is_scheduled = True
            loop.call_soon(self._answer_waiting, loop)

    def _answer_waiting(self, loop):
        self.is_scheduled = False
        batch, futures = [], []
        while self.waiting and len(batch) < self.max_batch:
            questions, future = self.waiting.popleft()
            self.size -= len(questions)
            if not future.done():  # cancelled: whoever asked has gone
                futures.append((future, len(batch), len(batch) + len(questions)))
                batch += questions
        self._schedule(loop)  # the rest, after a look at the connections
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
    """The Answers of a model_reload.ServedModel to a list of Questions."""
    index_of, clicks, blobs, unknown = model.index_of, [], [], []
    for question in questions:
        known = [index_of.get(item_id) for item_id in question.clicks]
        unknown.append(known.count(None))
        carried = question.state and question.model == model.checksum
        blobs.append(question.state if carried else b"")
        clicks.append([item for item in known[question.covered if carried else 0:] if item is not None])
    flat = np.array([item for items in clicks for item in items], np.int32)
    offsets = np.cumsum([0] + [len(items) for items in clicks])
    states = model.scorer.replay(Sessions(flat, offsets), model.states_from(blobs))

    excluded = [[index_of[item_id] for item_id in question.excluded if item_id in index_of] for question in questions]
    answered = [bool(items or blob) for items, blob in zip(clicks, blobs)]
    everything = [row for row, question in enumerate(questions) if answered[row] and question.allowed is None]
    best = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(questions)
    if everything:
        largest = max(questions[row].k for row in everything)
        found = model.best(states[-1][everything], largest, [excluded[row] for row in everything])
        for row, pair in zip(everything, found):
            best[row] = pair
    for row, question in enumerate(questions):
        if answered[row] and question.allowed is not None:
            allowed = np.array([index_of[item_id] for item_id in question.allowed if item_id in index_of], np.int64)
            best[row] = model.best_of(allowed, states[-1][row], question.k, excluded[row])
    return [Answer(model, [model.item_ids[item] for item in items[:question.k].tolist()],
                   scores[:question.k].tolist(), unknown[row], model.state_bytes(states, row) if answered[row] else b"")
            for row, (question, (items, scores)) in enumerate(zip(questions, best))]
