"""Serve the next items of sessions over HTTP, from a trained model.

    python serve.py --model_dir model_output
    curl -H 'content-type: application/json' -d '{"sessions": [["214536502", "214536500"]], "k": 5}' \\
        localhost:8080/v1/recommend
    curl 'localhost:8080/v1/recommend?session_id=a&item_id=214536502&user_consent=true'

One process per core answers. The page / is for trying it out, /openapi.json describes all routes, /metrics is for
Prometheus, and /livez and /readyz report the server's health. The second request belongs to a live session, which the
server remembers on this machine, or in Redis for several machines.

When the model directory gets a new epoch or is replaced, the new model is loaded, tested and swapped in without a
pause; a broken one is refused. Needs no Paddle. If a C++ compiler is there at the first start, answers are several
times faster. To run it in another ASGI server, give that `serve:application()` and put the flags below in the
environment variable SERVE_FLAGS.
"""

import asyncio
import os
import shlex
import socket
import sys
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads: the workers alone keep all cores busy

from utils.files import InputError
from utils.options import Parser, number
from utils.process import run

PACKAGES = "httptools", "msgspec", "prometheus_client", "redis", "starlette", "uvicorn", "uvloop"
FLAGS = "SERVE_FLAGS"  # the environment variable that gives workers their flags


def parse_arguments(arguments=None):
    parser = Parser(__doc__)
    parser.add_argument("--model_dir", default="model_recall20", help="model directory, as written by train.py")
    parser.add_argument("--epoch", type=number(int, 0), default=0,
                        help="which epoch to use, >= 1; 0: the best one by validation, or the last; a new one may take "
                        "its place")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine's")
    parser.add_argument("--port", type=number(int, 1, 65535), default=8080, help="port to listen on, 1 to 65535")
    parser.add_argument("--workers", type=number(int, 0, 256), default=0,
                        help="processes, at most 256; 0: one per core")
    parser.add_argument("--reload_seconds", type=number(float, 0.1), default=5.0,
                        help="seconds between two checks for a new model, >= 0.1")
    parser.add_argument("--drain_seconds", type=number(float, 0, 3600), default=0.0,
                        help="seconds to keep serving after SIGTERM while /readyz says 503, 0 to 3600")
    sessions = parser.add_argument_group("live sessions")
    sessions.add_argument("--session_store", default="",
                          help="redis://HOST:PORT/0 to remember them in Redis; empty: on this machine")
    sessions.add_argument("--session_ttl", type=number(float, 1), default=1800.0,
                          help="seconds after its last click until a session is forgotten, >= 1")
    sessions.add_argument("--max_sessions", type=number(int, 1), default=500_000,
                          help="how many sessions to remember at most, >= 1; the oldest goes first")
    limits = parser.add_argument_group("limits of each worker")
    limits.add_argument("--max_batch", type=number(int, 1, 1024), default=64,
                        help="sessions answered together, 1 to 1024")
    limits.add_argument("--max_queue", type=number(int, 64), default=512,
                        help="sessions that may wait, >= 64; more get status 503")
    limits.add_argument("--client_rate", type=number(float, 0), default=0.0,
                        help="requests a second allowed to one client address; above it status 429; 0: no limit")
    parser.add_argument("--log", choices=("all", "errors"), default="all",
                        help="which requests get a line of JSON on stderr")
    return parser.parse_args(arguments)


def main():
    options = parse_arguments()
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"found no Python package {missing[0]}, expected those of requirements-serve.txt")
    try:
        socket.create_server((options.host, options.port)).close()
    except OSError as error:
        raise InputError(f"--host, --port: found {options.host}:{options.port} not free ({error.strerror or error}), "
                         "expected an address to listen at") from None
    from utils.serving.model_reload import ServedModel  # loaded here first: a broken model ends with one line
    ServedModel(options.model_dir, options.epoch or None)
    from utils.serving.session_store import machine_store, shared_directory, try_store
    with shared_directory() as directory:
        store = options.session_store or machine_store(directory)
        asyncio.run(try_store(store, options.session_ttl, options.max_sessions, 1))
        os.environ[FLAGS] = shlex.join([*sys.argv[1:], f"--session_store={store}"])
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(directory))
        from utils.serving.workers import serve_forever
        workers = options.workers or len(os.sched_getaffinity(0))
        serve_forever("serve:application", options.host, options.port, workers, directory)


def application():
    """The ASGI application; each worker calls this."""
    options = parse_arguments(shlex.split(os.environ.get(FLAGS, "")))
    import logging.config

    from utils.serving.http_requests import log_settings
    logging.config.dictConfig(log_settings())
    # A thread that loads a model may hold up requests for this many seconds, a tenth of Python's default.
    sys.setswitchinterval(0.0005)
    from utils.serving.http_api import ServerSettings, create_application
    same_names = ["model_dir", "session_store", "reload_seconds", "drain_seconds", "session_ttl", "client_rate",
                  "max_sessions", "max_batch", "max_queue"]
    settings = {name: getattr(options, name) for name in same_names}
    return create_application(ServerSettings(epoch=options.epoch or None, logs_all=options.log == "all", **settings))


if __name__ == "__main__":
    run(main)
