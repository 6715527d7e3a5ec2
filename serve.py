"""Serve the next items of sessions over HTTP, from a trained model.

    python serve.py --model_dir model_output
    curl -H 'content-type: application/json' -d '{"sessions": [["214536502", "214536500"]], "k": 5}' \\
        localhost:8080/v1/recommend
    curl 'localhost:8080/v1/recommend?session_id=a&item_id=214536502&user_consent=true'

One process per core answers. The page / is for trying it out, /openapi.json describes the routes, /metrics is for
Prometheus, and /livez and /readyz report the server's health. The second request belongs to a live session, which the
server remembers on this machine, or in Redis for several machines. /invocations answers as SageMaker wants it, and what
is below /v2 as clients of KServe and Triton do; docs/deploy.md describes both.

When the model directory gets a new epoch or is replaced, the new model is loaded, tested and swapped in without a
pause; a broken one is refused. Needs no Paddle. If a C++ compiler is there at the first start, answers are several
times faster. To run it in another ASGI server, give that `serve:application()` and put the flags below in the
environment variable SERVE_FLAGS.
"""

if __name__ == "__main__":  # before the imports, which take time: Ctrl-C ends the script with one line from here on
    from utils.process import begin
    begin()

import argparse
import asyncio
import os
import re
import shlex
import sys
from contextlib import contextmanager
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads: the workers alone keep all cores busy

from utils.files import InputError
from utils.options import COUNT, ITEM_FIELDS, SECONDS, Parser, add_model_flags, number
from utils.process import processors, run

PACKAGES = "httptools", "msgspec", "prometheus_client", "redis", "starlette", "uvicorn", "uvloop"
# Environment variables that give workers their flags, and the store that the server made for them.
FLAGS, STORE = "SERVE_FLAGS", "SERVE_STORE"


def parse_arguments(arguments=None):
    parser = Parser(__doc__)
    parser.prog = "serve.py"  # whatever started it
    add_file_flags(parser.group("input and output"))
    parser.group("answers").add_argument(
        "--exclude", choices=("last", "seen", "none"),
        help="which items of a session are left out of its answers where a request doesn't say: the last one clicked, "
        "all, or none; default: last in live sessions, none in whole ones")
    add_server_flags(parser.group("server"))
    add_session_flags(parser.group("live sessions"))
    add_limit_flags(parser.group("limits of each worker"))
    options = parser.parse_args(arguments)
    if options.intent_model_dir and "model_dir" not in parser.given:
        options.model_dir = ""  # no recommender
        for name in ("epoch", "items", "exclude"):
            if name in parser.given:
                raise InputError(f"--{name}: found it without --model_dir, expected --model_dir too, or none of them")
    return options


def add_file_flags(data):
    add_model_flags(data)
    data.add_argument("--intent_model_dir", default="",
                      help="model directory, as train_intent.py writes it, to answer /v1/intent as well, or alone "
                      "without --model_dir; empty: none")
    data.add_argument("--items", default="", metavar="FILE", help=ITEM_FIELDS)
    data.add_argument("--reload_seconds", type=number(float, 0.1, SECONDS), default=5.0,
                      help="seconds between two looks for a new epoch, model or file of fields")


def add_server_flags(server):
    server.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of this machine's")
    server.add_argument("--port", type=number(int, 1, 65535), default=8080, help="port to listen on")
    server.add_argument("--workers", type=number(int, 0, 256), default=0,
                        help="processes; 0: one per core on Linux, one elsewhere")
    server.add_argument("--log", choices=("all", "errors"), default="all",
                        help="which requests get a line of JSON on stderr: all, or those that the server failed on; "
                        "what it does by itself, such as loading a model, always gets one")
    server.add_argument("--drain_seconds", type=number(float, 0, 3600), default=0.0,
                        help="seconds to keep serving after SIGTERM while /readyz says 503")
    server.add_argument("--model_name", type=plain_name, default="gru4rec",
                        help="what the model is called in /v2/models/NAME, the open inference protocol")


def add_session_flags(sessions):
    sessions.add_argument("--session_store", type=store_address, default="",
                          help="redis://HOST:PORT/0 or rediss://HOST:PORT/0 to remember them in Redis, or a file that "
                          "ends in .sqlite; empty: in memory on this machine")
    sessions.add_argument("--session_ttl", type=number(float, 1, SECONDS), default=1800.0,
                          help="seconds after its last click until a session is forgotten")
    sessions.add_argument("--max_sessions", type=number(int, 1, COUNT), default=500_000,
                          help="how many sessions to remember at most; the oldest goes first")
    sessions.add_argument("--session_memory", type=number(int, 1, 1 << 20), default=1024,
                          help="MiB that they may take on this machine; the oldest go first; Redis has a "
                          "limit of its own, maxmemory")


def add_limit_flags(limits):
    limits.add_argument("--max_batch", type=number(int, 1, 1024), default=64,
                        help="sessions answered together")
    limits.add_argument("--max_queue", type=number(int, 64, COUNT), default=512,
                        help="sessions that may wait; more get status 503")
    limits.add_argument("--max_connections", type=number(int, 0, COUNT), default=0,
                        help="connections; more get status 503 and are closed; 0: 2048, or what the limit of "
                        "open files leaves (ulimit -n), which is raised where that is allowed")
    limits.add_argument("--client_rate", type=number(float, 0, 1e9), default=0.0,
                        help="requests a second allowed to one client address; above it status 429; 0: no limit")


def plain_name(text):
    """A type for argparse: a name that needs no escapes in a path."""
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", text) or text in (".", ".."):  # clients take these two out of a path
        raise argparse.ArgumentTypeError(f"found {text[:80]!r}, expected up to 64 of A to Z, a to z, 0 to 9, '.', '_' "
                                         "and '-'")
    return text


def store_address(text):
    """A type for argparse: where live sessions are remembered."""
    if text and not text.startswith(("redis://", "rediss://")) and not text.endswith(".sqlite"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected redis://HOST:PORT/0, rediss://HOST:PORT/0, or a "
                                         "file that ends in .sqlite")
    return text


def main():
    options = parse_arguments()
    packages = PACKAGES + ("pyarrow",) * bool(options.items or options.intent_model_dir)
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(f"found no Python package {missing[0]}, expected those of requirements-serve.txt")
    from utils.serving.port import own_port
    os.environ[FLAGS] = shlex.join(sys.argv[1:])
    with own_port(options.host, options.port):
        serve(options)


def serve(options):
    """Let workers serve until a signal comes."""
    with prepared(options) as directory:
        from utils.serving.workers import connections_allowed, serve_forever
        serve_forever("serve:application", options.host, options.port, worker_count(options), directory,
                      connections_allowed(options.max_connections))


@contextmanager
def prepared(options):
    """Load the models and open the store, to end with one line where they are wrong; the directory that workers share.

    The environment tells workers that are started in the block where it is. deploy/gunicorn.conf.py calls this, too.
    """
    if options.model_dir:
        require_room_for_workers(options.model_dir, options.epoch or None, worker_count(options))
    if options.intent_model_dir:
        from utils.serving.intent_model import ServedIntent
        ServedIntent(options.intent_model_dir)
    if options.items:
        from utils.data.item_table import read_item_table
        read_item_table(options.items, "--items")
    from utils.serving.session_store import try_store
    from utils.serving.shared_directory import machine_store, shared_directory
    log_as_json()
    store_bytes = options.session_memory << 20
    with shared_directory(0 if options.session_store else store_bytes) as directory:
        store = options.session_store or machine_store(directory)
        asyncio.run(try_store(store, options.session_ttl, options.max_sessions, 1, store_bytes))
        os.environ[STORE] = store
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(directory))
        yield directory


def require_room_for_workers(model_dir, epoch, workers):
    """Load the model, and InputError where memory has no room for what workers share and each of them has."""
    from utils.memory import own_room, readable, require_memory, resident_memory
    from utils.serving.model_reload import ServedModel
    sizes, before = [], resident_memory()

    def room(key, size, *how):
        sizes.append(size)
        return own_room(key, size, *how)
    model = ServedModel(model_dir, epoch, room)
    each = max(resident_memory() - before - sum(sizes), 0)
    del model  # so that it doesn't count as taken
    require_memory(sum(sizes) + each * workers, f"{model_dir}, --workers: found {readable(sum(sizes))} of weights, and "
                   f"{readable(each)} more for each of {workers} workers")


def worker_count(options):
    """How many were asked for, or what suits: only Linux spreads connections over sockets that share a port."""
    return options.workers or (processors() if sys.platform == "linux" else 1)


def log_as_json():
    import logging.config

    from utils.serving.json_log import log_settings
    logging.config.dictConfig(log_settings())


def application():
    """The ASGI application; each worker calls this."""
    options = parse_arguments(shlex.split(os.environ.get(FLAGS, "")))
    options.session_store = os.environ.get(STORE, options.session_store)
    log_as_json()
    # A thread that loads a model may hold up requests for this many seconds, a tenth of Python's default.
    sys.setswitchinterval(0.0005)
    from utils.serving.http_api import ServerSettings, create_application
    same_names = ["model_dir", "session_store", "reload_seconds", "drain_seconds", "session_ttl", "client_rate",
                  "max_sessions", "session_memory", "max_batch", "max_queue", "items", "model_name",
                  "intent_model_dir"]
    settings = {name: getattr(options, name) for name in same_names}
    return create_application(ServerSettings(epoch=options.epoch or None, exclude=options.exclude or "",
                                             logs_all=options.log == "all", **settings))


if __name__ == "__main__":
    run(main)
