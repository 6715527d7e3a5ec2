"""The form of requests and replies of /v1/intent; what all routes share is in http_messages.py."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from utils.serving.http_messages import BAD_BODY, MAX_CLICKS, MAX_ID_LENGTH, MAX_SESSIONS, ItemId, Model

PATH = "/v1/intent"
MOST_SECONDS = 1e10  # the year 2286

Category = Annotated[str, Meta(max_length=MAX_ID_LENGTH, description="The item's category; empty: it isn't known.")]
Seconds = Annotated[float, Meta(ge=0, le=MOST_SECONDS, description="Unix time of the click, in seconds.")]
Probability = Annotated[float, Meta(ge=0, le=1)]


class TimedClick(Struct, forbid_unknown_fields=True):
    """A click of a session that is sent whole."""

    item_id: ItemId
    time: Seconds
    category: Category = ""


class RunningClick(Struct, forbid_unknown_fields=True):
    """The next click of a session that the server remembers."""

    session_id: Annotated[str, Meta(min_length=1, max_length=128, description="Any text that names the session.")]
    item_id: ItemId
    time: Seconds | UnsetType = UNSET
    category: Category = ""
    user_consent: Annotated[bool, Meta(
        description="Whether the server may remember the session. Without it, only this click counts, and what was "
                    "remembered is deleted.")] = False


class IntentQuestion(Struct, forbid_unknown_fields=True):
    """Sessions, whole or as far as they have come; or the next click of one that the server remembers."""

    sessions: Annotated[list[Annotated[list[TimedClick], Meta(
        min_length=1, max_length=MAX_CLICKS, description="A session's clicks in time order.")]],
        Meta(min_length=1, max_length=MAX_SESSIONS)] | UnsetType = UNSET
    click: RunningClick | UnsetType = UNSET


class ItemIntent(Struct):
    """An item of the session."""

    item_id: Annotated[str, Meta(description="As in the clicks; in a remembered session, a digest for the id of an "
                                             "earlier click that the model doesn't know and that has more than 40 "
                                             "characters.")]
    probability: Annotated[Probability, Meta(description="That the session buys the item, if it buys anything.")]
    is_bought: Annotated[bool, Meta(description="Whether that reaches the model's threshold, or is the highest one.")]


class Intent(Struct):
    """What a session is expected to buy."""

    probability: Annotated[Probability, Meta(description="That the session buys anything.")]
    buys: Annotated[bool, Meta(description="Whether that reaches the model's threshold.")]
    items: list[ItemIntent]
    unknown_items: Annotated[int, Meta(ge=0, description="Clicks on items that the model doesn't know; they count, "
                                                         "as those on any rare item.")]


class IntentAnswers(Struct):
    """What each session is expected to buy, in the order of the request."""

    model: Model
    answers: list[Intent]
    clicks: Annotated[int, Meta(ge=1, description="Clicks of the remembered session, this one included.")] | UnsetType \
        = UNSET


ROUTES = [(PATH, "post", "Whether sessions buy, and which of their items", IntentQuestion, None, IntentAnswers,
           BAD_BODY | {409: "Running sessions need a model that isn't bidirectional."})]

decode_question = msgspec.json.Decoder(IntentQuestion).decode
encode_kept = msgspec.json.Encoder().encode
decode_kept = msgspec.json.Decoder(TimedClick).decode
