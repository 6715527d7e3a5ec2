"""How many threads a run takes: as many as pay, measured on its first steps, which count as training.

Threads wait for each other several times a step. The shorter the steps and the busier the machine, the sooner another
thread costs more than it brings. What is trained doesn't depend on the number: utils/native computes the same with any.
"""

import time
from statistics import median

from utils.runlog import log

ROUNDS, STEPS = 3, 4  # so often each number has its turn, and so many steps each time; the first of them isn't counted
WORTH = 0.95  # of the best rate: a smaller number that comes so near is taken


class ThreadTrial:
    """In the place of a trainer's `step` at the beginning of a run.

    Parameters
    ----------
    kernels : kernels.Kernels
        What the threads compute with.
    most : int
        Threads to take at most.
    record : function
        Records a dict: the number, for a run that is resumed.
    """

    def __init__(self, kernels, most, record):
        self.kernels, self.record, self.numbers = kernels, record, numbers_to_try(most)
        self.turns = [number for _ in range(ROUNDS) for number in self.numbers for _ in range(STEPS)]
        self.seconds = {number: [] for number in self.numbers}  # for a prediction
        self.done = 0

    def step(self, step, batch):
        """What `step(batch)` returns; its time is measured until enough is known."""
        if self.done == len(self.turns):
            return step(batch)
        number = self.turns[self.done]
        self.kernels.set_threads(number)
        began = time.perf_counter()
        loss = step(batch)
        if self.done % STEPS:
            self.seconds[number].append((time.perf_counter() - began) / len(batch.targets))
        self.done += 1
        if self.done == len(self.turns):
            self._choose()
        return loss

    def _choose(self):
        rates = {number: 1 / median(seconds) for number, seconds in self.seconds.items()}
        chosen = next(number for number in self.numbers if rates[number] >= WORTH * max(rates.values()))
        self.kernels.set_threads(chosen)
        self.record({"event": "threads", "threads": chosen})
        measured = ", ".join(f"{number}: {rate:.0f}" for number, rate in rates.items())
        log(f"threads:{chosen} (predictions/s by threads: {measured}; --threads sets the number)")


def numbers_to_try(most):
    """1, 2, 4 and so on, and `most`, ascending."""
    powers = [2**power for power in range(most.bit_length())]
    return sorted({*powers, most})
