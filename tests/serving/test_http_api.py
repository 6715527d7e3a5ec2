"""utils/serving/http_api.py in this process: what a running server seldom shows, such as no model or a full queue."""

import asyncio
import dataclasses
import json
import logging.config
import shlex
import sys
from pathlib import Path

import httpx
import pytest
from conftest import write_random_model
from hypothesis import given
from hypothesis import strategies as st

import serve
from utils.serving import http_api
from utils.serving.http_api import ClientRates, Refused, ServerSettings, create_application, read_query
from utils.serving.http_messages import Click
from utils.serving.http_requests import JsonLines
from utils.serving.session_store import StoreError

ASKED = {"sessions": [["item_1", "item_2"]]}
LIVE = "/v1/recommend?session_id=a&item_id=item_1&user_consent=true"


@pytest.fixture
def with_client(tmp_path):
    """Run an async function with an httpx client of an application of our own, and its Api."""
    def run(function, model=True, **settings):
        if model:
            write_random_model(tmp_path / "model")
        settings = ServerSettings(str(tmp_path / "model"), **{"session_store": str(tmp_path / "store"), **settings})

        async def with_it():
            application = create_application(settings)
            api = application.application.router.lifespan_context.__self__
            transport = httpx.ASGITransport(application, raise_app_exceptions=False)
            async with api.lifespan(None), httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                while model and api.slot.model is None:
                    await asyncio.sleep(0.01)
                return await function(client, api)
        return asyncio.run(with_it())
    return run


def refusal(response, status):
    """The error of a response, which must be of this status and in the form of all refusals."""
    assert response.status_code == status and response.headers["content-type"] == "application/json", response.text
    body = response.json()
    assert body["error"]["status"] == status and body["request_id"] == response.headers["x-request-id"]
    return body["error"]


def test_every_flag_that_matters_to_a_worker_reaches_it(monkeypatch):
    flags = {"model_dir": "a b", "epoch": 3, "session_store": "redis://c", "reload_seconds": 1.5, "drain_seconds": 2.5,
             "session_ttl": 3.5, "client_rate": 4.5, "max_sessions": 5, "max_batch": 6, "max_queue": 70}
    given = [f"--{name}={value}" for name, value in flags.items()] + ["--log=errors"]
    monkeypatch.setenv(serve.FLAGS, shlex.join(given))
    monkeypatch.setattr(logging.config, "dictConfig", lambda settings: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    monkeypatch.setattr(http_api, "create_application", lambda settings: settings)
    assert serve.application() == ServerSettings(**flags, logs_all=False)
    monkeypatch.delenv(serve.FLAGS)
    assert serve.application() == ServerSettings("model_recall20"), "the same defaults"
    assert {field.name for field in dataclasses.fields(ServerSettings)} == {*flags, "logs_all"}


def test_without_a_model_it_is_alive_but_not_ready(with_client):
    async def ask(client, api):
        return [await client.get("/livez"), await client.get("/readyz"), await client.post("/v1/recommend", json=ASKED),
                await client.get(LIVE)]
    alive, *others = with_client(ask, model=False)
    assert alive.status_code == 200
    for response in others:
        assert "no model" in refusal(response, 503)["message"] and response.headers["retry-after"] == "1"


def test_draining_it_answers_but_is_not_ready(with_client):
    async def ask(client, api):
        ready = await client.get("/readyz")
        api.is_draining = True
        return ready, await client.get("/readyz"), await client.post("/v1/recommend", json=ASKED)
    ready, draining, answer = with_client(ask)
    assert ready.json()["status"] == "ready" and answer.status_code == 200
    assert "stop" in refusal(draining, 503)["message"]


def test_a_full_queue(with_client):
    async def ask(client, api):
        return await asyncio.gather(*[client.post("/v1/recommend", json={"sessions": [["item_1"]] * 40})
                                      for _ in range(3)])
    responses = sorted(with_client(ask, max_queue=64), key=lambda response: response.status_code)
    assert responses[0].status_code == 200
    assert "expected room for 40 more" in refusal(responses[-1], 503)["message"]
    assert responses[-1].headers["retry-after"] == "1"


def test_a_client_that_asks_too_often(with_client):
    async def ask(client, api):
        return [await client.get("/v1/items?k=1") for _ in range(4)] + [await client.get("/livez")]
    *responses, alive = with_client(ask, client_rate=2)
    assert [response.status_code for response in responses] == [200, 200, 429, 429] and alive.status_code == 200
    assert refusal(responses[2], 429)["where"] == "client" and responses[2].headers["retry-after"] == "1"


def test_rates_of_clients(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(http_api.time, "monotonic", lambda: now[0])
    rates = ClientRates(2)
    assert [rates.allows("a") for _ in range(3)] == [True, True, False] and rates.allows("b")
    now[0] = 0.5
    assert [rates.allows("a") for _ in range(2)] == [True, False]
    now[0] = 100
    assert [rates.allows("a") for _ in range(3)] == [True, True, False]
    monkeypatch.setattr(http_api, "CLIENTS", 5)
    for number in range(20):
        rates.allows(str(number))
    assert len(rates.buckets) <= 6
    assert all(ClientRates(0).allows("a") for _ in range(100))


@pytest.mark.parametrize("method", ["click", "save", "forget"])
def test_a_store_that_fails(with_client, monkeypatch, method):
    monkeypatch.setattr(http_api, "SAVING", 0)

    async def fail(*arguments):
        raise StoreError("session store: gone")

    async def ask(client, api):
        setattr(api.store, method, fail)
        path = LIVE.replace("true", "false") if method == "forget" else LIVE
        return await client.get(path), await client.post("/v1/recommend", json=ASKED)
    live, whole = with_client(ask)
    assert refusal(live, 503)["message"] == "session store: gone" and whole.status_code == 200


def test_a_failure_of_ours_stays_in_the_log(with_client, caplog):
    async def ask(client, api):
        api.slot.model.scorer.replay = None
        return await client.post("/v1/recommend", json=ASKED)
    response = with_client(ask)
    assert "log" in refusal(response, 500)["message"] and "NoneType" not in response.text
    assert "Traceback" not in response.text
    record, = [record for record in caplog.records if record.levelname == "ERROR"]
    line = json.loads(JsonLines().format(record))
    assert "NoneType" in line["traceback"] and line["request_id"] == response.headers["x-request-id"]


def test_a_body_that_never_ends(with_client, monkeypatch):
    monkeypatch.setattr(http_api, "BODY_SECONDS", 0.05)

    async def slowly():
        yield b"{"
        await asyncio.sleep(1)

    async def endlessly():
        while True:
            yield b" " * 100_000

    async def ask(client, api):
        headers = {"content-type": "application/json"}
        return [await client.post("/v1/recommend", content=content, headers=headers)
                for content in (slowly(), endlessly())]
    slow, endless = with_client(ask)
    assert refusal(slow, 408)["where"] == "body" and refusal(endless, 413)["where"] == "body"


def test_requests_have_ids(with_client, capfd):
    async def ask(client, api):
        given = ["mine-1", "", "two words", "x" * 65, "ü"]
        return [(await client.get("/livez", headers={"x-request-id": text.encode()})).headers["x-request-id"]
                for text in given]
    ids = with_client(ask)
    assert ids[0] == "mine-1" and len(set(ids)) == 5 and all(len(text) == 16 for text in ids[1:])
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["request_id"] for line in logged] == ids
    assert all(line["message"] == "request" and line["route"] == "/livez" and line["status"] == 200 and line["ms"] >= 0
               for line in logged)


def test_only_failures_are_logged_on_request(with_client, capfd):
    async def ask(client, api):
        return await client.get("/livez")
    with_client(ask, logs_all=False)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("saving, kept, saved", [(0, 200, [1, 2, 3, 4, 5, 6, 7]), (2000, 200, [6]), (10**9, 6, [3, 6])])
def test_a_state_is_saved_where_replaying_costs_more_or_clicks_would_be_lost(
        with_client, monkeypatch, saving, kept, saved):
    """A click of this model takes 2 x 8 x 24 multiplications. Answers are the whole session's, whatever is kept."""
    monkeypatch.setattr(http_api, "SAVING", saving)
    monkeypatch.setattr(http_api.messages, "MAX_CLICKS", kept)
    covered = []

    async def ask(client, api):
        save = api.store.save

        async def save_and_note(session_id, count, model, state):
            covered.append(count)
            await save(session_id, count, model, state)
        api.store.save = save_and_note
        clicks = [f"item_{item}" for item in (3, 1, 4, 1, 5, 9, 2)]
        for number, item_id in enumerate(clicks):
            live = (await client.get(LIVE.replace("item_1", item_id))).json()
            whole = (await client.post("/v1/recommend", json={"sessions": [clicks[:number + 1]]})).json()["answers"][0]
            assert {name: live[name] for name in whole} == whole
    with_client(ask)
    assert covered == saved


class Query:
    def __init__(self, text):
        self.scope = {"query_string": text.encode("latin-1", "replace")}


@given(st.text())
def test_any_query_is_read_or_refused(text):
    try:
        assert isinstance(read_query(Query("session_id=a&item_id=b&" + text), Click), Click)
    except Refused as refused:
        assert refused.status in (400, 422) and refused.where.startswith("query")


@pytest.mark.parametrize("text, expected", [
    ("", {}), ("&k=7", {"k": 7}),
    ("&user_consent=true&exclude_seen=false", {"user_consent": True, "exclude_seen": False}),
    ("&exclude=x&exclude=y%20z&allow=", None), ("&exclude=x&exclude=y%20z", {"exclude": ["x", "y z"]}),
    ("&allow=q", {"allow": ["q"]}),
    ("&k=0", None), ("&k=1001", None), ("&k=1.0", None), ("&k=%2B1", None), ("&k=", None), ("&k=1&k=1", None),
    ("&k=9999999999999", None),
    ("&user_consent=yes", None), ("&user_consent=True", None), ("&user_consent=1", None), ("&what=1", None),
    ("&item_id=c", None)])
def test_queries(text, expected):
    query = Query("session_id=a&item_id=b%C3%BC" + text)
    if expected is None:
        with pytest.raises(Refused) as refused:
            read_query(query, Click)
        assert refused.value.status == 422
    else:
        found = read_query(query, Click)
        assert found == Click(session_id="a", item_id="bü", **expected)


def test_a_query_that_is_not_utf_8():
    with pytest.raises(Refused) as refused:
        read_query(Query("session_id=%ff&item_id=a"), Click)
    assert refused.value.status == 400


def test_a_store_of_its_own_is_deleted_when_it_stops(with_client):
    """As under gunicorn, whose workers nobody tells of a store."""
    async def ask(client, api):
        path = Path(api.store.database.execute("PRAGMA database_list").fetchone()[2])
        return path, path.exists(), (await client.get(LIVE)).status_code
    path, was_there, status = with_client(ask, session_store="")
    assert was_there and status == 200 and not path.parent.exists()
