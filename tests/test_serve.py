"""serve.py as a user runs it: a real server with two workers, and what it answers, refuses, counts and logs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, assert_worked, files_below, free_port, run_script, write_random_model
from running_server import ITEMS, draw_sessions

from utils.model import checkpoint
from utils.model.checked_json import write_json

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


# Answers

def test_answers_equal_those_of_recommend(server, tmp_path):
    sessions = draw_sessions(1000)
    path = tmp_path / "sessions.txt"
    path.write_text("".join(" ".join(session) + "\n" for session in sessions))
    process = run_script("recommend.py", "--model_dir", server.model_dir, "--sessions", path, "--format", "json",
                         "--topk", 20)
    records = [json.loads(line) for line in process.stdout.splitlines()]
    expected = [{"items": record["items"], "scores": record["scores"]} for record in records]
    assert len(expected) == 1000
    with httpx.Client(base_url=server.url) as client:
        alone = [client.post("/v1/recommend", json={"sessions": [session]}).json()["answers"][0]
                 for session in sessions]
    batches = [answer for start in range(0, 1000, 64) for answer in server.recommend(sessions[start:start + 64])]
    for found in alone, batches:
        assert [answer.pop("unknown_items") for answer in map(dict, found)] == [
            sum(int(item_id[5:]) >= ITEMS for item_id in session) for session in sessions]
        assert [{name: answer[name] for name in ("items", "scores")} for answer in found] == expected


def test_without_a_compiler_numpy_answers_the_same(own_server, server, tmp_path):
    plain = own_server(XDG_CACHE_HOME=str(tmp_path / "cache"))
    loaded = [line for line in plain.log_lines() if line["message"] == "model loaded"]
    assert [line["scoring"] for line in loaded] == ["native:no(no C++ compiler)"] * 2
    sessions = draw_sessions(60, seed=2)
    for found, expected in zip(plain.recommend(sessions, k=10), server.recommend(sessions, k=10), strict=True):
        assert found["items"] == expected["items"]
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-5)


def test_a_network_that_only_paddle_knows(own_server, server, tmp_path):
    model_dir = write_random_model(tmp_path / "model", items=ITEMS, hid_size=(16,))
    write_json(model_dir / "config.json", checkpoint.read_config(model_dir) | {"network_is_known": False})
    slow = own_server(PATH=os.environ["PATH"])
    loaded = [line for line in slow.log_lines() if line["message"] == "model loaded"]
    assert ["Paddle" in line["scoring"] for line in loaded] == [True] * 2
    sessions = draw_sessions(60, seed=2)
    for found, expected in zip(slow.recommend(sessions, k=10), server.recommend(sessions, k=10), strict=True):
        assert found["items"] == expected["items"]
        np.testing.assert_allclose(found["scores"], expected["scores"], rtol=0, atol=1e-4)
    for number in range(3):
        live = slow.get("/v1/recommend", session_id="a", item_id=f"item_{number}", user_consent="true",
                        exclude_clicked="none").json()
        whole, = slow.recommend([[f"item_{item}" for item in range(number + 1)]])
        assert live["items"] == whole["items"] and live["clicks"] == number + 1


@pytest.mark.parametrize("store", ["machine", "redis"])
def test_live_sessions_equal_whole_ones_whichever_worker_answers(server, own_server, request, store):
    if store == "redis":
        server = own_server("--session_store", request.getfixturevalue("redis_url"))
    sessions = draw_sessions(20, seed=1)
    for position in range(12):  # all sessions side by side, a click of each in turn
        for number, session in enumerate(sessions):
            if position < len(session):
                found = server.get("/v1/recommend", session_id=f"{store}-{number}", item_id=session[position],
                                   user_consent="true", exclude_clicked="none").json()
                expected, = server.recommend([session[:position + 1]])
                assert {name: found[name] for name in expected} == expected and found["clicks"] == position + 1
    asked = [line for line in server.log_lines() if line.get("method") == "GET" and line["route"] == "/v1/recommend"]
    assert len({line["process"] for line in asked}) == 2
    assert server.metrics()["gru4rec_stored_sessions"] == len(sessions)


def test_nothing_is_stored_without_consent(server):
    before = server.metrics()["gru4rec_stored_sessions"]

    def click(item_id, **more):
        return server.get("/v1/recommend", session_id="consent", item_id=item_id, exclude_clicked="none", **more).json()
    alone, = server.recommend([["item_2"]])
    for more in {}, {"user_consent": "false"}:
        assert click("item_1", **more)["clicks"] == 1
        found = click("item_2", **more)
        assert found["clicks"] == 1 and found["scores"] == alone["scores"]
    assert server.metrics()["gru4rec_stored_sessions"] == before
    assert [click("item_1", user_consent="true")["clicks"] for _ in range(2)] == [1, 2]
    assert server.metrics()["gru4rec_stored_sessions"] == before + 1
    click("item_1")
    assert server.metrics()["gru4rec_stored_sessions"] == before, "consent withdrawn: what was stored is deleted"
    assert click("item_1", user_consent="true")["clicks"] == 1


def test_requests_choose_what_is_recommended(server):
    everything = server.recommend([["item_1", "item_2"]], k=1000)[0]
    assert len(everything["items"]) == ITEMS
    scores = dict(zip(everything["items"], everything["scores"]))

    def left(names):
        return [item_id for item_id in everything["items"] if item_id in names]
    assert server.recommend([["item_1", "item_2"]], k=3)[0]["items"] == everything["items"][:3]
    unseen = server.recommend([["item_1", "item_2"]], k=1000, exclude_seen=True, exclude=["item_7", "unknown"])[0]
    assert unseen["items"] == left(set(everything["items"]) - {"item_1", "item_2", "item_7"})
    allowed = server.recommend([["item_1", "item_2"]], allow=["item_9", "item_3", "unknown", "item_1"],
                               exclude_seen=True)[0]
    assert allowed["items"] == left({"item_9", "item_3"})
    np.testing.assert_allclose(allowed["scores"], [scores[item_id] for item_id in allowed["items"]], atol=2e-6)
    live = server.get("/v1/recommend", session_id="x", item_id="item_1", allow=["item_9", "item_3"], exclude="item_3",
                      k=5).json()
    assert live["items"] == ["item_9"]


def test_items_like_one_and_items_by_prefix(server):
    found = server.get("/v1/similar", item_id="item_5", k=4).json()
    assert found["item_id"] == "item_5" and len(found["items"]) == 4 and "item_5" not in found["items"]
    assert found["scores"] == sorted(found["scores"], reverse=True) and max(found["scores"]) <= 1
    found = server.get("/v1/items", prefix="item_29", k=4).json()["items"]
    assert found == ["item_29", "item_290", "item_291", "item_292"]
    assert server.get("/v1/items", prefix="x").json()["items"] == []


def test_every_answer_and_the_log_name_the_model(server):
    state = json.loads((server.model_dir / "epoch_1" / "state.json").read_text())
    expected = {"name": "model/epoch_1", "sha256": state["files"]["model.safetensors"]["sha256"]}
    responses = [server.client.post("/v1/recommend", json={"sessions": [["item_1"]]}), server.get("/readyz"),
                 server.get("/v1/items"), server.get("/v1/similar", item_id="item_1"),
                 server.get("/v1/recommend", session_id="x", item_id="item_1")]
    assert [response.json()["model"] for response in responses] == [expected] * 5
    loaded = [line for line in server.log_lines() if line["message"] == "model loaded"]
    assert {(line["model"], line["sha256"]) for line in loaded} == {tuple(expected.values())}


# What is refused

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("method, path, status, where, more", [
    ("POST", "/v1/recommend", 400, "body", {"content": b"{", "headers": JSON}),
    ("POST", "/v1/recommend", 400, "body", {"content": b'{"sessions": [["\xff"]]}', "headers": JSON}),
    ("POST", "/v1/recommend", 422, "body", {"content": b"[" * 100_000, "headers": JSON}),
    ("POST", "/v1/recommend", 413, "body", {"content": b" " * 1_100_000, "headers": JSON}),
    ("POST", "/v1/recommend", 415, "header.content-type", {"content": b"{}"}),
    ("POST", "/v1/recommend", 415, "header.content-type", {"content": b"{}", "headers": {
        "content-type": "text/plain"}}),
    ("POST", "/v1/recommend", 415, "header.content-type", {"content": b"{}", "headers": {
        "content-type": "application/json; charset=latin-1"}}),
    ("POST", "/v1/recommend", 415, "header.content-encoding",
     {"content": b"{}", "headers": JSON | {"content-encoding": "gzip"}}),
    ("POST", "/v1/recommend", 422, "body", {"json": []}),
    ("POST", "/v1/recommend", 422, "body", {"json": {}}),
    ("POST", "/v1/recommend", 422, "body", {"json": {"sessions": [["a"]], "topk": 3}}),
    ("POST", "/v1/recommend", 422, "body.sessions", {"json": {"sessions": []}}),
    ("POST", "/v1/recommend", 422, "body.sessions", {"json": {"sessions": [["a"]] * 65}}),
    ("POST", "/v1/recommend", 422, "body.sessions[0]", {"json": {"sessions": [["a"] * 201]}}),
    ("POST", "/v1/recommend", 422, "body.sessions[0][1]", {"json": {"sessions": [["a", 3]]}}),
    ("POST", "/v1/recommend", 422, "body.sessions[1][0]", {"json": {"sessions": [["a"], [""]]}}),
    ("POST", "/v1/recommend", 422, "body.sessions[0][0]", {"json": {"sessions": [["x" * 257]]}}),
    ("POST", "/v1/recommend", 422, "body.k", {"json": {"sessions": [["a"]], "k": 0}}),
    ("POST", "/v1/recommend", 422, "body.k", {"json": {"sessions": [["a"]], "k": 1001}}),
    ("POST", "/v1/recommend", 422, "body.exclude", {"json": {"sessions": [["a"]], "exclude": ["x"] * 10_001}}),
    ("GET", "/v1/recommend", 422, "query", {}),
    ("GET", "/v1/recommend?session_id=a", 422, "query", {}),
    ("GET", "/v1/recommend?session_id=&item_id=a", 422, "query.session_id", {}),
    ("GET", "/v1/recommend?session_id=a&item_id=b&k=x", 422, "query.k", {}),
    ("GET", "/v1/recommend?session_id=a&item_id=b&item_id=c", 422, "query.item_id", {}),
    ("GET", "/v1/recommend?session_id=a&item_id=b" + 101 * "&allow=x", 422, "query.allow", {}),
    ("GET", "/v1/recommend?session_id=%ff&item_id=b", 400, "query", {}),
    ("GET", "/v1/items", 431, "head", {"headers": {"x": "y" * 70_000}}),
    ("GET", "/v1/similar?item_id=unknown", 404, "query.item_id", {}),
    ("GET", "/v3", 404, "path", {}), ("GET", "/../serve.py", 404, "path", {}),
    ("GET", "/%2e%2e/serve.py", 404, "path", {}),
    ("PUT", "/v1/recommend", 405, "method", {}), ("POST", "/v1/similar", 405, "method", {})],
    ids=lambda value: str(value)[:40] if isinstance(value, (str, int)) else "")
def test_refusals(server, method, path, status, where, more):
    response = server.client.request(method, path, **more)
    assert response.status_code == status and response.headers["content-type"] == "application/json", response.text
    error = response.json()["error"]
    assert error["status"] == status and error["where"] == where and error["message"]
    assert status != 405 or "allow" in response.headers
    assert server.recommend([["item_1"]])


def test_the_description_holds_for_whatever_is_sent(server):
    """Schemathesis sends what the description allows, and what it doesn't, and looks at every reply."""
    command = [Path(sys.executable).with_name("schemathesis"), "run", server.url + "/openapi.json",
               "--max-examples", "40", "--generation-deterministic", "--suppress-health-check", "all", "--no-color"]
    process = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=server.model_dir.parent)
    assert process.returncode == 0, process.stdout[-6000:]
    assert "6 selected / 6 total" in process.stdout and "6 passed" in process.stdout
    assert not [line for line in server.log_lines() if line["level"] == "error"]


# What is counted and logged

def test_metrics_are_those_of_both_workers(server):
    def counted():
        samples = server.metrics()
        return [samples.get(f'gru4rec_{name}', 0) for name in (
            'requests_total{method="POST",route="/v1/recommend",status="200"}',
            'requests_total{method="POST",route="/v1/recommend",status="422"}',
            'request_seconds_count{method="POST",route="/v1/recommend"}', 'unknown_items_total', 'batch_size_sum')]
    before = counted()
    for _ in range(40):
        server.recommend([["item_1", "new_1", "new_2"], ["item_2"]])
    server.client.post("/v1/recommend", json={})
    server.wait_for(lambda: counted()[2] - before[2] >= 41)  # counted after the reply
    assert [now - then for now, then in zip(counted(), before)] == [40, 1, 41, 80, 80]
    assert server.metrics()['gru4rec_model_workers{name="model/epoch_1"'] == 2


def test_the_log_is_json_with_the_requests_ids(server):
    response = server.client.get("/v1/similar?item_id=item_1", headers={"x-request-id": "find-me-1"})
    assert response.headers["x-request-id"] == "find-me-1"
    failed = server.get("/v1/similar", item_id="unknown")

    def lines():
        return {line["request_id"]: line for line in server.log_lines() if line["message"] == "request"}
    server.wait_for(lambda: {"find-me-1", failed.json()["request_id"]} <= set(lines()))  # written after the reply
    lines = lines()
    assert lines["find-me-1"]["route"] == "/v1/similar" and lines["find-me-1"]["status"] == 200
    line = lines[failed.json()["request_id"]]
    assert line["status"] == 404 and line["where"] == "query.item_id" and "unknown" in line["reason"]


# How it starts

def test_help_explains_itself():
    process = assert_worked(run_script("serve.py", "-h"))
    assert "--session_store" in process.stdout and "None" not in process.stdout


@pytest.mark.parametrize("flags, fragments", [
    (["--model_dir", "nowhere"], ["--model_dir", "nowhere"]), (["--port", "0"], ["--port", "'0'"]),
    (["--workers", "x"], ["--workers"]),
    (["--epoch", "3"], ["--epoch", "no finished epoch 3"]),
    (["--what"], ["--what"]),
    (["--model_name", ".."], ["--model_name", "'..'"]), (["--model_name", "a/b"], ["--model_name", "'a/b'"]),
    (["--session_store", "redis://127.0.0.1:1/0"], ["--session_store", "redis://127.0.0.1:1/0"]),
    (["--session_store", "redis://a:b/c"], ["--session_store", "redis://a:b/c"]),
    (["--session_store", "/nowhere/store.sqlite"], ["--session_store", "/nowhere/store.sqlite"]),
    (["--session_memory", "0"], ["--session_memory", "'0'"]), (["--exclude", "all"], ["--exclude", "'all'"]),
    (["--items", "nowhere.csv"], ["--items", "nowhere.csv"]), (["--items", ROOT], ["--items", "directory"]),
    (["--items", ROOT / "LICENSE"], ["LICENSE", "no header"]),
    *[(["--session_store", address], ["--session_store", address, "redis://", ".sqlite"]) for address in (
        "/nowhere/store", "nonsense", "localhost:6379", "unix:///nowhere/redis", "http://localhost", "REDIS://localhost",
        "redis:/localhost", "sqlite", ":memory:", "store.sqlite ", "store.sqlite/")]], ids=str)
def test_wrong_flags(server, tmp_path, flags, fragments):
    others = {"--model_dir": server.model_dir, "--port": free_port()}
    flags = [*flags, *(f"{flag}={value}" for flag, value in others.items() if flag not in flags)]
    assert_one_line_error(run_script("serve.py", *flags, cwd=tmp_path), *fragments)
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_kind_is_no_session_store(server, tmp_path):
    (tmp_path / "notes.sqlite").write_text("dear to me")
    flags = ["--model_dir", server.model_dir, "--port", free_port(), "--session_store", "notes.sqlite"]
    assert_one_line_error(run_script("serve.py", *flags, cwd=tmp_path), "--session_store", "notes.sqlite")
    assert files_below(tmp_path) == {"notes.sqlite": b"dear to me"}


def test_of_two_servers_that_start_at_once_one_gets_the_port(server, tmp_path):
    """And the other one ends with one line, before and after the first is ready."""
    flags, hosts = ["--model_dir", server.model_dir, "--workers", 2, "--port", free_port()], ["127.0.0.1", "0.0.0.0"]
    started = [subprocess.Popen([sys.executable, ROOT / "serve.py", *map(str, flags), "--host", host],
                                stderr=subprocess.PIPE, text=True) for host in (*hosts, hosts[0])]
    try:
        server.wait_for(lambda: [process.poll() for process in started].count(2) == 2)
        first, = [process for process in started if process.poll() is None]
        url = f"http://127.0.0.1:{flags[-1]}"
        server.wait_for(lambda: is_ready(url))
        for host in hosts:
            process = run_script("serve.py", *flags, "--host", host)
            assert_one_line_error(process, "--host, --port", flags[-1], "not free")
        assert is_ready(url) and first.poll() is None
    finally:
        for process in started:
            process.terminate()
        errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started].count(0) == 1
    for process, error in zip(started, errors):
        assert process.returncode == 0 or error.count("\n") == 1 and "not free" in error, error


def is_ready(url):
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_broken_model_and_a_taken_port(server, tmp_path):
    port = server.url.rpartition(":")[2]
    assert_one_line_error(run_script("serve.py", "--model_dir", server.model_dir, "--port", port),
                          "--host, --port", port, "not free")
    model = write_random_model(tmp_path / "model")
    (model / "epoch_1" / "model.safetensors").write_bytes(b"")
    assert_one_line_error(run_script("serve.py", "--model_dir", model, "--port", free_port()), "truncated or changed")


def test_too_little_memory_for_all_workers(run_here, monkeypatch, tmp_path):
    monkeypatch.setattr("utils.memory.available", lambda: 36 << 20)
    model = write_random_model(tmp_path / "model", items=20_000, hid_size=(400,))  # 34 MiB, and 4 that C++ makes of it
    process = run_here("serve.py", "--model_dir", model, "--port", free_port(), "--workers", 2)
    assert_one_line_error(process, "--workers", "2 workers", "36.0 MiB")


def test_no_paddle_is_loaded(server):
    program = ("import os, sys\n"
               "os.environ['SERVE_FLAGS'] = '--model_dir ' + sys.argv[1] + ' --session_store ' + sys.argv[2]\n"
               "import serve; serve.application(); print(*sys.modules)")
    command = [sys.executable, "-c", program, str(server.model_dir), str(server.model_dir / "none.sqlite")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    loaded = set(process.stdout.split())
    assert {"numpy", "starlette", "msgspec"} <= loaded and not {"paddle", "pandas", "pyarrow", "net"} & loaded


# The page

def test_the_page_needs_nothing_from_elsewhere(server):
    response = server.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"https?:|//[a-z]|@import|url\(", response.text)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(server, tmp_path, scheme):
    picture = tmp_path / "page.png"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
             "--virtual-time-budget=5000", "--window-size=1000,800",
             f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
             f"--screenshot={picture}", "--dump-dom", f"{server.url}/?click=item_1&click=item_2&click=nothing"]
    process = subprocess.run([CHROMIUM, *flags], capture_output=True, text=True, timeout=120)
    shown = re.search(r'<ol id="next".*?</ol>', process.stdout, re.DOTALL)[0]
    expected, = server.recommend([["item_1", "item_2", "nothing"]], k=12)
    assert re.findall(r"<span>(item_\d+)</span><span>(-?[\d.]+)</span>", shown) == [
        (item_id, f"{score:.2f}") for item_id, score in zip(expected["items"], expected["scores"])]
    assert re.search(r"Answered in [\d.]+ ms", process.stdout) and "Model model/epoch_1" in process.stdout
    assert "doesn't know: 1" in process.stdout and re.search(r'id="problem"[^>]*></p>', process.stdout)
    assert picture.stat().st_size > 20_000
