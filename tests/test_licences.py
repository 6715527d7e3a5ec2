"""docs/licences.md lists every package that is pinned, with the licence that its metadata state."""

import importlib.metadata
import json
import re
import runpy
import subprocess
from types import SimpleNamespace

import pytest
from conftest import ROOT, assert_one_line_error

SCRIPT = "deploy/licences.py"
PAGE = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
ROWS = {cells[0]: cells[1:] for cells in re.findall(r"^\| ([\w-]+) \| (\d[^|]*) \| ([^|]*) \| ([^|]*) \|", PAGE, re.M)}
WITH_PURPOSE = set(re.findall(r"^\| ([\w-]+) \| \d[^|]* \| [^|]* \| [^|]* \| [^|]+ \|$", PAGE, re.M))


def pinned():
    """Names and versions in all requirements*.txt."""
    return {pair for path in ROOT.glob("requirements*.txt")
            for pair in re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(encoding="utf-8"), re.M)}


def test_every_pinned_package_is_listed_and_no_other():
    assert {(name, version) for name, (versions, *_) in ROWS.items() for version in versions.split(", ")} == pinned()
    assert f"{len(ROWS)} packages, {len(WITH_PURPOSE)} of them" in PAGE


def test_what_is_asked_for_directly_has_a_purpose():
    given = (ROOT / "requirements.in").read_text(encoding="utf-8")
    given += "".join(re.findall(r"\$'([^']*)'", (ROOT / "lock.sh").read_text(encoding="utf-8"))).replace(r"\n", "\n")
    given += "\npaddlepaddle\npaddlepaddle-gpu\ncyclonedx-bom\noptuna\nscikit-learn"
    assert WITH_PURPOSE == set(re.findall(r"^([a-z][\w-]*)", given, re.M))


def test_the_licences_are_those_of_the_installed_packages():
    licence, compared = runpy.run_path(str(ROOT / SCRIPT))["licence"], 0
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.name).lower()
        versions, listed, _ = ROWS.get(name, ("", "", ""))
        if distribution.version in versions.split(", "):
            assert licence(name, distribution.metadata.json) in listed.split("; "), name
            compared += 1
    assert compared > 60


def test_what_the_page_says_of_the_gpl_and_the_mpl():
    text = " ".join(PAGE.partition("## Packages")[0].split())
    with_licence = lambda part: {name for name, (_, licence, _) in ROWS.items() if part in licence}
    assert with_licence("GPL") == {"py7zr", "inflate64", "multivolumefile", "pybcj", "pyppmd"}
    assert with_licence("MPL") == {"certifi", "fqdn", "hypothesis", "tqdm"}
    assert all(name in text for name in with_licence("GPL") | with_licence("MPL"))
    assert not any("serving" in ROWS[name][2] for name in with_licence("GPL")), "the server's image has none"


@pytest.mark.parametrize("metadata, expected", [
    ({"license_expression": "MIT", "license": "GPL", "classifier": ["License :: OSI Approved :: BSD License"]}, "MIT"),
    ({"license": "Apache 2", "classifier": []}, "Apache-2.0"),
    ({"license": "UNKNOWN", "classifier": ["License :: OSI Approved :: ISC License (ISCL)"]}, "ISC"),
    ({"license": "Copyright\nof somebody", "classifier": ["License :: OSI Approved :: MIT License", "Other"]}, "MIT"),
])
def test_where_metadata_have_the_licence(metadata, expected):
    assert runpy.run_path(str(ROOT / SCRIPT))["licence"]("some-package", metadata) == expected


@pytest.mark.parametrize("report, status, fragment", [
    ({"install": [{"metadata": {"name": "Some_Package", "version": "1"}}]}, 0, "some-package: found no licence"),
    ({}, 1, "pip: no network")])
def test_what_cannot_be_found_out_is_one_line_and_changes_nothing(run_here, monkeypatch, report, status, fragment):
    answer = SimpleNamespace(returncode=status, stdout=json.dumps(report), stderr="...\nno network\n")
    monkeypatch.setattr(subprocess, "run", lambda *words, **more: answer)
    assert_one_line_error(run_here(SCRIPT), fragment)
    assert (ROOT / "docs/licences.md").read_text(encoding="utf-8") == PAGE
