"""/v1/intent: whole sessions, running ones click by click, and everything that is refused."""

import asyncio
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_one_line_error, refusal, run_script, write_random_model
from intent.purchases import FORMS, make_network

from utils.data.vocabulary import checksum
from utils.model import checkpoint, upkeep
from utils.model.network import named_weights

CLICKS = [{"item_id": item_id, "time": 1.7e9 + 40 * number, "category": category} for number, (item_id, category)
          in enumerate([("item_3", "c1"), ("item_7", ""), ("item_3", "c1"), ("new", "c9"), ("item_11", "c2")])]


def write_intent_model(model_dir, form="forward", epoch=1, **config):
    """A model directory of random weights. Its items are item_0 to item_11."""
    network, *_ = make_network(form)
    vocabulary = model_dir.with_suffix(".txt")
    vocabulary.write_text("".join(f"item_{item}\n" for item in range(12)), encoding="utf-8")
    intent = {"network": FORMS[form].as_dict(), "categories": ["c1", "c2", "c3"]}
    model_dir.mkdir(exist_ok=True)
    upkeep.start_run(model_dir, {"intent": intent, "data": {"vocab_sha256": checksum(vocabulary)}, **config},
                     vocabulary, overwrite=True)
    checkpoint.save_epoch(model_dir, epoch, named_weights(network), {"none": np.zeros(1, np.float32)},
                          {"session_threshold": 0.2, "item_threshold": 0.4})
    return model_dir


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Model directories by the form of their networks."""
    directory = tmp_path_factory.mktemp("intent_models")
    return {form: write_intent_model(directory / form.replace(" ", "_"), form) for form in FORMS}


@pytest.fixture
def with_intent(models, with_client):
    """Run an async function with an httpx client of a server that has a model of this form."""
    def run(function, form="forward", model_dir=None, **settings):
        async def once_loaded(client, api):
            while api.intent.slot.model is None:
                await asyncio.sleep(0.01)
            return await function(client, api)
        return with_client(once_loaded, intent_model_dir=str(model_dir or models[form]), **settings)
    return run


def test_a_running_session_is_answered_as_its_first_clicks_are(with_intent):
    async def check(client, api):
        for count in range(1, len(CLICKS) + 1):
            click = {"session_id": "visitor", "user_consent": True, **CLICKS[count - 1]}
            running = (await client.post("/v1/intent", json={"click": click})).json()
            whole = (await client.post("/v1/intent", json={"sessions": [CLICKS[:count], CLICKS[:1]]})).json()
            answer, = running["answers"]
            expected = numbers(whole["answers"][0])
            assert running["clicks"] == count and numbers(answer) == pytest.approx(expected, abs=2e-6)
            assert answer["buys"] == (answer["probability"] >= 0.2)
            assert any(item["is_bought"] for item in answer["items"])
            assert [item["item_id"] for item in answer["items"]] == list(dict.fromkeys(
                click["item_id"] for click in CLICKS[:count]))
        assert running["answers"][0]["unknown_items"] == 1
        assert running["model"] == {"name": "forward/epoch_1", "sha256": api.intent.slot.model.weights_checksum}
        probabilities = {json.dumps(answer) for answer in [running["answers"][0], *whole["answers"]]}
        assert len(probabilities) > 1
        recommended = await client.get("/v1/recommend?session_id=visitor&item_id=item_1&user_consent=true")
        assert recommended.json()["clicks"] == 1  # another route's sessions are others
        alone = (await client.post("/v1/intent", json={"click": {"session_id": "visitor", **CLICKS[0]}})).json()
        assert alone["clicks"] == 1  # without consent, nothing is remembered any longer
        again = {"session_id": "visitor", "item_id": "item_1", "user_consent": True}
        assert (await client.post("/v1/intent", json={"click": again})).json()["clicks"] == 1
        assert "/v1/intent" in (await client.get("/openapi.json")).json()["paths"]
    with_intent(check)


def numbers(answer):
    """All probabilities of an answer."""
    return [answer["probability"], *(item["probability"] for item in answer["items"])]


@pytest.mark.parametrize("body, where", [
    ({}, "body"), ({"sessions": [CLICKS], "click": {"session_id": "a", "item_id": "b"}}, "body"),
    ({"sessions": []}, "body.sessions"), ({"sessions": [[]]}, "body.sessions[0]"),
    ({"sessions": [[{"item_id": "a"}]]}, "body.sessions[0][0]"),
    ({"sessions": [[{"item_id": "a", "time": -1}]]}, "body.sessions[0][0].time"),
    ({"sessions": [[{"item_id": "a", "time": 1e11}]]}, "body.sessions[0][0].time"),
    ({"sessions": [[{"item_id": "", "time": 1}]]}, "body.sessions[0][0].item_id"),
    ({"sessions": [[{"item_id": "a", "time": 1, "price": 2}]]}, "body.sessions[0][0]"),
    ({"sessions": [[{"item_id": "a", "time": 1}] * 201]}, "body.sessions[0]"),
    ({"sessions": [[{"item_id": "a", "time": 1}]] * 65}, "body.sessions"),
    ({"click": {"session_id": "x" * 129, "item_id": "a"}}, "body.click.session_id"),
    ({"click": {"session_id": "a", "item_id": "a", "category": "c" * 257}}, "body.click.category")])
def test_bodies_that_are_refused(with_intent, body, where):
    async def check(client, api):
        assert refusal(await client.post("/v1/intent", json=body), 422)["where"] == where
    with_intent(check)


def test_what_else_is_refused(with_intent, with_client, monkeypatch):
    async def check(client, api):
        click = {"click": {"session_id": "a", "item_id": "item_1"}}
        assert "bidirectional" in refusal(await client.post("/v1/intent", json=click), 409)["message"]
        assert (await client.post("/v1/intent", json={"sessions": [CLICKS]})).status_code == 200
        refusal(await client.post("/v1/intent", content=b"{", headers={"content-type": "application/json"}), 400)
        refusal(await client.post("/v1/intent", content=b"{}"), 415)
        refusal(await client.get("/v1/intent"), 405)
        api.intent.computing = 16
        refusal(await client.post("/v1/intent", json={"sessions": [CLICKS]}), 503)
    with_intent(check, "bidirectional")

    async def check_without(client, api):
        refusal(await client.post("/v1/intent", json={"sessions": [CLICKS]}), 404)
        assert "/v1/intent" not in (await client.get("/openapi.json")).json()["paths"]
    with_client(check_without)


def test_long_ids_and_what_others_wrote_to_the_store(with_intent):
    async def check(client, api):
        from utils.serving.intent_api import KEEPING
        click = {"session_id": "a", "user_consent": True, "category": "c" * 200}
        for item_id in ("x" * 200, "y" * 200, "x" * 200):
            answers = (await client.post("/v1/intent", json={"click": {**click, "item_id": item_id}})).json()["answers"]
        # Two different items, of which digests are kept; the one that was just clicked has its id.
        assert [len(item["item_id"]) for item in answers[0]["items"]] == [200, 32]
        assert answers[0]["items"][0]["item_id"] == "x" * 200
        kept = (await api.store.click(KEEPING + "a", "no JSON")).clicks
        assert max(map(len, kept)) < 120
        reply = await client.post("/v1/intent", json={"click": {**click, "item_id": "item_1"}})
        assert reply.status_code == 200 and reply.json()["clicks"] == 5
    with_intent(check)


def test_a_new_model_takes_its_place_and_a_broken_one_does_not(models, with_intent, tmp_path):
    model_dir = tmp_path / "intent"
    shutil.copytree(models["forward"], model_dir)

    async def check(client, api):
        async def name():
            return (await client.post("/v1/intent", json={"sessions": [CLICKS]})).json()["model"]["name"]
        shutil.copytree(model_dir / "epoch_1", model_dir / "epoch_2")
        assert await api.intent.slot.look() and await name() == "intent/epoch_2"
        shutil.copytree(model_dir / "epoch_1", model_dir / "epoch_3")
        (model_dir / "epoch_3/model.safetensors").write_bytes(b"broken")
        assert not await api.intent.slot.look() and await name() == "intent/epoch_2"
    with_intent(check, model_dir=model_dir, reload_seconds=1000)


def test_without_a_recommender_the_route_stands_alone(models, with_client):
    async def check(client, api):
        while api.intent.slot.model is None:
            await asyncio.sleep(0.01)
        ready = await client.get("/readyz")
        assert ready.status_code == 200 and ready.json()["model"]["name"] == "forward/epoch_1"
        assert (await client.post("/v1/intent", json={"sessions": [CLICKS]})).status_code == 200
        for path in ("/v1/recommend?session_id=a&item_id=b", "/v1/similar?item_id=b", "/v1/items"):
            assert "--model_dir" in refusal(await client.get(path), 404)["message"]
    with_client(check, model=False, model_dir="", intent_model_dir=str(models["forward"]))


def test_serve_refuses_models_that_it_cannot_answer_with(models, tmp_path):
    model = write_random_model(tmp_path / "recommender")
    edited = write_intent_model(tmp_path / "edited", network_is_known=False)
    for wrong, fragments in ((model, ["another kind of model"]), (edited, ["edited in net.py"]),
                             (Path(tmp_path / "none"), ["--intent_model_dir"])):
        process = run_script("serve.py", "--model_dir", model, "--intent_model_dir", wrong)
        assert_one_line_error(process, *fragments)
    process = run_script("serve.py", "--intent_model_dir", models["forward"], "--exclude", "seen")
    assert_one_line_error(process, "--exclude", "--model_dir")
    process = run_script("serve.py", "--model_dir", models["forward"])
    assert_one_line_error(process, "a model of purchase intent", "--intent_model_dir")
