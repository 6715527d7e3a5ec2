"""The form of requests and replies, their limits, and the OpenAPI description made from both."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from utils.data.item_filter import MOST_VALUES

MAX_BODY_BYTES = 1 << 20
MAX_SESSIONS, MAX_CLICKS, MAX_K, MAX_IDS, MAX_QUERY_IDS, MAX_ID_LENGTH = 64, 200, 1000, 10_000, 100, 256
MAX_FILTER_LENGTH, MAX_FIELDS = 1000, 20
MAX_FIELD_BYTES, FIELD_BYTES = 4 << 20, 4  # of the fields in a reply, so many counted for each beside its text

ItemId = Annotated[str, Meta(min_length=1, max_length=MAX_ID_LENGTH, description="An item id, as in the clicks.")]
ItemIds = Annotated[list[ItemId], Meta(max_length=MAX_IDS)]
FewItemIds = Annotated[list[ItemId], Meta(max_length=MAX_QUERY_IDS)]
Session = Annotated[list[ItemId], Meta(max_length=MAX_CLICKS,
                                       description="The item ids of a session's clicks in time order.")]
K = Annotated[int, Meta(ge=1, le=MAX_K, description="How many items to recommend.")]
ExcludeClicked = Annotated[Literal["last", "seen", "none"], Meta(
    description="Which items of the session itself to leave out: the last one clicked, all, or none. Without it, what "
                "the server's --exclude says.")]
ExcludeSeen = Annotated[bool, Meta(
    description="true is exclude_clicked=seen, false is exclude_clicked=none. The other name goes first.")]
Filter = Annotated[str, Meta(max_length=MAX_FILTER_LENGTH, description=(
    "Which items to choose from, by their fields: COLUMN:VALUE, several separated by commas. Several values of a "
    "column are alternatives."))]
Name = Annotated[str, Meta(max_length=MAX_ID_LENGTH)]
Value = Annotated[str, Meta(max_length=MAX_ID_LENGTH)] | int
FilterObject = Annotated[dict[Name, Value | Annotated[list[Value], Meta(max_length=MOST_VALUES)]], Meta(
    max_length=MOST_VALUES, description="The same by columns; a list has alternatives.")]
Fields = Annotated[list[Name], Meta(max_length=MAX_FIELDS, description="Fields of the items to show.")]
Fallback = Annotated[Literal["popular", "none"], Meta(
    description="The model knows no click of the session: popular items are answered, or none where the model has no "
                "counts of clicks.")]
ShownFields = Annotated[dict[str, list[str | None]], Meta(
    description="The fields that were asked for, each in the order of the items; null for an item without a row.")]


class SessionsToAnswer(Struct, forbid_unknown_fields=True):
    """Whole sessions."""

    sessions: Annotated[list[Session], Meta(min_length=1, max_length=MAX_SESSIONS)]
    k: K = 20
    exclude_clicked: ExcludeClicked | UnsetType = UNSET
    exclude_seen: ExcludeSeen | UnsetType = UNSET
    exclude: ItemIds = []
    allow: ItemIds | UnsetType = UNSET
    filter: Filter | FilterObject | UnsetType = UNSET
    fields: Fields = []


class Click(Struct, forbid_unknown_fields=True):
    """A click of a live session, as a query."""

    session_id: Annotated[str, Meta(min_length=1, max_length=128, description="Any text that names the session.")]
    item_id: ItemId
    user_consent: Annotated[bool, Meta(
        description="Whether the server may remember the session. Without it, only this click counts, and what was "
                    "remembered is deleted.")] = False
    k: K = 20
    exclude_clicked: ExcludeClicked | UnsetType = UNSET
    exclude_seen: ExcludeSeen | UnsetType = UNSET
    exclude: Annotated[FewItemIds, Meta(description="Item ids to leave out.")] = []
    allow: Annotated[FewItemIds, Meta(description="Item ids to choose from; without it, all.")] | UnsetType = UNSET
    filter: Filter | UnsetType = UNSET
    fields: Fields = []


class LikeItem(Struct, forbid_unknown_fields=True):
    """An item to find similar ones for, as a query."""

    item_id: ItemId
    k: K = 20


class ItemSearch(Struct, forbid_unknown_fields=True):
    """The beginning of item ids, as a query."""

    prefix: Annotated[str, Meta(max_length=MAX_ID_LENGTH, description="What the ids begin with.")] = ""
    k: K = 20


class Model(Struct):
    """The model that answered: model directory and epoch, and the SHA-256 of its weights."""

    name: str
    sha256: str


class Best(Struct):
    """The best items, the best first, and their scores.

    With a fallback, the scores are numbers of clicks in the newest training sessions.
    """

    items: list[str]
    scores: list[float]
    unknown_items: Annotated[int, Meta(
        ge=0, description="Clicks that were left out, because the model doesn't know their items.")]
    fallback: Fallback | UnsetType = UNSET
    fields: ShownFields | UnsetType = UNSET


class Answers(Struct):
    """The best items for each session, in the order of the request."""

    model: Model
    answers: list[Best]


class LiveAnswer(Struct):
    """The best items after the click."""

    model: Model
    items: list[str]
    scores: list[float]
    unknown_items: Annotated[int, Meta(ge=0)]
    clicks: Annotated[int, Meta(ge=1, description="Clicks of the session that count, this one included.")]
    fallback: Fallback | UnsetType = UNSET
    fields: ShownFields | UnsetType = UNSET


class SimilarItems(Struct):
    """Items similar to one, the most similar first, and their cosines."""

    model: Model
    item_id: str
    items: list[str]
    scores: list[float]


class FoundItems(Struct):
    """Item ids, the most frequent first, and the fields that items have here."""

    model: Model
    items: list[str]
    fields: list[str]


class Health(Struct):
    """Whether the server does its work."""

    status: str
    model: Model | None = None


class Problem(Struct):
    """What is wrong with a request, and where."""

    status: int
    where: str
    message: str


class Refusal(Struct):
    """The body of every reply that is not 200."""

    error: Problem
    request_id: str


BAD_REQUEST = {400: "The request can't be read.", 405: "Another method is expected.",
               408: "The request didn't arrive in time.", 431: "Path, query and headers are too large or too many.",
               503: "Too many connections are open, or send too much at once."}
BAD_QUERY = BAD_REQUEST | {400: "The request can't be read, or it asks for fields that items don't have here.",
                           422: "A parameter is missing, unknown, or outside its limits.",
                           429: "Too many requests from this client.",
                           503: "No model yet, too many requests wait, the session store doesn't answer, too many "
                                "connections are open, or they send too much at once."}
BAD_BODY = BAD_QUERY | {413: "The body is too large.", 415: "The body is not JSON.",
                        422: "The body is not what the schema allows."}
ROUTES = [  # path, method, what it does, body, query, reply, other replies
    ("/v1/recommend", "post", "The next items of whole sessions", SessionsToAnswer, None, Answers, BAD_BODY),
    ("/v1/recommend", "get", "The next items of a live session", None, Click, LiveAnswer, BAD_QUERY),
    ("/v1/similar", "get", "Items similar to one", None, LikeItem, SimilarItems,
     BAD_QUERY | {404: "The model doesn't know the item."}),
    ("/v1/items", "get", "Items that the model knows", None, ItemSearch, FoundItems, BAD_QUERY),
    ("/livez", "get", "Is the process alive?", None, None, Health, BAD_REQUEST),
    ("/readyz", "get", "Can it answer now?", None, None, Health,
     BAD_REQUEST | {503: "It loads its model, is about to stop, or has too many connections."}),
]


def openapi(has_fields=False, more=()):
    """The description of the routes above, and `more` of this form, a dict.

    `has_fields` says whether the server knows the items' fields.
    """
    routes = [*ROUTES, *more]
    kinds = [kind for _, _, _, *kinds, _ in routes for kind in kinds if kind] + [Refusal]
    found, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(kinds, found))
    if not has_fields:
        for kind in SessionsToAnswer, Click:
            for name in "filter", "fields":
                del schemas[kind.__name__]["properties"][name]

    def content(kind):
        return {"application/json": {"schema": schema_of[kind]}}

    paths = {}
    for path, method, summary, body, query, reply, refusals in routes:
        operation = {"summary": summary, "operationId": f"{method}{path.replace('/', '_')}", "responses": {
            "200": {"description": reply.__doc__, "content": content(reply)},
            **{str(status): {"description": text, "content": content(Refusal)} for status, text in refusals.items()}}}
        if body:
            operation["requestBody"] = {"required": True, "content": content(body)}
        if query:
            schema = schemas[query.__name__]
            operation["parameters"] = [
                {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": parameter}
                for name, parameter in schema["properties"].items()]
        paths.setdefault(path, {})[method] = operation
    about = {"title": "GRU4REC", "version": "1", "description": "The next click of anonymous sessions."}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": schemas}}
