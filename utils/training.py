"""What both trainers do: read the data, make the network, and run the epochs with their log lines and checkpoints."""

import math
import platform
import time
from pathlib import Path

import numpy as np
import paddle

try:
    import resource
except ImportError:  # Windows
    resource = None

from net import Network, NetworkSettings
from utils import checkpoint, native
from utils.files import InputError
from utils.losses import chunk_rows
from utils.optimizers import Adagrad
from utils.runlog import append_record, log, progress, warn
from utils.sessions import cut_windows, read_conversion, read_sessions
from utils.trainer import Trainer
from utils.vocabulary import checksum, read_vocabulary


def run_training(options, make_trainer):
    """A whole run: from the files that `options` name to a finished model directory.

    Parameters
    ----------
    options : argparse.Namespace
        The flags of `options.add_training_flags`.
    make_trainer : function
        Of network and sessions; what it returns has `batches(random)`, which yields an epoch's batches, `step(batch)`, which
        updates the network and returns the mean loss, `optimizer_state()` and `set_rate(rate)`.

    Raises
    ------
    InputError
        For what is wrong with files or flags, and where the loss is no longer a number: the learning rate is too high.
    """
    item_count, vocab_sha256 = _read_vocabulary(options.vocab_path)
    read_conversion(options.train_dir, vocab_sha256, "--train_dir")
    sessions, cut = cut_windows(read_sessions(options.train_dir, item_count, "--train_dir"), options.max_length)
    if not sessions.predictions:
        raise InputError(f"--train_dir: found no session of two clicks in {options.train_dir}, expected at least one")
    log(f"sessions:{len(sessions.lengths)} events:{len(sessions.items)} items:{item_count} predictions:{sessions.predictions}")
    if cut:
        log(f"cut into windows of {options.max_length} predictions: {cut} sessions (--max_length)")

    settings = network_settings(options)
    data = {"sessions": len(sessions.lengths), "events": len(sessions.items), "items": item_count, "vocab_sha256": vocab_sha256}
    config = {"network": settings.as_dict(), "data": data, "versions": versions(), "options": vars(options)}
    model_dir = Path(options.model_dir)
    network = Network(item_count, settings, options.seed)  # first, lest one too large for the memory costs an older run
    trainer = make_trainer(network, sessions)
    checkpoint.start_run(model_dir, config, options.vocab_path, bool(options.overwrite))
    _train_epochs(network, trainer, sessions.predictions, model_dir, options)


def network_settings(options):
    """The NetworkSettings that the flags ask for."""
    names = ["hid_size", "emb_size", "embedding", "emb_dropout", "hid_dropout", "label_smoothing", "init_range",
             "emb_lr_x", "gru_lr_x", "fc_lr_x"]
    return NetworkSettings(reset_after=options.reset_gate == "after", carry_dropped=bool(options.carry_dropped),
                           through_time=bool(options.through_time), **{name: getattr(options, name) for name in names})


class FullSoftmaxTrainer(Trainer):
    """Steps of the cross-entropy over all items, with Adagrad in Paddle's form. Parameters as of Trainer, and --base_lr."""

    def __init__(self, network, sessions, options):
        super().__init__(network, sessions, Adagrad(options.base_lr, epsilon_inside=False), options)

    def update(self, batch, scale):
        """One update by Paddle's operations, its gradient times `scale`; the mean loss in nats."""
        network = self.network
        loss = network.loss(paddle.to_tensor(batch.inputs), paddle.to_tensor(batch.targets), batch.rows_per_step, self.states)
        (loss * scale).backward()
        self.optimizer.start_step()
        for name, weight in network.named_parameters():
            self.optimizer.update(name, weight, weight.grad)
            weight.clear_gradient(False)
        return float(loss)

    def native_update(self, batch, scale):
        """The same by utils/native.py."""
        step, smoothing = self.native_step, self.network.settings.label_smoothing
        item_matrix = step.weights["item_matrix"]
        hidden = step.forward(batch.inputs, batch.rows_per_step)
        losses, hidden_gradient, items_gradient = native.softmax_cross_entropy(hidden, item_matrix, batch.targets, smoothing, None,
                                                                               chunk_rows(item_matrix.shape[0]))
        if scale != 1:
            hidden_gradient *= scale
            items_gradient *= scale
        gradients, inputs_gradient = step.backward(hidden_gradient)
        gradients["item_matrix"] = items_gradient
        if step.embedding == "embedding":
            gradients["embedding"] = np.zeros_like(step.weights["embedding"])
        native.add_rows(gradients[step.embedding], inputs_gradient, batch.inputs)
        step.update(gradients)
        return float(losses.mean(dtype=np.float64))  # in float32 it could overflow before the loss does


def named_weights(network):
    """Every parameter by its name in the network, as float32 arrays."""
    return {name: weight.numpy() for name, weight in network.named_parameters()}


def versions():
    """What the figures of a run may depend on besides its settings."""
    return {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__,
            "machine": platform.machine()}


def _read_vocabulary(path):
    """The number of items and the file's checksum; a file that holds only the number is accepted, with a warning."""
    item_ids, item_count = read_vocabulary(path)
    if item_ids is None:
        warn(f"{path} holds only the number of items: this model can be evaluated, but its indices can't be turned into item ids")
    return item_count, checksum(path)


def _train_epochs(network, trainer, predictions, model_dir, options):
    for epoch in range(1, options.pass_num + 1):
        log(f"epoch_{epoch} start")
        figures = _train_epoch(network, trainer, predictions, epoch, options)
        log(f"epoch:{epoch} num_steps:{figures['num_steps']} time_cost(s):{figures['time_cost']:f} "
            f"loss:{figures['loss']:.4f} predictions/s:{figures['predictions_per_second']:.0f}")
        checkpoint.save_epoch(model_dir, epoch, named_weights(network), trainer.optimizer_state(), figures)
        append_record(model_dir, {"event": "epoch", "epoch": epoch, **figures})
        log(f"model saved in {checkpoint.epoch_directory(model_dir, epoch)}")
    log("finish training")


def _train_epoch(network, trainer, predictions, epoch, options):
    """One pass over all sessions; its figures as a dict."""
    network.train()
    began, step, done, total, recent = time.perf_counter(), 0, 0, 0.0, []
    with progress(predictions, f"epoch {epoch}") as bar:
        for batch in trainer.batches(_seed_epoch(options.seed, epoch)):
            trainer.set_rate(_rate(options, (epoch - 1 + done / predictions) / options.pass_num))
            step += 1
            loss = trainer.step(batch)
            if not math.isfinite(loss):
                raise InputError(f"--base_lr {options.base_lr:g}: found a loss of {loss} in step {step} of epoch {epoch}, "
                                 "expected a number; lower the learning rate (epochs before this one are saved)")
            recent.append(loss)
            done += len(batch.targets)
            total += loss * len(batch.targets)
            bar.update(len(batch.targets))
            if step % options.print_batch == 0:
                log(f"step:{step} ppl:{perplexity(np.mean(recent)):.3f}")
                recent.clear()
            if getattr(options, "enable_ce", False) and step == options.step_num:
                break
    for name, weight in network.named_parameters():
        if not bool(paddle.isfinite(weight).all()):
            raise InputError(f"--base_lr {options.base_lr:g}: found {name} no longer finite after step {step} of epoch {epoch}, "
                             "expected numbers; lower the learning rate (epochs before this one are saved)")
    seconds = time.perf_counter() - began
    return {"num_steps": step, "time_cost": seconds, "loss": total / done, "predictions": done,
            "predictions_per_second": done / seconds, "peak_memory_mib": _peak_memory()}


def _rate(options, share_done):
    """The learning rate after a share of the whole training."""
    return options.base_lr * (1 + (options.lr_end - 1) * share_done)


def _peak_memory():
    """The process's largest resident memory so far in MiB, or None where the system doesn't tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 if resource else None


def perplexity(loss):
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def _seed_epoch(seed, epoch):
    """Seed Paddle's draws (dropout) for this epoch; returns the generator for the rest (order of the batches, negatives)."""
    sequence = np.random.SeedSequence([seed, epoch])
    paddle.seed(int(sequence.generate_state(1)[0]))
    return np.random.default_rng(sequence)
