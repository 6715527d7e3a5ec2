"""The item ids of a large catalogue in memory that the workers of a server share.

As a list and a dict of Python, they would take 140 bytes an item in each worker.
"""

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np

MANY = 100_000  # items; fewer take little, and a list and a dict are faster
CODE = "utf-8", "surrogatepass"  # which takes any text


def shared_ids(item_ids, room):
    """The same item ids, and their indices, in the forms that suit their number.

    Parameters
    ----------
    item_ids : list of str
    room : function
        Of a size, of what fills it and of what it is, as `memory.own_room` with a key.

    Returns
    -------
    item_ids : list or SharedIds
    index_of : dict or SharedIndices
    """
    if len(item_ids) < MANY:
        return item_ids, {item_id: index for index, item_id in enumerate(item_ids)}
    shared = SharedIds(item_ids, room)
    return shared, SharedIndices(shared)


class SharedIds(Sequence):
    """Item ids by their indices.

    All of them are in `text`, one after another: item i has text[starts[i]:starts[i + 1]]. `order` has the items by
    their buckets, which are as many: bucket b has order[buckets[b]:buckets[b + 1]].
    """

    def __init__(self, item_ids, room):
        count = len(item_ids)
        parts = [(count + 1, np.int64), (count + 1, np.int32), (count, np.int32),
                 (len("".join(item_ids).encode(*CODE)), np.uint8)]
        ends = np.cumsum([size * np.dtype(dtype).itemsize for size, dtype in parts]).tolist()
        place = lambda data: [data[start:end].view(dtype) for start, end, (_, dtype) in zip([0, *ends], ends, parts)]

        def fill(data):
            starts, buckets, order, text = place(data)
            encoded = [item_id.encode(*CODE) for item_id in item_ids]
            starts[0], starts[1:] = 0, np.cumsum(np.fromiter(map(len, encoded), np.int64, count))
            text[:] = np.frombuffer(b"".join(encoded), np.uint8)
            bucket_of = np.fromiter(map(crc32, encoded), np.int64, count) % count
            order[:] = np.argsort(bucket_of, kind="stable")
            buckets[:] = np.searchsorted(bucket_of[order], np.arange(count + 1))
        filled = room(ends[-1], fill, f"--model_dir: found {count} item ids")
        self.starts, self.buckets, self.order, self.text = map(memoryview, place(filled))

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return str(self.text[self.starts[index]:self.starts[index + 1]], *CODE)

    def __iter__(self):
        return (str(self.text[start:end], *CODE) for start, end in zip(self.starts, self.starts[1:]))


class SharedIndices(Mapping):
    """Indices by the item ids of a SharedIds."""

    def __init__(self, ids):
        self.ids = ids

    def __len__(self):
        return len(self.ids)

    def __iter__(self):
        return iter(self.ids)

    def __getitem__(self, item_id):
        wanted, ids = item_id.encode(*CODE), self.ids
        bucket = crc32(wanted) % len(ids)
        for place in range(ids.buckets[bucket], ids.buckets[bucket + 1]):
            index = ids.order[place]
            if ids.text[ids.starts[index]:ids.starts[index + 1]] == wanted:
                return index
        raise KeyError(item_id)
