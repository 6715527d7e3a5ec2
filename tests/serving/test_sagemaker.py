"""utils/serving/sagemaker.py: what SageMaker asks a container that answers, and what it is refused."""

import asyncio
import json
import tracemalloc
from types import SimpleNamespace

import pytest
from conftest import refusal
from hypothesis import given
from hypothesis import strategies as st

from utils.serving import http_protocol, sagemaker
from utils.serving.http_input import Refused

JSON, LINES, CSV = ({"content-type": kind} for kind in (sagemaker.JSON, sagemaker.JSON_LINES, sagemaker.CSV))
SESSIONS = [["item_1", "item_2"], ["item_3"], [], ["new"], ["item_4", "item_4", "new"]]


def invoke(client, content, headers):
    return client.post("/invocations", content=content, headers=headers)


async def recommend(client, asked):
    return (await client.post("/v1/recommend", json=asked)).json()


def test_ping_says_whether_it_can_answer(with_client):
    async def ask(client, api):
        ready = await client.get("/ping")
        api.is_draining = True
        return ready, await client.get("/ping")
    ready, draining = with_client(ask)
    assert (ready.status_code, ready.content) == (200, b"") and "stop" in refusal(draining, 503)["message"]


def test_without_a_model(with_client):
    async def ask(client, api):
        return [await client.get("/ping"), *[await invoke(client, b"{}", kind) for kind in (JSON, LINES, CSV)]]
    for response in with_client(ask, model=False):
        assert "no model" in refusal(response, 503)["message"]


def test_json_is_answered_as_by_v1(with_client):
    asked = {"sessions": SESSIONS, "k": 3, "exclude_clicked": "seen", "exclude": ["item_7"]}

    async def ask(client, api):
        return await invoke(client, json.dumps(asked), JSON), await recommend(client, asked)
    found, expected = with_client(ask)
    assert found.status_code == 200 and found.json() == expected


def test_each_line_of_json_is_a_request_of_its_own(with_client):
    asked = [{"sessions": [session], "k": 1 + place % 7} for place, session in enumerate(SESSIONS * 40)]
    asked[3] = {"sessions": SESSIONS, "exclude": ["item_1"]}

    async def ask(client, api):
        found = await invoke(client, "\r\n".join(map(json.dumps, asked)), LINES)
        return found, [await recommend(client, line) for line in asked]
    found, expected = with_client(ask, max_queue=64)  # less than there is to answer
    assert found.headers["content-type"] == "application/jsonlines" and found.text.endswith("}\n")
    assert [json.loads(line) for line in found.text.splitlines()] == expected


def test_each_line_of_csv_is_a_session(with_client):
    lines = "\ufeffitem_1,item_2\nitem_3\n\nnew\r\nitem_4,\"item_4\",new\n" * 30

    async def ask(client, api):
        attributes = {sagemaker.ATTRIBUTES: "trace=7, k=4"}
        return (await invoke(client, lines, CSV), await invoke(client, lines, CSV | attributes),
                await recommend(client, {"sessions": SESSIONS}))
    found, four, expected = with_client(ask)
    items = [answer["items"] for answer in expected["answers"]] * 30
    assert found.headers["content-type"].startswith("text/csv")
    assert found.text == "".join(",".join(best) + "\n" for best in items)
    assert four.text == "".join(",".join(best[:4]) + "\n" for best in items)


def test_the_log_counts_all_lines(with_client):
    async def ask(client, api):
        scope = {}
        original = api.message

        def watched(request, *asked):
            scope.update(request.scope)
            return original(request, *asked)
        api.message = watched
        await invoke(client, "item_1\nnew\n" * 100, CSV)
        return scope["log"]
    assert with_client(ask) == {"model": "model/epoch_1", "unknown_items": 100, "sessions": 200}


GOOD = b'{"sessions": [["item_1"]]}\n'


@pytest.mark.parametrize("headers, content, status, where, fragment", [
    (JSON, b"", 400, "body", "no JSON"), (JSON, b'{"sessions": []}', 422, "body.sessions", ""),
    (LINES, b"", 400, "body", "nothing"), (CSV, b"", 400, "body", "nothing"),
    (LINES, GOOD + b"{", 400, "body.line[2]", "no JSON"), (LINES, GOOD + b"\n" + GOOD, 400, "body.line[2]", "no JSON"),
    (LINES, GOOD * 99 + b'["item_1"]', 422, "body.line[100]", "object"),
    (LINES, b'{"sessions": [["item_1", 3]]}', 422, "body.line[1].sessions[0][1]", "str"),
    (LINES, b'{"sessions": [["item_1"]], "topk": 5}', 422, "body.line[1]", "topk"),
    (LINES, b'{"sessions": [["item_1"]], "filter": "a:b"}', 400, "body.line[1].filter", "--items"),
    (LINES, GOOD + b'{"sessions": [["' + b"x" * (1 << 20) + b'"]]}', 413, "body.line[2]", "1048576"),
    (CSV, b"item_1\n" + b"a," * 200 + b"a", 422, "body.line[2].sessions[0]", "200"),
    (CSV, b"item_1\n" + b"x" * 257, 422, "body.line[2].sessions[0][0]", "256"),
    (CSV, b"item_1,,item_2", 422, "body.line[1].sessions[0][1]", ""),
    (CSV, b'item_1\n"item_2', 400, "body.line[2]", "no CSV"), (CSV, b"\xff", 400, "body.line[1]", "no CSV"),
    (CSV, b"a\n" * (3 << 20) + b"a", 413, "body", "6291456"),
    *[(CSV | {sagemaker.ATTRIBUTES: f"k={k}"}, b"a", 422, f"header.{sagemaker.ATTRIBUTES}", "1000")
      for k in ("0", "1001", "x", "-1", "", "9" * 99)],
    ({}, b"a", 415, "header.content-type", "text/csv"),
    ({"content-type": "application/x-recordio"}, b"a", 415, "header.content-type", "recordio"),
    ({"content-type": "text/csv; charset=latin-1"}, b"a", 415, "header.content-type", "latin-1"),
    (CSV | {"content-encoding": "gzip"}, b"a", 415, "header.content-encoding", "compressed")],
    ids=lambda value: str(value)[:30])
def test_refusals(with_client, headers, content, status, where, fragment):
    async def ask(client, api):
        return await invoke(client, content, headers)
    error = refusal(with_client(ask), status)
    assert error["where"] == where and fragment in error["message"]


@given(st.lists(st.sampled_from(["item_1", "item_2", "", ",", '"', "\r", "\0", "\u00f6", "\ud800", "{", "}"])))
def test_any_line_of_csv_is_read_or_refused(parts):
    line = "".join(parts).encode(errors="surrogatepass") + b"\n"
    try:
        asked = sagemaker.from_csv(line, "body.line[1]", 5)
    except Refused as refused:
        assert refused.status in (400, 422) and refused.where.startswith("body.line[1]")
    else:
        assert len(asked.sessions) == 1 and asked.k == 5 and len(asked.sessions[0]) <= line.count(b",") + 1


def test_too_many_lines(with_client, monkeypatch):
    monkeypatch.setattr(sagemaker, "MAX_LINES", 100)

    async def ask(client, api):
        return await invoke(client, "item_1\n" * 100, CSV), await invoke(client, "item_1\n" * 101, CSV)
    found, refused = with_client(ask)
    assert found.text.count("\n") == 100 and "100 lines" in refusal(refused, 413)["message"]


def test_execution_parameters(with_client):
    async def ask(client, api):
        return (await client.get("/execution-parameters")).json()
    found = with_client(ask)
    assert found["BatchStrategy"] == "MULTI_RECORD" and 1 <= found["MaxConcurrentTransforms"] <= 8
    held = 2 * found["MaxConcurrentTransforms"] * found["MaxPayloadInMB"] << 20  # two copies of each
    assert held <= http_protocol.MAX_HELD_BYTES and found["MaxPayloadInMB"] << 20 <= sagemaker.MAX_BYTES


def test_a_line_whose_reply_is_too_large_gets_the_refusal_in_its_place(with_client):
    async def ask(client, api):
        original = api.message

        def fail_second(request, asked, answers, part):
            if part == "body.line[2]":
                raise Refused(400, f"{part}.fields", "too large")
            return original(request, asked, answers, part)
        api.message = fail_second
        return await invoke(client, GOOD * 3, LINES)
    lines = list(map(json.loads, with_client(ask).text.splitlines()))
    assert ["answers" in line for line in lines] == [True, False, True]
    assert lines[1]["error"]["where"] == "body.line[2].fields" and lines[1]["request_id"]


def test_few_lines_with_large_fields_are_in_memory_at_a_time(with_client, tmp_path):
    items, most = tmp_path / "items.csv", 1 << 20
    items.write_text("id,about\n" + "".join(f"item_{item},{'x' * (most // 50)}\n" for item in range(50)))
    asked = json.dumps({"sessions": [["item_1"]], "k": 50, "fields": ["about"]}).encode() + b"\n"

    async def ask(client, api):
        request, size = SimpleNamespace(scope={"log": {}, "request_id": "a"}), 0
        tracemalloc.start()
        async for lines in sagemaker.answer_lines(api, request, sagemaker.read_lines(asked * 64, sagemaker.from_json),
                                                  sagemaker.JSON_LINES):
            size += len(lines)
        return size, tracemalloc.get_traced_memory()[1]
    try:
        size, peak = with_client(ask, items=str(items))
    finally:
        tracemalloc.stop()
    assert size > 60 * most and peak < 8 * most


def test_few_lines_with_many_ids_are_in_memory_at_a_time():
    for name in "exclude", "allow":
        asked = json.dumps({"sessions": [["item_1"]], name: ["a"] * 1500}).encode() + b"\n"
        groups = list(sagemaker.read_lines(asked * 40, sagemaker.from_json))
        assert [len(group) for group in groups] == [16, 16, 8]  # each counts as four sessions


@pytest.mark.parametrize("more, most", [({"k": 50}, 64), ({"k": 200}, 16), ({"k": 1000}, 4),
                                        ({"k": 1000, "fields": ["a"] * 9}, 1)])
def test_few_lines_with_long_answers_are_in_memory_at_a_time(more, most):
    asked = json.dumps({"sessions": [["item_1"]]} | more).encode() + b"\n"
    groups = list(sagemaker.read_lines(asked * 70, sagemaker.from_json))
    assert {len(group) for group in groups[:-1]} == {most}


def test_no_line_is_answered_before_the_one_before_is_read(with_client):
    asked = json.dumps({"sessions": [["item_1"]], "k": 1000}).encode() + b"\n"

    async def ask(client, api):
        request = SimpleNamespace(scope={"log": {}, "request_id": "a"})
        parts = sagemaker.answer_lines(api, request, sagemaker.read_lines(asked * 8, sagemaker.from_json),
                                       sagemaker.JSON_LINES)
        asked_so_far, original = [], api.answers

        async def watched(*line):
            asked_so_far.append(line)
            return await original(*line)
        api.answers, found = watched, []
        async for part in parts:  # a server waits here until what it sent before is on its way
            found.append((part.count(b"\n"), len(asked_so_far)))
        return found
    assert with_client(ask) == [(4, 4), (0, 4), (4, 8), (0, 8)]


def test_others_are_answered_while_many_lines_are(with_client):
    async def ask(client, api):
        long = asyncio.create_task(invoke(client, "item_1,item_2\n" * 5000, CSV))
        between = 0
        while not long.done():
            assert (await client.get("/livez")).status_code == 200
            between += 1
            await asyncio.sleep(0)  # nothing here waits for a socket
        return between, long.result().text.count("\n")
    between, lines = with_client(ask)
    assert lines == 5000 and between > 100
