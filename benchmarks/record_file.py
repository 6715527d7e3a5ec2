"""A file of recorded series, which grows run by run: benchmarks/recorded/NAME.json."""

import datetime
import json
from pathlib import Path

from utils.device import processor_name
from utils.files import InputError, write_atomically
from utils.model.checked_json import read_json
from utils.runlog import log


class RecordFile:
    """The series of a file, each with its points.

    Parameters
    ----------
    path : str or Path
        Of the file. If it is there already, its series stay, and others are added.
    about : dict
        What was measured and how; it becomes part of the file.

    Raises
    ------
    InputError
        Where the file is of something else, or of another machine.
    """

    def __init__(self, path, about):
        self.path, self.about = Path(path), about | {"machine": processor_name()}
        self.content = self.read()

    def read(self):
        """What the file holds, or what it begins with."""
        if not self.path.exists():
            return self.about | {"series": []}
        content = read_json(self.path, "--record", "recorded series")
        for name, now in self.about.items():
            if content.get(name) != now:
                raise InputError(f"--record: found {name} {content.get(name)} in {self.path}, expected {now}, or a "
                                 "file that isn't there yet")
        return content

    def points(self, name):
        """The points of a series, a list of dicts; empty where there is none."""
        return next((series["points"] for series in self.content["series"] if series["name"] == name), [])

    def add(self, name, points, command):
        """Write points to a series, at its end; `command` is what made them, a text."""
        self.content = self.read()  # another process may have written to it meanwhile
        known = self.points(name)
        if not known:
            self.content["series"].append({"name": name, "command": command, "date": str(datetime.date.today()),
                                           "points": known})
        known += points
        with write_atomically(self.path) as file:
            file.write(json.dumps(self.content, indent=1) + "\n")
        log(f"{name}: {points[-1]}")
