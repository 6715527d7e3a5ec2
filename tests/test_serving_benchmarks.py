"""benchmarks/serve_load.py and benchmarks/int8_recall.py run and print what they promise."""

import pytest

from conftest import assert_worked, run_script, write_random_model


@pytest.mark.parametrize("form", ["post", "get"])
def test_load(form):
    process = assert_worked(run_script("benchmarks/serve_load.py", "--items", 200, "--hid_size", 8, "--rates", "20,50",
                                       "--seconds", 1, "--form", form, "--workers", 1))
    first, titles, *lines = process.stdout.splitlines()
    assert f"200 items, 8 units, {form}" in first
    for rate, line in zip([20, 50], lines, strict=True):
        figures = dict(zip(titles.split(), map(float, line.split()), strict=True))
        assert figures["asked/s"] == rate and 0.4 * rate < figures["done/s"] < 2.5 * rate and figures["failed"] == 0
        assert 0 < figures["p50"] <= figures["p90"] <= figures["p99"] <= figures["max"] + 0.1


def test_recall(tmp_path):
    model = write_random_model(tmp_path / "model", items=300)
    (tmp_path / "test.txt").write_text("1 2 3\n5 299 4 4\n7\n")
    process = assert_worked(run_script("benchmarks/int8_recall.py", "--model_dir", model, "--test_dir", tmp_path / "test.txt",
                                       "--k", 300))
    lines = process.stdout.splitlines()
    assert lines[0] == "300 items, 8 units, 5 predictions"
    assert all(f"{matrix} " in line and "recall@300:1.0000" in line for matrix, line in zip(["float32", "int8"], lines[1:3]))
    assert "finds 100.0000%" in lines[3]
