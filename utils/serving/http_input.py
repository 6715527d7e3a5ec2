"""What clients send: bodies and queries as http_messages, and what can't be read as a refusal."""

import asyncio
from urllib.parse import parse_qsl

import msgspec

from utils.data.item_filter import words
from utils.serving import http_messages as messages

BODY_SECONDS = 10
BOOLEANS = {"true": True, "false": False}

decode_sessions = msgspec.json.Decoder(messages.SessionsToAnswer).decode


class Refused(Exception):
    """A request that gets no answer: the status, which part is wrong, and what is wrong with it."""

    def __init__(self, status, where, message, retry_after=None):
        self.status, self.where, self.message, self.retry_after = status, where, message, retry_after


async def read_body(request):
    """The body of a POST as messages.SessionsToAnswer."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json" or parameters.replace(" ", "").lower() not in ("", "charset=utf-8"):
        raise Refused(415, "header.content-type",
                      f"found {kind[:40]!r} {parameters[:40]!r}, expected application/json")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "header.content-encoding", "found a compressed body, expected it as it is")
    body = bytearray()
    if int(request.headers.get("content-length", 0)) <= messages.MAX_BODY_BYTES:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > messages.MAX_BODY_BYTES:
                        break
                else:
                    return decode_sessions(body)
        except TimeoutError:
            raise Refused(408, "body", f"found no end of it after {BODY_SECONDS} seconds, expected one") from None
        except msgspec.ValidationError as error:
            raise wrong_message("body", error) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(400, "body", f"found no JSON ({error}), expected some") from None
    raise Refused(413, "body", f"found more than {messages.MAX_BODY_BYTES} bytes, expected fewer")


def read_query(request, kind):
    """The query of a GET as one of the `messages`."""
    try:
        pairs = parse_qsl(request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise Refused(400, "query", "found bytes that are not UTF-8, expected text") from None
    values = {}
    for name, text in pairs:
        if name in ("exclude", "allow"):
            values.setdefault(name, []).append(text)
        elif name in values:
            raise Refused(422, f"query.{name[:40]}", "found twice, expected once")
        elif name == "k":
            is_integer = text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 10
            values[name] = int(text) if is_integer else text
        elif name in ("user_consent", "exclude_seen"):
            values[name] = BOOLEANS.get(text, text)
        elif name == "fields":
            values[name] = _names(text)
        else:
            values[name] = text
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise wrong_message("query", error) from None


def _names(text):
    """The names of the query's fields, a list."""
    try:
        return words(text)
    except ValueError as error:
        raise Refused(400, "query.fields", str(error)) from None


def wrong_message(part, error):
    """Refused, with the place where msgspec found the mistake."""
    message, _, place = str(error).partition(" - at `$")
    return Refused(422, part + place.removesuffix("`"), message.replace("`", "'"))
