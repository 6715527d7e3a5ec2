"""The model that is served. A new one is loaded, tried and swapped in; a broken one is refused."""

import asyncio
import logging
import os
from copy import copy
from functools import partial
from pathlib import Path

import numpy as np

from utils.data.sessions import Sessions
from utils.files import InputError
from utils.memory import own_room
from utils.model import checkpoint
from utils.model.directory import choose_epoch
from utils.model.load import load_scorer
from utils.model.popular import POPULAR, read_popular
from utils.model.top_k import top_k_of_rows
from utils.serving.shared_ids import shared_ids

logger = logging.getLogger("gru4rec")


class ModelChanged(InputError):
    """Another model took the place of the one that was being loaded."""


class ServedModel:
    """A trained network with the names that replies need. It is never changed.

    Parameters
    ----------
    model_dir : str or Path
    epoch : int, optional
        By default the best one by validation, or without validation the last finished one.
    room : function
        As `memory.own_room`: where the weights lie.

    Attributes
    ----------
    name : str
        The names of the model directory and the epoch.
    weights_checksum : str
        SHA-256 of the weights, which replies name.
    checksum : str
        SHA-256 of weights, vocabulary and network together: what live states are saved under.
    popular : popular.Popular or None
    fields : item_table.ItemFields or None
        None where the server has no table of items.

    Raises
    ------
    ModelChanged
        The model's files changed while they were read.
    InputError
        The model can't be loaded, or doesn't answer as a trained network does.
    """

    def __init__(self, model_dir, epoch=None, room=own_room):
        model_dir = Path(os.path.realpath(model_dir))  # only here: a link may be switched at any moment
        epoch = choose_epoch(model_dir, epoch)
        directory = checkpoint.epoch_directory(model_dir, epoch)

        def read():
            scorer, item_ids = load_scorer(model_dir, epoch, room=room)
            return scorer, item_ids, read_popular(model_dir, len(scorer.item_matrix))

        self.scorer, item_ids, self.popular = read_unchanged(model_dir, directory, read)
        self.weights_checksum, self.checksum = self.scorer.weights_checksum, self.scorer.checksum
        self.name = f"{model_dir.name}/{directory.name}"
        self.item_ids, self.index_of = shared_ids(
            item_ids or [str(index) for index in range(len(self.scorer.item_matrix))],
            partial(room, f"item ids of {self.checksum}"))
        self.fields = None
        self.lengths = None  # of the items' vectors; computed when `similar` first needs them
        self._try_out(directory)

    def _try_out(self, directory):
        """InputError unless a made-up session gets finite scores."""
        items = np.arange(min(3, len(self.item_ids)), dtype=np.int32)
        state = self.scorer.after_sessions(Sessions(items, np.array([0, len(items)])))
        best, scores = self.scorer.best(state, [1], [()], [None])[0]
        if not (len(best) and np.isfinite(scores).all() and np.isfinite(state).all()):
            raise InputError(f"{directory}: found no finite scores for {len(items)} clicks, expected a trained model")

    def known(self, item_ids):
        """The indices of those item ids that the model knows, a list; None for None."""
        return item_ids and [self.index_of[item_id] for item_id in item_ids if item_id in self.index_of]

    def choice(self, item_ids, wanted):
        """What a scorer may choose from: those of some items that it knows, None for all, that pass a filter.

        The filter is a dict as in item_filter.py, or None. Where it asks for fields that aren't there, nothing passes.
        """
        known = self.known(item_ids)
        if not wanted:
            return known
        if self.fields is None or not wanted.keys() <= self.fields.columns.keys():
            return []
        selection = self.fields.select(wanted)
        if known is None:
            return selection
        known = np.array(known, np.int64)
        return known[selection.has(known)]

    def with_fields(self, fields):
        """The same model with other ItemFields."""
        model = copy(self)
        model.fields = fields
        return model

    def similar(self, item, k):
        """The items whose output vectors have the largest cosine with that of `item`, and the cosines.

        Of joined models, the first one has the vectors.
        """
        vectors = self.scorer.item_vectors
        if self.lengths is None:
            self.lengths = np.maximum(np.sqrt(np.einsum("iu,iu->i", vectors, vectors)), np.float32(1e-30))
        cosines = vectors @ vectors[item] / (self.lengths * self.lengths[item])
        return top_k_of_rows(cosines[None], k, [[item]])[0]


class ModelSlot:
    """Holds the model that is served, and checks whether the model directory has another one.

    Parameters
    ----------
    load : function
        Takes no arguments and returns a ServedModel.
    signature : function
        Takes no arguments and returns a value that changes when there is another model to load.
    on_change : function
        Called with (new model, previous model or None) after a swap, and with (None, current model) after a refusal.
    prepare : function
        Takes no arguments; called before `load`, but in the event loop's own thread, for work that no other may do.
    item_file : item_reload.ItemFile, optional
        The fields of the model's items. It is looked at, too.
    """

    def __init__(self, load, signature, on_change=lambda model, before: None, prepare=lambda: None, item_file=None):
        self.load, self.signature, self.on_change, self.prepare = load, signature, on_change, prepare
        self.model, self.seen, self.item_file = None, None, item_file
        self.has_looked = asyncio.Event()  # set once `watch` has loaded the first model, or found none

    async def look(self):
        """If there is another model, load it, try it and swap it in; returns whether that happened.

        Another table of items is swapped in, too.
        """
        has_new_items = self.item_file and await asyncio.to_thread(self.item_file.look)
        signature = await asyncio.to_thread(self.signature)
        if signature != self.seen and await self._load(signature):
            return True
        if has_new_items and self.model:
            self.model = self.model.with_fields(await asyncio.to_thread(self.item_file.fields_of, self.model))
        return False

    async def _load(self, signature):
        self.seen, before = signature, self.model  # a refused model isn't tried again until it changes
        try:
            self.prepare()
            model = await asyncio.to_thread(self.load)
            if self.item_file:
                model = model.with_fields(await asyncio.to_thread(self.item_file.fields_of, model))
        except (InputError, OSError, MemoryError) as error:
            if isinstance(error, ModelChanged):
                self.seen = None  # nothing is known to be wrong with what is there now
            logger.error("model refused", extra={"reason": str(error), "serving": before and before.name})
            self.on_change(None, before)
            error.__traceback__ = None  # a frame may hold the error, and ours has a model that is to go when replaced
            return False
        self.model = model
        logger.info("model loaded", extra={"model": model.name, "sha256": model.weights_checksum,
                                           "scoring": model.scorer.way})
        self.on_change(model, before)
        return True

    async def watch(self, seconds):
        """Call `look` forever, with pauses of this many seconds."""
        while True:
            try:
                await self.look()
            except Exception:
                logger.exception("looking for a new model failed")
            self.has_looked.set()
            await asyncio.sleep(seconds)


def read_unchanged(model_dir, directory, read):
    """What `read()` returns of a model; ModelChanged if its files changed meanwhile. `directory` is the epoch's."""
    before, failure = _state_of_files(model_dir, directory), None
    try:
        found = read()
    except (InputError, OSError) as error:
        failure = error
    if _state_of_files(model_dir, directory) != before:
        raise ModelChanged(f"{model_dir}: found files that changed while they were read, expected one model")
    if failure:
        raise failure
    return found


def _state_of_files(model_dir, directory):
    """What changes when one of the files that make up a model is replaced or written to; `directory` is the epoch's."""
    found = []
    for path in (model_dir / "config.json", model_dir / "vocab.txt", model_dir / POPULAR,
                 model_dir / checkpoint.NEIGHBOURS, directory / checkpoint.STATE, directory / checkpoint.MODEL):
        try:
            status = path.stat()
            found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError as error:
            found.append(error.errno)
    return found


def signature_of(model_dir, epoch=None):
    """A value that changes when a model directory has another model: the path and the state of its state.json.

    And the state of its config.json: a memory of neighbours is there once that names it.
    """
    try:
        chosen = choose_epoch(model_dir, epoch)
        found = os.path.realpath(checkpoint.epoch_directory(model_dir, chosen) / checkpoint.STATE)
        statuses = os.stat(found), os.stat(Path(found).parent.parent / "config.json")
        return found, *((status.st_ino, status.st_mtime_ns) for status in statuses)
    except (InputError, OSError) as error:
        return str(error)
