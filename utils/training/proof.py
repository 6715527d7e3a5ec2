"""Proof before use: C++ and net.py compute a small batch of the run's own data both ways, before the run's first step.

What stands in net.py, losses.py and optimizers.py is what trains. The C++ in utils/native/ and the scorers in
utils/model/ are made for these as they come. They take their place only where nothing that the run needs of them was
edited (sources.py), and where both give the same numbers here: hidden states, losses, gradients. So an edit takes
effect without any flag, however small it is, and so does a change to what these files use of other ones. The weights of
the comparison are drawn anew, so large that no activation is near a straight line, and the run's own weights are put
back afterwards.
"""

from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import paddle

import net
from utils import sources
from utils.data.batches import Batch, pack
from utils.data.sessions import choose, cut_windows
from utils.files import InputError
from utils.model.equal_lengths import fold_lengths
from utils.model.layout import ITEM_MATRIX, input_matrix, layers, weight_shapes
from utils.model.network import shapes
from utils.model.scorer import Scorer
from utils.native.kernels import LOSSES
from utils.tensors import as_array, is_gpu
from utils.training.engines import NativeEngine, PaddleEngine, input_matrix_name
from utils.training.fused import FusedEngine, computes
from utils.training.masks import DrawnMasks, NativeMasks, dropout_by
from utils.training.objectives import Scored
from utils.training.optimizers import Gradient
from utils.training.softmax import PaddleSoftmax

TOLERANCE = 1e-3  # relative to the largest number of what is compared
FIRST_SESSIONS, SESSIONS, CLICKS = 1000, 6, 12  # the batch: of the first sessions so many, of so many predictions each
ITEMS = 300  # rows at most of the item matrix of the comparison, where all items are scored
STEPS = 1, 2, 100, 10_000, 1_000_000  # by which optimisers are compared: a formula may go by how many were done
MATRICES = ITEM_MATRIX, "embedding"


@dataclass
class Proof:
    """What was found.

    differs : dict of str to list of str, by `engine`, `loss`, `optimizer`, `scorer` and `carrying` what was edited, or
        else the names of what differs
    computed_by : dict of str to str, by `engine`, `loss` and `optimizer` what computes them: `native` (C++), `fused`
        and `softmax` (the modules of this name) or `paddle` (what stands in net.py, losses.py and optimizers.py)
    definitions : dict of str to str, by the same the checksum of what they are by net.py, losses.py and optimizers.py
    """

    differs: dict = field(default_factory=dict)
    computed_by: dict = field(default_factory=dict)
    definitions: dict = field(default_factory=dict)

    def agrees(self, part):
        """Whether a part was compared and nothing differed."""
        return self.differs.get(part) == []


def prove(trainer, kernels):
    """Compare, let the trainer use what agrees, and say what came of it.

    Parameters
    ----------
    trainer : trainer.Trainer
    kernels : kernels.Kernels or None
        None where there is no C++ to use.

    Returns
    -------
    Proof
    str
        The log line.

    Raises
    ------
    InputError
        net.py trains another network than it evaluates, or one that sees a session's later clicks; or a loss isn't one
        number for each prediction.
    """
    network, random = trainer.network, np.random.default_rng(0)
    batch, rows = _small_batch(trainer.sessions), network.item_matrix.shape[0]
    batch = batch._replace(inputs=batch.inputs % rows, targets=batch.targets % rows)  # all rows, or this process's
    of_optimizer = sources.optimizer(type(trainer.optimizer))
    edited = sources.edits([sources.NETWORK]) or _other_weights(network)
    is_fused = is_gpu() and computes(network.settings, trainer.batching.side_by_side)
    with trial_weights(network, random):
        require_states(network, batch)
        require_same_rows(network, batch)
        require_no_future(network, batch)
        edited_scores = edited or sources.edits([sources.SCORES])
        proof = Proof({"scorer": edited_scores or _scorer_differences(network, batch, random),
                       "carrying": carrying_differences(network, batch, random)})
        if kernels:
            proof.differs["engine"] = edited or _engine_differences(network, kernels, batch, random)
        elif is_fused:
            proof.differs["engine"] = edited or _fused_differences(
                network, _one_click(batch) if trainer.batching.side_by_side else batch, random)
        differs = _loss_differences(trainer.objective, kernels, batch, random)
        if kernels or trainer.objective.needs_only_softmax:
            proof.differs["loss"] = differs
        if kernels:
            proof.differs["optimizer"] = (sources.edits(of_optimizer)
                                          or _optimizer_differences(trainer.optimizer, kernels))
    if proof.agrees("engine"):
        trainer.use(NativeEngine(network, kernels) if kernels else FusedEngine(network), kernels)
    else:
        trainer.use(None, kernels)
    if proof.agrees("loss"):
        trainer.objective.kernels, trainer.objective.paddle_softmax = kernels, None if kernels else PaddleSoftmax()
    trainer.optimizer.kernels = kernels if proof.agrees("optimizer") else None
    fast = {"engine": "fused", "loss": "softmax", "optimizer": "paddle"}
    proof.computed_by = {part: "paddle" if not proof.agrees(part) else "native" if kernels else name
                         for part, name in fast.items()}
    proof.definitions = {part: sources.checksum(definitions) for part, definitions in zip(
        fast, ([sources.NETWORK], trainer.objective.definitions, of_optimizer))}
    return proof, _log_line(proof, kernels, fast)


def _log_line(proof, kernels, fast):
    """What computes each part, and of those that Paddle does what in net.py, losses.py or optimizers.py is the reason.
    """
    words = []
    for part, name in proof.computed_by.items():
        differs = proof.differs.get(part)
        faster = "utils/native" if kernels else f"utils/training/{fast[part]}.py"
        words.append(f"{part}:{name}" + (f" (not what {faster} computes: {', '.join(differs)})" if differs else ""))
    return " ".join(words)


def _small_batch(sessions):
    """Some of the first sessions, the longest among them, none longer than CLICKS predictions: a batches.Batch."""
    lengths = sessions.lengths[:FIRST_SESSIONS]
    usable = np.flatnonzero(lengths > 1) if (lengths > 1).any() else np.flatnonzero(sessions.lengths > 1)[:1]
    longest = usable[np.argmax(sessions.lengths[usable])]
    some = choose(sessions, np.unique([longest, *usable[:SESSIONS]]))
    windows, _ = cut_windows(some, CLICKS)
    return pack(windows, np.arange(len(windows.lengths)))


def _one_click(batch):
    """The first click of each session of a batches.Batch, as one step."""
    rows = batch.rows_per_step[0]
    return Batch(batch.inputs[:rows], batch.targets[:rows], batch.positions[:rows], [rows])


@contextmanager
def trial_weights(network, random, matrices=MATRICES):
    """Within the block, all weights but the item matrices are such that no gate is quite open or shut."""
    kept = {name: (weight, weight.numpy()) for name, weight in network.named_parameters()
            if name.rpartition(".")[2] not in matrices}
    was_training = network.training
    try:
        for weight, values in kept.values():
            spread = 1 / np.sqrt(len(values)) if values.ndim > 1 else 0.5
            paddle.assign(paddle.to_tensor(random.normal(0, spread, values.shape).astype(np.float32)), weight)
        yield
    finally:
        for weight, values in kept.values():
            paddle.assign(paddle.to_tensor(values), weight)
        network.train() if was_training else network.eval()


def require_states(network, batch):
    """Raise InputError unless `hidden_states` gives each click a state that scores can take, and the same one twice."""
    network.eval()
    items = paddle.to_tensor(batch.inputs)
    with paddle.no_grad():
        found, again = (network.hidden_states(items, batch.rows_per_step) for _ in range(2))
    if not paddle.is_tensor(found):
        raise InputError(f"net.py: found hidden_states that returns a {type(found).__name__}, expected a tensor")
    clicks, units = len(items), network.item_matrix.shape[1] - 1
    if found.ndim == 2 and sources.edits([sources.SCORES]):
        units = found.shape[1]  # edited scores take what they like
    if list(found.shape) != [clicks, units] or found.dtype != paddle.float32:
        raise InputError(f"net.py: found states of shape {list(found.shape)} by hidden_states, {str(found.dtype)[7:]}, "
                         f"expected {[clicks, units]}, float32: one state for each click, as wide as scores take")
    if not bool(paddle.isfinite(found).all()):
        raise InputError("net.py: found states that are not finite numbers by hidden_states, expected numbers")
    if differences({"states": again.numpy()}, {"states": found.numpy()}):
        raise InputError("net.py: found hidden_states that gives other states the second time, expected the same once "
                         "trained (weights made in it, dropout that doesn't ask self.training)")


def require_same_rows(network, batch):
    """Raise InputError where `hidden_states` treats rows that it is given otherwise than those it looks up."""
    network.eval()
    items = paddle.to_tensor(batch.inputs)
    with paddle.no_grad():
        looked_up = network.hidden_states(items, batch.rows_per_step)
        given = network.hidden_states(items, batch.rows_per_step, paddle.gather(network.input_weights(), items))
    if differences({"states": given.numpy()}, {"states": looked_up.numpy()}):
        raise InputError("net.py: found hidden_states that treats given item_rows otherwise than rows it looks up "
                         "itself, expected the same: training gives them, evaluation doesn't")


def require_no_future(network, batch):
    """Raise InputError where the states before the last step depend on that step: on a click that comes later."""
    network.eval()
    items, earlier = paddle.to_tensor(batch.inputs), batch.rows_per_step[:-1]
    if not earlier:
        return
    with paddle.no_grad():
        whole = network.hidden_states(items, batch.rows_per_step)[:sum(earlier)]
        cut = network.hidden_states(items[:sum(earlier)], earlier)
    if differences({"states": whole.numpy()}, {"states": cut.numpy()}):
        raise InputError("net.py: found hidden_states where a click's state depends on later clicks of the session, "
                         "expected only on those up to it: the later ones are what the network is to predict (a "
                         "bidirectional layer, attention without a mask, positions counted from the end)")


def _other_weights(network):
    """Weights that net.py has and layout.py lacks, or the other way round, or of another shape: their names."""
    found = shapes(network)
    known = weight_shapes(network.settings, network.item_matrix.shape[0])
    if input_matrix_name(network) != input_matrix(network.settings):
        return ["input_weights"]
    names = [f"weight {name}" for name in {**known, **found} if found.get(name) != known.get(name)]
    first = network.first_states(2)
    has_zeros = [list(state.shape) for state in first] == [[2, layer.units] for layer in layers(network.settings)]
    return names if has_zeros and not any(bool(state.any()) for state in first) else [*names, "first_states"]


def _engine_differences(network, kernels, batch, random):
    """What NativeEngine and net.py differ in, by the same masks of dropout: a list of str."""
    native = NativeEngine(network, kernels)
    native.start_epoch(np.random.default_rng(1))
    key = native.key
    return _differences_of(native, lambda: NativeMasks(kernels, key, len(native.layers)), batch, random)


def _fused_differences(network, batch, random):
    """What FusedEngine and net.py differ in, by the same masks of dropout: a list of str."""
    return _differences_of(FusedEngine(network), DrawnMasks, batch, random)


def _differences_of(engine, make_masks, batch, random):
    """What an engine and PaddleEngine differ in: a list of str. Each has masks of its own that `make_masks()` returns.
    """
    network = engine.network
    network.train()
    rows = _normal(random, len(batch.inputs), network.input_weights().shape[1])
    states = [_normal(random, batch.rows_per_step[0], layer.units) * 0.5 for layer in layers(network.settings)]
    upward, results = _normal(random, len(batch.inputs), network.settings.hid_size[-1]), []
    for tried in (engine, PaddleEngine(network)):
        own = np.copy if isinstance(tried, NativeEngine) else paddle.to_tensor
        tried.states = [own(state) for state in states]
        with dropout_by(make_masks()):
            hidden = np.array(as_array(tried.forward(batch.inputs, batch.rows_per_step, rows)))
            gradients, by_rows = tried.backward(upward.copy())
        results.append({"hidden_states": hidden, **{f"carried state {number}": np.array(as_array(state))
                                                    for number, state in enumerate(tried.states)},
                        "the inputs' gradient": as_array(by_rows), **{f"gradient of {name}": as_array(values)
                                                                      for name, values in gradients.items()}})
    found, expected = results
    columns = found["the inputs' gradient"].shape[1]
    if not expected["the inputs' gradient"][:, columns:].any():  # that of the bias, which is no input
        expected["the inputs' gradient"] = expected["the inputs' gradient"][:, :columns]
    return differences(found, expected)


def _loss_edits(objective):
    """What the C++ and softmax.py weren't written after: a list of str."""
    is_unknown = objective.name not in LOSSES
    return sources.edits(objective.definitions) or ([f"the loss {objective.name}"] if is_unknown else [])


def _loss_differences(objective, kernels, batch, random):
    """What losses.cc, or without it softmax.py, and `objective.plain` differ in: a list of str.

    InputError for a `plain` loss of another shape, also where nothing else computes it.
    """
    network = objective.network
    objective.start_epoch(np.random.default_rng(2))
    scored = objective.draw(batch)
    if scored is None:
        return ["one target alone, nothing to compare"]
    count = len(scored.items) if scored.items is not None else min(ITEMS, network.item_matrix.shape[0])
    if scored.items is None:
        scored = Scored(None, scored.candidates % count, None, None, scored.inputs)
    units = network.item_matrix.shape[1] - 1
    hidden = np.tanh(_normal(random, len(batch.inputs), units))
    vectors, biases = 2 * _normal(random, count, units) / np.sqrt(units), 0.5 * _normal(random, count, 1)
    item_rows = np.hstack([vectors, biases]).astype(np.float32)
    objective.kernels = objective.paddle_softmax = None
    with dropout_by(NativeMasks(kernels, scored.key, 0) if kernels else net.dropout):
        expected = objective(hidden, item_rows, scored)
    edited = _loss_edits(objective)
    if edited or not (kernels or objective.needs_only_softmax):
        return edited
    objective.kernels, objective.paddle_softmax, results = kernels, None if kernels else PaddleSoftmax(), []
    found = objective(hidden, item_rows, scored)
    objective.kernels = objective.paddle_softmax = None
    for loss, by_hidden, by_rows, _ in (found, expected):
        results.append({"loss": np.array([float(loss)]), "gradient by hidden states": as_array(by_hidden),
                        "gradient by item rows": as_array(by_rows)})
    return differences(*results) + [f"weight {name}" for name in expected[-1]]


def _optimizer_differences(optimizer, kernels):
    """What optimizers.cc and the optimiser's plain update differ in: a list of str."""
    if not optimizer.name:
        return [type(optimizer).__name__]
    random, results = np.random.default_rng(3), []
    start, values = _normal(random, 6, 3), _normal(random, len(STEPS), 4, 3)
    values[:, 3:, -1] = 0  # rows_with_bias
    for used in (kernels, None):
        weight = net.parameter(paddle.nn.Layer(), start, 1.5)
        tried = copy(optimizer)
        tried.kernels, tried.rate = used, 0.1
        tried.restore({})
        for number, part in zip(STEPS, values):
            tried.steps = number - 1
            tried.step({"weight": weight}, [Gradient("weight", part.copy(), np.array([4, 0, 2, 5]), 3)])
        results.append({"weights": weight.numpy(), **tried.state_arrays()})
    return differences(*results)


def _scorer_differences(network, batch, random):
    """What the NumPy scorer and net.py differ in once training is over: a list of str."""
    network.eval()
    settings = network.settings
    items, index = np.unique(batch.inputs, return_inverse=True)
    weights = {name: weight.numpy() for name, weight in network.named_parameters() if name not in MATRICES}
    weights[ITEM_MATRIX] = _normal(random, len(items), settings.hid_size[-1] + 1)
    if input_matrix(settings) != ITEM_MATRIX:
        weights[input_matrix(settings)] = _normal(random, len(items), network.input_weights().shape[1])
    rows, matrix = weights[input_matrix(settings)][index], weights[ITEM_MATRIX]
    scorer = Scorer(fold_lengths(settings, weights), weights)
    states = scorer.packed_states(index, batch.rows_per_step)
    with paddle.no_grad():
        hidden = network.hidden_states(paddle.to_tensor(batch.inputs), batch.rows_per_step, paddle.to_tensor(rows))
        scores = network.scores(hidden, paddle.to_tensor(matrix))
    return differences({"hidden_states": states, "scores": scorer.scores(states)},
                       {"hidden_states": hidden.numpy(), "scores": scores.numpy()})


def carrying_differences(network, batch, random):
    """Whether whole sessions and click by click, with states carried, give other hidden states: a list of str."""
    network.eval()
    items = paddle.to_tensor(batch.inputs)
    rows = paddle.to_tensor(_normal(random, len(batch.inputs), network.input_weights().shape[1]))
    states, before = [], network.first_states(batch.rows_per_step[0])
    with paddle.no_grad():
        whole = network.hidden_states(items, batch.rows_per_step, rows)
        for start, count in zip(np.cumsum([0, *batch.rows_per_step]), batch.rows_per_step):
            before = [state[:count] for state in before]
            step = slice(int(start), int(start) + count)
            states.append(network.hidden_states(items[step], [count], rows[step], before))
    return differences({"hidden_states": paddle.concat(states).numpy()}, {"hidden_states": whole.numpy()})


def differences(found, expected):
    """The names under which two dicts of arrays differ by more than TOLERANCE, or that one of them lacks."""
    names = []
    for name in {**expected, **found}:
        if name not in found or name not in expected or found[name].shape != expected[name].shape:
            names.append(name)
            continue
        largest = max(np.abs(expected[name]).max(initial=0), 1e-30)
        if not np.abs(found[name] - expected[name]).max(initial=0) <= TOLERANCE * largest:  # NaN doesn't either
            names.append(name)
    return names


def _normal(random, *shape):
    """Standard normal numbers, a float32 array."""
    return random.normal(size=shape).astype(np.float32)
