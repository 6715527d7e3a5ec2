"""The web server's HTTP/1.1 protocol with limits on a request's head, and refusals in JSON there too."""

import asyncio

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
HEAD_SECONDS = 10
