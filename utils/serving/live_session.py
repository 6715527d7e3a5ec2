"""What every session store keeps of a session, and how it says that it can't."""

from typing import NamedTuple


class LiveSession(NamedTuple):
    """What is known about a session.

    clicks : list of str, the item ids of its last clicks in time order
    count : int, the number of all its clicks, including those that are no longer kept
    covered : int, how many of its clicks `state` covers
    model : str, ServedModel.checksum of the model that `state` belongs to; empty without a state
    state : bytes, as in micro_batches.Answer
    """

    clicks: list
    count: int = 0
    covered: int = 0
    model: str = ""
    state: bytes = b""

    @property
    def covered_of_kept(self):
        """How many of `clicks` the state covers; negative if clicks between it and them are lost."""
        return len(self.clicks) - (self.count - self.covered)


class StoreError(Exception):
    """The store can't be reached or read, or it doesn't answer in time."""
