"""Settings for gunicorn: it then starts serve.py's workers, which share live sessions and metrics and have its limits.

    SERVE_FLAGS='--model_dir model_output --workers 2' gunicorn -c deploy/gunicorn.conf.py

SERVE_FLAGS holds flags of serve.py; host, port and number of workers come from there. SIGHUP starts new workers and
stops the old ones. Needs the packages gunicorn and uvicorn-worker beside those of requirements-serve.txt.
"""

import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import serve  # noqa: E402
from utils.files import InputError  # noqa: E402
from utils.process import fail  # noqa: E402
from utils.serving.gunicorn_worker import ServeWorker  # noqa: E402
from utils.serving.json_log import log_settings  # noqa: E402
from utils.serving.port import own_port  # noqa: E402
from utils.serving.workers import (  # noqa: E402
    GRACE_SECONDS,
    HANGING_SECONDS,
    KEEP_ALIVE_SECONDS,
    connections_allowed,
)

try:
    options = serve.parse_arguments(shlex.split(os.environ.get(serve.FLAGS, "")))
except (InputError, ValueError) as error:  # ValueError: a quotation mark without its end
    sys.exit(fail(f"{serve.FLAGS}: {error}", 2))

wsgi_app, pythonpath, worker_class = "serve:application()", str(ROOT), ServeWorker
bind, workers = f"{options.host}:{options.port}", serve.worker_count(options)
reuse_port = True  # each worker has a socket of its own; with one for all, a burst would end up at one worker
timeout, keepalive = HANGING_SECONDS, KEEP_ALIVE_SECONDS
graceful_timeout = GRACE_SECONDS + int(options.drain_seconds) + 5
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk may hold up their signs of life
control_socket_disable = True
logconfig_dict = log_settings() | {"loggers": {"gunicorn.error": {"level": "WARNING", "handlers": ["stderr"],
                                                                  "propagate": False}, "gru4rec": {"level": "INFO"}}}

held = ExitStack()  # what is there while gunicorn runs


def on_starting(server):
    """Own the port, look at the model and the store, and make the shared directory; end with one line where that fails.
    """
    try:
        if not server.master_pid:  # otherwise SIGUSR2 started this one beside another one, with the same port
            held.enter_context(own_port(options.host, options.port))
        ServeWorker.directory = held.enter_context(serve.prepared(options))
        ServeWorker.max_connections = connections_allowed(options.max_connections)
    except (InputError, OSError, MemoryError) as error:
        held.close()
        sys.exit(fail(str(error), 2))


def on_exit(server):
    held.close()
