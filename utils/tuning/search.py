"""A search: trials of a study are trained by processes of the trainer, watched over, stopped early, and recorded."""

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState
from tqdm import tqdm

from utils.files import InputError, write_atomically
from utils.launch import end_with_parent
from utils.model.upkeep import hold_directory
from utils.process import STOPPED
from utils.runlog import log, progress, read_records
from utils.training.held_signals import HeldSignals
from utils.tuning import study as studies
from utils.tuning.space import flags_of
from utils.tuning.trainer_flags import DIRECTIONS, ROOT, as_a_trial, parse, whole_settings, words

LOOK = 0.1  # seconds between two looks at the trainings
PATIENCE = 60  # seconds that a training has to save itself once it was asked to end
FAILURES = 3  # trials that fail before any went well end the search
BEST = "best.json"

# Without a thread of its own for progress bars. If this process is killed, Linux sends the trainings the signal of
# `end_with_parent` once for each thread that ends, and a second one would end them before they are saved.
tqdm.monitor_interval = 0


@dataclass
class Plan:
    """What a search is to do.

    directory : Path, of the study
    script : str, the trainer
    parameters : list of space.Parameter
    base : dict, flags that the space doesn't name
    folds : list of dict, the flags of the data of each model that a trial trains
    watched : str, the figure of the validation that is searched for
    seed, trials, workers : int
    device : dict, flags of the device, with the threads of one training
    keep_models : bool, those of all trials, not only of the best
    """

    directory: Path
    script: str
    parameters: list
    base: dict
    folds: list
    watched: str
    seed: int
    trials: int
    workers: int
    device: dict
    keep_models: bool

    @property
    def best_of(self):
        """min or max, as the watched figure wants it."""
        return min if DIRECTIONS[self.watched] == "minimize" else max


class Search:
    """The trials of a Plan, recorded in an optuna.Study."""

    def __init__(self, plan, study):
        self.plan, self.study = plan, study
        self.waiting, self.running, self.failures = studies.running_again(study), [], 0

    def run(self):
        """Train until the study has as many trials as planned. Ctrl-C and SIGTERM end all in order."""
        self._tidy()
        done = len(studies.trials_in(self.study)) - len(self.waiting)
        with HeldSignals() as signals, progress(self.plan.trials, "search", done, "trials") as bar:
            try:
                self._begin_trials()
                while self.running and not signals.received:
                    time.sleep(LOOK)
                    for trial in [trial for trial in self.running if trial.look()]:
                        self.running.remove(trial)
                        self._finish(trial)
                        bar.update()
                    if not signals.received:
                        self._begin_trials()
            finally:
                for trial in self.running:
                    trial.ask_to_end()
                for trial in self.running:
                    trial.wait()
            if signals.received:
                self._say_stopped()
                signals.raise_stop()

    def _begin_trials(self):
        """Begin as many trials as there are workers for."""
        while len(self.running) < self.plan.workers and (trial := self._next()):
            self.running.append(RunningTrial(self.plan, self.study, trial))

    def _next(self):
        """A trial to train, or None: first those of the search before, then those of known settings, then drawn ones.
        """
        if self.waiting:
            return self.waiting.pop(0)
        if len(studies.trials_in(self.study)) >= self.plan.trials:
            return None
        return self.study.ask()

    def _finish(self, trial):
        """Record and log how a trial ended."""
        number, plan = trial.trial.number, self.plan
        if trial.reason:
            trial.trial.set_user_attr("reason", trial.reason)
            self.study.tell(trial.trial, state=TrialState.FAIL)
            log(f"trial {number}: failed: {trial.reason}")
            self.failures += 1
        elif trial.is_pruned:
            self.study.tell(trial.trial, state=TrialState.PRUNED)
            log(f"trial {number}: stopped after epoch {max(trial.figures)}, {plan.watched}:"
                f"{plan.best_of(trial.figures.values()):.4f} {trial.shown()}")
        else:
            trial.trial.set_user_attr("epochs", trial.epochs)
            self.study.tell(trial.trial, sum(trial.values) / len(trial.values))
            best = studies.best_trial(self.study)
            log(f"trial {number}: {plan.watched}:{self.study.trials[number].value:.4f} best_epoch:"
                f"{','.join(map(str, trial.epochs))} {trial.shown()} (best: trial {best.number}, {best.value:.4f})")
        self._tidy()
        if not studies.best_trial(self.study) and self.failures == min(FAILURES, plan.trials):
            raise InputError(f"{trial.log_file}: found that the first {self.failures} trainings failed, the last with: "
                             f"{trial.reason}")

    def _tidy(self):
        """Write the settings of the best trial, and delete the weights of all others that have ended."""
        best = studies.best_trial(self.study)
        if best:
            settings = whole_settings(self.plan.script, best.user_attrs["flags"])
            with write_atomically(self.plan.directory / BEST) as file:
                file.write(json.dumps(settings, indent=1) + "\n")
        if self.plan.keep_models:
            return
        for trial in studies.trials_in(self.study, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL):
            if not best or trial.number != best.number:
                for path in _trial_directory(self.plan, trial.number).glob("model_*/*"):
                    if path.name.startswith(("epoch_", "last")) or path.name == "vocab.txt":
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _say_stopped(self):
        done = len(studies.trials_in(self.study)) - len(self.running) - len(self.waiting)
        log(f"stopped: {done} of {self.plan.trials} trials are done, {len(self.running)} are saved where they are; the "
            "same command goes on from there")


class RunningTrial:
    """A trial with the process that trains it, one model after the other where there are several folds.

    figures : dict of int to float, by epoch, the watched figure of the first fold
    values, epochs : the best figure of each fold so far, and its epoch
    reason : str, why the training failed; None where it didn't
    is_pruned : bool
    """

    def __init__(self, plan, study, trial):
        self.plan, self.study, self.trial = plan, study, trial
        self.directory = _trial_directory(plan, trial.number)
        self.log_file = self.directory / "log.txt"
        self.figures, self.values, self.epochs, self.reason, self.is_pruned = {}, [], [], None, False
        self.process, self.asked_at, self.flags = None, None, self._flags()
        self.figures |= study.get_trials(deepcopy=False)[trial.number].intermediate_values
        try:
            self.last_epoch = parse(plan.script, self.flags).pass_num
        except InputError as error:
            self.reason = str(error)
            return
        self.is_pruned = bool(self.figures) and self._is_bad(max(self.figures))
        if not self.is_pruned:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._start()

    def _flags(self):
        """The flags of the trial: of settings that are known, or drawn."""
        given = self.trial.user_attrs
        if "name" in given:
            for parameter in self.plan.parameters:
                self._suggest_known(parameter)
            return given["flags"]
        self.study.sampler = studies.sampler_of(self.plan.seed, self.trial.number)
        flags = self.plan.base | flags_of(self.plan.parameters, lambda parameter: parameter.suggest(self.trial))
        self.trial.set_user_attr("flags", flags)
        return flags

    def _suggest_known(self, parameter):
        """Have Optuna take what was enqueued for a parameter, and for those below it."""
        if parameter.key in self.trial.user_attrs["drawn"]:
            for child in parameter.children.get(parameter.suggest(self.trial), []):
                self._suggest_known(child)

    def _start(self):
        """Start the training of the next fold, or let it go on."""
        model_dir = self._model_dir()
        _wait_until_free(model_dir)
        own = {**self.plan.folds[len(self.values)], **self.plan.device, "model_dir": model_dir, "seed": self.plan.seed,
               "watch": self.plan.watched, "keep": 1, "resume": 1}
        flags = as_a_trial(self.plan.script) | self.flags
        command = [sys.executable, str(ROOT / self.plan.script), *words(flags), *words(own)]
        with open(self.log_file, "a", encoding="utf-8") as output:
            # A session of its own: a terminal's Ctrl-C comes to this process alone, which ends the training in order.
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            start_new_session=True, preexec_fn=end_with_parent)

    def _model_dir(self):
        return self.directory / f"model_{len(self.values) + 1}"

    def look(self):
        """See what the training has come to; whether the trial has ended."""
        if self.process is None:
            return True
        status = self.process.poll()  # before the records: after the end there are no more
        if not self.values and not self.is_pruned:
            self._report()
        if status is None:
            if self.asked_at and time.monotonic() - self.asked_at > PATIENCE:
                self._signal(signal.SIGKILL)
            return False
        if self.is_pruned:
            return True
        self._end_fold(status)
        if self.reason or len(self.values) == len(self.plan.folds):
            return True
        self._start()
        return False

    def _report(self):
        """Tell the study the figures of new epochs, until it wants the trial to be stopped."""
        for epoch, figure in _figures(self._model_dir(), self.plan.watched).items():
            if epoch not in self.figures:
                self.figures[epoch] = figure
                self.trial.report(figure, epoch)
                if self._is_bad(epoch):
                    self.is_pruned = True
                    self.ask_to_end()
                    return

    def _is_bad(self, epoch):
        """Whether the study wants the trial to be stopped after an epoch that isn't its last."""
        return epoch < self.last_epoch and self.trial.should_prune()

    def _end_fold(self, status):
        """Take what the training of a fold that has ended brought."""
        if status in [code for _, code in STOPPED.values()]:
            raise InputError(f"{self.log_file}: found that the training was stopped by another program, expected it to "
                             "end; the same command goes on from there")
        figures = _figures(self._model_dir(), self.plan.watched)
        if status < 0:
            self.reason = f"ended by {signal.Signals(-status).name}"
        elif status:
            self.reason = self._last_line() or f"ended with status {status}"
        elif not figures:
            self.reason = f"recorded no {self.plan.watched} of an epoch"
        else:
            epoch = self.plan.best_of(figures, key=figures.get)
            self.values.append(figures[epoch])
            self.epochs.append(epoch)

    def _last_line(self):
        """The last line that the training printed."""
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line[:300] for line in reversed(lines) if line.strip()), "")

    def ask_to_end(self):
        """Have the training save itself and end."""
        self._signal(signal.SIGTERM)
        self.asked_at = self.asked_at or time.monotonic()

    def wait(self):
        """Wait until the training has ended, in the worst case by force."""
        try:
            if self.process:
                self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
        except BaseException:  # a second Ctrl-C
            self._signal(signal.SIGKILL)
            raise

    def _signal(self, number):
        if self.process and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def shown(self):
        """The flags in a log line: the name of known settings, or those that are searched."""
        name = self.trial.user_attrs.get("name")
        return name or " ".join(f"{flag}:{value}" for flag, value in self.flags.items()
                                if flag not in self.plan.base or self.plan.base[flag] != value)


def _trial_directory(plan, number):
    """Where the models and the log of a trial are."""
    return plan.directory / "trials" / f"{number:04}"


def _figures(model_dir, watched):
    """The watched figure of each finished epoch, a dict in their order."""
    found = {record["epoch"]: record[watched] for record in read_records(model_dir)
             if record.get("event") == "epoch" and type(record.get("epoch")) is int
             and type(record.get(watched)) is float and math.isfinite(record[watched])}
    return dict(sorted(found.items()))


def _wait_until_free(model_dir):
    """Wait for a training that a killed search left behind, and that is about to save itself and to end."""
    until = time.monotonic() + PATIENCE
    while model_dir.exists():
        try:
            with hold_directory(model_dir):
                return
        except InputError:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK)
