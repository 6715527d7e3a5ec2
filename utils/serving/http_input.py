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


async def read_body(request, decode=decode_sessions):
    """The body of a POST, by default as messages.SessionsToAnswer; `decode` is a method of a msgspec.json.Decoder."""
    require_kind(request, ["application/json"])
    return decoded(decode, await read_bytes(request))


def require_kind(request, kinds):
    """The content type of a request, without parameters; Refused unless it is one of `kinds`, in UTF-8."""
    given, _, parameters = request.headers.get("content-type", "").partition(";")
    kind = given.strip().lower()
    if kind not in kinds or parameters.replace(" ", "").lower() not in ("", "charset=utf-8"):
        raise Refused(415, "header.content-type",
                      f"found {given[:40]!r} {parameters[:40]!r}, expected {' or '.join(filter(None, kinds))}")
    return kind


async def read_bytes(request, most=messages.MAX_BODY_BYTES):
    """The body of a POST, a bytearray of at most so many bytes."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "header.content-encoding", "found a compressed body, expected it as it is")
    body = bytearray()
    if int(request.headers.get("content-length", 0)) <= most:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        break
                else:
                    return body
        except TimeoutError:
            raise Refused(408, "body", f"found no end of it after {BODY_SECONDS} seconds, expected one") from None
    raise Refused(413, "body", f"found more than {most} bytes, expected fewer")


def decoded(decode, data, part="body"):
    """What a decoder of msgspec's makes of JSON; Refused where that is none, or not of the form that it wants."""
    try:
        return decode(data)
    except msgspec.ValidationError as error:
        raise wrong_message(part, error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, part, f"found no JSON ({error}), expected some") from None


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
    return Refused(422, part + place.removesuffix("`"), message.replace("`bool`", "true or false").replace("`", "'"))
