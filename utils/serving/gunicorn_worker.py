"""A worker of gunicorn that serves as those of serve.py do: same limits, same event loop, same end."""

import asyncio
import os
import shutil
import signal

from uvicorn_worker import UvicornWorker

from utils.serving.http_protocol import LimitedProtocol
from utils.serving.workers import GRACE_SECONDS

LIFE_SECONDS = 1  # between two signs of life


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
                     "timeout_graceful_shutdown": GRACE_SECONDS}
    directory, max_connections = None, None

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.config.max_connections = self.max_connections

    async def _serve(self):
        life = asyncio.create_task(self._show_life())
        try:
            await super()._serve()
        finally:
            life.cancel()

    async def _show_life(self):
        """Tell the parent that the event loop runs, also while the first model is loaded; stop if there is no parent.
        """
        while os.getppid() == self.ppid:
            self.notify()
            await asyncio.sleep(LIFE_SECONDS)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)
