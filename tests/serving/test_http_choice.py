"""What requests choose from: filters by the items' fields, what was clicked, popular items where nothing is known."""

import asyncio
import json
import os
from urllib.parse import quote

import pytest
from conftest import refusal, write_random_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from utils.model.checked_json import write_json
from utils.serving import http_messages
from utils.serving.item_reload import ItemFile

LIVE = "/v1/recommend?session_id=a&user_consent=true&item_id="
POPULAR = {"sessions": 9, "items": [7, 3, 5, 4], "clicks": [9, 8, 8, 1], "first_clicks": [0, 2, 1, 0]}
ROWS = [f"item_{item},{'shoes' if item % 2 else 'hats'},{item // 10}.50,{item % 3}\n" for item in range(40)]


@pytest.fixture
def items(tmp_path):
    """A table of items 0 to 39 of 50, and of one that the model doesn't know."""
    path = tmp_path / "items.csv"
    path.write_text("id,category,price,in_stock\n" + "".join(ROWS) + "new,shoes,1,1\n")
    return path


def answer(response):
    """The one answer of a reply to a POST, or the reply to a GET."""
    assert response.status_code == 200, response.text
    reply = response.json()
    return reply["answers"][0] if "answers" in reply else reply


def ask_for(client, session, **more):
    return client.post("/v1/recommend", json={"sessions": [session], **more})


def test_a_filter_leaves_what_is_left_of_all_in_their_order(with_client, items):
    async def ask(client, api):
        every = answer(await ask_for(client, ["item_1"], k=50))
        forms = ["category:shoes,in_stock:1", {"category": "shoes", "in_stock": 1},
                 {"in_stock": ["1"], "category": ["shoes", "none"]}]
        found = [answer(await ask_for(client, ["item_1"], k=50, filter=form)) for form in forms]
        live = answer(await client.get(LIVE + "item_1&k=50&exclude_clicked=none&filter=category:shoes,in_stock:1"))
        few = answer(await ask_for(client, ["item_1"], filter="category:shoes", allow=["item_3", "item_4", "item_41"],
                                   exclude=["item_5"]))
        nothing = answer(await ask_for(client, ["item_1"], filter="category:coats"))
        return every, [*found, live], few, nothing
    every, found, few, nothing = with_client(ask, items=str(items))
    left = [pair for pair in zip(every["items"], every["scores"])
            if int(pair[0][5:]) < 40 and int(pair[0][5:]) % 2 and int(pair[0][5:]) % 3 == 1]
    assert len(left) > 5
    for each in found:
        assert list(zip(each["items"], each["scores"])) == left and "fallback" not in each and "fields" not in each
    assert few["items"] == ["item_3"] and nothing["items"] == []


def test_fields_are_shown(with_client, items):
    async def ask(client, api):
        whole = answer(await ask_for(client, ["item_1"], k=50, fields=["price", "category"]))
        live = answer(await client.get(LIVE + "item_1&k=50&exclude_clicked=none&fields=price,category"))
        return whole, live, (await client.get("/v1/items?k=1")).json()["fields"]
    whole, live, names = with_client(ask, items=str(items))
    assert names == ["category", "price", "in_stock"]
    expected = [ROWS[item].split(",") if (item := int(item_id[5:])) < 40 else [None] * 4 for item_id in whole["items"]]
    assert whole["fields"] == {"price": [row[2] for row in expected], "category": [row[1] for row in expected]}
    assert live["fields"] == whole["fields"]


@pytest.mark.parametrize("asked, where, fragment", [
    ({"filter": "colour:red"}, "filter", "'colour'"), ({"filter": "red"}, "filter", "COLUMN:VALUE"),
    ({"filter": ""}, "filter", "0 values"), ({"filter": {}}, "filter", "0 values"),
    ({"filter": {"price": []}}, "filter", "0 values"), ({"filter": {"id": "item_1"}}, "filter", "'id'"),
    ({"filter": {"price": ["1"] * 11, "category": ["1"] * 10}}, "filter", "21 values"),
    ({"fields": ["title"]}, "fields", "category, price, in_stock")], ids=str)
def test_bad_filters_and_fields_are_refused_with_one_line(with_client, items, asked, where, fragment):
    async def ask(client, api):
        found = [("body", await ask_for(client, ["item_1"], **asked))]
        if not isinstance(asked.get("filter", ""), dict):
            text = asked["filter"] if "filter" in asked else ",".join(asked["fields"])
            found.append(("query", await client.get(f"{LIVE}item_1&{where}={text}")))
            found.append(("query", await client.get(f"{LIVE}item_1&{where}={text}")))
            assert answer(await client.get(LIVE + "item_1"))["clicks"] == 1, "a click that is refused isn't counted"
        return found
    for part, response in with_client(ask, items=str(items)):
        error = refusal(response, 400)
        assert error["where"] == f"{part}.{where}" and fragment in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize("asked", [
    {"filter": "a" * 1001}, {"filter": [1]}, {"filter": {"price": 1.5}}, {"filter": {"price": ["1"] * 21}},
    {"filter": {"a" * 257: "1"}}, {"filter": {str(number): "1" for number in range(21)}}, {"fields": ["price"] * 21},
    {"fields": "price"}, {"exclude_clicked": "all"}, {"exclude_clicked": ""}], ids=lambda asked: str(asked)[:40])
def test_forms_and_sizes_that_the_description_does_not_allow(with_client, items, asked):
    async def ask(client, api):
        return await ask_for(client, ["item_1"], **asked)
    assert refusal(with_client(ask, items=str(items)), 422)["where"].startswith("body")


def test_a_server_without_items_says_so(with_client):
    async def ask(client, api):
        described = (await client.get("/openapi.json")).text
        return [await ask_for(client, ["item_1"], filter="a:b"), await ask_for(client, ["item_1"], fields=["a"]),
                await client.get(LIVE + "item_1&filter=a:b")], described, (await client.get("/v1/items")).json()
    refused, described, found = with_client(ask)
    assert all("--items" in refusal(response, 400)["message"] for response in refused)
    assert '"filter"' not in described and found["fields"] == []


def test_the_fields_of_a_reply_have_a_limit(with_client, items, monkeypatch):
    monkeypatch.setattr(http_messages, "MAX_FIELD_BYTES", 500)

    async def ask(client, api):
        return [await ask_for(client, ["item_1"], k=k, fields=["price", "category"]) for k in (20, 50)]
    small, large = with_client(ask, items=str(items))
    assert small.status_code == 200 and "500 bytes" in refusal(large, 400)["message"]


# What was clicked

@pytest.mark.parametrize("flag, live_default, whole_default", [
    ("", "last", "none"), ("last", "last", "last"), ("seen", "seen", "seen"), ("none", "none", "none")])
def test_what_was_clicked_is_left_out_as_flag_and_request_say(with_client, flag, live_default, whole_default):
    forms = {"": None, "exclude_clicked=last": "last", "exclude_clicked=seen": "seen", "exclude_clicked=none": "none",
             "exclude_seen=true": "seen", "exclude_seen=false": "none",
             "exclude_seen=true&exclude_clicked=last": "last"}

    async def ask(client, api):
        await client.get(LIVE + "item_1")
        found = []
        for form, which in forms.items():
            await client.get(LIVE + "item_1")
            live = answer(await client.get(f"{LIVE}item_2&k=50&{form}"))["items"]
            asked = dict(word.split("=") for word in form.split("&") if form)
            asked = {name: {"true": True, "false": False}.get(value, value) for name, value in asked.items()}
            whole = answer(await ask_for(client, ["item_1", "item_2"], k=50, **asked))["items"]
            found += [(form, live, which or live_default), (form, whole, which or whole_default)]
        return found
    for form, found, which in with_client(ask, exclude=flag):
        left_out = {"last": {"item_2"}, "seen": {"item_1", "item_2"}, "none": set()}[which]
        assert {"item_1", "item_2"} - set(found) == left_out and len(found) == 50 - len(left_out), form


# Popular items

def test_sessions_of_which_nothing_is_known_get_popular_items(with_client, tmp_path, items):
    write_json(write_random_model(tmp_path / "model") / "popular.json", POPULAR)

    async def ask(client, api):
        several = (await client.post("/v1/recommend", json={
            "sessions": [["item_1"], ["new", "x"], [], ["new", "item_1"]], "k": 4})).json()["answers"]
        chosen = answer(await ask_for(client, ["new"], k=3, filter="category:shoes", exclude=["item_3"],
                                      fields=["price"]))
        allowed = answer(await ask_for(client, ["new"], allow=["item_9", "item_5", "item_3", "?"]))
        live = [answer(await client.get(f"{LIVE}{item_id}&k=2")) for item_id in ("new", "newer", "item_7")]
        return several, chosen, allowed, live
    several, chosen, allowed, live = with_client(ask, items=str(items))
    assert [found.get("fallback") for found in several] == [None, "popular", "popular", None]
    assert several[1] == {"items": ["item_7", "item_3", "item_5", "item_4"], "scores": [9, 8, 8, 1],
                          "unknown_items": 2, "fallback": "popular"}
    assert several[2]["items"] == ["item_3", "item_5", "item_0", "item_1"] and several[2]["unknown_items"] == 0
    assert chosen["items"] == ["item_7", "item_5", "item_1"] and chosen["fields"]["price"] == ["0.50"] * 3
    assert allowed["items"] == ["item_3", "item_5", "item_9"]
    assert [found["items"] for found in live[:2]] == [["item_7", "item_3"]] * 2
    assert [found.get("fallback") for found in live] == ["popular", "popular", None] and live[1]["clicks"] == 2


def test_a_model_without_counts_answers_nothing_and_says_so(with_client):
    async def ask(client, api):
        return answer(await ask_for(client, ["new"])), answer(await client.get(LIVE + "new"))
    for found in with_client(ask):
        assert found["items"] == found["scores"] == [] and found["fallback"] == "none"


# Another table

def test_a_changed_table_is_taken_up_and_a_bad_one_is_not(with_client, items, tmp_path, caplog):
    async def ask(client, api):
        async def shoes():
            return sorted(answer(await ask_for(client, ["item_1"], k=50, filter="category:shoes"))["items"])

        def replace(text):
            (tmp_path / "next").write_text(text)
            os.replace(tmp_path / "next", items)
        before, model = await shoes(), api.slot.model
        replace("id,category\nitem_3,shoes\nitem_4,hats\n")
        assert not await api.slot.look() and await shoes() == ["item_3"]
        assert api.slot.model.scorer is model.scorer
        for bad in ("id,category\nitem_3\n", "", "id,id\n"):
            replace(bad)
            for _ in range(2):
                await api.slot.look()
            assert await shoes() == ["item_3"]
        items.unlink()
        await api.slot.look()
        write_random_model(tmp_path / "model", seed=1, epoch=2)
        assert await api.slot.look() and await shoes() == ["item_3"], "a new model has the last good table"
        replace("id,colour\nitem_3,red\n")
        await api.slot.look()
        return before, refusal(await ask_for(client, ["item_1"], filter="category:shoes"), 400)
    caplog.set_level("INFO")
    before, error = with_client(ask, items=str(items), reload_seconds=1000)
    assert len(before) == 20 and "colour" in error["message"]
    refused = [record for record in caplog.records if record.message == "items refused"]
    assert len(refused) == 4 and all("items" in record.reason and "\n" not in record.reason for record in refused)
    loaded = [record for record in caplog.records if record.message == "items loaded"]
    assert [(record.rows, record.unknown_to_model, record.without_row) for record in loaded] == [
        (41, 1, 10), (2, 0, 48), (2, 0, 48), (1, 0, 49)]


def test_a_table_that_comes_while_a_request_waits(with_client, items):
    async def ask(client, api):
        batcher_ask = api.batcher.ask

        async def ask_and_replace(*asked):
            items.write_text("id,colour\nitem_3,red\n")
            await api.slot.look()
            return await batcher_ask(*asked)
        api.batcher.ask = ask_and_replace
        return await ask_for(client, ["item_1"], filter="category:shoes")
    assert "'category'" in refusal(with_client(ask, items=str(items), reload_seconds=1000), 400)["message"]


def test_a_table_that_changes_while_it_is_read_is_read_again(items, monkeypatch):
    from utils.data import item_table
    read, file = item_table.read_item_table, ItemFile(str(items))

    def read_and_change(*asked):
        found = read(*asked)
        os.utime(items, (1, 1))
        return found
    monkeypatch.setattr(item_table, "read_item_table", read_and_change)
    assert not file.look() and file.table is None
    assert file.look() and file.table is not None and not file.look()


TEXTS = st.text(max_size=20) | st.sampled_from(["category:shoes", "price", "in_stock:1,price:0.50", '"a:b'])
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6)


def test_whatever_is_asked_is_answered_or_refused(with_client, items):
    async def ask(client, api):
        loop = asyncio.get_running_loop()
        allowed = {200, 400, 422}

        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(filter=JSON, fields=JSON, exclude_clicked=JSON, text=TEXTS, names=TEXTS)
        def asked(filter, fields, exclude_clicked, text, names):
            body = json.dumps({"sessions": [["item_1"], []], "filter": filter, "fields": fields,
                               "exclude_clicked": exclude_clicked}).encode()
            query = f"{LIVE}item_1&filter={quote(text)}&fields={quote(names)}"
            for request in (client.post("/v1/recommend", content=body, headers={"content-type": "application/json"}),
                            client.get(query)):
                response = asyncio.run_coroutine_threadsafe(request, loop).result(30)
                assert response.status_code in allowed, response.text
        await asyncio.to_thread(asked)
    with_client(ask, items=str(items))
