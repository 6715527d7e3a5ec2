"""The worker processes: each has its own listening socket on the same port, and the system spreads the connections.

With one socket for all, a worker that looks would take all waiting connections, and a burst would end up at one worker.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import threading

import uvicorn
import uvloop
from uvicorn.supervisors import multiprocess as supervisor

from utils.files import InputError
from utils.serving.http_protocol import MAX_CONNECTIONS, LimitedProtocol
from utils.serving.json_log import log_settings

HANGING_SECONDS = 30  # a worker is replaced after this time without a sign of life
GRACE_SECONDS = 20  # time for a stopping worker to finish its replies
KEEP_ALIVE_SECONDS = 75  # longer than proxies keep connections, so that none sends a request on a closing one
PING_SECONDS = 1  # for a worker to say whether it serves
MOST_DEATHS = 4  # of workers before one has served
RESERVE = 160  # descriptors of a worker that are no connections: 30, up to 100 to Redis, and the files of a reload


class SharedPortLoop(uvloop.Loop):
    """An event loop whose servers share their port with those of other processes (SO_REUSEPORT)."""

    async def create_server(self, *arguments, **more):
        return await super().create_server(*arguments, **more, reuse_port=True)


class Worker(uvicorn.Config):
    """How to serve in a process started by `serve_forever`. The process stops when its parent is gone."""

    def __init__(self, directory, max_connections, *arguments, **more):
        self.directory, self.max_connections = directory, max_connections
        super().__init__(*arguments, **more)

    def load(self):
        threading.Thread(target=self._stop_with_parent, daemon=True).start()
        super().load()

    def _stop_with_parent(self):
        if parent := multiprocessing.parent_process():
            parent.join()
            shutil.rmtree(self.directory, ignore_errors=True)
            os.kill(os.getpid(), signal.SIGTERM)


class Watched(supervisor.Process):
    """A worker process for uvicorn's supervisor, which sees at once if it dies while it is asked whether it lives."""

    def start(self):
        super().start()
        self.child_conn.close()  # the process has its own; as long as this one is open, the other end never ends


class Supervisor(supervisor.Multiprocess):
    """uvicorn's, which replaces workers that die, except where they die before any of them has served.

    Attributes
    ----------
    failure : str
        Why no worker ever served; empty as long as that isn't sure.
    """

    def __init__(self, config):
        super().__init__(config, sockets=None)  # each worker opens its own socket
        self.has_served, self.deaths, self.failure = False, 0, ""

    def keep_subprocess_alive(self):
        before = list(self.processes)
        self.has_served = self.has_served or any(process.is_ready(PING_SECONDS) for process in before)
        super().keep_subprocess_alive()
        dead = [process.exitcode for process in before if process.exitcode is not None]
        self.deaths += len(dead)
        if dead and not self.has_served and (self.should_exit.is_set() or self.deaths > MOST_DEATHS):
            how = f"signal {-dead[-1]}" if dead[-1] < 0 else f"exit status {dead[-1]}"
            self.failure = f"found {self.deaths} workers that ended before they served ({how})"
            self.should_exit.set()


def connections_allowed(asked=0):
    """How many connections a worker may hold, so that descriptors are left for the rest of its work.

    The limit of open files of this process, which its workers inherit, is raised where that is needed and allowed.

    Parameters
    ----------
    asked : int
        How many are wanted; 0: MAX_CONNECTIONS, or fewer where there aren't enough descriptors.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (asked or MAX_CONNECTIONS) + RESERVE
    files = min([wanted] + [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY])
    if files < wanted:
        files = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    if files < wanted and asked or files <= RESERVE:
        raise InputError(f"--max_connections: found {asked} and at most {files} open files (ulimit -Hn), expected "
                         f"{RESERVE} more files than connections")
    return files - RESERVE


def serve_forever(application, host, port, workers, directory, max_connections):
    """Run an application until a signal comes; workers that die are replaced.

    Parameters
    ----------
    application : str
        "module:function" of a function that returns the ASGI application.
    host : str
    port, workers : int
    directory : Path
        The workers' shared directory. This process's caller deletes it; if this process is killed, its workers do.
    max_connections : int
        How many a worker holds at once.
    """
    for number in signal.SIGINT, signal.SIGTERM:  # which uvicorn raises again once it has stopped; that is no failure
        signal.signal(number, lambda *_: None)
    config = Worker(directory, max_connections, application, factory=True, host=host, port=port, workers=workers,
                    loop=f"{__name__}:SharedPortLoop", http=LimitedProtocol, log_config=log_settings(),
                    access_log=False, server_header=False, timeout_keep_alive=KEEP_ALIVE_SECONDS,
                    timeout_graceful_shutdown=GRACE_SECONDS, timeout_worker_healthcheck=HANGING_SECONDS)
    if workers > 1:
        supervisor.Process = Watched
        parent = Supervisor(config)
        parent.run()
        if parent.failure:
            raise InputError(f"--workers: {parent.failure}, expected room in memory for {workers}")
    else:
        uvicorn.Server(config).run()
