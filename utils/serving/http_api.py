"""The server's routes, an ASGI application: requests come in, questions go to the model, replies go out."""

import asyncio
import os
import signal
import time
from collections import OrderedDict
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from msgspec import UNSET
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from utils.memory import own_room
from utils.model.load import prepare
from utils.serving import http_messages as messages
from utils.serving import inference_protocol, intent_messages, monitoring, sagemaker
from utils.serving.http_choice import clicked_to_exclude, counted, excluded, require_fields, shown_fields, wanted_of
from utils.serving.http_input import Refused, read_body, read_query
from utils.serving.http_replies import encode, refuse, refuse_failed, refuse_gone, refuse_route, reply
from utils.serving.http_requests import Requests
from utils.serving.item_reload import ItemFile
from utils.serving.micro_batches import Batcher, Question, QueueFull
from utils.serving.model_reload import ModelSlot, ServedModel, signature_of
from utils.serving.session_store import StoreError, open_store
from utils.serving.shared_directory import machine_store, shared_directory
from utils.serving.shared_memory import SharedMemory

PAGE = Path(__file__).with_name("page.html")
PAGE_MAY = ("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
            "base-uri 'none'")
CLIENTS = 10_000  # how many clients' rates are watched
SAVING = 1_000_000  # multiplications that take as long as saving a state; clicks that cost less are replayed
SEARCHED_ITEMS = 100_000
MAX_COMPARED = 16  # searches for similar items at once: each takes memory, and time of everyone else
LONGEST_UNKNOWN = 40  # characters; enough for most shops' ids, UUIDs among them
NO_ITEM = ""  # what stands for a longer one in a session; no item is called so


@dataclass
class ServerSettings:
    """The server's settings; serve.py's flags with these names say what each one means.

    model_dir : str, empty: nothing is recommended
    epoch : int or None, None for the best or the last
    session_store : str
    model_name : str, what the open inference protocol calls the model
    items : str, the table of the items' fields; empty: none
    intent_model_dir : str, the model of purchase intent; empty: none
    exclude : str, which items of a session are left out; empty: last in live sessions, none in whole ones
    reload_seconds, drain_seconds, session_ttl, client_rate : float
    max_sessions, session_memory, max_batch, max_queue : int
    logs_all : bool, whether successful requests are logged too
    """

    model_dir: str
    epoch: int = None
    session_store: str = ""
    model_name: str = "gru4rec"
    items: str = ""
    intent_model_dir: str = ""
    exclude: str = ""
    reload_seconds: float = 5.0
    drain_seconds: float = 0.0
    session_ttl: float = 1800.0
    client_rate: float = 0.0
    max_sessions: int = 500_000
    session_memory: int = 1024
    max_batch: int = 64
    max_queue: int = 512
    logs_all: bool = True


def create_application(settings):
    """The ASGI application for these ServerSettings."""
    application = Api(settings).application
    return Requests(application, {route.path for route in application.routes}, settings.logs_all)


class Api:
    """The routes, and the state they share."""

    def __init__(self, settings):
        self.settings, self.is_draining, self.store = settings, False, None
        model_dir, epoch = settings.model_dir, settings.epoch
        directory = os.environ.get(monitoring.DIRECTORY)
        room = SharedMemory(directory).room if directory else own_room
        self.slot = ModelSlot(partial(ServedModel, model_dir, epoch, room), partial(signature_of, model_dir, epoch),
                              monitoring.count_model, partial(prepare, model_dir),
                              ItemFile(settings.items) if settings.items else None)
        self.intent = None
        if settings.intent_model_dir:
            from utils.serving.intent_api import IntentApi  # pyarrow loads for this alone
            self.intent = IntentApi(settings.intent_model_dir)
        self.slots = [self.slot] * bool(model_dir) + ([self.intent.slot] if self.intent else [])
        self.batcher = Batcher(self.slot, settings.max_batch, settings.max_queue, monitoring.batch_size.observe)
        self.rates, self.compared = ClientRates(settings.client_rate), 0
        more = intent_messages.ROUTES if self.intent else ()
        self.description, self.page = encode(messages.openapi(bool(settings.items), more)), PAGE.read_bytes()
        self.application = Starlette(lifespan=self.lifespan, routes=[
            Route("/v1/recommend", self.recommend, methods=["GET", "POST"]),  # first, as they are tried in order
            Route("/v1/similar", self.similar), Route("/v1/items", self.items),
            Route("/livez", self.is_alive), Route("/readyz", self.is_ready), Route("/metrics", self.show_metrics),
            Route("/", self.show_page), Route("/openapi.json", self.describe),
            *([*sagemaker.routes(self), *inference_protocol.routes(self, settings.model_name)] if model_dir else []),
            *([Route(intent_messages.PATH, self.answer_intent, methods=["POST"])] if self.intent else []),
        ], exception_handlers={Refused: refuse, HTTPException: refuse_route, ClientDisconnect: refuse_gone,
                               Exception: refuse_failed})
        self.application.router.redirect_slashes = False  # /livez/ is as unknown as any other path

    @asynccontextmanager
    async def lifespan(self, application):
        address, store_bytes = self.settings.session_store, self.settings.session_memory << 20
        with nullcontext() if address else shared_directory(store_bytes) as own_directory:
            self.store = open_store(address or machine_store(own_directory), self.settings.session_ttl,
                                    self.settings.max_sessions, messages.MAX_CLICKS, store_bytes)
            watchers = [asyncio.create_task(slot.watch(self.settings.reload_seconds)) for slot in self.slots]
            if self.settings.drain_seconds:
                self._drain_before_stopping()
            for slot in self.slots:  # before the port opens: a worker that starts later has others beside it
                await slot.has_looked.wait()
            yield
            for watcher in watchers:
                watcher.cancel()
            await self.store.close()

    def _drain_before_stopping(self):
        """After SIGTERM, let /readyz say 503, so that load balancers send no more, and stop `drain_seconds` later."""
        loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

        def drain(number, frame):
            if not self.is_draining and callable(stop):
                self.is_draining = True
                loop.call_soon_threadsafe(loop.call_later, self.settings.drain_seconds, stop, number, None)
        signal.signal(signal.SIGTERM, drain)

    def count(self, request):
        """Refused if the client asks too often."""
        if not self.rates.allows(request.client.host if request.client else ""):
            raise Refused(429, "client",
                          f"found more than {self.settings.client_rate:g} requests a second, expected fewer", 1)

    def model(self, request):
        """The model to answer with; Refused if there is none yet, or the client asks too often."""
        self.count(request)
        if not self.settings.model_dir:
            raise Refused(404, "path", "found no model that recommends on this server, expected one (--model_dir)")
        if self.slot.model is None:
            raise Refused(503, "server", "found no model loaded yet, expected one soon", 1)
        return self.slot.model

    async def ask(self, questions, more=0):
        try:
            return await self.batcher.ask(questions, more)
        except QueueFull:
            raise Refused(503, "server", f"found {self.batcher.size} sessions waiting, expected room for "
                          f"{len(questions)} more within {self.settings.max_queue}", 1) from None

    # What clients ask

    async def recommend(self, request):
        return await (self.recommend_sessions if request.method == "POST" else self.recommend_live)(request)

    async def recommend_sessions(self, request):
        self.model(request)
        return reply(await self.answer(request, await read_body(request)))

    def questions(self, asked, part="body"):
        """The Questions of messages.SessionsToAnswer; refusals name the `part` of the request that has them."""
        allowed, wanted = None if asked.allow is UNSET else asked.allow, wanted_of(part, asked)
        which = clicked_to_exclude(asked, self.settings.exclude or "none")
        require_fields(part, self.slot.model, wanted, asked)
        return [Question(session, asked.k, excluded(asked, session, which), allowed, wanted)
                for session in asked.sessions]

    async def answer(self, request, asked, part="body"):
        """The messages.Answers to messages.SessionsToAnswer."""
        return self.message(request, asked, await self.answers(asked, part), part)

    async def answers(self, asked, part="body"):
        """The micro_batches.Answer to each of messages.SessionsToAnswer, for `message`."""
        return await self.ask(self.questions(asked, part), counted(asked) - len(asked.sessions))

    def message(self, request, asked, answers, part="body"):
        """The messages.Answers with these Answers. It has the `fields`, which may be large."""
        require_fields(part, answers[0].model, wanted_of(part, asked), asked)  # it may be another one by now
        _note(request, answers[0].model, sum(answer.unknown for answer in answers), len(answers))
        return messages.Answers(_named(answers[0].model), [
            messages.Best(answer.item_ids, _rounded(answer.scores), answer.unknown, answer.fallback or UNSET, fields)
            for answer, fields in zip(answers, shown_fields(part, asked, answers))])

    async def recommend_live(self, request):
        model, asked = self.model(request), read_query(request, messages.Click)
        allowed, wanted = None if asked.allow is UNSET else asked.allow, wanted_of("query", asked)
        which = clicked_to_exclude(asked, self.settings.exclude or "last")
        require_fields("query", model, wanted, asked)
        try:
            if not asked.user_consent:
                await self.store.forget(asked.session_id)
                clicks, question = [asked.item_id], Question([asked.item_id], asked.k)
                session = None
            else:
                session = await self.store.click(asked.session_id, kept_id(asked.item_id, model))
                clicks, question = session.clicks, Question(session.clicks, asked.k)
                if session.covered_of_kept >= 0 and is_state(session.state):
                    question = question._replace(covered=session.covered_of_kept, model=session.model,
                                                 state=session.state)
            question = question._replace(excluded=excluded(asked, clicks, which), allowed=allowed, wanted=wanted)
            answer, = await self.ask([question])
            if session and answer.state and _is_worth_saving(session, answer.model):
                await self.store.save(asked.session_id, session.count, answer.model.checksum, answer.state)
        except StoreError as error:
            raise Refused(503, "server", str(error), 1) from error
        require_fields("query", answer.model, wanted, asked)  # it may be another one by now
        _note(request, answer.model, asked.item_id not in answer.model.index_of)
        return reply(messages.LiveAnswer(_named(answer.model), answer.item_ids, _rounded(answer.scores), answer.unknown,
                                         session.count if session else 1, answer.fallback or UNSET,
                                         *shown_fields("query", asked, [answer])))

    async def similar(self, request):
        model, asked = self.model(request), read_query(request, messages.LikeItem)
        item = model.index_of.get(asked.item_id)
        if item is None:
            raise Refused(404, "query.item_id",
                          f"found {asked.item_id[:40]!r}, expected an item that the model knows")
        if self.compared == MAX_COMPARED:
            raise Refused(503, "server", f"found {MAX_COMPARED} searches for similar items, expected fewer", 1)
        self.compared += 1
        try:
            best, cosines = await asyncio.to_thread(model.similar, item, asked.k)  # a million items take long
        finally:
            self.compared -= 1
        item_ids = [model.item_ids[index] for index in best.tolist()]
        return reply(messages.SimilarItems(_named(model), asked.item_id, item_ids, _rounded(cosines.tolist())))

    async def items(self, request):
        model, asked = self.model(request), read_query(request, messages.ItemSearch)
        searched = islice(model.item_ids, SEARCHED_ITEMS)
        found = (item_id for item_id in searched if item_id.startswith(asked.prefix))
        return reply(messages.FoundItems(_named(model), list(islice(found, asked.k)),
                                         list(model.fields.columns) if model.fields else []))

    async def answer_intent(self, request):
        self.count(request)
        model, answers, unknown = await self.intent.answer(request, self.store)
        _note(request, model, unknown, sessions=len(answers.answers))
        return reply(answers)

    # What operators ask

    async def is_alive(self, request):
        return reply(messages.Health("alive"))

    async def is_ready(self, request):
        return reply(messages.Health("ready", _named(self.ready_model())))

    def ready_model(self):
        """The model; Refused where the server wants no requests: it has no model yet, or is about to stop."""
        if self.is_draining:
            raise Refused(503, "server", "found the server about to stop, expected it to serve on", 1)
        models = [slot.model for slot in self.slots]
        if None in models:
            raise Refused(503, "server", "found no model loaded yet, expected one soon", 1)
        return models[0]

    async def show_metrics(self, request):
        try:
            monitoring.stored_sessions.set(await self.store.size())
        except StoreError:
            pass  # the last figure stays; the failing requests themselves are counted
        text, kind = monitoring.exposition()
        return Response(text, media_type=kind)

    async def describe(self, request):
        return Response(self.description, media_type="application/json")

    async def show_page(self, request):
        return Response(self.page, media_type="text/html", headers={"content-security-policy": PAGE_MAY})


class ClientRates:
    """Limits the requests of each client address: each has a bucket of one second's worth, which refills steadily."""

    def __init__(self, per_second):
        self.per_second, self.buckets = per_second, OrderedDict()

    def allows(self, client):
        """Whether one more request is within the rate."""
        if not self.per_second:
            return True
        now, most = time.monotonic(), max(self.per_second, 1)
        left, since = self.buckets.pop(client, (most, now))
        left = min(most, left + (now - since) * self.per_second)
        self.buckets[client] = (left - (left >= 1), now)
        if len(self.buckets) > CLIENTS:
            self.buckets.popitem(last=False)
        return left >= 1


def kept_id(item_id, model):
    """What a session keeps of a click.

    A model that comes later may know an item that this one doesn't; but nobody is to fill the store with long
    inventions.
    """
    return item_id if len(item_id) <= LONGEST_UNKNOWN or item_id in model.index_of else NO_ITEM


def is_state(stored):
    """Whether stored bytes can be a state: its numbers lie between -1 and 1, and scores of others may not be finite."""
    return len(stored) % 4 == 0 and bool((np.abs(np.frombuffer(stored, np.float32)) <= 1.001).all())


def _is_worth_saving(session, model):
    """Whether to save the session's new state.

    That is worth it if replaying the clicks that the saved state doesn't cover costs more than saving a new one, or if
    the first of these clicks may soon be forgotten.
    """
    uncovered = session.count - (session.covered if session.model == model.checksum else 0)
    return uncovered * model.scorer.click_cost >= SAVING or uncovered >= messages.MAX_CLICKS // 2


def _named(model):
    return messages.Model(model.name, model.weights_checksum)


def _rounded(scores):
    """Scores rounded as recommend.py prints them."""
    return [round(score, 6) for score in scores]


def _note(request, model, unknown, sessions=0):
    """Report an answer to the log and the metrics; a request may get several."""
    if unknown:
        monitoring.unknown_items.inc(unknown)
    log = request.scope["log"]
    log.update(model=model.name, unknown_items=log.get("unknown_items", 0) + int(unknown))
    if sessions:
        log["sessions"] = log.get("sessions", 0) + sessions
