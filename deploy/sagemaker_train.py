"""Train as a training job of SageMaker's: the image's word `train`.

    hyper-parameters   flags of train_sample_neg.py, or of the trainer that the hyper-parameter `trainer` names: train
    channel train      a directory as `preprocess.py --to_text` writes it: train_data/ and vocab.txt
    channel validation session text to validate with (--valid_dir); there need be none
    /opt/ml/checkpoints/run   the whole run; one that was stopped, as on a spot instance, goes on from there exactly
    /opt/ml/model      in the end, what serve.py needs: the best epoch, or the last
    /opt/ml/output/failure    why it failed

The exit status is the trainer's: 0, 2 after a mistake of the user's, 143 after SIGTERM.
"""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.files import InputError, require_file, write_atomically  # noqa: E402
from utils.model import checkpoint, upkeep  # noqa: E402
from utils.model.directory import choose_epoch  # noqa: E402
from utils.options import Parser  # noqa: E402
from utils.process import hold_back_sigterm, run  # noqa: E402

TRAINERS = "train", "train_sample_neg"
FAILURE_CHARACTERS = 1024  # more are not shown
STOPPED = 128 + signal.SIGTERM


def main():
    parser = Parser(__doc__)
    parser.add_argument("--root", type=Path, default="/opt/ml", help="directory that SageMaker mounts")
    root = parser.parse_args().root
    try:
        command = trainer_command(root)
        remove_torn(root / "checkpoints/run")
        status, said = run_trainer(command)
        if status in (0, STOPPED) and checkpoint.finished_epochs(root / "checkpoints/run"):
            export(root / "checkpoints/run", root / "model")
    except (InputError, OSError) as error:
        write_failure(root, str(error))
        raise
    if status not in (0, STOPPED):
        write_failure(root, said)
    sys.exit(status)


def trainer_command(root):
    """The command line of the trainer that the job's files ask for."""
    parameters = read_object(root / "input/config/hyperparameters.json")
    hosts = read_object(root / "input/config/resourceconfig.json").get("hosts", [])
    if not isinstance(hosts, list) or len(hosts) > 1:
        raise InputError(f"resourceconfig.json: found the hosts {str(hosts)[:80]}, expected one instance")
    trainer = parameters.pop("trainer", "train_sample_neg")
    if trainer not in TRAINERS:
        raise InputError(f"hyperparameters.json: found trainer {trainer!r}, expected {' or '.join(TRAINERS)}")
    channel = root / "input/data/train"
    for path, is_there in (channel / "train_data", Path.is_dir), (channel / "vocab.txt", Path.is_file):
        if not is_there(path):
            raise InputError(f"{path}: found none, expected a channel `train` with train_data/ and vocab.txt, in File "
                             "or FastFile mode")
    flags = {"train_dir": channel / "train_data", "vocab_path": channel / "vocab.txt",
             "model_dir": root / "checkpoints/run", "resume": 1}
    if (root / "input/data/validation").is_dir():
        flags["valid_dir"] = root / "input/data/validation"
    for name, value in parameters.items():
        if name.startswith("_"):  # of SageMaker's own, such as _tuning_objective_metric
            continue
        is_ours = re.fullmatch("[a-z][a-z0-9_]*", name) and name not in {*flags, "overwrite"}
        if not is_ours or not isinstance(value, str):
            raise InputError(f"hyperparameters.json: found {name[:40]!r}: {json.dumps(value)[:40]}, expected flags of "
                             f"{trainer}.py with texts as values, other than overwrite, {', '.join(flags)}")
        flags[name] = value
    return [sys.executable, str(ROOT / f"{trainer}.py"), *(f"--{name}={value}" for name, value in flags.items())]


def read_object(path):
    """The dict of a JSON file; an empty one where there is no file."""
    try:
        found = json.loads(require_file(path, path.name).read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: found no JSON ({error}), expected an object") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: found no JSON object, expected one")
    return found


def remove_torn(run_dir):
    """Remove the checkpoints that aren't whole.

    The trainer leaves none, but SageMaker copies its files one by one while it goes on, and an instance may end in the
    midst of that.
    """
    for directory in [*run_dir.glob("epoch_*"), run_dir / checkpoint.LAST]:
        if directory.exists() and not is_whole(directory):
            print(f"sagemaker_train.py: removed {directory}, which isn't whole", flush=True)
            shutil.rmtree(directory)
    if not upkeep.holds_run(run_dir) or not (run_dir / "config.json").is_file():
        shutil.rmtree(run_dir, ignore_errors=True)


def is_whole(directory):
    """Whether a checkpoint has the files that its state.json names, with their checksums."""
    try:
        files = checkpoint.read_state(directory)["files"]
        return all(hashlib.sha256((directory / name).read_bytes()).hexdigest() == about["sha256"]
                   for name, about in files.items())
    except (InputError, OSError, KeyError):
        return False


def run_trainer(command):
    """Run the trainer, which gets our SIGTERM; its exit status, and the end of what it said on stderr."""
    said = deque(maxlen=50)
    hold_back_sigterm(True)
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace") as trainer:
        signal.signal(signal.SIGTERM, lambda number, frame: trainer.send_signal(number))
        hold_back_sigterm(False)
        for line in trainer.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            said.append(line)
    status = trainer.returncode
    return (status, "".join(said)) if status >= 0 else (128 - status, "".join(said) + f"killed by signal {-status}")


def export(run_dir, target):
    """Copy to `target` what answers: the chosen epoch without what only its training needs, and the run's own files."""
    epoch = checkpoint.epoch_directory(run_dir, choose_epoch(run_dir))
    (target / epoch.name).mkdir(parents=True, exist_ok=True)
    files = [path for path in [*run_dir.iterdir(), *epoch.iterdir()] if path.is_file()]
    for path in files:
        if path.name != checkpoint.OPTIMIZER:
            shutil.copyfile(path, target / path.relative_to(run_dir))


def write_failure(root, text):
    """Say in SageMaker's file why the job failed: the end of the text, where the reason is."""
    with write_atomically(root / "output/failure") as file:
        file.write(text.strip()[-FAILURE_CHARACTERS:] or "the trainer said nothing")


if __name__ == "__main__":
    run(main)
