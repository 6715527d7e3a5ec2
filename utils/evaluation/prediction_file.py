"""The Parquet file with a row for each prediction, for pandas and other programs."""

from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from utils.files import write_atomically

COLUMNS = pa.schema([("session", pa.int64()), ("position", pa.int64()), ("target", pa.string()), ("rank", pa.float64()),
                     ("best", pa.list_(pa.string()))])


@contextmanager
def open_prediction_file(path, item_ids):
    """Yield a function that adds a block's predictions to a Parquet file, as `_rows` takes them, in one row group.

    The file appears whole at the end of the block of code, or not at all.

    Parameters
    ----------
    path : str or Path
    item_ids : list of str
        By index.
    """
    names = pa.array(item_ids, pa.string())
    with write_atomically(path, "wb") as file, pq.ParquetWriter(file, COLUMNS) as writer:
        yield lambda *block: writer.write_table(_rows(names, *block))


def _rows(names, first, sessions, ranks, best):
    """A block's predictions as a table.

    Parameters
    ----------
    names : string array [items]
    first : int
        The number of the block's first session, counted from 0.
    sessions : Sessions
    ranks : float64 array [predictions]
    best : int array [predictions, k]

    Returns
    -------
    pyarrow.Table
        Of COLUMNS: the session's number, how many of its clicks come before the target, the target's id and rank, and
        the ids of the k best items.
    """
    positions = np.arange(len(sessions.items)) - np.repeat(sessions.offsets[:-1], sessions.lengths)
    predicted = positions > 0
    numbers = np.repeat(np.arange(first, first + len(sessions.lengths)), sessions.lengths)
    ends = np.arange(len(best) + 1, dtype=np.int32) * best.shape[1]
    return pa.table([numbers[predicted], positions[predicted], names.take(pa.array(sessions.items[predicted])), ranks,
                     pa.ListArray.from_arrays(ends, names.take(pa.array(best.ravel())))], schema=COLUMNS)
