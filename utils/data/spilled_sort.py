"""Sort more than fits into memory: DuckDB does it, through files in a temporary folder."""

import pyarrow as pa

from utils.files import InputError
from utils.process import import_undisturbed

THREADS = 2
ROWS = 1 << 17  # in each batch that comes back
BESIDE = 256 << 20  # bytes for Python; a quarter of the rest is told to DuckDB, which takes up to three times as much
LEAST = 256 << 20  # bytes that DuckDB needs


def schema(key):
    """The pyarrow schema of rows with keys of this pyarrow type."""
    return pa.schema({"key": key, "number": pa.int64(), "value": pa.binary()})


def sorted_rows(batches, key, folder, memory):
    """Yield the rows of `batches` by key, and those with the same key by number.

    Parameters
    ----------
    batches : iterator of pyarrow.RecordBatch
        As `schema(key)` says. Texts are sorted by their bytes.
    key : pyarrow.DataType
    folder : str or Path
        For temporary files, which are gone when the generator is closed.
    memory : int
        Bytes to take in all, about.

    Yields
    ------
    pyarrow.RecordBatch
        With the columns key and value.

    Raises
    ------
    InputError
        There is no room in `folder`, or too little memory.
    """
    duckdb = import_undisturbed("duckdb")  # only clicks that don't fit into memory need it
    settings = {"memory_limit": f"{max(LEAST, (memory - BESIDE) // 4) >> 20}MiB", "threads": THREADS,
                "temp_directory": str(folder), "autoinstall_known_extensions": False}
    rows = pa.RecordBatchReader.from_batches(schema(key), batches)
    with duckdb.connect(":memory:", config=settings) as connection:
        try:
            connection.register("clicks", rows)
            yield from connection.sql("SELECT key, value FROM clicks ORDER BY key, number").to_arrow_reader(ROWS)
        except duckdb.Error as error:
            raise InputError(f"{folder}: found no way to sort clicks there ({str(error).splitlines()[0]}), expected "
                             "room for temporary files, and for --memory at least 1") from None
