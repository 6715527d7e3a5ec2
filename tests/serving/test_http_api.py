"""utils/serving/http_api.py in this process: what a running server seldom shows, such as no model or a full queue."""

import asyncio
import dataclasses
import json
import logging.config
import os
import shlex
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import refusal, write_random_model
from hypothesis import given
from hypothesis import strategies as st

import serve
from utils.data.vocabulary import checksum
from utils.model import checkpoint
from utils.model.checked_json import write_json
from utils.serving import http_api, http_input, machine_store
from utils.serving.http_api import ClientRates, ServerSettings, is_state
from utils.serving.http_input import Refused, read_query
from utils.serving.http_messages import Click
from utils.serving.json_log import JsonLines
from utils.serving.live_session import StoreError
from utils.serving.model_reload import ServedModel

ASKED = {"sessions": [["item_1", "item_2"]]}
LIVE = "/v1/recommend?session_id=a&item_id=item_1&user_consent=true&exclude_clicked=none"


def test_every_flag_that_matters_to_a_worker_reaches_it(monkeypatch):
    flags = {"model_dir": "a b", "epoch": 3, "session_store": "redis://c", "reload_seconds": 1.5, "drain_seconds": 2.5,
             "session_ttl": 3.5, "client_rate": 4.5, "max_sessions": 5, "session_memory": 8, "max_batch": 6,
             "max_queue": 70, "items": "d e.csv", "exclude": "seen", "model_name": "shop", "intent_model_dir": "f g"}
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


def test_a_full_queue_of_ids(with_client):
    """20,000 ids take more memory than a session does."""
    asked = ASKED | {"exclude": ["ab"] * 10_000, "allow": ["ab"] * 10_000}

    async def ask(client, api):
        several = await asyncio.gather(*[client.post("/v1/recommend", json=asked) for _ in range(5)])
        return sorted(response.status_code for response in several), await client.post("/v1/recommend", json=asked)
    several, alone = with_client(ask, max_queue=100)
    assert several[0] == 200 and several[-1] == 503 and alone.status_code == 200


def test_too_many_searches_for_similar_items(with_client, monkeypatch):
    async def check(client, api):
        ask = partial(client.get, "/v1/similar?item_id=item_1&k=2")
        similar, go_on = api.slot.model.similar, threading.Event()
        monkeypatch.setattr(api.slot.model, "similar", lambda *asked: go_on.wait(20) and similar(*asked))
        first = [asyncio.create_task(ask()) for _ in range(http_api.MAX_COMPARED)]
        while api.compared < http_api.MAX_COMPARED:
            await asyncio.sleep(0.01)
        error = refusal(await ask(), 503)
        go_on.set()
        answered = [response.status_code for response in await asyncio.gather(*first)]
        return error["message"], answered, (await ask()).status_code
    found, answered, later = with_client(check)
    assert "16 searches for similar items" in found and set(answered) == {200} and later == 200


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


def test_a_store_that_cannot_be_opened_stops_nothing_else(with_client, tmp_path, monkeypatch):
    monkeypatch.setattr(machine_store, "RETRY_SECONDS", 0.0)

    async def ask(client, api):
        refused, whole = await client.get(LIVE), await client.post("/v1/recommend", json=ASKED)
        metrics = await client.get("/metrics")
        (tmp_path / "data").mkdir()
        return refused, whole, metrics, [(await client.get(LIVE)).json()["clicks"] for _ in range(2)]
    refused, whole, metrics, clicks = with_client(ask, session_store=str(tmp_path / "data" / "store.sqlite"))
    assert refusal(refused, 503)["message"].startswith("session store") and refused.headers["retry-after"] == "1"
    assert whole.status_code == metrics.status_code == 200 and clicks == [1, 2]


@pytest.mark.parametrize("state", [[np.nan] * 8, [1e38] * 8, [0, 0, 0, 0, 0, 0, 0, np.inf], [0.5] * 7, [2.0] * 8])
def test_a_stored_state_that_no_network_has_is_replayed(with_client, state):
    async def ask(client, api):
        for _ in range(2):
            await client.get(LIVE)
        await api.store.save("a", 2, api.slot.model.checksum, np.array(state, np.float32).tobytes())
        whole = await client.post("/v1/recommend", json={"sessions": [["item_1"] * 3]})
        return (await client.get(LIVE)).json(), whole.json()["answers"][0]
    live, whole = with_client(ask)
    assert {name: live[name] for name in whole} == whole


@pytest.mark.parametrize("state", [b"", b"\1\2\3", b"\xff" * 32])
def test_bytes_that_are_no_state(state):
    assert is_state(state) == (state == b"")


def test_a_state_is_not_used_with_another_vocabulary(with_client, tmp_path, monkeypatch):
    """The weights are the same; what a click means is not."""
    monkeypatch.setattr(http_api, "SAVING", 0)

    async def ask(client, api):
        for item_id in ("item_1", "item_2"):
            await client.get(LIVE.replace("item_1", item_id))
        model_dir = tmp_path / "model"
        lines = (model_dir / "vocab.txt").read_text().splitlines(keepends=True)
        (model_dir / "vocab.txt").write_text("".join(reversed(lines)))
        data = {"vocab_sha256": checksum(model_dir / "vocab.txt")}
        write_json(model_dir / "config.json", checkpoint.read_config(model_dir) | {"data": data})
        os.utime(model_dir / "epoch_1" / "state.json", (1, 1))  # so that it is looked at again
        before = api.slot.model
        assert await api.slot.look() and api.slot.model.weights_checksum == before.weights_checksum
        whole = await client.post("/v1/recommend", json={"sessions": [["item_1", "item_2", "item_3"]]})
        return (await client.get(LIVE.replace("item_1", "item_3"))).json(), whole.json()["answers"][0]
    live, whole = with_client(ask, reload_seconds=1000)
    assert {name: live[name] for name in whole} == whole


def test_long_ids_that_the_model_does_not_know_are_not_kept(with_client):
    async def ask(client, api):
        clicks = ["item_1", "x" * 40, "item_2", "\x01" * 256, "ü" * 41, "item_3"]
        for number, item_id in enumerate(clicks, start=1):
            live = (await client.get(LIVE[:LIVE.index("&")], params={
                "session_id": "a", "item_id": item_id, "user_consent": True, "exclude_seen": True})).json()
            whole = (await client.post("/v1/recommend", json={"sessions": [clicks[:number]], "exclude_seen": True})
                     ).json()["answers"][0]
            assert {name: live[name] for name in whole} == whole and live["clicks"] == number
        assert whole["unknown_items"] == 3
        for number in range(2000):
            await client.get("/v1/recommend", params={"session_id": f"s{number % 10}", "item_id": f"{number:256}",
                                                      "user_consent": True})
        stored = api.store.execute("SELECT id, length(clicks) FROM sessions").fetchall()
        return (await api.store.click("a", "item_4")).clicks, max(size for name, size in stored if name != "a")
    clicks, largest = with_client(ask)
    assert clicks == ["item_1", "x" * 40, "item_2", "", "", "item_3", "item_4"]
    assert largest < 1000


def test_a_long_id_that_the_model_knows_is_kept(tmp_path):
    model_dir = write_random_model(tmp_path / "model")
    model = ServedModel(model_dir)
    model.index_of["x" * 256] = 7
    assert http_api.kept_id("x" * 256, model) == "x" * 256 and http_api.kept_id("y" * 256, model) == ""


def test_what_others_wrote_to_redis_is_no_failure(with_client, redis_url):
    async def ask(client, api):
        async def click():
            return (await client.get(LIVE.replace("=a&", "=redis&"))).status_code
        redis, found = api.store.redis, [await click()]
        for field, value in [("count", "abc"), ("covered", "x"), ("model", b"\xff"), ("state", b"\xff" * 32)]:
            await redis.hset("gru4rec:state:redis", field, value)
            found.append(await click())
        await redis.lset("gru4rec:clicks:redis", 0, b"\xff\xfe")
        found.append(await click())
        for key in ("gru4rec:state:redis", "gru4rec:clicks:redis", "gru4rec:sessions"):
            await redis.set(key, "x")
            found.append(await click())
            assert await redis.ttl(key) > 0 or key == "gru4rec:sessions"
        return found
    assert with_client(ask, session_store=redis_url) == [200] * 9


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
    monkeypatch.setattr(http_input, "BODY_SECONDS", 0.05)

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


def test_a_switch_of_another_kind_is_told_in_json_s_words():
    with pytest.raises(Refused) as refused:
        read_query(Query("session_id=a&item_id=b&user_consent=yes"), Click)
    assert (refused.value.where, refused.value.message) == ("query.user_consent", "Expected true or false, got 'str'")


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
