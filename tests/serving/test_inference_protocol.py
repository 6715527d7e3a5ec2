"""utils/serving/inference_protocol.py: the open inference protocol as KServe's and Triton's clients speak it."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from utils.serving import inference_protocol
from utils.serving.http_input import Refused
from utils.serving.inference_protocol import JSON_SIZE, InputTensor, texts_of, to_binary

INFER = "/v2/models/gru4rec/infer"
TENSOR = {"name": "items", "shape": [3, 2], "datatype": "BYTES", "data": ["item_1", "item_2", "item_3", "", "new", ""]}
SESSIONS = [["item_1", "item_2"], ["item_3"], ["new"]]


def outputs_of(response):
    """The output tensors of a response, arrays by name, whichever form they have."""
    assert response.status_code == 200, response.text
    size = int(response.headers.get(JSON_SIZE, len(response.content)))
    body, tail, found = json.loads(response.content[:size]), response.content[size:], {}
    for output in body["outputs"]:
        data, shape = output.get("data"), output["shape"]
        if data is None:
            part, tail = np.split(np.frombuffer(tail, np.uint8), [output["parameters"]["binary_data_size"]])
            part, tail = part.tobytes(), tail.tobytes()
            data = texts(part) if output["datatype"] == "BYTES" else np.frombuffer(
                part, {"FP32": np.float32, "INT64": np.int64}[output["datatype"]])
        found[output["name"]] = np.array(data, object if output["datatype"] == "BYTES" else None).reshape(shape)
    assert not tail
    return body, found


def texts(binary):
    found = []
    while binary:
        length, = struct.unpack("<I", binary[:4])
        found.append(binary[4:4 + length].decode())
        binary = binary[4 + length:]
    return found


def test_health_and_what_is_said_of_server_and_model(with_client):
    async def ask(client, api):
        paths = ["/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/models/shop", "/v2/models/shop/ready"]
        found = {path: (await client.get(path)).json() for path in paths}
        api.is_draining = True
        return found, [await client.get(path) for path in paths]
    found, draining = with_client(ask, model_name="shop")
    assert found["/v2"] == found["/v2/"] == {"name": "gru4rec", "version": "1", "extensions": ["binary_tensor_data"]}
    assert found["/v2/health/live"]["live"] is found["/v2/health/ready"]["ready"] is True
    assert found["/v2/models/shop/ready"] == {"name": "shop", "ready": True}
    about = found["/v2/models/shop"]
    assert about["name"] == "shop" and about["platform"]
    assert about["inputs"] == [{"name": "items", "datatype": "BYTES", "shape": [-1, -1]}]
    assert {output["name"]: output["datatype"] for output in about["outputs"]} == inference_protocol.OUTPUTS
    assert [response.status_code for response in draining] == [200, 200, 200, 503, 200, 503]
    assert "stop" in draining[3].json()["error"]


def test_without_a_model_it_lives_and_is_not_ready(with_client):
    async def ask(client, api):
        return [await client.get("/v2/health/live"), await client.get("/v2/health/ready"),
                await client.get("/v2/models/gru4rec/ready"), await client.post(INFER, json={"inputs": [TENSOR]})]
    alive, *others = with_client(ask, model=False)
    assert alive.status_code == 200
    for response in others:
        assert response.status_code == 503 and "no model" in response.json()["error"]


@pytest.mark.parametrize("asked_in_binary", [False, True])
@pytest.mark.parametrize("answered_in_binary", [False, True])
def test_answers_are_those_of_v1(with_client, asked_in_binary, answered_in_binary):
    parameters = {"k": 4, "exclude_clicked": "seen", "binary_data_output": answered_in_binary}
    tensor, tail = dict(TENSOR), b""
    if asked_in_binary:
        tail = to_binary(np.array(tensor.pop("data"), object))
        tensor["parameters"] = {"binary_data_size": len(tail)}
    head = json.dumps({"id": "42", "inputs": [tensor], "parameters": parameters}).encode()

    async def ask(client, api):
        headers = {JSON_SIZE: str(len(head))} if asked_in_binary else {"content-type": "application/json"}
        asked = {"sessions": SESSIONS, "k": 4, "exclude_clicked": "seen"}
        return (await client.post(INFER, content=head + tail, headers=headers),
                (await client.post("/v1/recommend", json=asked)).json())
    response, expected = with_client(ask)
    body, found = outputs_of(response)
    assert body["model_name"] == "gru4rec" and body["id"] == "42"
    assert body["parameters"] == {"model": expected["model"]["name"], "sha256": expected["model"]["sha256"]}
    assert (JSON_SIZE in response.headers) == answered_in_binary
    for row, answer in enumerate(expected["answers"]):
        count = len(answer["items"])
        assert found["items"][row].tolist() == answer["items"] + [""] * (4 - count)
        np.testing.assert_array_equal(np.float32(found["scores"][row]),
                                      np.float32(answer["scores"] + [0] * (4 - count)))
        assert found["unknown_items"][row] == answer["unknown_items"]
        assert found["fallback"][row] == answer.get("fallback", "")
    assert found["items"].shape == (3, 4) and "none" in found["fallback"]


def test_only_the_outputs_that_are_wanted_each_in_its_form(with_client):
    async def ask(client, api):
        nested = TENSOR | {"data": [["item_1", "item_2"], ["item_3", ""], ["new", ""]]}
        return await client.post(INFER, json={"inputs": [nested], "parameters": {"k": 2, "binary_data_output": True},
                                              "outputs": [{"name": "scores", "parameters": {"binary_data": False}},
                                                          {"name": "items"}]})
    body, found = outputs_of(with_client(ask))
    assert "id" not in body and set(found) == {"items", "scores"}
    assert ["data" in output for output in body["outputs"]] == [False, True]


@pytest.mark.parametrize("change, fragment", [
    ({"inputs": []}, "body.inputs"), ({"inputs": [TENSOR, TENSOR]}, "body.inputs"), ({"inputs": None}, "body.inputs"),
    ({"inputs": [TENSOR | {"name": "input0"}]}, "body.inputs[0].name"),
    ({"inputs": [TENSOR | {"datatype": "INT32"}]}, "body.inputs[0].datatype"),
    ({"inputs": [TENSOR | {"shape": [6]}]}, "body.inputs[0].shape"),
    ({"inputs": [TENSOR | {"shape": [2, -3]}]}, "body.inputs[0].shape[1]"),
    ({"inputs": [TENSOR | {"shape": [2, 2]}]}, "found [2, 2] with 6 elements"),
    ({"inputs": [TENSOR | {"shape": [0, 0], "data": []}]}, "1 to 64 rows"),
    ({"inputs": [TENSOR | {"shape": [65, 0], "data": []}]}, "1 to 64 rows"),
    ({"inputs": [TENSOR | {"shape": [1, 201], "data": ["a"] * 201}]}, "body.inputs[0].shape[1]"),
    ({"inputs": [TENSOR | {"data": [1, 2, 3, 4, 5, 6]}]}, "body.inputs[0].data[0]"),
    ({"inputs": [TENSOR | {"data": ["x" * 257, *"abcde"]}]}, "inputs[0].data[0][0]"),
    ({"inputs": [{name: value for name, value in TENSOR.items() if name != "data"}]}, "inputs[0]"),
    ({"inputs": [TENSOR | {"parameters": {"binary_data_size": 3}}]}, "inputs[0]"),
    ({"inputs": [TENSOR | {"parameters": {"shared_memory_region": "a"}}]}, "shared_memory_region"),
    ({"outputs": [{"name": "classes"}]}, "body.outputs[0].name"),
    ({"outputs": [{"name": "items", "parameters": {"classification": 3}}]}, "classification"),
    ({"parameters": {"k": 0}}, "parameters.k"), ({"parameters": {"k": 1001}}, "parameters.k"),
    ({"parameters": {"k": "5"}}, "parameters.k"), ({"parameters": {"topk": 5}}, "'topk'"),
    ({"parameters": {"exclude_clicked": "all"}}, "parameters.exclude_clicked"),
    ({"parameters": {"filter": "a:b"}}, "parameters.filter"), ({"parameters": {"k": [5]}}, "body.parameters"),
    ({"id": 42}, "body.id")], ids=lambda value: str(value)[:60])
def test_refusals_have_the_protocols_form(with_client, change, fragment):
    async def ask(client, api):
        return await client.post(INFER, json={"inputs": [TENSOR]} | change)
    response = with_client(ask)
    assert response.status_code == 400 and set(response.json()) == {"error"} and fragment in response.json()["error"]


@pytest.mark.parametrize("method, path, status, more", [
    ("GET", "/v2/models/another", 404, {}), ("GET", "/v2/models/another/ready", 404, {}), ("GET", "/v2/x", 404, {}),
    ("POST", "/v2/models/another/infer", 404, {"json": {}}), ("GET", "/v2/models/gru4rec/versions/1", 404, {}),
    ("GET", INFER, 405, {}), ("POST", "/v2", 405, {}), ("POST", INFER, 400, {"content": b"{"}),
    ("POST", INFER, 400, {"content": b"\xff"}), ("POST", INFER, 413, {"content": b" " * 1_100_000}),
    ("POST", INFER, 415, {"content": b"{}", "headers": {"content-type": "text/csv"}}),
    ("POST", INFER, 415, {"content": b"{}", "headers": {"content-encoding": "gzip"}}),
    *[("POST", INFER, 400, {"content": b"{}", "headers": {JSON_SIZE: size}}) for size in ("3", "-1", "x", "9" * 99)]],
    ids=lambda value: str(value)[:60])
def test_other_refusals(with_client, method, path, status, more):
    async def ask(client, api):
        return await client.request(method, path, **more)
    response = with_client(ask)
    assert response.status_code == status and set(response.json()) == {"error"} and response.headers["x-request-id"]


def test_v22_is_no_path_of_the_protocol(with_client):
    async def ask(client, api):
        return await client.get("/v22")
    assert with_client(ask).json()["error"]["status"] == 404


@given(st.lists(st.text(max_size=5), max_size=9))
def test_texts_come_back_from_binary_form(expected):
    binary = to_binary(np.array(expected, object))
    tensor = InputTensor("items", [1, len(expected)], "BYTES", {"binary_data_size": len(binary)})
    assert texts_of(tensor, binary) == expected and texts(binary) == expected


@given(st.binary(max_size=30), st.integers(0, 40), st.booleans())
def test_any_binary_form_is_read_or_refused(binary, size, is_right):
    size = len(binary) if is_right else size
    try:
        found = texts_of(InputTensor("items", [1, 1], "BYTES", {"binary_data_size": size}, UNSET), binary)
    except Refused as refused:
        assert refused.status == 400
    else:
        assert to_binary(np.array(found, object)) == binary and size == len(binary)
