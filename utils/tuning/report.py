"""What a search leaves behind beside its settings: three pictures."""

import math

from optuna.trial import TrialState

from utils.files import write_atomically
from utils.plotting import search as pictures
from utils.plotting.pictures import as_png
from utils.tuning import study as studies
from utils.tuning.space import all_parameters, text_of
from utils.tuning.trainer_flags import DIRECTIONS


def write_pictures(directory, study, parameters, watched):
    """Write the pictures of a study; their paths, a list.

    Parameters
    ----------
    directory : Path
    study : optuna.Study
        With at least one finished trial.
    parameters : list of space.Parameter
    watched : str
    """
    larger_is_better = DIRECTIONS[watched] == "maximize"
    finished = studies.trials_in(study, TrialState.COMPLETE)
    stopped = [trial for trial in studies.trials_in(study, TrialState.PRUNED) if _is_number(trial.value)]
    points = {"finished": [(trial.number, trial.value) for trial in finished],
              "stopped early": [(trial.number, trial.value) for trial in stopped]}
    rows = [{**_values_of(trial, parameters), watched: trial.value} for trial in finished]
    shares = {name: share for name, share in studies.importances(study).items() if share}
    drawn = {
        "history.png": lambda theme: pictures.history(watched, points, _running_best(points["finished"],
                                                                                    larger_is_better), theme),
        "importance.png": lambda theme: pictures.importance(shares, theme),
        "parallel_coordinates.png": lambda theme: pictures.parallel_coordinates(watched, rows, larger_is_better, theme)}
    files = {directory / name: as_png(draw) for name, draw in drawn.items()}
    for path, data in files.items():
        with write_atomically(path, "wb") as file:
            file.write(data)
    return list(files)


def _running_best(points, larger_is_better):
    """The best figure so far at each of the (number, figure) pairs: a list of pairs."""
    best, found = None, []
    for number, value in points:
        best = value if best is None else max(best, value) if larger_is_better else min(best, value)
        found.append((number, best))
    return found


def _values_of(trial, parameters):
    """The values of a trial's parameters by their key, numbers or texts, without those that have only one value."""
    found = {}
    for parameter in all_parameters(parameters):
        if parameter.key in trial.params and len(set(parameter.ends())) > 1:
            value = parameter.value_of(trial.params[parameter.key])
            found[parameter.key] = value if type(value) in (int, float) else text_of(value)
    return found


def _is_number(value):
    return value is not None and math.isfinite(value)
