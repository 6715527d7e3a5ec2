"""The loop that trains a network: epochs, log lines, checkpoints."""

import math
import platform
import time

import numpy as np
import paddle

try:
    import resource
except ImportError:  # Windows
    resource = None

from utils import checkpoint, sessions as session_tools
from utils.files import InputError
from utils.runlog import append_record, log, progress


def train(network, sessions, model_dir, options):
    """Train `network` on `sessions` and save every epoch.

    Parameters
    ----------
    network : net.Network
    sessions : sessions.Sessions
    model_dir : Path
        Prepared by `checkpoint.start_run`.
    options : argparse.Namespace
        batch_size, base_lr, pass_num, print_batch, shuffle, seed, and step_limit (batches an epoch; 0 for all).

    Raises
    ------
    InputError
        The loss is no longer a number: the learning rate is too high.
    """
    optimizer = paddle.optimizer.Adagrad(options.base_lr, parameters=network.parameters())
    for epoch in range(1, options.pass_num + 1):
        log(f"epoch_{epoch} start")
        figures = _train_epoch(network, optimizer, sessions, epoch, options)
        log(f"epoch:{epoch} num_steps:{figures['num_steps']} time_cost(s):{figures['time_cost']:f} "
            f"loss:{figures['loss']:.4f} predictions/s:{figures['predictions_per_second']:.0f}")
        checkpoint.save_epoch(model_dir, epoch, named_weights(network), _optimizer_state(network, optimizer), figures)
        append_record(model_dir, {"event": "epoch", "epoch": epoch, **figures})
        log(f"model saved in {checkpoint.epoch_directory(model_dir, epoch)}")
    log("finish training")


def named_weights(network):
    """Every parameter by its name in the network, as float32 arrays."""
    return {name: weight.numpy() for name, weight in network.named_parameters()}


def versions():
    """What the figures of a run may depend on besides its settings."""
    return {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__,
            "machine": platform.machine()}


def _train_epoch(network, optimizer, sessions, epoch, options):
    """One pass over all sessions; its figures as a dict."""
    network.train()
    random = _seed_epoch(options.seed, epoch)
    batches = session_tools.training_batches(sessions, options.batch_size, random, bool(options.shuffle))
    began, step, done, total, recent = time.perf_counter(), 0, 0, 0.0, []
    with progress(sessions.predictions, f"epoch {epoch}") as bar:
        for batch in batches:
            step += 1
            loss = train_step(network, optimizer, batch)
            if not math.isfinite(loss):
                raise InputError(f"--base_lr {options.base_lr:g}: found a loss of {loss} in step {step} of epoch {epoch}, expected "
                                 f"a number; lower the learning rate (epochs before this one are saved)")
            recent.append(loss)
            done += len(batch.targets)
            total += loss * len(batch.targets)
            bar.update(len(batch.targets))
            if step % options.print_batch == 0:
                log(f"step:{step} ppl:{perplexity(np.mean(recent)):.3f}")
                recent.clear()
            if step == options.step_limit:
                break
    seconds = time.perf_counter() - began
    return {"num_steps": step, "time_cost": seconds, "loss": total / done, "predictions": done,
            "predictions_per_second": done / seconds, "peak_memory_mib": _peak_memory()}


def train_step(network, optimizer, batch):
    """One update from one batch; its mean loss in nats."""
    loss = network.loss(paddle.to_tensor(batch.inputs), paddle.to_tensor(batch.targets), batch.rows_per_step)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    return float(loss)


def _peak_memory():
    """The process's largest resident memory so far in MiB, or None where the system doesn't tell."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 if resource else None


def perplexity(loss):
    """exp(loss), infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def _seed_epoch(seed, epoch):
    """Seed Paddle's draws (dropout) for this epoch; returns the generator for the rest (order of the batches)."""
    sequence = np.random.SeedSequence([seed, epoch])
    paddle.seed(int(sequence.generate_state(1)[0]))
    return np.random.default_rng(sequence)


def _optimizer_state(network, optimizer):
    """Adagrad's accumulators by the name of their parameter in the network, as float32 arrays."""
    state = optimizer.state_dict()
    found = {}
    for name, weight in network.named_parameters():
        for key, value in state.items():
            if key.startswith(f"{weight.name}_"):
                found[f"{name}.{key.removeprefix(weight.name + '_')}"] = value.numpy()
    return found
