"""Records of a run: config.json, the progress bar on a terminal, event files for TensorBoard and VisualDL."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, run_script, with_flags

from utils.files import InputError
from utils.runlog import append_record, read_records

# Packages that write down what they are told: what the real ones do with it, their own tests say.
STANDINS = {
    "tensorboard/summary.py": """
class Writer:
    def __init__(self, logdir):
        import os
        os.makedirs(logdir)
        self.path = os.path.join(logdir, "events")
    def add_scalar(self, tag, data, step):
        with open(self.path, "a") as file:
            file.write(f"{tag} {data} {step}\\n")
    def flush(self):
        pass
""",
    "visualdl/__init__.py": """
class LogWriter:
    def __init__(self, logdir, file_name):
        import os
        os.makedirs(logdir, exist_ok=True)
        self.file = open(os.path.join(logdir, file_name), "a")
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()
    def add_scalar(self, tag, value, step):
        self.file.write(f"{tag} {value} {step}\\n")
""",
}


def flags(data, model_dir, *more):
    usual = ["--train_dir", data / "train_data", "--vocab_path", data / "vocab.txt", "--model_dir", model_dir,
             "--threads", 1, "--hid_size", 8, "--pass_num", 2, "--batch_size", 10, "--valid_fraction", 0.1]
    return with_flags(usual, more)


def environment(packages):
    return {**os.environ, "PYTHONPATH": str(packages)}


def test_config_json_has_every_setting_versions_checksums_and_the_commit(tiny_data, tmp_path, run_here):
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model")))
    config = json.loads((tmp_path / "model/config.json").read_text(encoding="utf-8"))
    assert config["script"] == "train.py" and config["options"]["valid_fraction"] == 0.1
    assert config["options"]["watch"] == "recall@20"
    assert {"python", "paddle", "numpy", "machine", "commit"} == set(config["versions"])
    assert all(len(config["data"][name]) == 64 for name in ("vocab_sha256", "sessions_sha256", "validation_sha256"))
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert (config["versions"]["commit"] or "").removesuffix("-dirty") == commit


def test_without_git_there_is_no_commit(monkeypatch):
    from utils.training.versions import commit
    monkeypatch.setenv("PATH", "")
    assert commit() is None


@pytest.mark.parametrize("name, file", [("tensorboard", "events"), ("visualdl", "vdlrecords.training.log")])
def test_event_files_hold_what_metrics_jsonl_has(tiny_data, tmp_path, name, file):
    for path, text in STANDINS.items():
        (tmp_path / "packages" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "packages" / path).write_text(text, encoding="utf-8")
    (tmp_path / "packages/tensorboard/__init__.py").touch()
    model_dir = tmp_path / "model"
    more = flags(tiny_data, model_dir, f"--{name}", 1, "--threads", 0, "--batch_size", 5)  # threads get a record
    measured = {name: value for name, value in environment(tmp_path / "packages").items() if name != "OMP_NUM_THREADS"}
    assert_worked(run_script("train.py", *more, env=measured))
    lines = [line.split() for line in (model_dir / name / file).read_text(encoding="utf-8").splitlines()]
    written = {(tag, int(epoch)): float(value) for tag, value, epoch in lines}
    epochs = [record for record in read_records(model_dir) if record["event"] == "epoch"]
    assert len(epochs) == 2
    for record in epochs:
        for figure in ("loss", "recall@20", "mrr@20", "valid_loss", "train_loss", "loss_ratio", "time_cost"):
            assert written[figure.replace("@", "_at_"), record["epoch"]] == pytest.approx(record[figure])
    assert_worked(run_script("train.py", *flags(tiny_data, model_dir, "--overwrite", 1)))
    assert not (model_dir / name).exists()


def test_real_event_files_can_be_read_back(tiny_data, tmp_path, run_here):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert_worked(run_here("train.py", *flags(tiny_data, tmp_path / "model", "--tensorboard", 1)))
    events = accumulator.EventAccumulator(str(tmp_path / "model/tensorboard"))
    events.Reload()
    assert [event.step for event in events.Tensors("recall_at_20")] == [1, 2]


@pytest.mark.parametrize("name", ["tensorboard", "visualdl"])
def test_a_missing_package_is_said_before_anything_is_written(tiny_data, tmp_path, name):
    (tmp_path / "packages").mkdir()
    (tmp_path / f"packages/{name}.py").write_text("raise ImportError('not here')", encoding="utf-8")
    more = flags(tiny_data, tmp_path / "model", f"--{name}", 1)
    process = run_script("train.py", *more, env=environment(tmp_path / "packages"))
    assert_one_line_error(process, f"--{name} 1", f"pip install {name}")
    assert not (tmp_path / "model").exists()


def test_a_terminal_shows_loss_speed_and_time_left(tiny_data, tmp_path):
    """And a file none of it: `assert_worked` wants stderr empty everywhere else."""
    pty = pytest.importorskip("pty")
    import termios
    terminal, its_end = pty.openpty()
    termios.tcsetwinsize(its_end, (24, 120))
    command = [sys.executable, ROOT / "train.py", *flags(tiny_data, tmp_path / "model")]
    shown = b""
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=its_end, text=True,
                          env={**os.environ, "TQDM_MININTERVAL": "0"}) as process:
        os.close(its_end)
        try:
            while part := os.read(terminal, 1 << 16):
                shown += part
        except OSError:  # the end, on Linux
            pass
        output = process.stdout.read()
    os.close(terminal)
    assert process.returncode == 0 and "\r" not in output
    assert re.search(r"epoch 2:  \d\d%.* \d+/\d+ \[00:\d\d<00:\d\d, .*predictions/s, loss=\d\.\d{4}\]", shown.decode())


def test_a_record_is_written_whole_or_the_run_ends(tmp_path, monkeypatch):
    """Where the disk is nearly full, the system writes a part and reports it as done."""
    import builtins
    real_open = builtins.open

    class Nearly:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            return self.file.write(data[:10])

    monkeypatch.setattr(builtins, "open", lambda *arguments, **kw: Nearly(real_open(*arguments, **kw)))
    append_record(tmp_path, {"epoch": 1})
    monkeypatch.undo()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert len(text) == 20  # it went on with the rest, and would have met the full disk there


def test_records_are_json_as_every_program_reads_it(tmp_path):
    append_record(tmp_path, {"item_auc": float("nan"), "intervals": {"auc": [0.5, np.inf]}, "loss": np.float64(0.25)})
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=pytest.fail)
    assert found.pop("time") and found == {"item_auc": None, "intervals": {"auc": [0.5, None]}, "loss": 0.25}
    (tmp_path / "metrics.jsonl").write_text('{"item_auc": NaN}\n')  # of an older version
    assert np.isnan(read_records(tmp_path)[0]["item_auc"])


def test_lines_that_are_no_records_are_passed_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 1}\n{"ep\n[]\n\xff\n{"epoch": 2}\n')
    assert [record["epoch"] for record in read_records(tmp_path)] == [1, 2]
    assert read_records(tmp_path / "nowhere") == []


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_would_never_end_is_not_read_as_records(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match="found the (pipe|device) .*metrics.jsonl, expected a file"):
        read_records(tmp_path)
