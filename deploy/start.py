"""What the image runs: the server, or with the word `train` a training job of SageMaker's.

    docker run IMAGE                            # serves /model, or /mnt/models where KServe put one
    docker run IMAGE --model_dir /data/shop     # flags of serve.py
    docker run IMAGE --intent_model_dir /intent # purchase intent beside /model, or alone where there is no /model
    docker run IMAGE serve                      # what SageMaker runs: serves /opt/ml/model
    docker run IMAGE train                      # see sagemaker_train.py; needs the image of `--target train`

More flags of serve.py may be in the environment variable SERVE_FLAGS. SageMaker passes on no others.
"""

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.files import InputError  # noqa: E402
from utils.process import run  # noqa: E402

SAGEMAKER, KSERVE, OWN = "/opt/ml/model", "/mnt/models", "/model"


def main():
    word, *more = sys.argv[1:] or [""]
    if word == "train":
        script, flags = ROOT / "deploy" / "sagemaker_train.py", more
        if not script.exists():
            raise InputError("found the word train, expected the image of `docker build --target train`: this one has "
                             "no Paddle")
    else:
        script, flags = ROOT / "serve.py", with_defaults(word, more)
    os.execv(sys.executable, [sys.executable, str(script), *flags])  # which gets the signals from now on


def with_defaults(word, more):
    """The flags of serve.py, where those of a container differ from its defaults."""
    flags = [*([] if word in ("serve", "") else [word]), *more, *shlex.split(os.environ.get("SERVE_FLAGS", ""))]
    given = {flag.partition("=")[0] for flag in flags}
    model_dir = SAGEMAKER if word == "serve" else KSERVE if os.path.isdir(KSERVE) else OWN
    defaults = {"--host": "0.0.0.0", "--model_dir": model_dir}
    if "--intent_model_dir" in given and not os.path.isdir(model_dir):
        del defaults["--model_dir"]
    return [*(f"{flag}={value}" for flag, value in defaults.items() if flag not in given), *flags]


if __name__ == "__main__":
    run(main)
