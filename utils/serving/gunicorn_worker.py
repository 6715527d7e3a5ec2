"""A worker of gunicorn that serves as those of serve.py do: same limits, same event loop, same end."""

import os
import shutil
import signal

from uvicorn_worker import UvicornWorker

from utils.serving.http_protocol import LimitedProtocol
from utils.serving.workers import GRACE_SECONDS

LOOK_SECONDS = 1  # between two signs of life


class ServeWorker(UvicornWorker):
    """A worker process; it stops when its parent is gone.

    Attributes
    ----------
    directory : Path
        The workers' shared directory, which the parent deletes, or its workers if it was killed.
    max_connections : int
        How many a worker holds at once.
    """

    CONFIG_KWARGS = {"loop": "uvloop", "http": LimitedProtocol, "server_header": False, "access_log": False,
                     "timeout_graceful_shutdown": GRACE_SECONDS, "timeout_notify": LOOK_SECONDS}
    directory, max_connections = None, None

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.config.max_connections = self.max_connections

    async def callback_notify(self):
        await super().callback_notify()
        if os.getppid() != self.ppid:
            shutil.rmtree(self.directory, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGTERM)
