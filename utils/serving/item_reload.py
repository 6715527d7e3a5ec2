"""The table that --items names: read again when the file changes; a bad new one is refused."""

import logging
import os

from utils.files import InputError

logger = logging.getLogger("gru4rec")


class ItemFile:
    """A table of items' fields, which may be replaced at any moment.

    Parameters
    ----------
    path : str

    Attributes
    ----------
    table : item_table.ItemTable or None
        The last one that could be read.
    """

    def __init__(self, path):
        self.path, self.table, self.seen = path, None, None

    def look(self):
        """Read the file if it has changed; returns whether `table` is another one now."""
        before = _state_of(self.path)
        if before == self.seen:
            return False
        self.seen = before  # a refused table isn't tried again until it changes
        from utils.data.item_table import read_item_table  # loads pyarrow, which servers without --items don't need
        try:
            table = read_item_table(self.path, "--items")
            if _state_of(self.path) != before:
                self.seen = None
                raise InputError(f"{self.path}: found a file that changed while it was read, expected a whole one")
        except (InputError, OSError, MemoryError) as error:
            logger.error("items refused", extra={"reason": str(error), "serving": bool(self.table)})
            return False
        self.table = table
        return True

    def fields_of(self, model):
        """The item_table.ItemFields of the items that a ServedModel knows; None before there is a table."""
        if self.table is None:
            return None
        from utils.data.item_table import ItemFields
        fields = ItemFields(self.table, model.item_ids)
        logger.info("items loaded", extra={"rows": len(self.table.ids), "columns": list(fields.columns),
                                           "unknown_to_model": fields.unknown, "without_row": fields.without_row})
        return fields


def _state_of(path):
    """What changes when a file is replaced or written to."""
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    except OSError as error:
        return error.errno
