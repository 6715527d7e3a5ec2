"""The record of a search: an Optuna study in a SQLite file, which a search that was stopped or killed goes on from."""

import json
import warnings
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.trial import TrialState
from sqlalchemy.exc import DatabaseError

from utils.files import InputError
from utils.tuning.trainer_flags import DIRECTIONS

FILE = "study.db"
NAME = "search"  # of the study in the file
SECONDS = 60  # that a write waits for another program that reads the file
STARTUP, FIRST_EPOCH = 5, 2  # finished trials that the median pruner waits for; the first epoch that it looks at

optuna.logging.set_verbosity(optuna.logging.ERROR)


@contextmanager
def storage_errors(path):
    """Within the block, what goes wrong with the file is an InputError."""
    try:
        yield
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        reason = str(getattr(error, "orig", None) or error.__cause__ or error).splitlines()[0]
        raise InputError(f"{path}: found that it can't be read or written ({reason}), expected the study of a search, "
                         "and room on the disk") from None


def open_study(directory, asked, watched, pruner, epochs):
    """The optuna.Study in a directory, a new one where there is none.

    Parameters
    ----------
    directory : Path
    asked : dict
        What the search is to do. It is kept in the study.
    watched : str
        The figure of the validation that is searched for.
    pruner : str
        median, hyperband or none.
    epochs : int
        The most that a trial trains for.

    Raises
    ------
    InputError
        The study there was asked for something else.
    """
    path = directory.resolve() / FILE
    if set("{}?") & set(str(path)):  # Optuna and SQLAlchemy would read them as something else
        raise InputError(f"--study_dir: found {directory}, expected a path without any of {{}}?")
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": SECONDS}})
    study = optuna.create_study(study_name=NAME, storage=storage, load_if_exists=True, pruner=_pruner(pruner, epochs),
                                direction=DIRECTIONS[watched])
    asked = json.loads(json.dumps(asked))
    then = study.user_attrs.get("asked")
    if then is None:
        study.set_user_attr("asked", asked)
    elif then != asked:
        names = [name for name in {**then, **asked} if then.get(name) != asked.get(name)]
        raise InputError(f"--study_dir: found another search in {directory}, with another {', '.join(names)}; expected "
                         "the same flags and files, or another directory")
    return study


def _pruner(name, epochs):
    if name == "none":
        return optuna.pruners.NopPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(max_resource=epochs)
    return optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=FIRST_EPOCH)


def sampler_of(seed, number):
    """The sampler that draws trial `number`. It depends on nothing else, so that a search that goes on draws the same.

    What running trials of other workers may bring is taken into account (`constant_liar`).
    """
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    return optuna.samplers.TPESampler(seed=drawn, multivariate=False, constant_liar=True)


def enqueue(study, first):
    """Have trials of settings that are known come first, unless they are in the study.

    Parameters
    ----------
    study : optuna.Study
    first : list of (str, dict, dict)
        Of each, its name, its flags, and what has to be drawn for those of them that are in the space.
    """
    there = {trial.user_attrs.get("name") for trial in study.get_trials(deepcopy=False)}
    for name, flags, drawn in first:
        if name not in there:
            study.enqueue_trial(drawn, {"name": name, "flags": flags, "drawn": drawn})


def trials_in(study, *states):
    """The study's trials in any of these states, in order; without states, those that have begun: a list."""
    states = states or [state for state in TrialState if state != TrialState.WAITING]
    return study.get_trials(deepcopy=False, states=states)


def running_again(study):
    """The trials that were running when the search was stopped or killed, to go on with: a list of optuna.Trial.

    They keep their number and what was drawn for them.
    """
    return [optuna.Trial(study, trial._trial_id) for trial in trials_in(study, TrialState.RUNNING)]


def best_trial(study):
    """The best finished trial, the first of several; None if there is none."""
    finished = trials_in(study, TrialState.COMPLETE)
    sign = 1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else -1
    return max(finished, key=lambda trial: sign * trial.value, default=None)


def importances(study):
    """How much each parameter mattered for being among the best tenth: a dict by its key, the sum is 1.

    Source: PED-ANOVA (Watanabe et al., IJCAI 2023), with parameters that depend on others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few trials
        return optuna.importance.get_param_importances(study)
