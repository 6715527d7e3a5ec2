"""What a run saves in its model directory, and goes on from."""

import shlex
from contextlib import contextmanager, nullcontext
from pathlib import Path

from utils.model import checkpoint, upkeep
from utils.model.directory import KIND, NET, is_known
from utils.runlog import append_record, import_event_writers, log, read_records
from utils.training.resume import Progress, find_checkpoint, read_progress
from utils.training.versions import versions


class RunDirectory:
    """The model directory of a run. Of several processes, process 0 alone writes there.

    Parameters
    ----------
    output : settings.Output
    trainer : trainer.Trainer or utils.intent.trainer.IntentTrainer

    Attributes
    ----------
    path : Path
    good : Path or None
        The directory of the last checkpoint.
    """

    def __init__(self, output, trainer):
        self.path, self.output, self.trainer, self.good = Path(output.model_dir), output, trainer, None
        self.processes, self.event_writers = trainer.exchange.processes, []
        self.computed_by = None  # as of proof.Proof, for metrics.jsonl

    @contextmanager
    def started(self, config, vocab_path, popular=None):
        """Within the block, the directory is this run's: begun anew, or as the run left it that is resumed.

        Parameters
        ----------
        config : dict
            For config.json.
        vocab_path : str or Path
        popular : dict, optional
            For popular.json.

        Yields
        ------
        Path or None
            Of the checkpoint to go on from.
        """
        is_first, event_files = self.processes.is_first, []
        self.computed_by = config.get("computed_by")
        if is_first:
            event_files = import_event_writers(self.output.event_files)

        def start():
            start_from = None
            if self.output.resume and (self.path / "config.json").exists():
                start_from = find_checkpoint(self.path, config)
            if start_from is None:
                net = None if is_known(config) else NET
                upkeep.start_run(self.path, config, vocab_path, self.output.overwrite, popular, net)
            return start_from

        with upkeep.hold_directory(self.path) if is_first else nullcontext():
            start_from = self.processes.first_does(start)
            self.event_writers = [open_events(self.path) for open_events in event_files]
            yield start_from
            log(f"next: {self._next_commands(config)}")
            log("finish training")

    def _next_commands(self, config):
        """What a user can do with the finished model, as command lines."""
        flag = f"--model_dir {shlex.quote(str(self.path))}"
        if KIND in config:
            return f"python infer_intent.py {flag} --test_dir DIR"
        return f"python infer.py {flag} --test_dir DIR, python recommend.py {flag} ITEM ITEM"

    def load(self, start_from, weights, arrays):
        """Give the trainer the weights of the checkpoint in the directory `start_from`; where that is None, `weights`.

        Returns
        -------
        Progress
        dict of str to arrays
            What the trainer restores later; `arrays` where `start_from` is None. All processes have both as process 0.
        """
        loaded = self.processes.first_does(lambda: self._read(start_from) if start_from else None)
        progress, weights, arrays = loaded or (Progress(processes=self.processes.count), weights, arrays)
        progress, arrays = self.processes.from_first(progress.as_dict(), arrays)
        self.trainer.put_weights(self.processes.from_first(None, weights)[1])
        return Progress(**progress), arrays

    def save_epoch(self, epoch, figures, best):
        """Save and record a finished epoch, with its figures and the best epoch so far, two dicts or None."""
        weights, arrays = self.trainer.weights(), self.trainer.optimizer_state()
        self.good = checkpoint.epoch_directory(self.path, epoch)

        def write():
            checkpoint.save_epoch(self.path, epoch, weights, arrays, {**figures, "best": best})
            upkeep.remove_last(self.path)
            self._record_epoch({"event": "epoch", "epoch": epoch, **figures})
            log(f"model saved in {self.good}")
            self._remove_old_epochs(best)
        self.processes.first_does(write)

    def save_last(self, progress):
        """Save the run as it is within an epoch, at a Progress."""
        arrays = {**self.trainer.optimizer_state(), **self.trainer.running_state()}
        weights, state = self.trainer.weights(), {"progress": progress.as_dict()}
        self.processes.first_does(lambda: checkpoint.save_last(self.path, weights, arrays, state))
        self.good = self.path / checkpoint.LAST

    def _read(self, directory):
        """The run as it was saved in `directory`: its Progress, its weights, and what the trainer restores later."""
        weights, arrays, state = checkpoint.load_checkpoint(directory, self.trainer.shapes())
        checkpoint.require_optimizer_of(directory, arrays, self.trainer.shapes())
        progress, self.good = read_progress(directory), directory
        if directory.name != checkpoint.LAST:
            self._record_if_missing(state)
        append_record(self.path, {"event": "resume", "epoch": progress.epoch, "step": progress.num_steps,
                                  "computed_by": self.computed_by, **versions()})
        done = f"step {progress.num_steps} of epoch {progress.epoch}" if progress.num_steps else (
            f"the end of epoch {progress.epoch - 1}")
        log(f"resumed from {directory}, saved after {done}")
        self._remove_old_epochs(progress.best)  # where the run before was killed as it came to that
        return progress, weights, arrays

    def _record_if_missing(self, state):
        """Record the epoch that this state.json is of, where the run was killed between saving and recording it."""
        recorded = {record.get("epoch") for record in read_records(self.path) if record.get("event") == "epoch"}
        if state["epoch"] not in recorded:
            self._record_epoch({"event": "epoch"} | {name: state[name] for name in state
                                                     if name not in ("best", "files")})

    def _record_epoch(self, record):
        append_record(self.path, record)
        for write in self.event_writers:
            write(record)

    def _remove_old_epochs(self, best):
        """Do what --keep says."""
        if self.output.keep:
            upkeep.keep_epochs(self.path, self.output.keep, best and best["epoch"])
