"""The route /v1/intent: whether sessions buy, and what; of whole sessions, or click by click of running ones."""

import asyncio
import hashlib
import time
from functools import partial

from msgspec import UNSET

from utils.serving import monitoring
from utils.serving.http_input import Refused, read_body
from utils.serving.http_messages import Model
from utils.serving.intent_messages import (
    Intent,
    IntentAnswers,
    ItemIntent,
    TimedClick,
    decode_kept,
    decode_question,
    encode_kept,
)
from utils.serving.intent_model import ServedIntent
from utils.serving.model_reload import ModelSlot, signature_of
from utils.serving.session_store import StoreError

MOST_AT_ONCE = 16  # questions that are computed at once: each takes memory, and time of everyone else
DIGITS = 6  # of probabilities in replies
LONGEST_KEPT = 40  # characters of an unknown item's id or category; of longer ids, a digest stands for them
KEEPING = "purchase intent of".ljust(129)  # longer than any session id, so that no session of another route has it


class IntentApi:
    """What answers the route for a model directory.

    Parameters
    ----------
    model_dir : str
    """

    def __init__(self, model_dir):
        self.slot = ModelSlot(partial(ServedIntent, model_dir), partial(signature_of, model_dir),
                              monitoring.count_model)
        self.computing = 0

    async def answer(self, request, store):
        """The model that answers a request, the IntentAnswers, and the number of clicks on unknown items.

        The `store` remembers running sessions.
        """
        model = self.slot.model
        if model is None:
            raise Refused(503, "server", "found no model of purchase intent loaded yet, expected one soon", 1)
        asked = await read_body(request, decode_question)
        if (asked.sessions is UNSET) == (asked.click is UNSET):
            found = "neither" if asked.click is UNSET else "both"
            raise Refused(422, "body", f"found {found} of sessions and click, expected one of them")
        if asked.click is UNSET:
            sessions, count = [[_kept_as(click) for click in session] for session in asked.sessions], UNSET
        else:
            clicks, count = await self._running(asked.click, model, store)
            sessions = [clicks]
        model, found = await self._compute(sessions)
        answers = [Intent(round(score, DIGITS), buys, [ItemIntent(item_id, round(of_item, DIGITS), is_bought)
                                                       for item_id, of_item, is_bought in items], unknown)
                   for score, buys, items, unknown in found]
        unknown = sum(answer.unknown_items for answer in answers)
        return model, IntentAnswers(Model(model.name, model.weights_checksum), answers, count), unknown

    async def _running(self, click, model, store):
        """The clicks of a running session, the new one included, and their number."""
        if not model.answers_running:
            raise Refused(409, "body.click", "found a click of a running session, expected whole sessions: this "
                          "server's model is bidirectional, for sessions that have ended")
        if click.time is UNSET:
            click.time = time.time()
        key, known = KEEPING + click.session_id, (click.item_id in model.index_of, click.category in model.category_of)
        shortened = _short(click, *known)
        try:
            if not click.user_consent:
                await store.forget(key)
                return [_kept_as(click)], 1
            session = await store.click(key, encode_kept(shortened).decode())
        except StoreError as error:
            raise Refused(503, "server", str(error), 1) from error
        kept = []
        for text in session.clicks:
            try:
                found = decode_kept(text)
            except ValueError:  # a store that others write to, too
                continue
            if found.item_id == shortened.item_id:  # a digest says nothing to the client
                found.item_id = click.item_id
            kept.append(_kept_as(found))
        return kept or [_kept_as(click)], session.count

    async def _compute(self, sessions):
        """The model, which may be a new one by now, and its answers."""
        if self.computing == MOST_AT_ONCE:
            raise Refused(503, "server", f"found {MOST_AT_ONCE} questions being computed, expected fewer", 1)
        model = self.slot.model
        self.computing += 1
        try:
            return model, await asyncio.to_thread(model.answers, sessions)
        finally:
            self.computing -= 1


def _kept_as(click):
    """A click as ServedIntent.answers takes it."""
    return click.item_id, click.category, click.time


def _short(click, knows_item, knows_category):
    """The TimedClick of a click that is kept: nobody is to fill the store with long inventions."""
    item_id, category = click.item_id, click.category
    if not knows_item and len(item_id) > LONGEST_KEPT:
        item_id = hashlib.blake2b(item_id.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    if not knows_category and len(category) > LONGEST_KEPT:
        category = ""
    return TimedClick(item_id, click.time, category)
