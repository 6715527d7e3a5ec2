"""deploy/push.sh with a Docker that only writes down what it is told, and what the other scripts refuse."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

DOCKER = '#!/bin/sh\necho "$@" >> "$TOLD"\ncase "$1" in push) exit "${PUSH:-0}";; inspect) echo a@sha256:1;; esac\n'


@pytest.fixture
def push(tmp_path):
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)

    def run(*words, **more):
        told = tmp_path / "told"
        told.unlink(missing_ok=True)
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": str(told), **more}
        command = ["bash", ROOT / "deploy/push.sh", *words]
        process = subprocess.run(command, env=environment, capture_output=True, text=True)
        return process, told.read_text().splitlines() if told.exists() else []
    return run


@pytest.mark.parametrize("words, target", [([], "serve"), (["serve"], "serve"), (["train"], "train")])
def test_it_builds_tags_and_pushes(push, words, target):
    process, told = push("registry.example.org:5000/shop/gru4rec", "1.2", *words)
    assert process.returncode == 0 and process.stdout == "a@sha256:1\n"
    build, pushed, inspected = told
    name = "registry.example.org:5000/shop/gru4rec:1.2"
    assert build == f"build --file deploy/Dockerfile --target {target} --tag {name} ."
    assert pushed == f"push {name}" and inspected.endswith(name)


def test_what_was_not_pushed_is_no_success(push):
    process, told = push("registry.example.org/gru4rec", "1.2", PUSH="3")
    assert process.returncode == 3 and process.stdout == "" and len(told) == 2


@pytest.mark.parametrize("words", [[], ["gru4rec"], ["https://a.example/b"], ["a.example/b", "1", "gpu"],
                                   ["a.example/b", "1", "serve", "more"], ["a.example/B c"]], ids=str)
def test_push_refuses(push, words):
    process, told = push(*words)
    assert process.returncode == 2 and process.stderr.count("\n") == 1 and not told and not process.stdout


@pytest.mark.parametrize("words", [[], ["nowhere/sbom.json"], ["sbom.json", "nowhere.txt"], ["a", "b", "c"]], ids=str)
def test_sbom_refuses_before_it_installs_anything(tmp_path, words):
    process = subprocess.run(["bash", ROOT / "deploy/sbom.sh", *words], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.count("\n") == 1 and not any(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["out"], ["sbom.json", "out"], ["sbom.json", "empty.txt"]], ids=str)
def test_sbom_refuses_directories_and_empty_requirements(tmp_path, words):
    (tmp_path / "out").mkdir()
    (tmp_path / "empty.txt").touch()
    process = subprocess.run(["bash", ROOT / "deploy/sbom.sh", *words], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 2 and process.stderr.count("\n") == 1 and not (tmp_path / "sbom.json").exists()


def test_compile_native_wants_to_be_told_where():
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    process = subprocess.run([sys.executable, ROOT / "deploy/compile_native.py"], env=environment, capture_output=True,
                             text=True)
    assert process.returncode == 2 and process.stderr.startswith("compile_native.py: XDG_CACHE_HOME: found none")
    assert process.stderr.count("\n") == 1


@pytest.mark.skipif(any(map(os.path.exists, ("/model", "/mnt/models", "/opt/ml/model"))), reason="a container's model")
@pytest.mark.parametrize("words, flag", [([], "--model_dir"), (["--intent_model_dir", "none"], "--intent_model_dir"),
                                         (["serve", "--intent_model_dir=none"], "--intent_model_dir"),
                                         (["--intent_model_dir=none", "--model_dir=none"], "--model_dir")], ids=str)
def test_the_image_answers_purchase_intent_alone_where_it_has_no_recommender(tmp_path, words, flag):
    process = subprocess.run([sys.executable, ROOT / "deploy/start.py", *words], cwd=tmp_path, capture_output=True,
                             text=True)
    assert process.returncode == 2 and process.stderr.startswith(f"serve.py: {flag}: found no finished epoch in ")
