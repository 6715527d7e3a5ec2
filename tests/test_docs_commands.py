"""The commands of README.md and docs/ work as they stand: in their order, in one shell, in a clone of the repository.

The bundled sample is a smaller one there, made in the same way. Data that can't be had are made up.
"""

import contextlib
import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, assert_worked, free_port, run_script

ROWS = re.findall(r"^\| \[docs/.* \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
LINKED = [page for row in ROWS for page in re.findall(r"\[(docs/[\w-]+\.md)\]", row)]
PAGES = ["README.md", *LINKED]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What isn't run here, by how it begins, and why.
LEFT_OUT = {
    "bash demo.sh": "sets up an environment; test_sample.py runs its steps",
    "bash test.sh": "runs this suite",
    "bash setup.sh .venv-gpu": "downloads 2.8 GB",
    "bash benchmarks/gpu.sh": "needs a GPU; test_gpu_script.py tries it",
    "pip install": "the packages are there",
    "python tune.py --trials": "takes minutes; tests/tuning/ run it",
    "python tune.py --train_dir": "takes longer",
    "python train_sample_neg.py --config tune_output/": "takes what those wrote",
    "python benchmarks/": "takes minutes; test_benchmarks.py and tests/serving/ run them",
    "docker": "needs Docker; tests/deploy/ runs the steps of its file",
    "bash deploy/push.sh": "needs a registry; tests/deploy/ tries it",
    "bash deploy/sbom.sh": "downloads packages",
}
ELSEWHERE = {"docs/operation.md"}  # tests/deploy/test_operation_page.py runs its commands
DAY = 86400

pytestmark = pytest.mark.skipif(not all(map(shutil.which, ["git", "curl"])) or not (ROOT / ".git").exists(),
                                reason="no clone, no git or no curl")


def git(directory, *arguments):
    command = ["git", "-C", directory, "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with this one's files, and with the data that its pages speak of."""
    directory = tmp_path_factory.mktemp("clone")
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, directory / name)
    (directory / ".venv").symlink_to(sys.prefix)
    make_sample(directory, directory / "raw")
    shutil.rmtree(directory / "raw")
    git(directory, "init", "--quiet")
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "all")
    make_yoochoose(directory)
    make_shop(directory / "shop.csv.gz")
    make_events(directory / "events.csv")
    return directory


@pytest.fixture(scope="module")
def pipelines_done():
    """The pipelines that have been run, a set of command lines; more than one page begins with them."""
    return set()


def make_sample(directory, raw):
    """A small sample in place of the bundled one."""
    for name in "train_data", "test_data":
        shutil.rmtree(directory / name)
    assert_worked(run_script("make_sample.py", "--output", raw / "clicks.tsv", "--session_count", 1500))
    assert_worked(run_script("preprocess.py", "--input", raw / "clicks.tsv", "--out_dir", raw, "--prefix", ""))
    assert_worked(run_script("convert_format.py", "--train_input", raw / "train_full.txt", "--test_input",
                             raw / "test.txt", "--train_output", raw / "train/sample_train.txt", "--test_output",
                             raw / "test/sample_test.txt"))
    assert_worked(run_script("text2paddle.py", raw / "train", raw / "test", directory / "train_data",
                             directory / "test_data", directory / "vocab.txt"))


def make_yoochoose(directory):
    """An archive in the form of the real one, to be found where it would be downloaded to."""
    import py7zr
    names = "yoochoose-clicks.dat", "yoochoose-buys.dat"
    flags = ["--click_count", 30_000, "--item_count", 1000, "--output", directory / names[0],
             "--buys_output", directory / names[1]]
    assert_worked(run_script("benchmarks/make_clicks.py", *flags))
    with py7zr.SevenZipFile(directory / "yoochoose-data.7z", "w") as archive:
        for name in names:
            archive.write(directory / name, name)
            (directory / name).unlink()


def make_shop(path):
    """Clicks of users of a shop during four weeks."""
    draw = random.Random(1)
    lines = ["user,product,price,clicked_at"]
    for visit in range(2000):
        second = 1_767_225_600 + draw.randrange(28 * DAY)
        for _ in range(draw.randint(2, 6)):
            lines.append(f"u{visit % 700},p{int(60 * draw.random()**2)},5,{second}")
            second += draw.randint(1, 300)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def make_events(path):
    """Views, cart additions and purchases of visitors during four weeks, in the form of RetailRocket's events."""
    draw = random.Random(2)
    lines = ["timestamp,visitorid,event,itemid,transactionid"]
    for visit in range(2000):
        second = 1_767_225_600 + draw.randrange(28 * DAY)
        for _ in range(draw.randint(1, 5)):
            item, second = int(60 * draw.random()**2), second + draw.randint(1, 300)
            lines.append(f"{second}000,{visit % 700},view,{item},")
            if draw.random() < 0.1:
                lines += [f"{second + 20 * step}000,{visit % 700},{event},{item},{step * visit or ''}"
                          for step, event in ((1, "addtocart"), (2, "transaction"))]
    path.write_text("\n".join(lines) + "\n")


def commands_of(page):
    """The lines of a page's bash blocks, without those that are left out."""
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if not line.startswith(tuple(LEFT_OUT))]


def test_every_page_is_read_and_nothing_is_left_out_in_vain():
    assert sorted(PAGES) == sorted(["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
    blocks = "".join("".join(BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))) for page in PAGES)
    for beginning in LEFT_OUT:
        assert re.search(f"^{re.escape(beginning)}", blocks, re.MULTILINE), beginning


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_the_commands_of_a_page_work_in_their_order(clone, pipelines_done, page):
    port = free_port()
    if page == "docs/your-data.md":
        shutil.rmtree(clone / "shop", ignore_errors=True)  # README.md has a model there, which nothing overwrites
    lines = [line.replace("localhost:8080", f"localhost:{port}").replace("serve.py ", f"serve.py --port {port} ")
             for line in commands_of(page) if line.partition(" #")[0].strip() not in pipelines_done]
    if not lines:
        pytest.skip("no commands")
    first = [] if page == "README.md" else ["source .venv/bin/activate"]
    status, output = run_in_shell(clone, ["set -eo pipefail", *first, "set -x", *lines, "wait"])
    assert status == 0 and "Traceback" not in output, output[-4000:]
    pipelines_done.update(line.partition(" #")[0].strip() for line in lines if line.startswith("bash reproduce/"))
    assert git(clone, "status", "--porcelain", "--untracked-files=no") == "", "files of the repository have changed"
    if page == "README.md":
        assert git(clone, "status", "--porcelain") == "?? events.csv\n?? shop.csv.gz\n"


def run_in_shell(directory, lines):
    """Run lines in one shell that has no environment activated; the status and all output. Nothing goes on after it."""
    places = [place for place in os.environ["PATH"].split(os.pathsep) if Path(place) != Path(sys.prefix, "bin")]
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    with subprocess.Popen(["bash", "-c", "\n".join(lines)], cwd=directory, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, start_new_session=True,
                          env={**environment, "EPOCHS": "1", "PATH": os.pathsep.join(places)}) as process:
        try:
            output, _ = process.communicate(timeout=200)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output
