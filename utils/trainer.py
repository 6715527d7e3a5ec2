"""What training with all items and with a sample of them share: the order of the clicks, and states that outlive a step."""

import numpy as np
import paddle

from utils.native_step import NativeStep
from utils.sessions import session_parallel_steps, training_batches


class Trainer:
    """Batches and steps, for `training.run_training`. A trainer says what one update is: `update` and `native_update`.

    Parameters
    ----------
    network : net.Network
    sessions : sessions.Sessions
    optimizer : optimizers.Adagrad or optimizers.Adam
    options : argparse.Namespace
        The flags batching, batch_size, shuffle and group_batches.
    has_native_update : bool
        Whether there is a `native_update` for these options.
    """

    fewest_slots = 1  # sessions side by side that a step needs

    def __init__(self, network, sessions, optimizer, options, has_native_update=True):
        self.network, self.sessions, self.optimizer, self.options = network, sessions, optimizer, options
        self.is_parallel = options.batching == "parallel"
        can_run = has_native_update and NativeStep.can_run(network, optimizer)
        self.native_step = NativeStep(network, optimizer) if can_run else None
        self.states = None

    def batches(self, random):
        """The batches of an epoch, Batch or ParallelStep, each to be given to `step`."""
        options, self.states = self.options, None
        if self.native_step:
            self.native_step.start_epoch(random)
        if self.is_parallel:
            return session_parallel_steps(self.sessions, options.batch_size, self.fewest_slots)
        return training_batches(self.sessions, options.batch_size, random, bool(options.shuffle), options.group_batches)

    def step(self, batch):
        """One update; the mean loss over the batch's predictions, in nats for the cross-entropy."""
        # The official code divides a step's loss by the nominal number of slots also when fewer are left.
        scale = len(batch.targets) / self.options.batch_size if self.is_parallel else 1.0
        if self.is_parallel:
            (self.native_step or self).carry_states(batch)
        return (self.native_update if self.native_step else self.update)(batch, scale)

    def set_rate(self, rate):
        self.optimizer.rate = rate

    def skip(self, batch):
        """Draw from the epoch's generator what `step` would, for a batch that was trained on before the run was stopped."""

    def optimizer_state(self):
        """By parameter and kind, as float32 arrays."""
        return self.optimizer.state_arrays()

    def running_state(self):
        """What else a step leaves to the next one of its epoch, as arrays: the running sessions' states, the key of the dropout."""
        states = (self.native_step or self).states or []
        arrays = {f"running.{layer}": np.array(state) for layer, state in enumerate(states)}
        return arrays | ({"running.key": np.array([self.native_step.key % 2**64], np.uint64)} if self.native_step else {})

    def restore(self, arrays):
        """Put back what `optimizer_state` and, within an epoch, `running_state` returned; after `batches` and `skip`."""
        running = {key: values for key, values in arrays.items() if key.startswith("running.")}
        self.optimizer.restore({key: values for key, values in arrays.items() if key not in running})
        states = [running[f"running.{layer}"] for layer in range(len(running)) if f"running.{layer}" in running]
        if self.native_step and "running.key" in running:
            self.native_step.restore(int(running["running.key"][0]), states)
        elif states:
            self.states = [paddle.to_tensor(state) for state in states]

    def carry_states(self, batch):
        """Bring the layers' states from the slots of the step before to those of a ParallelStep."""
        if self.states is None:
            self.states = [paddle.zeros([len(batch.inputs), units]) for units in self.network.settings.hid_size]
            return
        if batch.kept is not None:
            kept = paddle.to_tensor(batch.kept)
            self.states = [paddle.gather(state, kept) for state in self.states]
        if batch.restarted is not None and batch.restarted.any():
            goes_on = paddle.to_tensor(1 - batch.restarted[:, None].astype(np.float32))
            self.states = [state * goes_on for state in self.states]
