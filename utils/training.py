"""What both trainers do: read the data, make the network, and run the epochs with their log lines and checkpoints."""

import math
import platform
import sys
import time
from itertools import islice
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
from utils.resume import HeldSignals, Progress, commit, find_checkpoint, hold_directory, read_progress
from utils.runlog import append_record, import_event_writers, line_of, log, progress as progress_bar, read_records, warn
from utils.sessions import cut_windows, read_conversion, read_sessions
from utils.trainer import Trainer
from utils.validation import better_of, evenly_chosen, sessions_checksum, split_sessions, validation_figures
from utils.vocabulary import checksum, read_vocabulary


def run_training(options, make_trainer):
    """A whole run: from the files that `options` name to a finished model directory.

    Parameters
    ----------
    options : argparse.Namespace
        The flags of `options.add_training_flags`.
    make_trainer : function
        Of network and sessions; returns a trainer.Trainer.

    Raises
    ------
    InputError
        For what is wrong with files or flags, and where the loss is no longer a number: the learning rate is too high.
    """
    item_count, vocab_sha256 = _read_vocabulary(options.vocab_path)
    training, validation, data = _read_sessions(options, item_count, vocab_sha256)
    settings = network_settings(options)
    config = {"script": Path(sys.argv[0]).name, "network": settings.as_dict(), "data": data, "versions": versions(),
              "options": vars(options)}
    model_dir = Path(options.model_dir)
    network = Network(item_count, settings, options.seed)  # first, lest one too large for the memory costs an older run
    trainer = make_trainer(network, training)
    event_files = import_event_writers(options)
    with hold_directory(model_dir):
        start_from = None
        if options.resume and (model_dir / "config.json").exists():
            start_from = find_checkpoint(model_dir, config)
        if start_from is None:
            checkpoint.start_run(model_dir, config, options.vocab_path, bool(options.overwrite))
        event_writers = [open_events(model_dir) for open_events in event_files]
        _Run(model_dir, network, trainer, validation, event_writers, options).train(start_from)


def _read_sessions(options, item_count, vocab_sha256):
    """The sessions to train on, those to validate with or None, and what config.json says of them."""
    read_conversion(options.train_dir, vocab_sha256, "--train_dir")
    whole = read_sessions(options.train_dir, item_count, "--train_dir")
    training, validation, left_out = split_sessions(whole, item_count, vocab_sha256, options)
    training, cut = cut_windows(training, options.max_length)
    if not training.predictions:
        raise InputError(f"--train_dir: found no session of two clicks in {options.train_dir}, expected at least one")
    data = {"sessions": len(training.lengths), "events": len(training.items), "items": item_count, "vocab_sha256": vocab_sha256,
            "sessions_sha256": sessions_checksum(whole), "validation_sha256": sessions_checksum(validation)}
    log(f"sessions:{data['sessions']} events:{data['events']} items:{item_count} predictions:{training.predictions}")
    if cut:
        log(f"cut into windows of {options.max_length} predictions: {cut} sessions (--max_length)")
    if validation:
        log(f"validation sessions:{len(validation.lengths)} predictions:{validation.predictions} "
            f"unknown_clicks_left_out:{left_out}")
    return training, validation, data


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
            "machine": platform.machine(), "commit": commit()}


def _read_vocabulary(path):
    """The number of items and the file's checksum; a file that holds only the number is accepted, with a warning."""
    item_ids, item_count = read_vocabulary(path)
    if item_ids is None:
        warn(f"{path} holds only the number of items: this model can be evaluated, but its indices can't be turned into item ids")
    return item_count, checksum(path)


class _Run:
    """The epochs of a run, from the first or from where a run before it stopped."""

    def __init__(self, model_dir, network, trainer, validation, event_writers, options):
        self.model_dir, self.network, self.trainer, self.options = model_dir, network, trainer, options
        self.event_writers, self.validation = event_writers, validation
        self.predictions = trainer.sessions.predictions
        if validation:
            self.training_sample = evenly_chosen(trainer.sessions, validation.predictions)
        self.good = None  # the directory of the last checkpoint

    def train(self, start_from=None):
        """Train until --pass_num or --patience says stop, after what lies in the directory `start_from`."""
        progress, arrays = Progress(), {}
        if start_from:
            progress, arrays = self._load(start_from)
            self._remove_old_epochs(progress.best)  # where the run before was killed as it came to that
        with HeldSignals() as self.signals:
            while progress.epoch <= self.options.pass_num and not self._is_patience_over(progress):
                figures = self._train_epoch(progress, arrays)
                progress, arrays = self._finish_epoch(progress, figures), {}
                if self.signals.received:
                    self.signals.raise_stop()
        if progress.best:
            log(f"best epoch by {progress.best['watched']}: epoch_{progress.best['epoch']}")
        log("finish training")

    def _is_patience_over(self, progress):
        """Whether training stops early, which a log line then says."""
        best, patience = progress.best, self.options.patience
        if not patience or not best or progress.epoch - 1 - best["epoch"] < patience:
            return False
        log(f"no better {best['watched']} than {best['value']:.4f} of epoch {best['epoch']} in {patience} epochs: stopped early")
        return True

    def _train_epoch(self, progress, arrays):
        """One pass over all sessions, or the rest of it; the epoch's figures as a dict."""
        options, trainer, epoch = self.options, self.trainer, progress.epoch
        if not progress.num_steps:
            log(f"epoch_{epoch} start")
        self.network.train()
        steps = options.step_num if getattr(options, "enable_ce", False) else None
        batches = islice(trainer.batches(_epoch_generator(options.seed, epoch)), steps)
        for batch in islice(batches, progress.num_steps):
            trainer.skip(batch)
        if arrays:
            trainer.restore(arrays)
        began = saved = time.monotonic()
        seconds_before = progress.seconds
        with progress_bar(self.predictions, f"epoch {epoch}", progress.predictions) as bar:
            for batch in batches:
                self._train_step(progress, batch)
                now = time.monotonic()
                progress.seconds = seconds_before + now - began
                bar.set_postfix(loss=f"{progress.loss_sum / progress.predictions:.4f}", refresh=False)
                bar.update(len(batch.targets))
                if self.signals.received:
                    self._save_stopped(progress)
                    self.signals.raise_stop()
                if options.save_seconds and now - saved >= options.save_seconds:
                    self._save_last(progress)
                    saved = time.monotonic()
        self._require_finite(progress)
        figures = {"num_steps": progress.num_steps, "time_cost": progress.seconds, "loss": progress.loss_sum / progress.predictions,
                   "predictions": progress.predictions, "predictions_per_second": progress.predictions / progress.seconds,
                   "peak_memory_mib": _peak_memory()}
        log(f"epoch:{epoch} num_steps:{figures['num_steps']} time_cost(s):{figures['time_cost']:f} "
            f"loss:{figures['loss']:.4f} predictions/s:{figures['predictions_per_second']:.0f}")
        return figures | (self._validate(progress) if self.validation else {})

    def _train_step(self, progress, batch):
        """One update, counted in `progress`."""
        options, epoch = self.options, progress.epoch
        self.trainer.set_rate(_rate(options, (epoch - 1 + progress.predictions / self.predictions) / options.pass_num))
        progress.num_steps += 1
        _seed_step(options.seed, epoch, progress.num_steps)
        loss = self.trainer.step(batch)
        if not math.isfinite(loss):
            raise self._not_finite(f"a loss of {loss} in", progress)
        progress.recent.append(loss)
        progress.predictions += len(batch.targets)
        progress.loss_sum += loss * len(batch.targets)
        if progress.num_steps % options.print_batch == 0:
            log(f"step:{progress.num_steps} ppl:{perplexity(np.mean(progress.recent)):.3f}")
            progress.recent.clear()

    def _validate(self, progress):
        """The figures of the validation; stopped here, the run resumes from the end of the epoch's last step."""
        began = time.monotonic()
        self.signals.release()
        try:
            if self.signals.received:
                self.signals.raise_stop()
            figures = validation_figures(self.network, self.validation, self.training_sample)
        except BaseException:
            self._save_stopped(progress)
            raise
        self.signals.hold()
        seconds = time.monotonic() - began
        log(f"epoch:{progress.epoch} validation {line_of(figures)} time_cost(s):{seconds:.2f}")
        return {**figures, "validation_time_cost": seconds}

    def _finish_epoch(self, progress, figures):
        """Save and record the epoch; the Progress of the next one."""
        epoch, best = progress.epoch, progress.best
        if self.validation:
            best = better_of(best, epoch, figures, self.options.watch)
        checkpoint.save_epoch(self.model_dir, epoch, named_weights(self.network), self.trainer.optimizer_state(),
                              {**figures, "best": best})
        checkpoint.remove_last(self.model_dir)
        self._record({"event": "epoch", "epoch": epoch, **figures})
        self.good = checkpoint.epoch_directory(self.model_dir, epoch)
        log(f"model saved in {self.good}")
        self._remove_old_epochs(best)
        return Progress(epoch=epoch + 1, best=best)

    def _remove_old_epochs(self, best):
        """Do what --keep says."""
        if self.options.keep:
            checkpoint.keep_epochs(self.model_dir, self.options.keep, best and best["epoch"])

    def _record(self, record):
        append_record(self.model_dir, record)
        for write in self.event_writers:
            write(record)

    def _save_last(self, progress):
        """Save the run as it is within an epoch."""
        self._require_finite(progress)
        checkpoint.save_last(self.model_dir, named_weights(self.network),
                             {**self.trainer.optimizer_state(), **self.trainer.running_state()}, {"progress": progress.as_dict()})
        self.good = self.model_dir / checkpoint.LAST

    def _save_stopped(self, progress):
        """`_save_last`, and a line that says so."""
        self._save_last(progress)
        log(f"stopped in epoch {progress.epoch} after step {progress.num_steps}, saved in {self.good}: --resume 1 goes on from there")

    def _load(self, directory):
        """The run as it was saved in `directory`: its Progress, and what the trainer restores later."""
        parameters = dict(self.network.named_parameters())
        shapes = {name: list(weight.shape) for name, weight in parameters.items()}
        weights, arrays, state = checkpoint.load_checkpoint(directory, shapes)
        for name, values in weights.items():
            paddle.assign(paddle.to_tensor(values), parameters[name])  # in its place, where NativeStep sees it too
        progress, self.good = read_progress(directory), directory
        if directory.name != checkpoint.LAST:
            self._record_if_missing(state)
        append_record(self.model_dir, {"event": "resume", "epoch": progress.epoch, "step": progress.num_steps, **versions()})
        log(f"resumed from {directory}: epoch {progress.epoch}, {progress.num_steps} steps of it done")
        return progress, arrays

    def _record_if_missing(self, state):
        """Record the epoch that this state.json is of, where the run was killed between saving and recording it."""
        recorded = {record.get("epoch") for record in read_records(self.model_dir) if record.get("event") == "epoch"}
        if state["epoch"] not in recorded:
            self._record({"event": "epoch", **{name: value for name, value in state.items() if name not in ("best", "files")}})

    def _require_finite(self, progress):
        for name, weight in self.network.named_parameters():
            if not bool(paddle.isfinite(weight).all()):
                raise self._not_finite(f"{name} no longer finite after", progress)

    def _not_finite(self, found, progress):
        return InputError(f"--base_lr {self.options.base_lr:g}: found {found} step {progress.num_steps} of epoch {progress.epoch}, "
                          f"expected a number; lower the learning rate (last good checkpoint: {self.good or 'none yet'})")


def _rate(options, share_done):
    """The learning rate after a share of the whole training."""
    return options.base_lr * (1 + (options.lr_end - 1) * share_done)


def _peak_memory():
    """The process's largest resident memory so far in MiB, or None where the system doesn't tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 if resource else None


def perplexity(loss):
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def _epoch_generator(seed, epoch):
    """The generator of what an epoch draws: the order of the batches, negatives, the seed of utils/native.py's dropout."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch]))


def _seed_step(seed, epoch, step):
    """Seed what a step draws from Paddle's own generator, dropout, so that a step doesn't depend on those before it."""
    paddle.seed(int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0]))
