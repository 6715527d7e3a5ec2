"""The next items of sessions over HTTP, by a trained model.

    python serve.py --model_dir model_output
    curl -H 'content-type: application/json' -d '{"sessions": [["214536502", "214536500"]], "k": 5}' localhost:8080/v1/recommend
    curl 'localhost:8080/v1/recommend?session_id=a&item_id=214536502&user_consent=true'

One process per core answers. / is a page to try it, /openapi.json describes all routes, /metrics is for Prometheus, /livez and
/readyz say how it is. Sessions of the second form are remembered on this machine, or in Redis for several machines. Where the
model directory gets another epoch, or is another directory by now, that is loaded, tried, and swapped in without a pause; a
broken one is refused. Needs no Paddle; with a C++ compiler at the first start it answers several times faster. Another server
than its own starts it by `serve:application()`, with the flags below in the environment variable SERVE_FLAGS.
"""

import asyncio
import os
import shlex
import socket
import sys
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads: the workers fill the cores

from utils.files import InputError
from utils.options import Parser, number, run

PACKAGES = "httptools", "msgspec", "prometheus_client", "redis", "starlette", "uvicorn", "uvloop"
FLAGS = "SERVE_FLAGS"  # of the environment, for workers


def parse_arguments(arguments=None):
    parser = Parser(__doc__)
    parser.add_argument("--model_dir", default="model_recall20", help="model directory, as train.py writes")
    parser.add_argument("--epoch", type=number(int, 0), default=0,
                        help="which one, >= 1; 0: the best of the validation, or the last, also when a new one comes")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all of this machine")
    parser.add_argument("--port", type=number(int, 1, 65535), default=8080, help="port to listen at, 1 to 65535")
    parser.add_argument("--workers", type=number(int, 0, 256), default=0, help="processes, at most 256; 0: one per core")
    parser.add_argument("--reload_seconds", type=number(float, 0.1), default=5.0,
                        help="seconds between two looks for a new model, >= 0.1")
    parser.add_argument("--drain_seconds", type=number(float, 0, 3600), default=0.0,
                        help="seconds to serve on after SIGTERM while /readyz says 503, 0 to 3600")
    sessions = parser.add_argument_group("live sessions")
    sessions.add_argument("--session_store", default="",
                          help="redis://HOST:PORT/0 to remember them in Redis; empty: on this machine")
    sessions.add_argument("--session_ttl", type=number(float, 1), default=1800.0,
                          help="seconds after its last click to forget one, >= 1")
    sessions.add_argument("--max_sessions", type=number(int, 1), default=500_000,
                          help="remembered at most, >= 1; the oldest goes first")
    limits = parser.add_argument_group("limits of each worker")
    limits.add_argument("--max_batch", type=number(int, 1, 1024), default=64, help="sessions in one product, 1 to 1024")
    limits.add_argument("--max_queue", type=number(int, 64), default=512,
                        help="sessions that may wait, >= 64; more get status 503")
    limits.add_argument("--client_rate", type=number(float, 0), default=0.0,
                        help="requests a second of one client address, above it status 429; 0: no limit")
    parser.add_argument("--log", choices=("all", "errors"), default="all", help="which requests get a line of JSON on stderr")
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
    from utils.model_reload import ServedModel  # where the model is broken, this says so in one line
    ServedModel(options.model_dir, options.epoch or None)
    from utils.session_store import machine_store, shared_directory, try_store
    with shared_directory() as directory:
        store = options.session_store or machine_store(directory)
        asyncio.run(try_store(store, options.session_ttl, options.max_sessions, 1))
        os.environ[FLAGS] = shlex.join([*sys.argv[1:], f"--session_store={store}"])
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(directory))
        from utils.workers import serve_forever
        serve_forever("serve:application", options.host, options.port, options.workers or len(os.sched_getaffinity(0)), directory)


def application():
    """The ASGI application, for workers."""
    options = parse_arguments(shlex.split(os.environ.get(FLAGS, "")))
    import logging.config

    from utils.http_requests import log_settings
    logging.config.dictConfig(log_settings())
    sys.setswitchinterval(0.0005)  # seconds that a thread loading a model may hold up requests, ten times less than by default
    from utils.http_api import create_application
    return create_application(options)


if __name__ == "__main__":
    run(main)
