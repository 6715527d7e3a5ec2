"""A run of either trainer: reads the data, makes the network, proves the C++, and trains epoch by epoch."""

import math
import platform
import sys
import time
from copy import copy
from itertools import islice
from pathlib import Path

import numpy as np
import paddle

try:
    import resource
except ImportError:  # Windows
    resource = None

from net import Network
from utils.data.session_files import read_conversion
from utils.data.sessions import cut_windows, read_sessions
from utils.data.vocabulary import checksum, read_vocabulary
from utils.evaluation.validation import better_of, evenly_chosen, sessions_checksum, split_sessions, validation_figures
from utils.files import InputError
from utils.model import checkpoint
from utils.model.directory import net_checksum
from utils.model.network import named_weights, put_weights, shapes
from utils.runlog import append_record, import_event_writers, line_of, log, read_records, warn
from utils.runlog import progress as progress_bar
from utils.training.proof import prove
from utils.training.resume import HeldSignals, Progress, commit, find_checkpoint, hold_directory, read_progress
from utils.training.settings import USUAL, flag_to_blame, require_memory_for_network, require_memory_for_steps
from utils.training.threads import ThreadTrial

FAR_ABOVE = 2.0  # a loss that is so many times that of random guesses
GUESSED_STEPS, GUESSED_PREDICTIONS = 20, 300  # on which the latter is computed


def run_training(data, schedule, output, network_settings, make_trainer, device, flags):
    """A whole run: from the files to a finished model directory.

    Parameters
    ----------
    data : settings.Data
    schedule : settings.Schedule
    output : settings.Output
    network_settings : layout.NetworkSettings
    make_trainer : function
        Of a net.Network and sessions.Sessions; returns a trainer.Trainer.
    device : device.Device
        As device.prepare returns it.
    flags : dict
        What the run was asked for, for config.json: a run is resumed with the same.

    Raises
    ------
    InputError
        For what is wrong with files or flags, and where the loss is no longer a number: the learning rate is too high.
    """
    item_count, vocab_sha256 = _read_vocabulary(data.vocab_path)
    training, validation, description = _read_sessions(data, item_count, vocab_sha256)
    require_memory_for_network(item_count, network_settings, data)
    require_memory_for_steps(training, network_settings.hid_size, flags)
    model_dir = Path(output.model_dir)
    paddle.seed(schedule.seed)  # for what an edited network draws by Paddle
    # Before an older run is deleted: the network may be too large for the memory.
    network = Network(item_count, network_settings, schedule.seed)
    trainer = make_trainer(network, training)
    is_known = _prove(trainer, device.kernels)
    config = {"script": Path(sys.argv[0]).name, "network": network_settings.as_dict(), "network_is_known": is_known,
              "net_sha256": net_checksum(), "loss": trainer.objective.name,
              "loss_is_sampled": trainer.objective.is_sampled, "data": description, "versions": versions(),
              "options": flags}
    event_files = import_event_writers(output.event_files)
    with hold_directory(model_dir):
        start_from = None
        if output.resume and (model_dir / "config.json").exists():
            start_from = find_checkpoint(model_dir, config)
        if start_from is None:
            checkpoint.start_run(model_dir, config, data.vocab_path, output.overwrite)
        event_writers = [open_events(model_dir) for open_events in event_files]
        run = _Run(trainer, validation, schedule, output, event_writers, flag_to_blame(flags))
        run.choose_threads(device)
        run.train(start_from)


def _prove(trainer, kernels):
    """Prove the C++, let the trainer use what agrees with net.py, and log it; whether the scorers agree too."""
    proof, line = prove(trainer, kernels)
    log(line)
    if proof.differs["carrying"] and trainer.batching.parallel:
        warn("net.py gives other hidden states click by click than for whole sessions (first_states and `before` carry "
             "what it keeps): sessions side by side train it without what is not carried; --batching sessions trains "
             "it whole")
    return proof.agrees("scorer")


def _read_sessions(data, item_count, vocab_sha256):
    """The sessions to train on, those to validate with or None, and what config.json says of them."""
    read_conversion(data.train_dir, vocab_sha256, "--train_dir")
    whole = read_sessions(data.train_dir, item_count, "--train_dir")
    training, validation, left_out = split_sessions(whole, item_count, vocab_sha256, data.valid_dir,
                                                    data.valid_fraction)
    training, cut = cut_windows(training, data.max_length)
    if not training.predictions:
        raise InputError(f"--train_dir: found no session of two clicks in {data.train_dir}, expected at least one")
    description = {"sessions": len(training.lengths), "events": len(training.items), "items": item_count,
                   "vocab_sha256": vocab_sha256, "sessions_sha256": sessions_checksum(whole),
                   "validation_sha256": sessions_checksum(validation)}
    log(f"sessions:{description['sessions']} events:{description['events']} items:{item_count} "
        f"predictions:{training.predictions}")
    if cut:
        log(f"cut into windows of {data.max_length} predictions: {cut} sessions (--max_length)")
    if validation:
        log(f"validation sessions:{len(validation.lengths)} predictions:{validation.predictions} "
            f"unknown_clicks_left_out:{left_out}")
    return training, validation, description


def versions():
    """What the figures of a run may depend on besides its settings."""
    return {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__,
            "machine": platform.machine(), "commit": commit()}


def _read_vocabulary(path):
    """The number of items and the file's checksum; a file that holds only the number is accepted, with a warning."""
    item_ids, item_count = read_vocabulary(path)
    if item_ids is None:
        warn(f"{path} holds only the number of items: this model can be evaluated, but its indices can't be turned "
             "into item ids")
    return item_count, checksum(path)


class _Run:
    """The epochs of a run, from the first or from where a run before it stopped."""

    def __init__(self, trainer, validation, schedule, output, event_writers, blamed):
        self.trainer, self.network, self.validation = trainer, trainer.network, validation
        self.schedule, self.output, self.event_writers = schedule, output, event_writers
        self.blamed, self.guess = blamed, _loss_of_a_guess(trainer)  # the flag to blame for a loss far above a guess's
        self.model_dir, self.predictions = Path(output.model_dir), trainer.sessions.predictions
        if validation:
            self.training_sample = evenly_chosen(trainer.sessions, validation.predictions)
        self.good, self.trial = None, None  # the directory of the last checkpoint; a ThreadTrial

    def train(self, start_from=None):
        """Train until --pass_num or --patience says stop, after what lies in the directory `start_from`."""
        progress, arrays = Progress(), {}
        if start_from:
            progress, arrays = self._load(start_from)
            self._remove_old_epochs(progress.best)  # where the run before was killed as it came to that
        with HeldSignals() as self.signals:
            while progress.epoch <= self.schedule.epochs and not self._is_patience_over(progress):
                figures = self._train_epoch(progress, arrays)
                progress, arrays = self._finish_epoch(progress, figures), {}
                if self.signals.received:
                    self.signals.raise_stop()
        if progress.best:
            log(f"best epoch by {progress.best['watched']}: epoch_{progress.best['epoch']}")
        log("finish training")

    def choose_threads(self, device):
        """Take as many threads as a resumed run took so far, or have the number measured, where it is left open."""
        if device.threads == 1:
            return
        then = [record["threads"] for record in read_records(self.model_dir) if record.get("event") == "threads"]
        if then:
            device.kernels.set_threads(min(then[-1], device.threads))
        else:
            self.trial = ThreadTrial(device.kernels, device.threads, self._record)

    def _is_patience_over(self, progress):
        """Whether training stops early, which a log line then says."""
        best, patience = progress.best, self.schedule.patience
        if not patience or not best or progress.epoch - 1 - best["epoch"] < patience:
            return False
        log(f"no better {best['watched']} than {best['value']:.4f} of epoch {best['epoch']} in {patience} epochs: "
            "stopped early")
        return True

    def _train_epoch(self, progress, arrays):
        """One pass over all sessions, or the rest of it; the epoch's figures as a dict."""
        output, trainer, epoch = self.output, self.trainer, progress.epoch
        if not progress.num_steps:
            log(f"epoch_{epoch} start")
        self.network.train()
        batches = islice(trainer.batches(_epoch_generator(self.schedule.seed, epoch)), self.schedule.steps)
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
                if output.save_seconds and now - saved >= output.save_seconds:
                    self._save_last(progress)
                    saved = time.monotonic()
        self._require_finite(progress)
        figures = {"num_steps": progress.num_steps, "time_cost": progress.seconds,
                   "loss": progress.loss_sum / progress.predictions, "predictions": progress.predictions,
                   "predictions_per_second": progress.predictions / progress.seconds,
                   "peak_memory_mib": _peak_memory()}
        log(f"epoch:{epoch} num_steps:{figures['num_steps']} time_cost(s):{figures['time_cost']:f} "
            f"loss:{figures['loss']:.4f} predictions/s:{figures['predictions_per_second']:.0f}")
        if figures["loss"] > FAR_ABOVE * self.guess:
            warn(f"{self.blamed}: found a loss of {figures['loss']:.4g} in epoch {epoch}, expected one below that of "
                 f"random guesses, {self.guess:.4g}; lower it")
            self.guess = math.inf  # said once
        return figures | (self._validate(progress) if self.validation else {})

    def _train_step(self, progress, batch):
        """One update, counted in `progress`."""
        schedule, epoch = self.schedule, progress.epoch
        share_done = (epoch - 1 + progress.predictions / self.predictions) / schedule.epochs
        self.trainer.set_rate(schedule.rate_after(share_done))
        progress.num_steps += 1
        if self.trainer.draws_by_paddle:
            _seed_step(schedule.seed, epoch, progress.num_steps)
        loss = self.trial.step(self.trainer.step, batch) if self.trial else self.trainer.step(batch)
        if not math.isfinite(loss):
            raise self._not_finite(f"a loss of {loss} in", progress)
        progress.recent.append(loss)
        progress.predictions += len(batch.targets)
        progress.loss_sum += loss * len(batch.targets)
        if progress.num_steps % self.output.print_batch == 0:
            log(f"step:{progress.num_steps} {self._recent_loss(np.mean(progress.recent))}")
            progress.recent.clear()

    def _recent_loss(self, loss):
        """A mean loss for the log: as a perplexity over the whole vocabulary, or by its name over a sample."""
        objective = self.trainer.objective
        return f"{objective.name}:{loss:.4f}" if objective.is_sampled else f"ppl:{perplexity(loss):.3f}"

    def _validate(self, progress):
        """The figures of the validation; stopped here, the run resumes from the end of the epoch's last step."""
        began = time.monotonic()
        self.signals.release()
        try:
            if self.signals.received:
                self.signals.raise_stop()
            figures = validation_figures(self.network, self.validation, self.training_sample,
                                         self.trainer.kernels)
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
            best = better_of(best, epoch, figures, self.schedule.watch)
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
        if self.output.keep:
            checkpoint.keep_epochs(self.model_dir, self.output.keep, best and best["epoch"])

    def _record(self, record):
        append_record(self.model_dir, record)
        for write in self.event_writers:
            write(record)

    def _save_last(self, progress):
        """Save the run as it is within an epoch."""
        self._require_finite(progress)
        arrays = {**self.trainer.optimizer_state(), **self.trainer.running_state()}
        checkpoint.save_last(self.model_dir, named_weights(self.network), arrays, {"progress": progress.as_dict()})
        self.good = self.model_dir / checkpoint.LAST

    def _save_stopped(self, progress):
        """`_save_last`, and a line that says so."""
        self._save_last(progress)
        log(f"stopped in epoch {progress.epoch} after step {progress.num_steps}, saved in {self.good}: --resume 1 goes "
            "on from there")

    def _load(self, directory):
        """The run as it was saved in `directory`: its Progress, and what the trainer restores later."""
        weights, arrays, state = checkpoint.load_checkpoint(directory, shapes(self.network))
        checkpoint.require_optimizer_of(directory, arrays, shapes(self.network))
        put_weights(self.network, weights)
        progress, self.good = read_progress(directory), directory
        if directory.name != checkpoint.LAST:
            self._record_if_missing(state)
        append_record(self.model_dir, {"event": "resume", "epoch": progress.epoch, "step": progress.num_steps,
                                       **versions()})
        log(f"resumed from {directory}: epoch {progress.epoch}, {progress.num_steps} steps of it done")
        return progress, arrays

    def _record_if_missing(self, state):
        """Record the epoch that this state.json is of, where the run was killed between saving and recording it."""
        recorded = {record.get("epoch") for record in read_records(self.model_dir) if record.get("event") == "epoch"}
        if state["epoch"] not in recorded:
            self._record({"event": "epoch"} | {name: state[name] for name in state if name not in ("best", "files")})

    def _require_finite(self, progress):
        for name, weight in self.network.named_parameters():
            if not bool(paddle.isfinite(weight).all()):
                raise self._not_finite(f"{name} no longer finite after", progress)

    def _not_finite(self, found, progress):
        return InputError(f"{self.blamed}: found {found} step {progress.num_steps} of epoch {progress.epoch}, expected "
                          f"a number; lower it (last good checkpoint: {self.good or 'none yet'})")


def _loss_of_a_guess(trainer):
    """The mean loss over some predictions where all scores are 0, infinite where it can't be told.

    It is that of random guesses: ln(n) for the cross-entropy over n items, and for other losses what is as bad.
    """
    objective, random, losses, predictions = copy(trainer.objective), np.random.default_rng(0), 0.0, 0
    if hasattr(objective, "logq"):
        objective.logq = min(objective.logq, USUAL["logq"])  # a stronger correction of guesses is no good measure
    trainer.network.eval()
    objective.start_epoch(random)
    for batch in islice(trainer.batching.batches(trainer.sessions, random, objective.fewest_slots), GUESSED_STEPS):
        scored = objective.draw(batch)
        if scored is None or predictions >= GUESSED_PREDICTIONS:
            break
        hidden = np.zeros((len(batch.inputs), trainer.network.settings.hid_size[-1]), np.float32)
        rows = trainer.network.item_matrix.shape if scored.items is None else [len(scored.items), hidden.shape[1] + 1]
        losses += objective(hidden, np.zeros(rows, np.float32), scored)[0] * len(batch.targets)
        predictions += len(batch.targets)
    guess = losses / predictions if predictions else math.inf
    return guess if guess > 0 else math.inf


def _peak_memory():
    """The process's largest resident memory so far in MiB, or None where the system doesn't tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 if resource else None


def perplexity(loss):
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def _epoch_generator(seed, epoch):
    """The generator of what an epoch draws: order of the batches, negatives, seed of the C++'s dropout."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch]))


def _seed_step(seed, epoch, step):
    """Seed what a step draws from Paddle's own generator, dropout, so that a step doesn't depend on those before it."""
    paddle.seed(int(np.random.SeedSequence([seed, epoch, step]).generate_state(1)[0]))
