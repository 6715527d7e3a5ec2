"""SageMaker's contract for containers that answer: GET /ping, POST /invocations and GET /execution-parameters.

JSON is answered as by POST /v1/recommend. JSON lines and CSV may be larger, as batch transforms send them. They are
read line by line, once to refuse what is wrong and once more to answer it, so that few lines are in memory at a time.
"""

import asyncio
import csv
import io
from functools import partial

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from utils.process import processors
from utils.serving import http_messages as messages
from utils.serving.http_choice import counted
from utils.serving.http_input import Refused, decode_sessions, decoded, read_bytes, require_kind
from utils.serving.http_replies import encode, reply

JSON, JSON_LINES, CSV = "application/json", "application/jsonlines", "text/csv"
MAX_BYTES = 6 << 20  # of JSON lines or CSV: what SageMaker sends at most, unless a transform job says otherwise
MAX_LINES = 100_000
# What a transform job is to send at once: a worker can hold all of it, as http_protocol.MAX_HELD_BYTES says.
TRANSFORMS, MEGABYTES = 8, 1
ATTRIBUTES = "x-amzn-sagemaker-custom-attributes"  # the one header of a client's that SageMaker passes on
VALUES_OF_ONE = 50  # items and their fields; a line whose answer has more of them counts as several
PART_BYTES = 256 << 10  # of a reply; so many go out together
PAUSE = 0.02  # seconds until lines that found the queue full are tried again

convert_sessions = partial(msgspec.convert, type=messages.SessionsToAnswer)


def routes(api):
    """The routes of an http_api.Api for SageMaker."""
    return [Route("/ping", partial(ping, api)), Route("/invocations", partial(invoke, api), methods=["POST"]),
            Route("/execution-parameters", execution_parameters)]


async def ping(api, request):
    api.ready_model()
    return Response()


async def execution_parameters(request):
    """What a transform job should ask for, where its user doesn't say."""
    return reply({"MaxConcurrentTransforms": min(processors(), TRANSFORMS),
                  "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": MEGABYTES})


async def invoke(api, request):
    api.model(request)
    kind = require_kind(request, [JSON, JSON_LINES, CSV])
    if kind == JSON:
        return reply(await api.answer(request, decoded(decode_sessions, await read_bytes(request))))
    parse = partial(from_csv, k=_asked_k(request)) if kind == CSV else from_json
    body = await read_bytes(request, MAX_BYTES)
    if not body:
        raise Refused(400, "body", "found nothing, expected a line for each session")
    for group in read_lines(body, parse):
        for asked, part in group:
            api.questions(asked, part)
        await asyncio.sleep(0)  # other requests come first
    return StreamingResponse(answer_lines(api, request, read_lines(body, parse), kind), media_type=kind)


async def answer_lines(api, request, groups, kind):
    """The lines of the reply, many at a time, but few of those with large `fields`.

    While a client takes long to read one part, the next one isn't made yet, and nothing of this one is kept here.
    """
    for group in groups:
        answers, lines = await asyncio.gather(*[ask(api, *line) for line in group]), []
        answers.reverse()
        for asked, part in group:
            lines.append(_answer_line(api, request, asked, part, answers.pop(), kind))
            if not answers or sum(map(len, lines)) > PART_BYTES:
                yield _joined(lines)
                yield b""  # goes out once the part before is on its way
                await asyncio.sleep(0)  # other requests come first


def _joined(lines):
    """All lines as one, and the list is empty."""
    found = b"".join(lines)
    lines.clear()
    return found


async def ask(api, asked, part):
    """What api.answers says to one line, or how it is refused: the server's fields may be others by now."""
    while True:
        try:
            return await api.answers(asked, part)
        except Refused as refused:
            if refused.status != 503:
                return refused
        await asyncio.sleep(PAUSE)


def _answer_line(api, request, asked, part, found, kind):
    """The line with what `ask` found; with a messages.Refusal where that doesn't fit, as the status has been sent."""
    try:
        if isinstance(found, Refused):
            raise found
        message = api.message(request, asked, found, part)
    except Refused as refused:
        problem = messages.Problem(refused.status, refused.where, refused.message)
        message = messages.Refusal(problem, request.scope["request_id"])
    if kind != CSV:
        return encode(message) + b"\n"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(message.answers[0].items)
    return text.getvalue().encode()


def read_lines(body, parse):
    """Lists of (messages.SessionsToAnswer, the line's name in refusals), as much in each as a request may have, about.
    """
    group, count = [], 0
    for number, line in enumerate(io.BytesIO(body), 1):
        part = f"body.line[{number}]"
        if len(line) > messages.MAX_BODY_BYTES:
            raise Refused(413, part, f"found more than {messages.MAX_BODY_BYTES} bytes, expected fewer")
        if number > MAX_LINES:
            raise Refused(413, "body", f"found more than {MAX_LINES} lines, expected fewer")
        asked = parse(line, part)
        group.append((asked, part))
        count += counted(asked) * max(asked.k * (1 + len(asked.fields)) // VALUES_OF_ONE, 1)
        if count >= messages.MAX_SESSIONS:
            yield group
            group, count = [], 0
    if group:
        yield group


def from_json(line, part):
    return decoded(decode_sessions, line, part)


def from_csv(line, part, k):
    try:
        rows = list(csv.reader([line.decode("utf-8-sig")], strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refused(400, part, f"found no CSV in UTF-8 ({error}), expected item ids") from None
    return decoded(convert_sessions, {"sessions": rows or [[]], "k": k}, part)


def _asked_k(request):
    """How many items a client wants for each line of CSV: `k=5` among its custom attributes, or 20."""
    attributes = dict(text.strip().partition("=")[::2] for text in request.headers.get(ATTRIBUTES, "").split(","))
    k = attributes.get("k", "20")
    if not (k.isascii() and k.isdecimal() and len(k) < 10 and 1 <= int(k) <= messages.MAX_K):
        raise Refused(422, f"header.{ATTRIBUTES}",
                      f"found k={k[:40]}, expected an integer from 1 to {messages.MAX_K}")
    return int(k)
