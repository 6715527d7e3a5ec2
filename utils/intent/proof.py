"""Before a run's first step: does net.py train the network that it evaluates, and is that the one serve.py computes?"""

import numpy as np
import paddle
import paddle.nn.functional as F

from utils import sources
from utils.files import InputError
from utils.intent.batches import make_batch
from utils.intent.model import CLOSE, agrees
from utils.intent.sessions import choose_sessions, first_clicks
from utils.intent.trainer import ITEMS, tensors_of
from utils.runlog import warn
from utils.training.proof import trial_weights

SESSIONS, CLICKS = 8, 12  # of the comparison: the first sessions and the longest one, of so many clicks each at most


def prove(trainer):
    """Whether scorer.IntentScorer computes what net.py does, for an IntentTrainer; a warning where it doesn't.

    It does where nothing of the network was edited, and both give the same numbers for a small batch. InputError where
    net.py trains another network than it evaluates. The weights are others meanwhile, so that none is 0 as biases are
    at first.
    """
    network, sessions = trainer.network, trainer.sessions
    edited = sources.edits([sources.INTENT])
    lengths = sessions.lengths()
    some = choose_sessions(sessions, np.unique([np.argmax(lengths), *range(min(SESSIONS, len(lengths)))]))
    batch = make_batch(first_clicks(some, CLICKS), trainer.counts, trainer.knots, network.settings.min_support)
    network.eval()
    with trial_weights(network, np.random.default_rng(0), [ITEMS]):
        with paddle.no_grad():
            found = [values.numpy() for values in network(tensors_of(batch))]
        _require_what_trains(network, tensors_of(batch), found)
        is_known = not edited and agrees(network.settings, trainer.weights(), batch, found)
    if not is_known:
        found = edited[0] if edited else "net.IntentNetwork computes other odds than utils/intent/scorer.py"
        warn(f"{found}: infer_intent.py evaluates this model by Paddle, and serve.py refuses it")
    return is_known


def _require_what_trains(network, batch, found):
    """Raise InputError where `found`, what the network says of a batch, isn't what IntentTrainer.step trains."""
    of_members = []
    for member in network.members:
        said = member(batch, F.embedding(batch.rows, member.items.detach()))
        if paddle.grad([values.sum() for values in said], [member.items], allow_unused=True)[0] is not None:
            raise InputError("net.py: found an IntentMember that reads its items beside the item_rows that it is "
                             "given, expected only these: training has no gradient of others")
        of_members.append([values.numpy() for values in said])
    mean = [sum(values) / len(of_members) for values in zip(*of_members)]
    if not all(np.allclose(*both, rtol=CLOSE, atol=CLOSE) for both in zip(found, mean)):
        raise InputError("net.py: found an IntentNetwork that says something else than the mean of what its members "
                         "say of given item_rows, expected that mean: training knows its members alone, and gives "
                         "them the rows")
