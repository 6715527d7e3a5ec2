"""A reader sees the whole of a file, and of a function, on a few screens."""

import ast

import pytest
from conftest import ROOT

FILES = sorted({path for pattern in ("*.py", "utils/**/*", "tests/**/*", "benchmarks/*", "deploy/*.py")
                for path in ROOT.glob(pattern) if path.suffix in (".py", ".cc", ".h", ".sh")})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    functions = ast.walk(ast.parse(text)) if path.suffix == ".py" else []
    assert not [node.name for node in functions if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
                and node.end_lineno - node.lineno >= 60]
