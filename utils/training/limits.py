"""What of a run goes too far: for the memory, before anything is computed, or for a training that is to converge.

Nothing here needs Paddle.
"""

import numpy as np

from utils.data.sessions import window_counts
from utils.memory import require_memory
from utils.model.layout import weight_count

# Bytes that are in use at once, to the least: of a weight when an epoch is saved, the weight, the optimiser's sum of
# squares, and of both a copy and the file; of a negative, as it is drawn and numbered; of a click and a unit, what a
# GRU layer computes and its gradients; of a click in a window, it and from where it is copied.
WEIGHT_BYTES, NEGATIVE_BYTES, CLICK_BYTES, WINDOW_BYTES = 24, 32, 48, 12
# What makes a training diverge, and how large it is in trainings that don't.
USUAL = {"base_lr": 1.0, "lr_end": 1.0, "emb_lr_x": 10.0, "gru_lr_x": 10.0, "fc_lr_x": 10.0, "init_range": 1.0,
         "logq": 1.0, "bpreg": 10.0, "elu_param": 10.0, "weight_decay": 0.1}


def require_memory_for_network(item_count, network_settings, data):
    """InputError where there is too little memory for the weights of a layout.NetworkSettings; `data` is the Data."""
    units = ",".join(map(str, network_settings.hid_size))
    require_memory(WEIGHT_BYTES * weight_count(network_settings, item_count),
                   f"--vocab_path {data.vocab_path}, --hid_size {units}: found a network of {item_count} items")


def require_memory_for_windows(sessions, data):
    """InputError where there is too little memory for the windows of the Sessions, as the Data ask for them."""
    counts = window_counts(sessions.lengths - 1, data.max_length, data.window_overlap)
    clicks = int((counts - 1).sum()) * data.max_length
    require_memory(WINDOW_BYTES * clicks, f"--window_overlap, --look_back: found windows of {clicks} clicks together")


def require_memory_for_steps(sessions, hid_size, flags):
    """InputError where there is too little memory for a step on the Sessions, as the trainer's flags ask for it."""
    batch, negatives = flags.get("batch_size", 1), flags.get("neg_size", 0)
    if flags.get("batching") == "parallel":
        clicks = min(batch, int(np.count_nonzero(sessions.lengths > 1)))
    else:
        clicks = sessions.predictions // -(-len(sessions.lengths) // batch)  # of a mean step: the largest has no fewer
    if not flags.get("use_cuda"):
        require_memory(CLICK_BYTES * clicks * sum(hid_size), f"--batch_size: found {batch}")
    each = clicks if flags.get("negatives") == "tiled" else 1
    require_memory(NEGATIVE_BYTES * negatives * each, f"--neg_size: found {negatives}")


def flag_to_blame(flags):
    """The flag that most likely made a training diverge, with its value: the one farthest above what is usual."""
    excess = {name: flags.get(name, 0) / usual for name, usual in USUAL.items()}
    name = max(excess, key=excess.get)
    name = name if excess[name] > 1 else "base_lr"
    return f"--{name} {flags.get(name, 0):g}"
