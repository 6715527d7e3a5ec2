"""utils/tuning/folds.py: models are validated with sessions that are newer than all that they are trained on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.data.sessions import Sessions, read_sessions
from utils.files import InputError
from utils.tuning.folds import slice_ends, write_folds


def numbered_sessions(count):
    """Sessions of two clicks, the items of each named after its place in time."""
    return Sessions(np.repeat(np.arange(count, dtype=np.int32), 2), np.arange(0, 2 * count + 1, 2))


@given(st.integers(1, 500), st.integers(1, 12), st.floats(0.001, 0.5))
def test_slices_are_the_newest_side_by_side(sessions, count, fraction):
    ends = slice_ends(sessions, count, fraction)
    assert len(ends) == count + 1 and ends[-1] == sessions
    assert set(np.diff(ends)) == {int(np.ceil(fraction * sessions))}  # as --valid_fraction takes them


@pytest.mark.parametrize("sessions, count, fraction", [(200, 3, 0.1), (97, 12, 0.05), (20, 1, 0.5), (3, 2, 0.01)])
def test_no_model_is_trained_on_what_is_later(tmp_path, sessions, count, fraction):
    folds = write_folds(tmp_path, numbered_sessions(sessions), count, fraction)
    seen = []
    for training, validation in folds:
        trained = read_sessions(training, sessions, "--train_dir").items[::2].tolist()
        validated = read_sessions(validation, sessions, "--valid_dir").items[::2].tolist()
        assert trained == list(range(len(trained)))  # all that is older, in its order
        assert validated == list(range(len(trained), len(trained) + len(validated)))
        seen = validated + seen
    assert seen == list(range(len(trained), sessions))
    assert write_folds(tmp_path, numbered_sessions(sessions), count, fraction) == folds  # once more, where they are


@pytest.mark.parametrize("sessions, count, fraction", [(10, 10, 0.1), (10, 3, 0.4), (2, 2, 0.01)])
def test_slices_that_leave_nothing_to_train_on_are_refused(tmp_path, sessions, count, fraction):
    with pytest.raises(InputError, match=f"--folds, --valid_fraction: found {count} slices of "):
        write_folds(tmp_path, numbered_sessions(sessions), count, fraction)
    assert not list(tmp_path.iterdir())


def test_a_slice_without_predictions_is_refused(tmp_path):
    sessions = Sessions(np.zeros(14, np.int32), np.array([0, 2, 4, 6, 8, 9, 10, 12, 14]))
    with pytest.raises(InputError, match="--folds: found no session of two clicks among the sessions 5 to 6"):
        write_folds(tmp_path, sessions, 2, 0.25)
    assert not list(tmp_path.iterdir())
