"""Several processes on this machine: how a script starts them, watches over them, and ends them together.

`--parallel 1 --num_devices 2` makes a script start itself twice, with the environment that Paddle's own launcher sets.
Under `python -m paddle.distributed.launch` that is there already. Nothing here needs Paddle.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

from utils.files import InputError
from utils.process import LOST, STOPPED, fail, place

PATIENCE = 10  # seconds that the others have to end by themselves once one has failed; all they could save is saved
LOOK = 0.05  # seconds between two looks at the processes
WATCHED = "GRU4REC_WATCHED"  # set in a process that `watch` started
PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux


def processes_to_start(options):
    """How many processes this one has to start and to watch over; 0 where it does the work itself.

    Raises
    ------
    InputError
        --parallel, --num_devices and what the environment says of the number of devices don't fit together.
    """
    asked, there = options.num_devices, place().count
    if there > 1:
        here = int(os.environ.get("PADDLE_LOCAL_SIZE") or there)
        if asked > 1 and asked not in (here, there):
            raise InputError(f"--num_devices: found {asked} among {there} processes that were started, {here} of them "
                             f"on this machine, expected {here}, or no such flag")
        return 0
    if not options.parallel:
        if asked > 1:
            raise InputError(f"--num_devices: found {asked} with --parallel 0, expected --parallel 1 too")
        return 0
    variable = "CUDA_VISIBLE_DEVICES" if options.use_cuda else "CPU_NUM"
    value = os.environ.get(variable)
    if value is not None:
        named = str(len(value.split(","))) if options.use_cuda else value.strip()
        if named != str(asked):
            raise InputError(f"{variable}, --num_devices: found {value!r} and {asked}, expected as many devices in "
                             "both")
    return asked if asked > 1 else 0


def watch(count, use_cuda):
    """Start this script `count` times, wait for all, and end this process with their exit status.

    Process 0 has our terminal. What the others say is shown once they ended, and only if process 0 didn't say what was
    wrong, since they mostly say the same. Ctrl-C and SIGTERM are passed on, and wait for the processes to save.
    """
    endpoints = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    children, outputs = [], [tempfile.TemporaryFile("w+", errors="replace") for _ in range(1, count)]

    def pass_on(number, frame):
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    for number in STOPPED:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    try:
        for rank in range(count):
            streams = {"stdin": subprocess.DEVNULL, "stdout": outputs[rank - 1], "stderr": outputs[rank - 1]}
            # A session of its own: a terminal's Ctrl-C comes to this process alone, which passes it on once.
            children.append(subprocess.Popen([sys.executable, *sys.argv], env=_environment(rank, endpoints, use_cuda),
                                             start_new_session=True, preexec_fn=end_with_parent,
                                             **streams if rank else {}))
        failed = _wait(children)
        said = [_text(output) for output in outputs]
    finally:
        _kill(children)
    if failed is None:
        sys.exit(0)
    sys.exit(_report(failed, children[failed].returncode, said))


def _wait(children):
    """Wait until all have ended, in the worst case by force; the number of the one to blame, None if all went well."""
    failed, since, is_forced = None, None, False
    while any(child.poll() is None for child in children):
        if failed is None:
            failed, since = _failed(children), time.monotonic()
        elif not is_forced and time.monotonic() - since > PATIENCE and children[failed].returncode not in _stopped():
            failed, is_forced = _failed(children), True
            _kill(children)
        time.sleep(LOOK)
    return failed if is_forced else _failed(children)


def _kill(children):
    for child in children:
        if child.poll() is None:
            child.kill()


def _failed(children):
    """The number of a child that ended badly, one that lost the others last; None if there is none."""
    bad = [rank for rank, child in enumerate(children) if child.returncode]
    return min(bad, key=lambda rank: children[rank].returncode == LOST, default=None)


def _report(failed, status, said):
    """Say why the processes ended where process 0 hasn't; the exit status."""
    if status in _stopped() or failed == 0 and status > 0 and status != LOST:
        return status
    if status == LOST:
        return fail(f"process {failed} had no answer from another one for 30 seconds, and so all were ended; what was "
                    "saved is whole", 1)
    if status > 0:
        print(said[failed - 1], end="", file=sys.stderr)
        return status if status == 2 else fail(f"process {failed} ended with status {status}, as said above", status)
    return fail(f"process {failed} of {len(said) + 1} was ended by {signal.Signals(-status).name}, and so the others "
                "were ended; what was saved is whole", 128 - status)


def _stopped():
    """The exit statuses of a process that was asked to stop."""
    return [status for _, status in STOPPED.values()]


def _environment(rank, endpoints, use_cuda):
    """The environment of a process, as paddle.distributed.launch sets it."""
    count = len(endpoints)
    variables = {"PADDLE_TRAINER_ID": rank, "PADDLE_TRAINERS_NUM": count, "PADDLE_LOCAL_RANK": rank,
                 "PADDLE_LOCAL_SIZE": count, "PADDLE_MASTER": endpoints[0],
                 "PADDLE_CURRENT_ENDPOINT": endpoints[rank], "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
                 WATCHED: os.getpid()}
    if use_cuda:
        devices = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        variables |= {"CUDA_VISIBLE_DEVICES": devices.split(",")[rank], "FLAGS_selected_gpus": 0}
    return os.environ | {name: str(value) for name, value in variables.items()}


def _free_ports(count):
    """Ports of this machine that nobody listens at, for a moment at least."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in listening]
    for server in listening:
        server.close()
    return ports


def end_with_parent():
    """In a child before it starts: have Linux send it a SIGTERM when this process is gone, so that it saves itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGTERM, 0, 0, 0)


def _text(file):
    """What was written to an open file."""
    with file:
        file.seek(0)
        return file.read()
