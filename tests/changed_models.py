"""What tests change in a model directory."""

import shutil

from safetensors.numpy import load_file

from utils.model.checked_json import write_json
from utils.model.checkpoint import read_config, save_epoch


def resave(model, change, epoch=1):
    """Save an epoch anew, with its weights, a dict of arrays, as `change` returns them."""
    directory = model / f"epoch_{epoch}"
    weights = change(load_file(directory / "model.safetensors"))
    shutil.rmtree(directory)
    save_epoch(model, epoch, weights, {}, {})


def edit_config(model, **changes):
    """Give entries of config.json other values."""
    write_json(model / "config.json", read_config(model) | changes)
