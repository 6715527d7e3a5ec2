"""What a training draws from: an epoch's generator, and the seeds of steps, which don't depend on those before."""

import numpy as np
import paddle


def epoch_generator(seed, epoch):
    """The generator of what an epoch draws: order of the batches, negatives, seed of the C++'s dropout."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch]))


def seed_step(seed, epoch, step, rank):
    """Seed what a step draws from Paddle's own generator, dropout, so that a step doesn't depend on those before it."""
    paddle.seed(int(np.random.SeedSequence([seed, epoch, step] + [rank] * bool(rank)).generate_state(1)[0]))
