"""The model that is served, and how a new one takes its place: loaded, tried, then swapped; a broken one is refused."""

import asyncio
import json
import logging
from pathlib import Path

import numpy as np

from utils import checkpoint
from utils.files import InputError
from utils.scorer import choose_epoch, load_scorer, top_k_of_rows
from utils.sessions import Sessions

logger = logging.getLogger("gru4rec")


class ServedModel:
    """A trained network with the names that replies need. It never changes.

    Parameters
    ----------
    model_dir : str or Path
    epoch : int, optional
        By default the best of the validation, without validation the last that is finished.
    item_matrix : {"float32", "int8"}

    Attributes
    ----------
    name : str
        Of the model directory and the epoch.
    checksum : str
        SHA-256 of the weights.

    Raises
    ------
    InputError
        What can't be loaded, or doesn't answer as a trained network does.
    """

    def __init__(self, model_dir, epoch=None, item_matrix="float32"):
        epoch = choose_epoch(model_dir, epoch)
        self.scorer, item_ids = load_scorer(model_dir, epoch)
        directory = checkpoint.epoch_directory(model_dir, epoch)
        state = json.loads((directory / checkpoint.STATE).read_text(encoding="utf-8"))  # load_scorer has checked it
        self.checksum = state["files"][checkpoint.MODEL]["sha256"]
        self.name = f"{Path(model_dir).resolve().name}/{directory.name}"
        self.item_ids = item_ids or [str(index) for index in range(len(self.scorer.item_matrix))]
        self.index_of = {item_id: index for index, item_id in enumerate(self.item_ids)}
        self.rough = None
        if item_matrix == "int8":
            from utils.int8_items import Int8Items
            self.rough = Int8Items(self.scorer.item_matrix)
        self.lengths = None  # of the items' vectors, for `similar`: known when first asked for
        self._try_out(directory)

    def _try_out(self, directory):
        """InputError unless a made-up session gets finite scores."""
        items = np.arange(min(3, len(self.item_ids)), dtype=np.int32)
        states = self.scorer.replay(Sessions(items, np.array([0, len(items)])), self.scorer.before_first_click(1))
        best, scores = self.best(states[-1], 1, [()])[0]
        if not (len(best) and np.isfinite(scores).all() and all(np.isfinite(state).all() for state in states)):
            raise InputError(f"{directory}: found no finite scores for {len(items)} clicks, expected a trained model")

    def best(self, states, k, excluded):
        """The best items after states of the last layer, as `top_k_of_rows` returns them."""
        if self.rough:
            return self.rough.best(self.scorer, states, k, excluded)
        return top_k_of_rows(self.scorer.scores(states), k, excluded)

    def best_of(self, allowed, state, k, excluded):
        """The best of the items `allowed`, int array, after one state of the last layer: a pair as in `top_k_of_rows`."""
        allowed = np.setdiff1d(allowed, np.asarray(excluded, np.int64))  # ascending, so equal scores stay in the order of all
        if not len(allowed):
            return allowed, np.empty(0, np.float32)
        best, scores = top_k_of_rows(self.scorer.scores(state[None], allowed), k)[0]
        return allowed[best], scores

    def similar(self, item, k):
        """The items whose output vectors have the largest cosine with that of `item`, and the cosines."""
        vectors = self.scorer.item_vectors
        if self.lengths is None:
            self.lengths = np.maximum(np.sqrt(np.einsum("iu,iu->i", vectors, vectors)), np.float32(1e-30))
        cosines = vectors @ vectors[item] / (self.lengths * self.lengths[item])
        return top_k_of_rows(cosines[None], k, [[item]])[0]

    def state_bytes(self, states, row):
        """The layers' states of a session as bytes, to store."""
        return b"".join(state[row].tobytes() for state in states)

    def states_from(self, blobs):
        """The layers' states of several sessions from their bytes; empty ones are sessions before their first click."""
        units = self.scorer.hid_size
        rows = np.zeros((len(blobs), sum(units)), np.float32)
        for row, blob in enumerate(blobs):
            if blob:
                rows[row] = np.frombuffer(blob, np.float32)
        return np.split(rows, np.cumsum(units)[:-1], axis=1)


class ModelSlot:
    """Holds the model that is served, and looks whether the model directory has another one.

    Parameters
    ----------
    load : function
        Without arguments, returns a ServedModel.
    signature : function
        Without arguments, returns what changes when there is another model to load.
    on_change : function
        Called with (model, model before or None) after a swap, and with (None, model) after a refusal.
    """

    def __init__(self, load, signature, on_change=lambda model, before: None):
        self.load, self.signature, self.on_change = load, signature, on_change
        self.model, self.seen = None, None

    async def look(self):
        """Load, try and swap where there is another model; whether that was done."""
        signature = await asyncio.to_thread(self.signature)
        if signature == self.seen:
            return False
        self.seen, before = signature, self.model  # a refused one isn't tried again before it changes
        try:
            model = await asyncio.to_thread(self.load)
        except (InputError, OSError, MemoryError) as error:
            logger.error("model refused", extra={"reason": str(error), "serving": before and before.name})
            self.on_change(None, before)
            return False
        self.model = model
        logger.info("model loaded", extra={"model": model.name, "sha256": model.checksum})
        self.on_change(model, before)
        return True

    async def watch(self, seconds):
        """Look every so many seconds, forever."""
        while True:
            try:
                await self.look()
            except Exception:
                logger.exception("looking for a new model failed")
            await asyncio.sleep(seconds)


def signature_of(model_dir, epoch=None):
    """What changes when a model directory has another model: which directory it is, and its last epoch's state.json."""
    try:
        chosen = choose_epoch(model_dir, epoch)
        found = (checkpoint.epoch_directory(model_dir, chosen) / checkpoint.STATE).resolve()
        status = found.stat()
        return str(found), status.st_ino, status.st_mtime_ns
    except (InputError, OSError) as error:
        return str(error)
