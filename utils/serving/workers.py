"""The worker processes: each has its own listening socket on the same port, and the system spreads the connections.

With one socket for all, a worker that looks would take all waiting connections, and a burst would end up at one worker.
"""

import multiprocessing
import os
import shutil
import signal
import threading

import uvicorn
import uvloop
from uvicorn.supervisors import Multiprocess

from utils.serving.http_protocol import LimitedProtocol
from utils.serving.http_requests import log_settings

HANGING_SECONDS = 30  # a worker is replaced after this time without a sign of life
GRACE_SECONDS = 30  # time for a stopping worker to finish its replies
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep connections, so that none sends a request on a closing one


class SharedPortLoop(uvloop.Loop):
    """An event loop whose servers share their port with those of other processes (SO_REUSEPORT)."""

    async def create_server(self, *arguments, **more):
        return await super().create_server(*arguments, **more, reuse_port=True)


class Worker(uvicorn.Config):
    """How to serve in a process started by `serve_forever`. The process stops when its parent is gone."""

    def __init__(self, directory, *arguments, **more):
        self.directory = directory
        super().__init__(*arguments, **more)

    def load(self):
        threading.Thread(target=self._stop_with_parent, daemon=True).start()
        super().load()

    def _stop_with_parent(self):
        if parent := multiprocessing.parent_process():
            parent.join()
            shutil.rmtree(self.directory, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGTERM)


def serve_forever(application, host, port, workers, directory):
    """Run an application until a signal comes; workers that die are replaced.

    Parameters
    ----------
    application : str
        "module:function" of a function that returns the ASGI application.
    host : str
    port, workers : int
    directory : Path
        The workers' shared directory. This process's caller deletes it; if this process is killed, its workers do.
    """
    for number in signal.SIGINT, signal.SIGTERM:  # which uvicorn raises again once it has stopped; that is no failure
        signal.signal(number, lambda *_: None)
    config = Worker(directory, application, factory=True, host=host, port=port, workers=workers,
                    loop=f"{__name__}:SharedPortLoop", http=LimitedProtocol, log_config=log_settings(),
                    access_log=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
                    timeout_graceful_shutdown=GRACE_SECONDS, timeout_worker_healthcheck=HANGING_SECONDS)
    if workers > 1:
        Multiprocess(config, sockets=None).run()  # each worker opens its own socket
    else:
        uvicorn.Server(config).run()
