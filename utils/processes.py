"""What the processes of a run say to each other, by paddle.distributed: gloo between processors, NCCL between GPUs.

Each process makes the same calls in the same order. Where a process ends, or a link is cut, the calls of the others
fail within 30 seconds, and so these end too.
"""

import json
import os
import sys
import threading

import numpy as np

from utils.files import InputError
from utils.launch import WATCHED
from utils.process import LOST, Place

PULSE = 0.2  # seconds between two signs of life while a process is busy


class Processes(Place):
    """The processes of a run, and which of them this one is. With one alone, everything here does nothing.

    Parameters
    ----------
    rank, count : int
    """

    def __init__(self, rank=0, count=1):
        super().__init__(rank, count)
        self.is_first, self.is_alone = rank == 0, count == 1

    def sum(self, tensor):
        """Replace a tensor by the sum of those that all processes give; it is the same, bit by bit, on all of them."""
        if not self.is_alone:
            from paddle import distributed
            _answered(lambda: distributed.all_reduce(tensor))
        return tensor

    def sum_of_array(self, array):
        """The sum of the arrays that all processes give, each of the same shape and dtype."""
        if self.is_alone:
            return array
        import paddle
        return self.sum(paddle.to_tensor(array)).numpy()

    def from_first(self, note, arrays=None):
        """What process 0 gives, a JSON value and a dict of arrays; what the others give doesn't count."""
        arrays = arrays or {}
        if self.is_alone:
            return note, arrays
        kinds = {name: [str(values.dtype), list(values.shape)] for name, values in arrays.items()}
        header = np.frombuffer(json.dumps([note, kinds]).encode(), np.uint8)
        length = int(self._broadcast(np.array([len(header)]), "int64", 1)[0])
        note, kinds = json.loads(self._broadcast(header, "uint8", length).tobytes())
        received = {}
        for name, (kind, shape) in kinds.items():
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            given = np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8) if self.is_first else None
            received[name] = self._broadcast(given, "uint8", size).view(kind).reshape(shape)
        return note, received

    def together(self, work):
        """What `work()` returns, once all processes have done theirs, however long that takes.

        Meanwhile they give each other signs of life. An error in one ends the others too; it is for that one to say
        what it was.
        """
        if self.is_alone:
            return work()
        ended, state = threading.Event(), {"failed": True, "error": None}
        pulse = threading.Thread(target=self._give_signs_of_life, args=(ended, state), daemon=True)
        pulse.start()
        try:
            result = work()
            state["failed"] = False
        finally:
            ended.set()
            pulse.join()
        if state["error"]:
            raise state["error"]
        return result

    def in_turn(self, work):
        """What `work()` returns; process 0 does it first.

        So what is wrong with files is said once, and what is compiled, or kept beside files, is there for the others.
        """
        if self.is_alone:
            return work()
        results = [self.together(work if self.is_first is first else _nothing) for first in (True, False)]
        return results[0] if self.is_first else results[1]

    def first_does(self, work):
        """What `work()` returns on process 0; the others wait for it, and have None."""
        return self.together(work if self.is_first else _nothing)

    def require_same(self, value, what):
        """InputError on a process whose JSON `value` isn't that of process 0; `what` names it for the message."""
        if self.from_first(value)[0] != json.loads(json.dumps(value)):
            raise InputError(f"found other {what} than those of process 0, expected the same")

    def _broadcast(self, values, kind, size):
        """An array [size] as process 0 has it."""
        import paddle
        from paddle import distributed
        tensor = paddle.to_tensor(values) if self.is_first else paddle.zeros([size], kind)
        if size:
            _answered(lambda: distributed.broadcast(tensor, 0))
        return tensor.numpy()

    def _give_signs_of_life(self, ended, state):
        """Exchange them until all processes have ended their work, or one failed."""
        import paddle
        try:
            done_count = 0
            while done_count < self.count:
                ended.wait(PULSE)
                has_ended = ended.is_set()
                signs = paddle.to_tensor(np.array([has_ended, has_ended and state["failed"]], np.float32))
                done_count, failures = self.sum(signs).numpy()
                if failures:
                    raise lost("another process failed, as it says itself")
        except BaseException as error:
            state["error"] = error


ALONE = Processes()


def lost(why):
    """The error of a process that can't go on without the others; silent where utils/launch.py says what happened."""
    return SystemExit(LOST) if WATCHED in os.environ else InputError(f"{why}; what was saved is whole")


def _answered(call):
    """Make a call that needs all processes."""
    try:
        call()
    except (RuntimeError, OSError, ValueError) as error:  # Paddle's errors are these
        if os.environ.get("GLOG_v"):  # whoever looks for a fault in the exchange itself
            print(error, file=sys.stderr)
        raise lost("found no answer from another process: it ended, or the link to it is cut") from None


def _nothing():
    pass
