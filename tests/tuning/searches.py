"""What the tests of searches share: tune.py with a trainer that takes no time, and what its study holds.

    python searches.py TRAINERS_DIRECTORY FLAGS...      tune.py with the trainers that lie there
"""

import json
import runpy
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SPACE = {"base_lr": {"_type": "loguniform", "_value": [0.05, 0.4]},
         "hid_size": {"_type": "choice", "_value": [8, 16]},
         "loss": {"_type": "choice", "_value": ["ce", {"_name": "bpr-max",
                                                       "bpreg": {"_type": "uniform", "_value": [0.1, 2]}}]}}


def place_quick_trainer(directory):
    """Make a directory of trainers, in which train_sample_neg.py is quick_trainer.py; return it."""
    directory.mkdir()
    shutil.copy(Path(__file__).with_name("quick_trainer.py"), directory / "train_sample_neg.py")
    return directory


def flags(data, study_dir, space=None, **more):
    """The flags of a search on `data` with trials of four epochs; flags in `more` win."""
    path, base = study_dir.with_suffix(".json"), study_dir.with_name("base.json")
    path.write_text(json.dumps(space or SPACE), encoding="utf-8")
    if not base.exists():
        base.write_text('{"pass_num": 4}', encoding="utf-8")
    usual = {"space": path, "study_dir": study_dir, "train_dir": data / "train_data", "vocab_path": data / "vocab.txt",
             "trials": 7, "threads": 1, "base": base, "first": []}
    command = []
    for name, value in (usual | more).items():
        command += [f"--{name}", *(value if isinstance(value, list) else [value])]
    return list(map(str, command))


def _begun(study_dir):
    import optuna
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{study_dir / 'study.db'}")
    return [trial for trial in study.trials if trial.state.name != "WAITING"]


def trials(study_dir):
    """Of each trial that has begun, how it ended, what was drawn and its figure: a list."""
    return [(trial.state.name, trial.params, trial.value) for trial in _begun(study_dir)]


def reports(study_dir):
    """The figures that the study has of each trial's epochs: a list of dict."""
    return [trial.intermediate_values for trial in _begun(study_dir)]


def epochs(study_dir):
    """The epochs that each trial recorded, in their order: a list of lists."""
    return [[json.loads(line)["epoch"] for line in path.read_text(encoding="utf-8").splitlines()]
            for path in sorted(study_dir.glob("trials/*/model_1/metrics.jsonl"))]


if __name__ == "__main__":
    from utils.tuning import search
    search.ROOT = Path(sys.argv.pop(1))
    sys.argv[0] = str(ROOT / "tune.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
