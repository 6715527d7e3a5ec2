"""What goes back to clients: replies, and refusals in the form that the path's protocol wants."""

import msgspec
from starlette.responses import Response

from utils.serving import http_messages as messages
from utils.serving.http_input import Refused

V2 = "/v2"  # the paths of the open inference protocol, whose refusals have a form of their own

encode = msgspec.json.Encoder().encode


def reply(message):
    return Response(encode(message), media_type="application/json")


async def refuse(request, refused):
    headers = {"retry-after": str(refused.retry_after)} if refused.retry_after else None
    request.scope["log"].update(where=refused.where, reason=refused.message)
    status, path = refused.status, request.scope["path"]
    if path == V2 or path.startswith(f"{V2}/"):
        status = 400 if status == 422 else status
        body = encode({"error": f"{refused.where}: {refused.message}"})
    else:
        problem = messages.Problem(status, refused.where, refused.message)
        body = encode(messages.Refusal(problem, request.scope["request_id"]))
    return Response(body, status, headers, "application/json")


async def refuse_route(request, error):
    """The reply to what the framework refuses: paths and methods that don't exist."""
    where = "method" if error.status_code == 405 else "path"
    message = f"{request.method} {request.url.path[:80]}: {error.detail}"
    response = await refuse(request, Refused(error.status_code, where, message))
    response.headers.update(error.headers or {})
    return response


async def refuse_gone(request, error):
    """The reply to a client that left before its body was complete; only the log shows it."""
    return await refuse(request, Refused(400, "body", "found the connection closed, expected the rest of the body"))


async def refuse_failed(request, error):
    """The reply after a failure of ours: the client learns only where to look."""
    return await refuse(request, Refused(500, "server",
                                         "the request failed; the server's log says why by its request_id"))
