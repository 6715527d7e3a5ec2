"""export.py: what other programs read is what recommend.py answers with, and the code of docs/export.md works."""

import os
import re
import shlex
import shutil
import sys

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, run_script, write_random_model

from utils.model.checked_json import write_json
from utils.model.checkpoint import read_config
from utils.model.load import load_scorer

LINES = "item_3 item_1\n\nitem_7\nunknown item_3 item_1\n unknown\n"
SESSIONS = [[3, 1], [7], [3, 1], []]


@pytest.fixture
def model(tmp_path):
    return write_random_model(tmp_path / "model", items=50)


@pytest.fixture
def sessions(tmp_path):
    path = tmp_path / "sessions.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


def scores_after(model, clicks):
    """The scores of all items after a session, as they are answered with; the state of a new one without clicks."""
    scorer, _ = load_scorer(model)
    states = scorer.before_first_click()
    for item in clicks:
        states = scorer.click(item, states)
    return scorer.scores(states[-1])


def test_as_a_user_runs_it_without_paddle(model, sessions, tmp_path):
    (tmp_path / "path" / "paddle").mkdir(parents=True)
    (tmp_path / "path" / "paddle" / "__init__.py").write_text("raise ImportError('Paddle is imported')\n")
    process = run_script("export.py", "--model_dir", model, "--item_vectors", "items.npy",
                         "--session_states", "out/states.npy",
                         "--sessions", sessions, "--onnx", "model.onnx", "--topk", 3, cwd=tmp_path,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "path"), *sys.path])})
    assert process.returncode == 0, process
    assert process.stdout == "".join(f"written: {path}\n" for path in ("out/states.npy", "items.npy", "model.onnx"))
    assert process.stderr == ("export.py: left out clicks on items that the model doesn't know: 2 (first: 'unknown' in "
                              f"{sessions}:4); sessions without any other, with a state of zeros: 1\n")
    items, states = np.load(tmp_path / "items.npy"), np.load(tmp_path / "out" / "states.npy")
    assert items.dtype == states.dtype == np.float32 and items.shape == (50, 9) and states.shape == (4, 8)
    for state, clicks in zip(states, SESSIONS):
        np.testing.assert_allclose(items[:, :-1] @ state + items[:, -1], scores_after(model, clicks), rtol=0, atol=1e-5)
    runtime = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    best, = runtime.run(["best_items"], {"items": np.array([[3, 1]]), "states": np.zeros((1, 8), np.float32)})
    recommended = run_script("recommend.py", "--model_dir", model, "--topk", 3, "item_3", "item_1").stdout.split()
    assert [f"item_{item}" for item in best[0]] == recommended[2::4]


def test_scaled_scores_are_products_of_what_is_written_too(run_here, model, sessions, tmp_path):
    config = read_config(model)
    config["network"]["score_scale"] = 16
    write_json(model / "config.json", config)
    files = {name: tmp_path / f"{name}.npy" for name in ("item_vectors", "session_states")}
    outputs = [word for name, path in files.items() for word in (f"--{name}", path)]
    assert run_here("export.py", "--model_dir", model, *outputs, "--sessions", sessions).returncode == 0
    items, states = map(np.load, files.values())
    np.testing.assert_allclose(np.linalg.norm(items[:, :-1], axis=1), 16 / np.sqrt(8), rtol=1e-5)
    for state, clicks in zip(states, SESSIONS):
        np.testing.assert_allclose(items[:, :-1] @ state + items[:, -1], scores_after(model, clicks), rtol=0, atol=1e-4)


def test_parquet_has_the_same_and_the_ids(run_here, model, sessions, tmp_path):
    for ending in "npy", "parquet":
        assert run_here("export.py", "--model_dir", model, "--item_vectors", tmp_path / f"items.{ending}",
                        "--session_states", tmp_path / f"states.{ending}", "--sessions", sessions).returncode == 0
    items, states = (pq.read_table(tmp_path / f"{name}.parquet").to_pydict() for name in ("items", "states"))
    assert list(items) == ["item_id", "bias", "vector"] and items["item_id"] == [f"item_{item}" for item in range(50)]
    both = np.column_stack([np.array(items["vector"], np.float32), np.array(items["bias"], np.float32)])
    assert np.array_equal(both, np.load(tmp_path / "items.npy"))
    assert (states["session"], states["clicks"]) == ([0, 1, 2, 3], [2, 1, 2, 0])
    assert np.array_equal(np.array(states["state"], np.float32), np.load(tmp_path / "states.npy"))


def test_a_session_file_larger_than_a_batch(run_here, model, tmp_path):
    clicks = np.random.default_rng(1).integers(50, size=(600, 3))
    (tmp_path / "sessions.txt").write_text("".join(" ".join(f"item_{item}" for item in row) + "\n" for row in clicks))
    assert_worked(run_here("export.py", "--model_dir", model, "--session_states", tmp_path / "states.npy", "--sessions",
                           tmp_path / "sessions.txt"))
    states = np.load(tmp_path / "states.npy")
    assert len(states) == 600
    for row in 0, 255, 256, 599:
        scores = load_scorer(model)[0].scores(states[row])
        np.testing.assert_allclose(scores, scores_after(model, clicks[row]), rtol=0, atol=1e-5)


def test_an_edited_network_has_vectors_and_states_but_no_onnx(run_here, tiny_model, sessions, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    for name in "known", "edited":
        process = run_here("export.py", "--model_dir", model, "--item_vectors", tmp_path / f"{name}.npy",
                           "--session_states", tmp_path / f"{name}_states.npy", "--sessions", sessions)
        assert process.returncode == 0 and ("through net.py by Paddle" in process.stderr) == (name == "edited")
        write_json(model / "config.json", read_config(model) | {"network_is_known": False})
    assert np.array_equal(np.load(tmp_path / "known.npy"), np.load(tmp_path / "edited.npy"))
    np.testing.assert_allclose(np.load(tmp_path / "known_states.npy"), np.load(tmp_path / "edited_states.npy"),
                               rtol=0, atol=1e-5)
    assert_one_line_error(run_here("export.py", "--model_dir", model, "--onnx", tmp_path / "m.onnx"), model,
                          "edited in net.py")
    assert not (tmp_path / "m.onnx").exists()


def test_a_merged_model_is_exported_like_any_other(run_here, model, tmp_path):
    other = write_random_model(tmp_path / "other", items=50, seed=1)
    assert run_here("merge_models.py", model, other, "--model_dir", tmp_path / "merged").returncode == 0
    assert_worked(run_here("export.py", "--model_dir", tmp_path / "merged", "--onnx", tmp_path / "m.onnx"))
    runtime = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    scores, = runtime.run(["scores"], {"items": np.array([[3, 1]]), "states": np.zeros((1, 16), np.float32)})
    expected = (scores_after(model, [3, 1]) + scores_after(other, [3, 1])) / 2
    np.testing.assert_allclose(scores[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arguments, fragments", [
    ([], ["--item_vectors, --session_states, --onnx: found none"]),
    (["--item_vectors", "items.csv"], ["--item_vectors: found items.csv", ".npy or .parquet"]),
    (["--onnx", "model"], ["--onnx: found model", ".onnx"]),
    (["--session_states", "s.npy"], ["--session_states: found it without --sessions"]),
    (["--item_vectors", "i.npy", "--sessions", "{sessions}"], ["--sessions: found it without --session_states"]),
    (["--item_vectors", "a.npy", "--session_states", "./a.npy", "--sessions", "{sessions}"], ["which --item_vectors"]),
    (["--item_vectors", "i.npy", "--epoch", "7"], ["--epoch: found no finished epoch 7"]),
    (["--onnx", "m.onnx", "--topk", "0"], ["--topk"]),
    (["--session_states", "s.npy", "--sessions", "nowhere"], ["--sessions: found no file nowhere"]),
    (["--session_states", "s.npy", "--sessions", "empty.txt"], ["--sessions: found no session in empty.txt"]),
    (["--session_states", "s.npy", "--sessions", "binary.txt"], ["binary.txt:1: found a zero byte"]),
    (["--item_vectors", "test_data/i.npy"], ["--item_vectors: found sessions in test_data"]),
    (["--item_vectors", "folder.npy"], ["--item_vectors folder.npy: found a directory"]),
])
def test_wrong_flags_and_files_end_in_one_line(run_here, model, sessions, tmp_path, monkeypatch, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"item_1 \0\n")
    (tmp_path / "test_data").mkdir()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "test_data" / "text2paddle.json").write_text("{}")
    before = files_below(tmp_path)
    arguments = [argument.format(sessions=sessions) for argument in arguments]
    assert_one_line_error(run_here("export.py", "--model_dir", model, *arguments), "export.py: ", *fragments)
    assert files_below(tmp_path) == before


def test_without_onnx_one_line_says_what_to_install(run_here, model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    process = run_here("export.py", "--model_dir", model, "--onnx", tmp_path / "m.onnx")
    assert_one_line_error(process, "found no Python package onnx", "requirements-export.txt")


def test_what_is_no_model_directory_is_one_line(run_here, tmp_path):
    for flags in ["--item_vectors", tmp_path / "i.npy"], ["--onnx", tmp_path / "m.onnx"]:
        assert_one_line_error(run_here("export.py", "--model_dir", tmp_path / "none", *flags), "config.json")


def test_a_full_disk_leaves_no_file(run_here, model, tmp_path, monkeypatch):
    import pyarrow.parquet

    def write_table(table, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(pyarrow.parquet, "write_table", write_table)
    process = run_here("export.py", "--model_dir", model, "--item_vectors", tmp_path / "items.parquet")
    assert_one_line_error(process, "items.parquet", "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_code_of_the_page_works_after_its_commands(run_here, tiny_model, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    shutil.copytree(tiny_model, tmp_path / "model_output")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sessions.txt").write_text("item_3 item_1\nitem_7\n")
    for line in "".join(re.findall(r"^```bash\n(.*?)^```$", page, re.M | re.S)).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:2] == ["python", "export.py"]:
            assert_worked(run_here(*words[1:]))
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "docs/export.md", "exec"), {})
    assert "item_" in capsys.readouterr().out
