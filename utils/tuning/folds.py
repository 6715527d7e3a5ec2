"""Time-wise cross-validation: the newest slices of the training sessions validate models of what is older.

    slices/000.txt          the oldest sessions
    slices/001.txt ...      a slice each, from old to new
    fold_1/                 what is older than the newest slice: links to slices; fold_2: than the one before it, ...

So the sessions are on the disk once more, not once for every fold.
"""

import os

from utils.data.sessions import Sessions, write_sessions
from utils.files import InputError


def write_folds(directory, sessions, count, fraction):
    """Write the folds.

    Parameters
    ----------
    directory : Path
    sessions : sessions.Sessions
        All training sessions, from old to new.
    count : int
        Folds.
    fraction : float
        The share of the sessions in each slice that validates.

    Returns
    -------
    list of (Path, Path)
        Of each fold, the newest first: the directory of the sessions to train on, and the file of those to validate
        with.

    Raises
    ------
    InputError
        So many slices leave nothing to train on, or a slice has no session of two clicks.
    """
    ends = slice_ends(len(sessions.lengths), count, fraction)
    starts = [0, *ends[:-1]]
    if ends[0] < 1:
        raise InputError(f"--folds, --valid_fraction: found {count} slices of {fraction:g} of the sessions, which "
                         "leave none to train on; expected fewer or smaller ones")
    slices = [directory / "slices" / f"{number:03}.txt" for number in range(count + 1)]
    parts = []  # all are looked at before the first is written
    for start, end in zip(starts, ends):
        offsets = sessions.offsets[start:end + 1]
        part = Sessions(sessions.items[offsets[0]:offsets[-1]], offsets - offsets[0])
        if not part.predictions:
            raise InputError(f"--folds: found no session of two clicks among the sessions {start + 1} to {end}, "
                             "expected one in every slice; name fewer folds, or a larger --valid_fraction")
        parts.append(part)
    for path, part in zip(slices, parts):
        write_sessions(path, part)
    folds = []
    for fold in range(1, count + 1):
        training = directory / f"fold_{fold}"
        training.mkdir(exist_ok=True)
        for older in slices[:count - fold + 1]:
            if not os.path.lexists(training / older.name):
                (training / older.name).symlink_to(os.path.join("..", "slices", older.name))
        folds.append((training, slices[count - fold + 1]))
    return folds


def slice_ends(sessions, count, fraction):
    """The numbers of the sessions at which the oldest part and the `count` slices end, ascending: a list of int."""
    size = -(-sessions * fraction // 1)  # as --valid_fraction rounds
    return [int(sessions - size * left) for left in range(count, -1, -1)]
