"""A run of either trainer, epoch by epoch, from the files to a finished model directory."""

import math
import time
from functools import partial
from itertools import islice

import numpy as np
import paddle

from utils.evaluation.validation import better_of, evenly_chosen, validation_figures
from utils.files import InputError
from utils.memory import peak_memory, readable
from utils.process import STOPPED
from utils.runlog import append_record, line_of, log, read_records, warn
from utils.runlog import progress as progress_bar
from utils.training.engines import RUNNING
from utils.training.held_signals import HeldSignals
from utils.training.initial import load_initial
from utils.training.limits import flag_to_blame
from utils.training.preparation import prepare, require_possible
from utils.training.remembering import add_memory
from utils.training.resume import Progress, batches_after
from utils.training.run_directory import RunDirectory
from utils.training.seeds import epoch_generator, seed_step
from utils.training.split import own_rows
from utils.training.threads import ThreadTrial
from utils.training.trainer import loss_of_a_guess
from utils.training.unread import UnreadLosses

FAR_ABOVE = 2.0  # a loss that is so many times that of random guesses


def run_training(asked, make_trainer, device):
    """A whole run: from the files to a finished model directory.

    Parameters
    ----------
    asked : settings.Asked
    make_trainer : function
        Of a net.Network and sessions.Sessions; returns a trainer.Trainer.
    device : device.Device
        As device.prepare returns it. Its processes train together: each reads the data and trains its part; process 0
        alone writes.

    Raises
    ------
    InputError
        For what is wrong with files or flags, and where the loss is no longer a number: the learning rate is too high.
    """
    processes = device.processes
    require_possible(asked, processes)
    rows = own_rows(processes) if asked.splits_items else slice(None)
    trainer, validation, remembering, initial_model, popular, config = processes.in_turn(
        lambda: prepare(asked, make_trainer, device.kernels, rows))
    config["processes"] = processes.count
    processes.require_same([config["data"], config["network"], config["net_sha256"], config["definitions"]],
                           "data, settings, net.py, losses or optimisers")
    trainer.join(processes, asked.splits_items, asked.exchange_steps)
    initial = load_initial(initial_model, trainer) if initial_model else ({}, {})
    validate = None
    if validation:
        validate = partial(validation_figures, trainer.network, validation,
                           evenly_chosen(trainer.sessions, validation.predictions))
    run = Run(trainer, validate, asked.schedule, asked.output, flag_to_blame(asked.flags), loss_of_a_guess(trainer))
    with run.directory.started(config, asked.data.vocab_path, popular) as start_from:
        run.choose_threads(device)
        run.train(start_from, *initial)
        if remembering:
            processes.first_does(lambda: add_memory(run.directory.path, remembering, trainer.network.item_count))


class Run:
    """The epochs of a run, from the first or from where a run before it stopped.

    Parameters
    ----------
    trainer : trainer.Trainer or utils.intent.trainer.IntentTrainer
    validate : function or None
        Of the processes.Processes; returns the figures that an epoch is judged by, a dict of float.
    schedule : settings.Schedule
    output : settings.Output
    blamed : str
        The flag to blame for a loss far above that of a guess.
    guess : float
        The loss of random guesses; infinite where that can't be told.
    """

    def __init__(self, trainer, validate, schedule, output, blamed, guess):
        self.trainer, self.network, self.validate = trainer, trainer.network, validate
        self.schedule, self.output, self.directory = schedule, output, RunDirectory(output, trainer)
        self.blamed, self.guess, self.unread = blamed, guess, UnreadLosses()
        self.trial = None  # or a ThreadTrial
        self.processes, self.exchange, self.has_said_bytes = trainer.exchange.processes, trainer.exchange, False

    def train(self, start_from, weights, arrays):
        """Train until --pass_num or --patience says stop, after what lies in the directory `start_from`.

        Where that is None, begin with `weights` and the optimiser's state `arrays`, as load_initial returns them.
        """
        progress, arrays = self.directory.load(start_from, weights, arrays)
        with HeldSignals() as self.signals:
            while progress.epoch <= self.schedule.epochs and not self._is_patience_over(progress):
                figures = self._train_epoch(progress, arrays)
                progress, arrays = self._finish_epoch(progress, figures), {}
                self._stop_if(self.processes.sum_of_array(np.array(self._wishes())))
        if progress.best:
            log(f"best epoch by {progress.best['watched']}: epoch_{progress.best['epoch']}")

    def choose_threads(self, device):
        """Take as many threads as a resumed run took so far, or have the number measured, where it is left open."""
        if device.threads == 1:
            return
        then = [record["threads"] for record in read_records(self.directory.path) if record.get("event") == "threads"]
        if then:
            device.kernels.set_threads(min(then[-1], device.threads))
        else:
            self.trial = ThreadTrial(device.kernels, device.threads, partial(append_record, self.directory.path))

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
        epoch = progress.epoch
        if not progress.num_steps:
            log(f"epoch_{epoch} start")
        self.network.train()
        batches = self._batches_to_do(progress, arrays)
        began = self.saved = time.monotonic()
        seconds_before = progress.seconds
        with progress_bar(self.trainer.predictions, f"epoch {epoch}", progress.predictions) as bar:
            for batch in batches:
                self._train_step(progress, batch)
                progress.seconds = seconds_before + time.monotonic() - began
                if not (bar.disable or self.unread.waiting):
                    bar.set_postfix(loss=f"{progress.loss_sum / progress.predictions:.4f}", refresh=False)
                bar.update(len(batch.targets))
                wishes = self._wishes() if self.processes.is_alone else self.exchange.heard
                self._stop_if(wishes, progress)
                if wishes[-1]:
                    self._save_last(progress)
                    self.saved = time.monotonic()
        self.trainer.average_weights()
        self._read_losses(progress)
        progress.seconds = seconds_before + time.monotonic() - began  # a GPU has ended its last steps only now
        self._require_finite(progress)
        figures = {"num_steps": progress.num_steps, "time_cost": progress.seconds,
                   "loss": progress.loss_sum / progress.predictions, "predictions": progress.predictions,
                   "predictions_per_second": progress.predictions / progress.seconds,
                   "peak_memory_mib": peak_memory()}
        log(f"epoch:{epoch} num_steps:{figures['num_steps']} time_cost(s):{figures['time_cost']:f} "
            f"loss:{figures['loss']:.4f} predictions/s:{figures['predictions_per_second']:.0f}")
        if figures["loss"] > FAR_ABOVE * self.guess:
            warn(f"{self.blamed}: found a loss of {figures['loss']:.4g} in epoch {epoch}, expected one below that of "
                 f"random guesses, {self.guess:.4g}; lower it")
            self.guess = math.inf  # said once
        return figures | (self._validate(progress) if self.validate else {})

    def _batches_to_do(self, progress, arrays):
        """The batches of the epoch that are left, with the trainer as `arrays` say it was then."""
        trainer, count = self.trainer, self.processes.count
        batches = islice(trainer.batches(epoch_generator(self.schedule.seed, progress.epoch)), self.schedule.steps)
        if progress.processes != count:
            if progress.num_steps:
                arrays = {name: values for name, values in arrays.items() if not name.startswith(RUNNING)}
                batches = batches_after(batches, progress, trainer.skip)
                warn(f"--resume 1: found {progress.processes} processes in the run so far and {count} now: the rest of "
                     "the epoch comes in steps of another size, at most one step's sessions are trained a second time, "
                     "and sessions side by side go on without what came before")
            progress.processes = count
        else:
            for batch in islice(batches, progress.num_steps):
                trainer.skip(batch)
        if arrays:
            trainer.restore(arrays)
        return batches

    def _wishes(self):
        """What this process wants after a step, 1 for yes: to stop by each signal of STOPPED, and to save the run."""
        seconds = self.output.save_seconds if self.processes.is_first else 0
        is_due = seconds and time.monotonic() - self.saved >= seconds
        return [float(self.signals.received == number) for number in STOPPED] + [float(bool(is_due))]

    def _stop_if(self, wishes, progress=None):
        """Stop where a process wants to, after saving a `progress` within an epoch."""
        wanted = [number for number, wish in zip(STOPPED, wishes) if wish]
        if wanted:
            if progress:
                self._save_stopped(progress)
            self.signals.raise_stop(wanted[0])

    def _train_step(self, progress, batch):
        """One update, counted in `progress`."""
        schedule, epoch = self.schedule, progress.epoch
        share_done = (epoch - 1 + progress.predictions / self.trainer.predictions) / schedule.epochs
        self.trainer.set_rate(schedule.rate_after(share_done))
        progress.num_steps += 1
        if self.trainer.draws_by_paddle:
            seed_step(schedule.seed, epoch, progress.num_steps, self.processes.rank)
        self.exchange.tell(self._wishes())
        loss = self.trial.step(self.trainer.step, batch) if self.trial else self.trainer.step(batch)
        self._say_bytes()
        progress.predictions += len(batch.targets)
        self.unread.add(progress.num_steps, loss, len(batch.targets))
        is_line_due = progress.num_steps % self.output.print_batch == 0
        if is_line_due or isinstance(loss, float):
            self._read_losses(progress)
        if is_line_due:
            log(f"step:{progress.num_steps} {self._recent_loss(np.mean(progress.recent))}")
            progress.recent.clear()

    def _read_losses(self, progress):
        """Count the losses of the steps since the last reading; a GPU is waited for nowhere else in an epoch."""
        for step, loss in self.unread.count(progress):
            raise self._not_finite(f"a loss of {loss} in", progress, step)

    def _say_bytes(self):
        """Log once what a step sends."""
        if self.exchange.bytes and not self.has_said_bytes:
            what = "a step sums" if self.exchange.every == 1 else f"every {self.exchange.every} steps sum"
            kind = "gradients" if self.exchange.every == 1 else "weights and optimiser state"
            log(f"{what} {readable(self.exchange.bytes)} of {kind} over {self.processes.count} processes")
            self.has_said_bytes = True

    def _recent_loss(self, loss):
        """A mean loss for the log: as a perplexity over the whole vocabulary, or by its name over a sample."""
        objective = self.trainer.objective
        return f"{objective.name}:{loss:.4f}" if objective.is_sampled else f"ppl:{perplexity(loss):.3f}"

    def _validate(self, progress):
        """The figures of the validation; stopped here, the run resumes from the end of the epoch's last step.

        Several processes, which have to stop together, stop after it.
        """
        began = time.monotonic()
        if self.processes.is_alone:
            figures = self._unless_stopped(self.validate, progress)
        else:
            figures = self.validate(processes=self.processes)
        seconds = time.monotonic() - began
        log(f"epoch:{progress.epoch} validation {line_of(figures)} time_cost(s):{seconds:.2f}")
        return {**figures, "validation_time_cost": seconds}

    def _unless_stopped(self, compute, progress):
        """What `compute()` returns; a signal stops it at once, after the run is saved."""
        self.signals.release()
        try:
            if self.signals.received:
                self.signals.raise_stop()
            result = compute()
        except BaseException:
            self._save_stopped(progress)
            raise
        self.signals.hold()
        return result

    def _finish_epoch(self, progress, figures):
        """Save and record the epoch; the Progress of the next one."""
        epoch, best = progress.epoch, progress.best
        if self.validate:
            best = better_of(best, epoch, figures, self.schedule.watch)
        self.directory.save_epoch(epoch, figures, best)
        return Progress(epoch=epoch + 1, best=best, processes=self.processes.count)

    def _save_last(self, progress):
        """Save the run as it is within an epoch."""
        self._read_losses(progress)
        self._require_finite(progress)
        self.directory.save_last(progress)

    def _save_stopped(self, progress):
        """`_save_last`, and a line that says so."""
        self._save_last(progress)
        log(f"stopped in epoch {progress.epoch} after step {progress.num_steps}, saved in {self.directory.good}: "
            "--resume 1 goes on from there")

    def _require_finite(self, progress):
        for name, weight in self.network.named_parameters():
            if not bool(paddle.isfinite(weight).all()):
                raise self._not_finite(f"{name} no longer finite after", progress)

    def _not_finite(self, found, progress, step=None):
        if step == 1 and progress.epoch == 1:
            return InputError(f"net.py, utils/losses.py: found {found} step 1, before any weight was changed, expected "
                              "a number; the network or the loss gives none")
        step = step or progress.num_steps
        return InputError(f"{self.blamed}: found {found} step {step} of epoch {progress.epoch}, expected "
                          f"a number; lower it (last good checkpoint: {self.directory.good or 'none yet'})")


def perplexity(loss):
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
