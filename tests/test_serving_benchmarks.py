"""benchmarks/serve_load.py runs and prints what it promises."""

import pytest

from conftest import assert_worked, run_script


@pytest.mark.parametrize("form", ["post", "get"])
def test_load(form):
    process = assert_worked(run_script("benchmarks/serve_load.py", "--items", 200, "--hid_size", 8, "--rates", "20,50",
                                       "--seconds", 1, "--form", form, "--workers", 1))
    machine, model, titles, *lines = process.stdout.splitlines()
    assert "GFLOP/s" in machine and f"200 items, 8 units, {form}" in model
    for rate, line in zip([20, 50], lines, strict=True):
        figures = dict(zip(titles.split(), map(float, line.split()), strict=True))
        assert figures["asked/s"] == rate and 0.4 * rate < figures["done/s"] < 2.5 * rate and figures["failed"] == 0
        assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"] + 0.1
