"""The open inference protocol, version 2, as clients of KServe and Triton speak it: /v2 and what is below.

Specification: github.com/kserve/open-inference-protocol, inference_rest.md. Tensors may come and go in binary form too,
as Triton's clients send them unless told otherwise: github.com/triton-inference-server/server,
docs/protocol/extension_binary_data.md. Refusals are in the protocol's form (http_replies.py).
"""

import struct
from functools import partial
from itertools import chain
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.responses import Response
from starlette.routing import Route

from utils.serving import http_messages as messages
from utils.serving.http_input import Refused, decoded, read_bytes, require_kind, wrong_message
from utils.serving.http_replies import V2, encode, reply

INPUT = "items"  # a row of item ids for each session, its rest filled up with empty texts
OUTPUTS = {"items": "BYTES", "scores": "FP32", "unknown_items": "INT64", "fallback": "BYTES"}
ASKED = {"k", "exclude_clicked", "filter"}  # parameters that mean here what they mean in POST /v1/recommend
BINARY_OUTPUT = "binary_data_output"  # a parameter of the request: all outputs are wanted in binary form
KINDS = ["application/json", "application/octet-stream", ""]  # Triton's clients don't say what they send
JSON_SIZE = "inference-header-content-length"  # of the JSON at the beginning of the body; tensors follow in binary form
LENGTH = struct.Struct("<I")  # before each text of a binary tensor

Name = Annotated[str, Meta(max_length=64)]
Parameters = Annotated[dict[Name, str | int | float | bool], Meta(max_length=20)]


class InputTensor(Struct):
    name: Literal[INPUT]
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=messages.MAX_CLICKS)]], Meta(min_length=2, max_length=2)]
    datatype: Literal["BYTES"]
    parameters: Parameters = {}
    data: list[str | list[str]] | UnsetType = UNSET


class OutputTensor(Struct):
    name: Literal[tuple(OUTPUTS)]
    parameters: Parameters = {}


class InferRequest(Struct):
    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=1)]
    id: Annotated[str, Meta(max_length=256)] | UnsetType = UNSET
    parameters: Parameters = {}
    outputs: Annotated[list[OutputTensor], Meta(max_length=len(OUTPUTS))] = []


decode_request = msgspec.json.Decoder(InferRequest).decode


def routes(api, name):
    """The routes of an http_api.Api for the protocol, with the model called `name`."""
    model = f"{V2}/models/{name}"
    return [Route(V2, describe_server), Route(f"{V2}/", describe_server), Route(f"{V2}/health/live", is_live),
            Route(f"{V2}/health/ready", partial(is_ready, api)), Route(model, partial(describe_model, name)),
            Route(f"{model}/ready", partial(is_model_ready, api, name)),
            Route(f"{model}/infer", partial(infer, api, name), methods=["POST"])]


async def describe_server(request):
    return reply({"name": "gru4rec", "version": "1", "extensions": ["binary_tensor_data"]})


async def is_live(request):
    return reply({"live": True})


async def is_ready(api, request):
    api.ready_model()
    return reply({"live": True, "ready": True})


async def is_model_ready(api, name, request):
    api.ready_model()
    return reply({"name": name, "ready": True})


async def describe_model(name, request):
    outputs = [{"name": output, "datatype": datatype, "shape": [-1, -1] if output in ("items", "scores") else [-1]}
               for output, datatype in OUTPUTS.items()]
    return reply({"name": name, "platform": "gru4rec_safetensors",
                  "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1, -1]}], "outputs": outputs})


async def infer(api, name, request):
    api.model(request)
    require_kind(request, KINDS)
    asked, binary = _split_body(await read_bytes(request), request.headers.get(JSON_SIZE))
    sessions = _sessions_to_answer(asked, binary)
    answers = await api.answer(request, sessions, "parameters")
    wanted = {output.name: output.parameters for output in asked.outputs} or dict.fromkeys(OUTPUTS, {})
    outputs, tail = [], b""
    for output, values in _tensors(answers.answers, sessions.k).items():
        if output in wanted:
            about = {"name": output, "datatype": OUTPUTS[output], "shape": values.shape}
            if wanted[output].get("binary_data", asked.parameters.get(BINARY_OUTPUT, False)):
                data = to_binary(values)
                about["parameters"] = {"binary_data_size": len(data)}
                tail += data
            else:
                about["data"] = values.ravel().tolist()
            outputs.append(about)
    body = encode({"model_name": name, "parameters": {"model": answers.model.name, "sha256": answers.model.sha256},
                   "outputs": outputs} | ({} if asked.id is UNSET else {"id": asked.id}))
    if not any("parameters" in output for output in outputs):
        return Response(body, media_type="application/json")
    return Response(body + tail, media_type="application/octet-stream", headers={JSON_SIZE: str(len(body))})


def _split_body(body, json_size):
    """The InferRequest of a body, and the binary tensors that follow it: bytes, or None where no header says so."""
    if json_size is None:
        return decoded(decode_request, body), None
    if not (json_size.isascii() and json_size.isdecimal() and len(json_size) < 10 and int(json_size) <= len(body)):
        raise Refused(400, f"header.{JSON_SIZE}",
                      f"found {json_size[:40]!r}, expected a number of at most {len(body)} bytes, as the body has")
    return decoded(decode_request, body[:int(json_size)]), bytes(body[int(json_size):])


def _sessions_to_answer(asked, binary):
    """The messages.SessionsToAnswer that an InferRequest asks for."""
    known = {"the request's": (asked.parameters, ASKED | {BINARY_OUTPUT}),
             "an input's": (asked.inputs[0].parameters, {"binary_data_size"})}
    known |= {f"output {output.name}'s": (output.parameters, {"binary_data"}) for output in asked.outputs}
    for whose, (parameters, names) in known.items():
        for name in parameters.keys() - names:
            raise Refused(400, "parameters",
                          f"found {name[:40]!r} among {whose}, expected {' or '.join(sorted(names))}")
    tensor = asked.inputs[0]
    rows, clicks = tensor.shape
    texts = texts_of(tensor, binary)
    if len(texts) != rows * clicks or not 1 <= rows <= messages.MAX_SESSIONS:
        raise Refused(400, "inputs[0].shape",
                      f"found {tensor.shape} with {len(texts)} elements, expected as many as they are, in 1 to "
                      f"{messages.MAX_SESSIONS} rows")
    sessions = [[text for text in texts[row * clicks:(row + 1) * clicks] if text] for row in range(rows)]
    wanted = {name: value for name, value in asked.parameters.items() if name in ASKED}
    try:
        return msgspec.convert({"sessions": sessions, **wanted}, messages.SessionsToAnswer)
    except msgspec.ValidationError as error:
        refused = wrong_message("parameters", error)
        refused.where = refused.where.replace("parameters.sessions", "inputs[0].data")
        raise refused from None


def texts_of(tensor, binary):
    """The elements of an InputTensor, a list of texts."""
    size = tensor.parameters.get("binary_data_size")
    if size is None and tensor.data is not UNSET and not binary:
        return list(chain.from_iterable([row] if isinstance(row, str) else row for row in tensor.data))
    if tensor.data is not UNSET or binary is None or size != len(binary):
        raise Refused(400, "inputs[0]", f"found {0 if binary is None else len(binary)} bytes of it in binary form, "
                      f"expected its binary_data_size of them and no data, or its data alone")
    texts, place = [], 0
    try:
        while place < len(binary):
            length, = LENGTH.unpack_from(binary, place)
            place += LENGTH.size + length
            texts.append(binary[place - length:place].decode())
        if place == len(binary):
            return texts
    except (struct.error, UnicodeDecodeError):
        pass
    raise Refused(400, "inputs[0]", "found something else in binary form, expected texts in UTF-8, each after its "
                  "length in 4 bytes")


def _tensors(answers, k):
    """The output tensors of some messages.Best, arrays by name; rows with fewer than `k` items are filled up."""
    items, scores = np.full((len(answers), k), "", object), np.zeros((len(answers), k))
    for row, answer in enumerate(answers):
        items[row, :len(answer.items)], scores[row, :len(answer.scores)] = answer.items, answer.scores
    return {"items": items, "scores": scores,
            "unknown_items": np.array([answer.unknown_items for answer in answers], np.int64),
            "fallback": np.array([answer.fallback or "" for answer in answers], object)}


def to_binary(values):
    """An array in binary form: integers of 8 bytes, scores of 4, and texts each after its length."""
    if values.dtype != object:
        return values.astype(np.float32 if values.dtype == float else np.int64).tobytes()
    texts = [text.encode() for text in values.ravel().tolist()]
    return b"".join(chain.from_iterable((LENGTH.pack(len(text)), text) for text in texts))
