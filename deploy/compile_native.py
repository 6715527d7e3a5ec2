"""Compile the C++ that answers for every level of this kind of processor, where utils/native/compiling.py looks for it.

    XDG_CACHE_HOME=/opt/gru4rec/cache python deploy/compile_native.py

The server picks one at its start, as on any machine. Where these files are, it needs no compiler.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.files import InputError  # noqa: E402
from utils.model import native_scorer, neighbours  # noqa: E402
from utils.native.compiling import LEVEL, LEVELS, is_x86  # noqa: E402
from utils.process import run  # noqa: E402


def main():
    if not os.environ.get("XDG_CACHE_HOME"):
        raise InputError("XDG_CACHE_HOME: found none in the environment, expected the directory to write to")
    levels = ["none", *LEVELS] if is_x86() else ["none"]
    for level in levels:
        os.environ[LEVEL] = level
        for module in native_scorer, neighbours:
            module.native_library.cache_clear()
            module.native_library()
    directory = Path(os.environ["XDG_CACHE_HOME"]) / "gru4rec-paddle"
    found = list(directory.glob("*.so"))
    if len(found) != 2 * len(levels):
        raise InputError(f"{directory}: found {len(found)} libraries, expected 2 for each of {', '.join(levels)}; "
                         f"native_scorer.py says {native_scorer.native_library()[1]}")
    directory.chmod(0o755)  # any user may read them, and none but their owner, root, could write them
    for file in directory.iterdir():
        file.chmod(0o644)


if __name__ == "__main__":
    run(main)
