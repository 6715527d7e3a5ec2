"""The processes that serve: each has a listening socket of its own at the same port, and the system spreads connections.

With one socket for all, a worker takes every connection that waits as it looks, and keeps them; a burst of them ends at one.
"""

import multiprocessing
import os
import signal
import threading

import uvicorn
import uvloop
from uvicorn.supervisors import Multiprocess

from utils.http_protocol import LimitedProtocol
from utils.http_requests import log_settings

GRACE_SECONDS = 30  # for replies under way when it stops
KEEP_ALIVE_SECONDS = 75  # more than proxies keep connections, so that none sends a request as it is closed


class SharedPortLoop(uvloop.Loop):
    """An event loop whose servers leave room at their port for those of other processes (SO_REUSEPORT)."""

    async def create_server(self, *arguments, **more):
        return await super().create_server(*arguments, **more, reuse_port=True)


def stop_with_parent():
    """Let this process, if it is a worker, stop where the one that started it is gone: nobody else could stop it."""
    parent = multiprocessing.parent_process()

    def wait_and_stop():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
    if parent:
        threading.Thread(target=wait_and_stop, daemon=True).start()


def serve_forever(application, host, port, workers):
    """Run an application (a string as uvicorn's, of a function that makes it) until a signal; dead workers are replaced."""
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: None)  # uvicorn raises it again after stopping, as asked; that is no failure
    config = uvicorn.Config(application, factory=True, host=host, port=port, workers=workers, loop="utils.workers:SharedPortLoop",
                            http=LimitedProtocol, log_config=log_settings(), access_log=False, server_header=False,
                            timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS)
    if workers > 1:
        Multiprocess(config, sockets=None).run()  # each opens its own
    else:
        uvicorn.Server(config).run()
