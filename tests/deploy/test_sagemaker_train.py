"""deploy/sagemaker_train.py: a training job as SageMaker starts, stops and judges it."""

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, assert_one_line_error, files_below
from image import HOME, Image

from utils.files import InputError
from utils.model import checkpoint
from utils.serving.model_reload import ServedModel

specification = importlib.util.spec_from_file_location("sagemaker_train", ROOT / "deploy/sagemaker_train.py")
sagemaker_train = importlib.util.module_from_spec(specification)
specification.loader.exec_module(sagemaker_train)

PARAMETERS = {"trainer": "train", "pass_num": "12", "hid_size": "8", "batch_size": "10", "threads": "1", "keep": "2",
              "_tuning_objective_metric": "recall@20"}


@pytest.fixture
def root(tmp_path, tiny_data):
    """What SageMaker mounts at /opt/ml for a job; its train channel can't be written."""
    data = tmp_path / "input/data"
    shutil.copytree(tiny_data / "train_data", data / "train/train_data")
    shutil.copy(tiny_data / "vocab.txt", data / "train")
    shutil.copytree(tiny_data / "test_data", data / "validation")
    (tmp_path / "input/config").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "output").mkdir()
    set_parameters(tmp_path, PARAMETERS)
    return tmp_path


def set_parameters(root, parameters):
    (root / "input/config/hyperparameters.json").write_text(json.dumps(parameters))


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The files of the target `train`, but for its packages, which are those of this Python."""
    return Image("train", tmp_path_factory.mktemp("image"), runs=False)


@pytest.fixture
def start(image):
    """Start a job as the image's entry point does."""
    _, script, word = image.entry
    assert script.startswith(str(image.root) + HOME)

    def run(root):
        return subprocess.Popen([sys.executable, script, word, "--root", root], cwd=image.root, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)
    return run


def ended(process):
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def newest_weights(root):
    run_dir = root / "checkpoints/run"
    epoch = checkpoint.finished_epochs(run_dir)[-1]
    return epoch, (run_dir / f"epoch_{epoch}/model.safetensors").read_bytes()


def test_a_stopped_job_goes_on_exactly_and_leaves_a_model_to_serve(start, root, tmp_path_factory):
    """Stopped as a spot instance is, and gone on with in a new container that has only the checkpoints.

    One of these was only half copied.
    """
    first = start(root)
    while not (root / "checkpoints/run/epoch_2").exists():
        assert first.poll() is None, ended(first)
        time.sleep(0.01)
    began = time.monotonic()
    first.send_signal(signal.SIGTERM)
    first = ended(first)
    assert first.returncode == 143 and time.monotonic() - began < 100
    assert not (root / "output/failure").exists() and ServedModel(root / "model").item_ids

    second_root = tmp_path_factory.mktemp("second")
    shutil.copytree(root, second_root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model"))
    run_dir = second_root / "checkpoints/run"
    finished = checkpoint.epoch_directory(run_dir, checkpoint.finished_epochs(run_dir)[-1])
    newest = run_dir / "last" if (run_dir / "last").exists() else finished
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    second = ended(start(second_root))
    assert second.returncode == 0, second
    assert f"removed {weights.parent}, which isn't whole" in second.stdout and "resumed from" in second.stdout

    whole_root = tmp_path_factory.mktemp("whole")
    shutil.copytree(root / "input", whole_root / "input")
    assert ended(start(whole_root)).returncode == 0
    assert newest_weights(second_root) == newest_weights(whole_root) and newest_weights(whole_root)[0] == 12

    served = ServedModel(whole_root / "model")
    assert served.weights_checksum == ServedModel(whole_root / "checkpoints/run").weights_checksum
    names = set(files_below(whole_root / "model"))
    best = served.name.partition("/")[2]
    assert {"config.json", "vocab.txt", "metrics.jsonl", f"{best}/state.json", f"{best}/model.safetensors"} <= names
    assert not any("optimizer" in name or "last" in name for name in names)
    assert not (whole_root / "output/failure").exists()


def test_the_trainers_refusal_is_the_reason(start, root):
    set_parameters(root, PARAMETERS | {"hid_size": "many"})
    process = ended(start(root))
    assert_one_line_error(process, "--hid_size", "many")
    reason = (root / "output/failure").read_text()
    assert reason == process.stderr.strip() and not any((root / "model").iterdir())


def test_what_the_scripts_own_refusal_says(start, root):
    shutil.rmtree(root / "input/data/train")
    process = ended(start(root))
    assert_one_line_error(process, "sagemaker_train.py", "train_data", "File or FastFile mode")
    assert (root / "output/failure").read_text() in process.stderr


@pytest.mark.parametrize("text, fragment", [
    ('{"pass_num": 3}', "texts as values"), ('{"model_dir": "a"}', "'model_dir'"), ('{"overwrite": "1"}', "overwrite"),
    ('{"--pass_num": "3"}', "'--pass_num'"), ('{"trainer": "tune"}', "'tune'"), ('{"trainer": []}', "[]"),
    ("[]", "no JSON object"), ("{", "no JSON"), ('{"resume": "0"}', "resume"), ('{"valid_dir": "x"}', "valid_dir")])
def test_hyper_parameters_that_are_none(root, text, fragment):
    (root / "input/config/hyperparameters.json").write_text(text)
    with pytest.raises(InputError, match="hyperparameters.json") as error:
        sagemaker_train.trainer_command(root)
    assert fragment in str(error.value)


def test_one_instance_alone(root):
    (root / "input/config/resourceconfig.json").write_text('{"current_host": "algo-1", "hosts": ["algo-1"]}')
    command = sagemaker_train.trainer_command(root)
    assert command[1] == str(ROOT / "train.py") and "--pass_num=12" in command and "--resume=1" in command
    assert f"--valid_dir={root / 'input/data/validation'}" in command and not any("_tuning" in word for word in command)
    for hosts in '["algo-1", "algo-2"]', "3":
        (root / "input/config/resourceconfig.json").write_text(f'{{"hosts": {hosts}}}')
        with pytest.raises(InputError, match="the hosts .*, expected one"):
            sagemaker_train.trainer_command(root)


def test_without_hyper_parameters_the_defaults_hold(root):
    (root / "input/config/hyperparameters.json").unlink()
    shutil.rmtree(root / "input/data/validation")
    command = sagemaker_train.trainer_command(root)
    assert command[1] == str(ROOT / "train_sample_neg.py") and len(command) == 6


@pytest.mark.parametrize("damage", ["no state", "another state", "no weights", "half the weights"])
def test_only_torn_checkpoints_are_removed(tiny_model, tmp_path, damage):
    run_dir = tmp_path / "run"
    shutil.copytree(tiny_model, run_dir)
    before, epoch = files_below(run_dir / "epoch_1"), run_dir / "epoch_2"
    {"no state": lambda: (epoch / "state.json").unlink(),
     "another state": lambda: shutil.copy(run_dir / "epoch_1/state.json", epoch),
     "no weights": lambda: (epoch / "model.safetensors").unlink(),
     "half the weights": lambda: (epoch / "model.safetensors").write_bytes(b"half")}[damage]()
    sagemaker_train.remove_torn(run_dir)
    assert not epoch.exists() and files_below(run_dir / "epoch_1") == before
    (run_dir / "config.json").unlink()
    sagemaker_train.remove_torn(run_dir)
    assert not run_dir.exists(), "the job begins anew"


def test_a_trainer_that_is_killed(root):
    program = "import os, sys; print('x' * 2000, 'the end', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)"
    status, said = sagemaker_train.run_trainer([sys.executable, "-c", program])
    sagemaker_train.write_failure(root, said)
    reason = (root / "output/failure").read_text()
    assert status == 137 and len(reason) == 1024 and reason.endswith("the end\nkilled by signal 9")
