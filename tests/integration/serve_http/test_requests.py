"""What a handler is given (`payload`, `query_params`, `headers`), by verb and content type."""

from __future__ import annotations

import codecs
import http.client
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Served

SOURCE = """
    def describe(value):
        if hasattr(value, "multi_items"):
            return [[key, describe(item)] for key, item in value.multi_items()]
        if hasattr(value, "filename"):
            return ["file", value.filename, value.content_type, value.file.read().decode("latin-1")]
        if isinstance(value, bytes):
            return ["bytes", value.decode("latin-1")]
        return [type(value).__name__, repr(value)]


    class Handler:
        def __init__(self, *, config):
            self.greeting = config["greeting"]

        def handle_post(self, payload):
            return describe(payload)

        def handle_get(self, payload, query_params, headers):
            return {
                "payload": describe(payload),
                "query": query_params.multi_items(),
                "last": query_params["a"],
                "header": headers["X-Thing"],
                "same": headers["x-thing"],
                "underscore": headers["x_under_score"],
                "has": ["X-THING" in headers, "nothing" in headers],
                "content": headers.get("content-type"),
            }

        def handle_put(self, headers, *, payload):
            return [headers["x-thing"], describe(payload)]

        def handle_patch(self):
            return self.greeting

        def handle_delete(self, query_params):
            return query_params["missing"]
"""


def post(api: Served, body: bytes, content_type: str | None) -> Any:
    headers = {} if content_type is None else {"content-type": content_type}
    response = api.client.post("/", content=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=latin-1",
        "application/json;charset=no-such",
        "application/json-patch+json",
    ],
)
def test_json_by_prefix(api: Served, content_type: str) -> None:
    assert post(api, '{"a": "é"}'.encode(), content_type) == ["dict", "{'a': 'é'}"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_encodings_are_told_from_the_bytes(api: Served, encoding: str) -> None:
    assert post(api, '["ü"]'.encode(encoding), "application/json") == ["list", "['ü']"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NaN", ["float", "nan"]),
        ("-Infinity", ["float", "-inf"]),
        ("1e999", ["float", "inf"]),
        ("null", ["NoneType", "None"]),
        ("0", ["int", "0"]),
        ("123456789012345678901234567890", ["int", "123456789012345678901234567890"]),
        ('{"a": 1, "a": 2}', ["dict", "{'a': 2}"]),
        ('"\\ud800"', ["str", "'\\ud800'"]),
    ],
)
def test_json_values(api: Served, text: str, expected: list[str]) -> None:
    assert post(api, text.encode(), "application/json") == expected


@pytest.mark.parametrize("body", [b"", b"{", b'{"a" 1}', b"nul", b"[1,]", b"\x00", b"1 2", b"'a'"])
def test_malformed_json_is_400_with_the_words_of_the_parser(api: Served, body: bytes) -> None:
    response = api.client.post(
        "/", content=body, headers={"content-type": "application/json", "x-request-id": "r"}
    )

    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(body)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"
    text = str(expected.value)
    assert response.json() == {"error": text, "code": "invalid_json", "message": text, "request_id": "r"}


@pytest.mark.parametrize(
    "body", [b'"\xff"', b"\xff", b'{"\xc3\x28": 1}', "[]".encode("utf-16")[:-1], b"[" * 100_000, b"1" * 5000]
)
def test_json_that_cannot_be_read_is_400(api: Served, body: bytes) -> None:
    response = api.client.post("/", content=body, headers={"content-type": "application/json"})

    assert response.status_code == 400
    assert set(response.json()) == {"error", "code", "message", "request_id"}


@pytest.mark.parametrize(
    ("content_type", "body", "text"),
    [
        ("text/plain", "grün".encode(), "grün"),
        ("TEXT/PLAIN", b"", ""),
        ("text/plain; charset=latin-1", b"gr\xfcn", "grün"),
        ('text/plain; charset="ISO-8859-1";', b"gr\xfcn", "grün"),
        ("text/plain; charset=utf-8; charset=UTF-16", "grün".encode("utf-16"), "grün"),
        ("text/plain; format=flowed; charset=cp1252", b"\x80", "€"),
        ("text/plain; charset=utf-8-sig", codecs.BOM_UTF8 + b"x", "x"),
        ("text/plain-ish", b"x", "x"),
    ],
)
def test_text(api: Served, content_type: str, body: bytes, text: str) -> None:
    assert post(api, body, content_type) == ["str", repr(text)]


NOT_ASCII = "'ascii' codec can't decode byte 0xff in position 0: ordinal not in range(128)"


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("text/plain; charset=ascii", b"\xff", f"the body is not text in ascii: {NOT_ASCII}"),
        ("text/plain; charset=klingon", b"x", "unknown charset 'klingon'"),
        ("text/plain; charset=hex", b"00", "unknown charset 'hex'"),
        ("text/plain; charset=punycode", b"x", "unknown charset 'punycode'"),
    ],
)  # fmt: skip
def test_text_that_cannot_be_decoded_is_400(
    api: Served, content_type: str, body: bytes, message: str
) -> None:
    response = api.client.post("/", content=body, headers={"content-type": content_type})

    assert (response.status_code, response.text) == (400, message)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


def test_multipart(api: Served) -> None:
    response = api.client.post(
        "/",
        data={"note": "grün", "twice": ["1", "2"]},
        files={"image": ("../../etc/passwd", b"\x89PNG", "image/png")},
    )

    assert response.json() == [
        ["note", ["str", "'grün'"]],
        ["twice", ["str", "'1'"]],
        ["twice", ["str", "'2'"]],
        ["image", ["file", "../../etc/passwd", "image/png", "\x89PNG"]],
    ]


def test_urlencoded(api: Served) -> None:
    kind = "application/x-www-form-urlencoded; charset=utf-8"
    assert post(api, b"a=1&a=%C3%BC+x&empty=", kind) == [
        ["a", ["str", "'1'"]],
        ["a", ["str", "'ü x'"]],
        ["empty", ["str", "''"]],
    ]


FORM = "multipart/form-data; boundary=b"
NAMELESS = b"--b\r\nx: y\r\n\r\nv\r\n--b--\r\n"
BLOATED = b"--b\r\nx: " + b"y" * 4096 + b"\r\n\r\n--b--\r\n"
PART = b'--b\r\ncontent-disposition: form-data; name="n"\r\n\r\nv\r\n'


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("multipart/form-data", PART, "the content type of the form has no 'boundary'"),
        (FORM, PART, "the form is incomplete: its final boundary is missing"),
        (FORM, b"", "the form is incomplete: its final boundary is missing"),
        (FORM, NAMELESS, "a part of the form has no name in its 'content-disposition'"),
        (FORM, PART * 1001 + b"--b--\r\n", "the form has more than 1000 fields"),
        (FORM, BLOATED, "a part of the form has more than 4096 bytes of headers"),
        ("application/x-www-form-urlencoded", b"a=1&" * 1001, "the form has more than 1000 fields"),
    ],
)  # fmt: skip
def test_malformed_forms_are_400(api: Served, content_type: str, body: bytes, message: str) -> None:
    response = api.client.post("/", content=body, headers={"content-type": content_type})

    assert (response.status_code, response.text) == (400, message)


@pytest.mark.parametrize(
    "content_type", [None, "application/octet-stream", "application/vnd.api+json", "image/png", "x" * 1000]
)
def test_anything_else_is_bytes(api: Served, content_type: str | None) -> None:
    assert post(api, b"\x00{\xff", content_type) == ["bytes", "\x00{\xff"]


@pytest.mark.parametrize(
    "kind", ["application/vnd.x+pickle", "application/python-pickle", "application/x-dill"]
)
def test_no_content_type_unpickles(api: Served, kind: str) -> None:
    canary = b"cos\nsystem\n(S'touch canary'\ntR."
    assert post(api, canary, kind) == ["bytes", canary.decode()]


def test_a_get_with_a_body_query_and_headers(api: Served) -> None:
    response = api.client.request(
        "GET",
        "/?a=1&b=&a=%C3%BC",
        content=b"[1]",
        headers={"content-type": "application/json", "x-THING": "t", "x_under_score": "u"},
    )

    assert response.json() == {
        "payload": ["list", "[1]"],
        "query": [["a", "1"], ["b", ""], ["a", "ü"]],
        "last": "ü",
        "header": "t",
        "same": "t",
        "underscore": "u",
        "has": [True, False],
        "content": "application/json",
    }


def test_keyword_only_arguments_are_passed(api: Served) -> None:
    response = api.client.put("/", content=b"raw", headers={"x-thing": "t"})

    assert response.json() == ["t", ["bytes", "raw"]]


def test_a_body_nobody_declared_is_not_parsed(api: Served) -> None:
    response = api.client.patch("/", content=b"{", headers={"content-type": "application/json"})

    assert (response.status_code, response.text) == (200, "hello")


def test_a_missing_query_parameter_is_a_key_error_of_the_handler(api: Served) -> None:
    response = api.client.delete("/", headers={"x-request-id": "missing-parameter"})

    assert (response.status_code, response.text) == (500, "internal server error")
    (line,) = [line for line in api.log(request_id="missing-parameter") if "text" in line]
    assert line["text"].endswith("KeyError: 'missing'")


def test_a_chunked_body(api: Served) -> None:
    def pieces() -> Any:
        yield b'{"a":'
        yield b" 1}"

    response = api.client.post("/", content=pieces(), headers={"content-type": "application/json"})

    if api.carrier == "wsgi":  # whether it is whole could not be known
        assert response.status_code == 411
        assert response.json()["message"] == "send the body with a content-length, or through the gateway"
    else:
        assert response.json() == ["dict", "{'a': 1}"]


UNWANTED = """
    class Handler:
        def __init__(self, config):
            pass

        {keyword} handle_post(self{argument}):
            return {answer}
"""


@pytest.mark.parametrize(
    ("carrier", "keyword", "argument", "answer", "batching"),
    [
        ("wsgi", "def", "", "'taken'", {}),
        ("asgi", "async def", "", "'taken'", {}),
        (
            "asgi",
            "def",
            ", query_params",
            "['taken'] * len(query_params)",
            {"server_side_batching": {"max_batch_size": 4}},
        ),
    ],
    ids=["wsgi", "asgi", "batch"],
)
@pytest.mark.parametrize("target", ["POST /", "PUT /", "OPTIONS /", "POST /x"])
def test_a_connection_goes_on_after_a_body_that_nobody_wanted(
    serve: Callable[..., Served],
    carrier: str,
    keyword: str,
    argument: str,
    answer: str,
    batching: dict[str, object],
    target: str,
) -> None:
    source = UNWANTED.format(keyword=keyword, argument=argument, answer=answer)
    api = serve(source, carrier=carrier, **batching)
    method, path = target.split()
    statuses = {"POST /": 200, "PUT /": 405, "OPTIONS /": 204, "POST /x": 404}
    connection = http.client.HTTPConnection(*api.address, timeout=20)
    connection.auto_open = 0
    connection.connect()
    for _ in range(5):
        connection.request(method, path, b"x" * 900_000)
        response = connection.getresponse()
        response.read()
        assert response.status == statuses[target]
        connection.request("POST", "/")
        assert connection.getresponse().read() == b"taken"
    connection.close()
