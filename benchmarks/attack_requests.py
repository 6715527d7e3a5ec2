"""What benchmarks/serve_attack.py sends: requests that are allowed, and how they are changed at random."""

import json

ITEMS = 300


def make_items(path):
    """Write a table of the items' fields."""
    rows = [f"{item},{'red' if item % 3 else 'blue'},{item % 2},{'long title ' * 8}{item}\n" for item in range(ITEMS)]
    path.write_text("id,colour,stock,title\n" + "".join(rows), encoding="utf-8")


def post(body, path=b"/v1/recommend", headers=b"content-type: application/json\r\n"):
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n%s" % (path, headers, len(body), body)


def get(path, headers=b""):
    return b"GET %s HTTP/1.1\r\nhost: x\r\n%s\r\n" % (path, headers)


SESSIONS = json.dumps({"sessions": [["1", "2", "3"], ["4", "no such item"]], "k": 5, "exclude": ["7"],
                       "exclude_seen": True}).encode()
FILTERED = json.dumps({"sessions": [["1"], []], "k": 5, "filter": {"colour": ["red", "blue"], "stock": 1},
                       "fields": ["title", "colour"], "exclude_clicked": "last"}).encode()
LINES = b"\n".join([SESSIONS, json.dumps({"sessions": [["1"]] * 64}).encode()] * 5)
ROWS = b'1,2,"3"\n\nno such item\n' * 500
TENSOR = {"name": "items", "datatype": "BYTES", "shape": [2, 2]}
IN_JSON = json.dumps({"inputs": [{**TENSOR, "data": ["1", "2", "3", ""]}], "parameters": {"k": 5}, "id": "a"}).encode()
BINARY = b"".join(b"%c\0\0\0%s" % (len(text), text) for text in (b"1", b"2", b"no such item", b""))
IN_BINARY = json.dumps({"inputs": [{**TENSOR, "parameters": {"binary_data_size": len(BINARY)}}],
                        "parameters": {"binary_data_output": True}}).encode()
LARGE = json.dumps({"sessions": [[str(item) for item in range(200)]] * 64, "k": 1000}).encode()
MANY_FIELDS = json.dumps({**json.loads(LARGE), "fields": ["title", "stock"], "filter": "stock:1,stock:0"}).encode()
TOO_MANY_FIELDS = json.dumps({**json.loads(LARGE), "fields": ["title"] * 20}).encode()
CHUNKED = (b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
           b"transfer-encoding: chunked\r\n\r\n")
IN_CHUNKS = CHUNKED + b"%x;a=b\r\n%s\r\n%x\r\n%s\r\n0\r\na: b\r\n\r\n" % (10, SESSIONS[:10], len(SESSIONS) - 10,
                                                                        SESSIONS[10:])
ALLOWED = [  # requests that have the same answer at any time
    post(SESSIONS), IN_CHUNKS, get(b"/v1/recommend?session_id=a&item_id=5&k=3"), get(b"/v1/similar?item_id=5&k=3"),
    post(FILTERED), get(b"/v1/recommend?session_id=a&item_id=no&k=3&filter=colour:red,stock:1&fields=title,stock"),
    post(SESSIONS, b"/invocations"), post(IN_JSON, b"/v2/models/gru4rec/infer"), get(b"/v2/models/gru4rec"),
    post(IN_BINARY + BINARY, b"/v2/models/gru4rec/infer", b"inference-header-content-length: %d\r\n" % len(IN_BINARY)),
    get(b"/ping"), get(b"/v1/items?prefix=1"), get(b"/livez"), get(b"/readyz"), get(b"/openapi.json"), get(b"/")]
SEEDS = [*ALLOWED, post(LARGE), post(TOO_MANY_FIELDS), get(b"/metrics"),
         post(LINES, b"/invocations", b"content-type: application/jsonlines\r\n"),
         post(ROWS, b"/invocations", b"content-type: text/csv\r\n"),
         get(b"/v1/recommend?session_id=%C3%BC&item_id=5&user_consent=true"),
         b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n", b"OPTIONS * HTTP/1.0\r\n\r\n", get(b"/", b"expect: 100-continue\r\n"),
         get(b"/v1/items", b"connection: upgrade\r\nupgrade: websocket\r\n"), get(b"/livez") * 20]
SPLINTERS = [
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\xff", b"\xed\xa0\x80", b"%00", b"%", b"0\r\n\r\n", b"-1", b"1e999",
    b"9" * 400, b'["' * 300, b"&" * 200, b"null", b" ", b"\t", b"HTTP/1.0", b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"transfer-encoding: chunked\r\n", b"content-length: 5\r\n",
    b"content-length: 99999999999999999999\r\n", b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"expect: 100-continue\r\n", b"x-request-id: \xfc\r\n", b"content-encoding: gzip\r\n",
    b"&filter=colour:red", b"&fields=title", b":", b"%22", b"," * 300, b'"filter":{"', b'"fields":["title"],']


def mutate(chance, request):
    """A request that was changed at some places."""
    data = bytearray(request)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        end = min(start + chance.choice((1, 2, 10, 100)), len(data))
        way = chance.randrange(6)
        if way == 0:
            data[start:start + 1] = bytes([chance.randrange(256)])
        elif way == 1:
            del data[start:end]
        elif way == 2:
            data[start:start] = data[start:end] * chance.choice((1, 3, 1000))
        elif way == 3:
            data[start:start] = chance.choice(SPLINTERS)
        elif way == 4:
            data[start:] = b""
        else:
            data[start:start] = chance.choice(SEEDS)
        del data[300_000:]
    return bytes(data)
