"""Rows of tables that are no clicks: counted, and listed where they are left out because something is wrong in them."""

import csv

from utils.files import InputError


class LeftOut:
    """What was left out of the tables.

    Attributes
    ----------
    limit : int
        How many bad rows may be left out.
    bad : int, bad rows found
    faults : list of (file, row, reason), the first `limit` + 1 of them; rows of text are numbers of lines
    other_events : int, rows whose event is no click
    """

    def __init__(self, limit=0, flag=""):
        """`flag` is what gives `limit`, for messages."""
        self.limit, self.flag = limit, flag
        self.bad, self.faults, self.other_events = 0, [], 0
        self.first = ""

    def add(self, file, row_name, part):
        """Count what was left out of a click_columns.Part; False once there are more bad rows than allowed."""
        if part.faults and not self.first:
            row, reason = part.faults[0]
            self.first = f"{file} {row_name} {row}: {reason}"
        self.bad += part.bad
        self.other_events += part.other_events
        room = self.limit + 1 - len(self.faults)
        self.faults += [(str(file), row, reason) for row, reason in part.faults[:room]]
        return self.bad <= self.limit

    def check(self):
        """InputError if more rows are bad than may be left out; it describes the first and counts the others."""
        if self.bad <= self.limit:
            return
        if self.limit:
            raise InputError(f"{self.flag} {self.limit}: found {self.bad:,} bad rows, expected at most {self.limit:,}; "
                             f"the first: {self.first}")
        more = f"; {self.bad - 1:,} more bad row{'s' * (self.bad > 2)}" if self.bad > 1 else ""
        hint = f" ({self.flag} {self.bad} leaves {'them' if self.bad > 1 else 'it'} out)" if self.flag else ""
        raise InputError(f"{self.first}{more}{hint}")

    def write_list(self, file):
        """Write the bad rows to a text file as CSV."""
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("File", "Line", "Reason"))
        rows.writerows(self.faults)
