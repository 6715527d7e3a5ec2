"""The processes that serve: each has a listening socket of its own at the same port, and the system spreads connections.

With one socket for all, a worker takes every connection that waits as it looks, and keeps them; a burst of them ends at one.
"""

import multiprocessing
import os
import shutil
import signal
import threading

import uvicorn
import uvloop
from uvicorn.supervisors import Multiprocess

from utils.http_protocol import LimitedProtocol
from utils.http_requests import log_settings

HANGING_SECONDS = 30  # without a sign of life, after which a worker is replaced
GRACE_SECONDS = 30  # for replies under way when it stops
KEEP_ALIVE_SECONDS = 75  # more than proxies keep connections, so that none sends a request as it is closed


class SharedPortLoop(uvloop.Loop):
    """An event loop whose servers leave room at their port for those of other processes (SO_REUSEPORT)."""

    async def create_server(self, *arguments, **more):
        return await super().create_server(*arguments, **more, reuse_port=True)


class Worker(uvicorn.Config):
    """How to serve in a process that `serve_forever` starts. It stops when that is gone, since nobody else could stop it."""

    def __init__(self, directory, *arguments, **more):
        self.directory = directory
        super().__init__(*arguments, **more)

    def load(self):
        threading.Thread(target=self._outlive_nobody, daemon=True).start()
        super().load()

    def _outlive_nobody(self):
        if parent := multiprocessing.parent_process():
            parent.join()
            shutil.rmtree(self.directory, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGTERM)


def serve_forever(application, host, port, workers, directory):
    """Run an application (a string as uvicorn's, of a function that makes it) until a signal; dead workers are replaced.

    `directory` is deleted where this process is killed, which would have deleted it otherwise.
    """
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: None)  # uvicorn raises it again after stopping, as asked; that is no failure
    config = Worker(directory, application, factory=True, host=host, port=port, workers=workers,
                    loop="utils.workers:SharedPortLoop", http=LimitedProtocol, log_config=log_settings(), access_log=False,
                    server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
                    timeout_worker_healthcheck=HANGING_SECONDS)
    if workers > 1:
        Multiprocess(config, sockets=None).run()  # each opens its own
    else:
        uvicorn.Server(config).run()
