"""What the figures of a run may depend on besides its settings: versions of programs."""

import platform
import subprocess
from pathlib import Path

import numpy as np
import paddle


def versions():
    """By what they are of: a dict for config.json."""
    return {"python": platform.python_version(), "paddle": paddle.__version__, "numpy": np.__version__,
            "machine": platform.machine(), "commit": commit()}


def commit():
    """The repository's commit, with -dirty if files have changed since; None without a repository or git."""
    command = ["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
