"""The model of purchase intent that is served; it is never changed."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from utils.files import InputError
from utils.intent.answers import scores
from utils.intent.features import pairs_of
from utils.intent.metrics import decide
from utils.intent.model import load_intent_model
from utils.intent.sessions import IntentSessions
from utils.model import checkpoint
from utils.model.directory import choose_epoch, named_by
from utils.serving.model_reload import read_unchanged

FLAG = "--intent_model_dir"


class ServedIntent:
    """What answers of an epoch of a model directory; attributes as of model_reload.ServedModel.

    Raises
    ------
    ModelChanged
        The model's files changed while they were read.
    InputError
        The model can't be loaded, or its network was edited in net.py.
    """

    def __init__(self, model_dir, epoch=None):
        model_dir = Path(os.path.realpath(model_dir))  # only here: a link may be switched at any moment
        with named_by(FLAG):
            epoch = choose_epoch(model_dir, epoch)
        directory = checkpoint.epoch_directory(model_dir, epoch)

        def read():
            with named_by(FLAG):
                return load_intent_model(model_dir, epoch)

        self.model = read_unchanged(model_dir, directory, read)
        if not self.model.is_known:
            raise InputError(f"{FLAG}: found a model of a network that was edited in net.py in {model_dir}, expected "
                             "the one that net.py came with")
        self.scorer, self.weights_checksum = self.model.scorer(), self.model.weights.checksum
        decisive = f"{self.weights_checksum} {self.model.config}"
        self.checksum = hashlib.sha256(decisive.encode()).hexdigest()
        self.name = f"{model_dir.name}/{directory.name}"
        self.index_of = {item_id: index for index, item_id in enumerate(self.model.item_ids)}
        self.category_of = {name: index + 1 for index, name in enumerate(self.model.categories)}
        if not np.isfinite(self.answers([[(self.model.item_ids[0], "", 0.0)]])[0][0]):
            raise InputError(f"{directory}: found no finite probability of a click, expected a trained model")

    @property
    def answers_running(self):
        """Whether it answers for sessions that go on."""
        return not self.model.settings.bidirectional

    def answers(self, sessions):
        """What sessions are expected to buy.

        Parameters
        ----------
        sessions : list of lists of (str, str, float)
            Of each click its item, category and time; at least one each.

        Returns
        -------
        list of (float, bool, list of (str, float, bool), int)
            The probability that a session buys, whether it is said to; of its items, in the order of the first clicks,
            the id, the probability that it is bought if anything is, and whether it is said to be; clicks on unknown
            items.
        """
        clicked, model = self._clicked(sessions), self.model
        found = scores(self.scorer.log_odds, clicked, model.counts, model.knots, model.settings.min_support)
        pairs = pairs_of(clicked)
        said = decide(pairs.owners, *found, model.session_threshold, model.item_threshold)
        ids = clicked.item_ids.take(clicked.ids[pairs.firsts]).to_pylist()
        items = list(zip(ids, said.pair_scores.tolist(), said.chosen.tolist()))
        ends = np.searchsorted(pairs.owners, np.arange(1, len(sessions) + 1)).tolist()
        unknown = np.add.reduceat(clicked.items == len(self.index_of), clicked.offsets[:-1], dtype=np.int64).tolist()
        return [(score, buys, items[start:end], left_out) for score, buys, start, end, left_out
                in zip(said.session_scores.tolist(), said.predicted.tolist(), [0, *ends], ends, unknown)]

    def _clicked(self, sessions):
        """The sessions as IntentSessions, which buy nothing yet."""
        clicks, number_of = [click for session in sessions for click in session], {}
        ids = np.array([number_of.setdefault(item_id, len(number_of)) for item_id, _, _ in clicks], np.int32)
        unknown = len(self.index_of)
        items = np.array([self.index_of.get(item_id, unknown) for item_id, _, _ in clicks], np.int32)
        categories = np.array([self.category_of.get(category, 0) for _, category, _ in clicks], np.int32)
        times = np.array([time for _, _, time in clicks], np.float64)
        offsets = np.append(0, np.cumsum([len(session) for session in sessions]))
        none, numbers = np.zeros(len(sessions), np.int32), pa.array(range(len(sessions)))
        return IntentSessions(items, categories, times, ids, np.zeros(len(ids), bool), offsets, none > 0, none, numbers,
                              pa.array(list(number_of), pa.string()))
