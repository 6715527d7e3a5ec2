"""Made-up sessions."""

import numpy as np

from utils.data.sessions import Sessions

RSC15_ITEMS = 37_483  # of the full training data


def random_sessions(item_count, count):
    """`count` sessions with RSC15's mean length of four clicks; the first items are the most popular ones."""
    random = np.random.default_rng(1)
    lengths = np.minimum(1 + random.geometric(1 / 3, count), 200)
    items = (item_count * random.random(lengths.sum()) ** 3).astype(np.int32)
    return Sessions(items, np.concatenate([[0], np.cumsum(lengths)]))
