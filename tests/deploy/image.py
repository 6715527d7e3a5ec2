"""Runs the steps of deploy/Dockerfile one by one, where there is no Docker: each stage in a directory of its own.

The steps write below /opt/gru4rec alone, and that path stands for one in the stage's directory here. What they install
of Debian's packages is expected to be on this machine.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

from conftest import ROOT

HOME = "/opt/gru4rec"


def stages():
    """The stages of the Dockerfile by name: the image or stage that each is made from, and its instructions."""
    lines = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if line.strip() and not line.startswith("#"))
    found, steps = {}, None
    for line in text.replace("\\\n", "").splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            base, _, stage = re.fullmatch("(.*) (AS) (.*)", rest).groups()
            found[stage] = base, (steps := [])
        elif steps is not None:
            steps.append((name, rest.strip()))
    return found


class Image:
    """A stage, built: `entry` and `check` are commands, `environment` what is set for them.

    Without `runs`, it has nothing but what is copied from the repository.
    """

    def __init__(self, stage, directory, runs=True):
        base, steps = stages()[stage]
        self.directory, self.root, self.runs = directory, directory / stage, runs
        self.environment, self.workdir, self.entry, self.check = {}, "/", [], []
        if base in stages():
            before = Image(base, directory)
            before.root.rename(self.root)
            self.environment, self.workdir = before.environment, before.workdir
        for name, rest in steps:
            getattr(self, f"do_{name.lower()}")(rest)

    def here(self, text):
        """A text of the Dockerfile, with this machine's paths."""
        return text.replace(HOME, str(self.root) + HOME)

    def place(self, path):
        assert path.startswith(HOME) or not path.startswith("/") and self.workdir.startswith(HOME), path
        return self.root / f"{path if path.startswith('/') else self.workdir + '/' + path}".lstrip("/")

    def do_run(self, command):
        if not self.runs or command.startswith("apt-get "):
            return
        environment = {**os.environ, **self.environment, "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin"}
        command = self.here(command).replace("--no-cache-dir", "")  # many tests need these packages
        subprocess.run(["sh", "-ec", command], cwd=self.root / self.workdir.lstrip("/"), check=True, env=environment)

    def do_copy(self, rest):
        *sources, target = rest.split()
        if sources[0].startswith("--from="):
            built = Image(sources[0].partition("=")[2], self.directory)
            return shutil.copytree(built.place(sources[1]), self.place(target), symlinks=True)
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, self.place(target), ignore=shutil.ignore_patterns("__pycache__"))
            else:
                self.place(target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, self.place(target))

    def do_workdir(self, path):
        self.workdir = path
        self.place(path).mkdir(parents=True, exist_ok=True)

    def do_env(self, rest):
        self.environment |= dict(self.here(pair).split("=", 1) for pair in shlex.split(rest))

    def do_healthcheck(self, rest):
        self.check = json.loads(self.here(rest.partition("CMD ")[2]))

    def do_entrypoint(self, rest):
        self.entry = json.loads(self.here(rest))

    def do_cmd(self, rest):
        self.entry += json.loads(rest)

    def do_expose(self, rest):
        assert rest == "8080"
