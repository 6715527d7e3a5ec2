"""The model that is served, and how a new one takes its place: loaded, tried, then swapped; a broken one is refused."""

import asyncio
import json
import logging
from pathlib import Path

import numpy as np

from utils import checkpoint
from utils.files import InputError
from utils.native_scorer import load_fast_scorer, native_library
from utils.scorer import choose_epoch, top_k_of_rows
from utils.sessions import Sessions

logger = logging.getLogger("gru4rec")


class ServedModel:
    """A trained network with the names that replies need. It never changes.

    Parameters
    ----------
    model_dir : str or Path
    epoch : int, optional
        By default the best of the validation, without validation the last that is finished.

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

    def __init__(self, model_dir, epoch=None):
        epoch = choose_epoch(model_dir, epoch)
        self.scorer, item_ids = load_fast_scorer(model_dir, epoch)
        directory = checkpoint.epoch_directory(model_dir, epoch)
        state = json.loads((directory / checkpoint.STATE).read_text(encoding="utf-8"))  # load_fast_scorer has checked it
        self.checksum = state["files"][checkpoint.MODEL]["sha256"]
        self.name = f"{Path(model_dir).resolve().name}/{directory.name}"
        self.item_ids = item_ids or [str(index) for index in range(len(self.scorer.item_matrix))]
        self.index_of = {item_id: index for index, item_id in enumerate(self.item_ids)}
        self.lengths = None  # of the items' vectors, for `similar`: known when first asked for
        self._try_out(directory)

    def _try_out(self, directory):
        """InputError unless a made-up session gets finite scores."""
        items = np.arange(min(3, len(self.item_ids)), dtype=np.int32)
        state = self.scorer.after_sessions(Sessions(items, np.array([0, len(items)])))
        best, scores = self.scorer.best(state, [1], [()], [None])[0]
        if not (len(best) and np.isfinite(scores).all() and np.isfinite(state).all()):
            raise InputError(f"{directory}: found no finite scores for {len(items)} clicks, expected a trained model")

    def known(self, item_ids):
        """The indices of those item ids that the model knows, a list; None of None."""
        return item_ids and [self.index_of[item_id] for item_id in item_ids if item_id in self.index_of]

    def similar(self, item, k):
        """The items whose output vectors have the largest cosine with that of `item`, and the cosines."""
        vectors = self.scorer.item_vectors
        if self.lengths is None:
            self.lengths = np.maximum(np.sqrt(np.einsum("iu,iu->i", vectors, vectors)), np.float32(1e-30))
        cosines = vectors @ vectors[item] / (self.lengths * self.lengths[item])
        return top_k_of_rows(cosines[None], k, [[item]])[0]


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
        logger.info("model loaded", extra={"model": model.name, "sha256": model.checksum, "scoring": native_library()[1]})
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
