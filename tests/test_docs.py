"""README.md and docs/: their links lead somewhere, and the files, scripts and flags that they name exist.

The diffs in docs/changing-it.md are tried by test_edits.py.
"""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

READMES, DOCS = [ROOT / "README.md", ROOT / "README_cn.md"], sorted((ROOT / "docs").glob("*.md"))
PAGES = [*READMES, *DOCS]
README_LINES, LINE_LENGTH = 180, 120
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINK = re.compile(r"\[([^]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OUR_FILE = re.compile(r"(utils|tests|benchmarks|settings|reproduce|docs)/[\w./-]*|(\w+\.(py|sh|toml|ini))")
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # apache.org/licenses/LICENSE-2.0.txt
OTHERS_FLAGS = {"--require-hashes", "--master", "--nnodes", "--nproc_per_node", "--log_dir",
                 "--host", "--build-arg", "--cpus", "--provenance", "--sbom"}  # pip's, Paddle's, Docker's
WITHOUT_FLAGS = {"net.py", "machine.py", "session_text.py", "speed_parts.py", "speed_rows.py", "serve_flask.py",
                 "endure_clients.py", "endure_report.py", "record_file.py", "stack.py"}

page_by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_code(text):
    """A page without its code blocks and comments."""
    return COMMENT.sub("", FENCED.sub("", text))


def words_in_code(text):
    """All inline code of a page, each piece in one line."""
    return [" ".join(code.split()) for code in CODE.findall(without_code(text))]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text):
    """Each command of a page's bash blocks and inline code, a list of words without what follows a # or a pipe."""
    blocks = [body for language, body in FENCED.findall(text) if language == "bash"]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines + [code for code in words_in_code(text) if code.startswith(("python ", "bash "))]:
        parser = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
        parser.whitespace_split = True
        command = []
        for word in [*parser, ";"]:
            if set(word) <= set("|;&<>"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


def scripts_of(command):
    """The scripts that a command runs, each with the words that it gets."""
    if command[1:3] == ["-m", "paddle.distributed.launch"]:
        place = next(place for place, word in enumerate(command) if word.endswith(".py"))
        yield command[place], command[place + 1:]
    elif command[0] in ("python", "bash") and len(command) > 1:
        yield command[1], command[2:]
    for word in command:
        name, equals, flags = word.partition("=")
        if equals and name == "SERVE_FLAGS":
            yield "serve.py", shlex.split(flags)


@pytest.fixture(scope="module")
def flags_of():
    """The flags of every script, by its path: what its -h lists."""
    scripts = [path for path in [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py")] if path.name not in WITHOUT_FLAGS]

    def flags(path):
        process = subprocess.run([sys.executable, path, "-h"], capture_output=True, text=True, timeout=60)
        assert process.returncode == 0, process.stderr
        return set(FLAG.findall(process.stdout))

    in_its_head = [line for line in (ROOT / "lock.sh").read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    with ThreadPoolExecutor() as pool:
        found = dict(zip([str(path.relative_to(ROOT)) for path in scripts], pool.map(flags, scripts)))
    return found | {"lock.sh": set(FLAG.findall(" ".join(in_its_head)))}


@page_by_page
def test_links_lead_to_files_and_headings(page):
    for text, target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), (text, target)
        assert not anchor or anchor in anchors(found), (text, target)


def test_readme_leads_to_every_page():
    targets = {target.partition("#")[0] for _, target in LINK.findall(PAGES[0].read_text(encoding="utf-8"))}
    assert {f"docs/{page.name}" for page in DOCS} <= targets


@page_by_page
def test_commands_run_scripts_that_exist_with_flags_that_they_have(page, flags_of):
    for command in commands(page.read_text(encoding="utf-8")):
        for script, words in scripts_of(command):
            assert (ROOT / script).is_file() or "NAME" in script, command
            given = {word.partition("=")[0] for word in words if word.startswith("--") and " " not in word}
            assert given <= flags_of.get(script, set()), command
            passed_on = "--extra", "--update"  # of ablation.py and daily.py
            for extra in [words[place + 1] for place, word in enumerate(words) if word in passed_on]:
                assert set(FLAG.findall(extra)) <= flags_of["train_sample_neg.py"], command


@page_by_page
def test_flags_and_files_in_the_text_exist(page, flags_of):
    all_flags = set().union(*flags_of.values()) | OTHERS_FLAGS
    for code in words_in_code(page.read_text(encoding="utf-8")):
        assert set(FLAG.findall(code)) <= all_flags, code
        for word in code.split():
            if OUR_FILE.fullmatch(word) and "NAME" not in word:
                assert (ROOT / word).exists(), code


@page_by_page
def test_files_that_commands_read_exist(page):
    for command in commands(page.read_text(encoding="utf-8")):
        for word in command:
            if word.startswith(("settings/", "reproduce/", "benchmarks/", "requirements")) and "NAME" not in word:
                assert (ROOT / word).is_file(), command


@pytest.mark.skipif(not (shutil.which("git") and (ROOT / ".git").exists()), reason="no clone, or no git")
def test_the_file_tree_is_the_real_one():
    tree = FENCED.search(PAGES[0].read_text(encoding="utf-8").partition("## Files\n")[2]).group(2).splitlines()
    names = lambda lines: {name for line in lines for name in re.split(r" {3,}", line.strip())[0].split()}
    first_parts = lambda paths: {path.partition("/")[0] + "/" * ("/" in path) for path in paths}
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [path for path in listed if not path.startswith(".") and (ROOT / path).exists()]
    top = {name for name in first_parts(paths) if not re.match(r"requirements.*txt|README", name)} - {"setup.sh"}
    assert names(line for line in tree if line[0] != " ") == top
    inside = first_parts(path.removeprefix("utils/") for path in paths if path.startswith("utils/")) - {"__init__.py"}
    assert names(line for line in tree if line[0] == " ") == inside


@page_by_page
def test_lines_of_the_text_are_short(page):
    for line in without_code(page.read_text(encoding="utf-8")).splitlines():
        if not line.startswith("|"):
            assert len(LINK.sub(r"\1", line)) <= LINE_LENGTH, line


def test_the_licence_is_apaches_word_for_word():
    """But for the line that names the year and the authors."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    ours, form = "Copyright 2026 the GRU4REC on PaddlePaddle authors", "Copyright [yyyy] [name of copyright owner]"
    assert text.count(ours) == 1
    assert hashlib.sha256(text.replace(ours, form).encode()).hexdigest() == APACHE_2_0
    assert "(LICENSE)" in PAGES[0].read_text(encoding="utf-8")


def test_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= README_LINES
