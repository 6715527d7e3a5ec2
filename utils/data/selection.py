"""Items to choose from among many, such as those that pass a filter: made once, used for many answers."""

import numpy as np

BLOCK = 16  # items in a number of `bits`, kLanes of packed_products.h
FEW = 32  # where at most one item in so many is in it, a scorer looks at these alone


class Selection:
    """Some of the items that a model knows. It is never changed.

    Parameters
    ----------
    mask : bool array [items]
        Which items are in it.

    Attributes
    ----------
    items : int
        How many there are to choose from.
    count : int
        How many are in it.
    bits : uint16 array [items / BLOCK, rounded up]
        The mask, the first item of a block in the lowest bit.
    few : int64 array [count], ascending, or None
        The items themselves where they are few.
    """

    def __init__(self, mask):
        self.items, self.count = len(mask), int(np.count_nonzero(mask))
        packed = np.zeros(-(-len(mask) // BLOCK) * BLOCK // 8, np.uint8)
        packed[:-(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
        self.bits = packed.view("<u2")
        self.few = np.flatnonzero(mask) if self.count * FEW <= len(mask) else None

    def mask(self):
        """Which items are in it, a bool array [items]."""
        return np.unpackbits(self.bits.view(np.uint8), count=self.items, bitorder="little").view(bool)

    def has(self, items):
        """Which of an int array of items are in it, a bool array."""
        return (self.bits[items // BLOCK] >> (items % BLOCK) & 1).astype(bool)


def chosen_items(allowed):
    """The items of a Selection, or of an int array or a list, each once: int64 array, ascending."""
    if isinstance(allowed, Selection):
        return np.flatnonzero(allowed.mask()) if allowed.few is None else allowed.few
    return np.unique(np.asarray(allowed, np.int64))


def require_same_items(allowed, count):
    """IndexError where one of several is a Selection from another number of items: C++ would read elsewhere."""
    if any(isinstance(each, Selection) and each.items != count for each in allowed):
        raise IndexError(f"a selection from another number of items than {count}")
