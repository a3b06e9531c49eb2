"""What the client gets for what a handler returns or raises."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from support.installation import wait_for

if TYPE_CHECKING:
    from conftest import Served

SOURCE = """
    import decimal, io, logging, math, sys
    from starlette.background import BackgroundTask
    from starlette.exceptions import HTTPException
    from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
    from cortex_internal.lib.log import logger


    class Loud(Response):
        media_type = "text/loud"

        def render(self, content):
            return content.upper().encode()


    class Refused(HTTPException):
        pass


    class Unreadable(Exception):
        def __str__(self):
            raise RuntimeError("no words")


    def background():
        logger.info("background task ran")


    async def pieces():
        yield b"one "
        yield "two"


    def explode():
        raise ValueError("secret inside")


    def cycle():
        value = []
        value.append(value)
        return value


    def deep():
        value = []
        for _ in range(100_000):
            value = [value]
        return value


    RETURNS = {
        "bytes": lambda: b"\\x00\\xff",
        "empty": lambda: b"",
        "str": lambda: "grün",
        "none": lambda: None,
        "nan": lambda: float("nan"),
        "nested nan": lambda: {"a": [1.5, float("inf"), None]},
        "dict": lambda: {"a": [1, 2.5, True, None, "ü"]},
        "number keys": lambda: {1: "a", 2.5: "b", None: "c", True: "d"},
        "tuple": lambda: (1, 2, 3),
        "pair": lambda: (1, "not callable"),
        "big": lambda: 2**80,
        "surrogate": lambda: ["\\ud800"],
        "set": lambda: {1},
        "object": lambda: object(),
        "bytes inside": lambda: {"a": b"x"},
        "decimal": lambda: decimal.Decimal(1),
        "lone surrogate": lambda: "\\ud800",
        "cycle": cycle,
        "deep": deep,
        "coroutine": lambda: never_awaited(),
        "response": lambda: Response("made", 201, {"X-Own": "1", "set-cookie": "a=b"}, media_type="text/csv"),
        "two cookies": lambda: cookies(),
        "loud": lambda: Loud("psst"),
        "json response": lambda: JSONResponse({"a": None}, 202),
        "no content": lambda: Response(status_code=204),
        "redirect": lambda: RedirectResponse("/elsewhere"),
        "own cors": lambda: Response("x", headers={"Access-Control-Allow-Origin": "https://only.example"}),
        "own id": lambda: Response("x", headers={"x-request-id": "forged", "content-length": "77"}),
        "of another server": lambda: Response("x", headers={"Transfer-Encoding": "chunked", "x-own": "1"}),
        "stream of another server": lambda: StreamingResponse(pieces(), headers={"transfer-encoding": "gzip, chunked"}),
        "http exception with a length": lambda: raising(HTTPException(418, "a teapot", {"Content-Length": "3"})),
        "another's": lambda: Response("x", headers={"Transfer-Encoding": "chunked", "X-Cortex-Not-Begun": "1"}),
        "streaming": lambda: StreamingResponse(pieces(), 203, media_type="text/csv"),
        "sync streaming": lambda: StreamingResponse(iter(["a", "b"])),
        "file": lambda: FileResponse(__file__),
        "background": lambda: Response("x", background=BackgroundTask(background)),
        "streaming background": lambda: StreamingResponse(pieces(), background=BackgroundTask(background)),
        "failing background": lambda: Response("x", background=BackgroundTask(explode)),
        "status 99": lambda: Response("x", 99),
        "status 700": lambda: Response("x", 700),
        "raise": explode,
        "raise unreadable": lambda: raising(Unreadable()),
        "exit": lambda: sys.exit(3),
        "http exception": lambda: raising(HTTPException(418, "a teapot", {"X-Tea": "green"})),
        "http exception default": lambda: raising(HTTPException(404)),
        "http exception subclass": lambda: raising(Refused(403, "not you")),
        "http exception dict": lambda: raising(HTTPException(422, {"field": "a"})),
        "http exception 304": lambda: raising(HTTPException(304, "unchanged")),
    }


    async def never_awaited():
        pass


    def raising(error):
        raise error


    def cookies():
        response = Response("x")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response


    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self, query_params):
            return RETURNS[query_params["what"]]()

        def handle_post(self, payload):
            logger.info("posted")
            return payload

        handle_put = "not callable"
        handle_delete = None
"""

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
CORS = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "POST, GET, PUT, PATCH, DELETE, OPTIONS",
    "access-control-allow-headers": "*",
    "access-control-allow-credentials": "true",
    "access-control-expose-headers": "Content-Length, Content-Range",
}


@pytest.mark.parametrize(
    ("what", "content_type", "body"),
    [
        ("bytes", "application/octet-stream", b"\x00\xff"),
        ("empty", "application/octet-stream", b""),
        ("str", TEXT, "grün".encode()),
        ("none", JSON, b"null"),
        ("nan", JSON, b"NaN"),
        ("pair", JSON, b'[1,"not callable"]'),
        ("tuple", JSON, b"[1,2,3]"),
        ("big", JSON, str(2**80).encode()),
        ("surrogate", JSON, b'["\\ud800"]'),
    ],
)
def test_values(api: Served, what: str, content_type: str, body: bytes) -> None:
    response = api.client.get("/", params={"what": what})

    assert (response.status_code, response.content) == (200, body)
    assert response.headers["content-type"] == content_type
    assert response.headers["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("dict", {"a": [1, 2.5, True, None, "ü"]}),
        ("nested nan", {"a": [1.5, float("inf"), None]}),
        ("number keys", {"1": "d", "2.5": "b", "null": "c"}),
    ],
)
def test_json(api: Served, what: str, value: object) -> None:
    response = api.client.get("/", params={"what": what})

    assert response.headers["content-type"] == JSON
    assert json.loads(response.text) == value


@pytest.mark.parametrize(
    "what",
    [
        "set",
        "object",
        "bytes inside",
        "decimal",
        "lone surrogate",
        "cycle",
        "deep",
        "status 99",
        "status 700",
    ],
)
def test_what_cannot_be_sent_is_500_and_the_log_says_what_can(api: Served, what: str) -> None:
    id_ = "unsent-" + what.replace(" ", "-")
    response = api.client.get("/", params={"what": what}, headers={"x-request-id": id_})

    assert (response.status_code, response.text) == (500, "internal server error")
    assert response.headers["content-type"] == TEXT
    (line,) = [line for line in api.log(request_id=id_) if "text" in line]
    if "status" in what:
        assert line["text"] == f"{what[7:]} is not the status of a response; it must be from 200 to 599"
    else:
        assert line["text"].startswith("the handler returned a value of type ")
        assert "a handler may return bytes, a string, anything that `json.dumps` can write" in line["text"]


def test_a_coroutine_is_awaited_where_there_is_a_loop_and_explained_elsewhere(api: Served) -> None:
    response = api.client.get("/", params={"what": "coroutine"}, headers={"x-request-id": "coroutine"})

    if api.carrier == "wsgi":
        assert (response.status_code, response.text) == (500, "internal server error")
        (line,) = [line for line in api.log(request_id="coroutine") if "text" in line]
        assert line["text"] == "the handler returned a coroutine; define it with `async def`"
    else:
        assert (response.status_code, response.text) == (200, "null")


@pytest.mark.parametrize(
    ("what", "status", "content_type", "body"),
    [
        ("response", 201, "text/csv; charset=utf-8", b"made"),
        ("loud", 200, "text/loud; charset=utf-8", b"PSST"),
        ("json response", 202, JSON, b'{"a":null}'),
        ("no content", 204, None, b""),
        ("redirect", 307, None, b""),
        ("streaming", 203, "text/csv; charset=utf-8", b"one two"),
        ("sync streaming", 200, None, b"ab"),
    ],
)
def test_starlette_responses_are_sent_as_they_are(
    api: Served, what: str, status: int, content_type: str | None, body: bytes
) -> None:
    response = api.client.get("/", params={"what": what}, headers={"x-request-id": "as-it-is"})

    assert (response.status_code, response.content) == (status, body)
    assert response.headers.get("content-type") == content_type
    assert response.headers["x-request-id"] == "as-it-is"
    assert CORS.items() <= dict(response.headers).items()


def test_headers_of_a_response(api: Served) -> None:
    made = api.client.get("/", params={"what": "response"})
    assert (made.headers["x-own"], made.headers["set-cookie"]) == ("1", "a=b")
    cookies = api.client.get("/", params={"what": "two cookies"})
    assert [value.split(";")[0] for value in cookies.headers.get_list("set-cookie")] == ["a=1", "b=2"]
    own = api.client.get("/", params={"what": "own cors"})
    assert own.headers.get_list("access-control-allow-origin") == ["https://only.example"]
    assert own.headers["access-control-allow-methods"] == CORS["access-control-allow-methods"]
    forged = api.client.get("/", params={"what": "own id"}, headers={"x-request-id": "real"})
    assert forged.headers.get_list("x-request-id") == ["real"]
    assert forged.headers.get_list("content-length") == ["1"]
    passed_on = api.client.get("/", params={"what": "another's"})
    assert passed_on.text == "x"
    assert {"transfer-encoding", "x-cortex-not-begun"}.isdisjoint(passed_on.headers)


@pytest.mark.parametrize(
    ("what", "body", "own"),
    [
        ("of another server", b"x", {"content-length": "1", "x-own": "1"}),
        ("stream of another server", b"one two", {"transfer-encoding": "chunked"}),
        ("http exception with a length", b"a teapot", {"content-length": "8"}),
    ],
)
def test_how_a_body_is_sent_is_not_up_to_the_handler(
    api: Served, what: str, body: bytes, own: dict[str, str]
) -> None:
    response = api.client.get("/", params={"what": what})

    assert response.content == body
    assert {name: response.headers.get(name) for name in own} == own
    assert ("transfer-encoding" in response.headers) != ("content-length" in response.headers)


def test_a_file(api: Served) -> None:
    response = api.client.get("/", params={"what": "file"})

    assert b"class Handler" in response.content
    assert response.headers["content-length"] == str(len(response.content))
    assert "etag" in response.headers


@pytest.mark.parametrize("what", ["background", "streaming background"])
def test_background_tasks_run(api: Served, what: str) -> None:
    before = len([line for line in api.log() if line.get("text") == "background task ran"])

    assert api.client.get("/", params={"what": what}).status_code == 200
    api.wait_for_log("background task ran")

    def again() -> bool:
        return len([line for line in api.log() if line.get("text") == "background task ran"]) > before

    wait_for(again, within=10, what="the background task")


def test_a_failing_background_task_is_logged(api: Served) -> None:
    response = api.client.get(
        "/", params={"what": "failing background"}, headers={"x-request-id": "background"}
    )

    assert (response.status_code, response.text) == (200, "x")
    line = api.wait_for_log("a callback raised ValueError after its response was sent")
    assert line["request_id"] == "background"


@pytest.mark.parametrize(
    ("what", "status", "text"),
    [
        ("http exception", 418, "a teapot"),
        ("http exception default", 404, "Not Found"),
        ("http exception subclass", 403, "not you"),
        ("http exception dict", 422, '{"field":"a"}'),
        ("http exception 304", 304, ""),
    ],
)
def test_http_exceptions_are_honoured(api: Served, what: str, status: int, text: str) -> None:
    response = api.client.get("/", params={"what": what})

    assert (response.status_code, response.text) == (status, text)
    assert response.headers["content-type"] == TEXT
    if what == "http exception":
        assert response.headers["x-tea"] == "green"


def test_an_exception_is_500_with_a_fixed_text_and_the_users_traceback_in_the_log(api: Served) -> None:
    response = api.client.get("/", params={"what": "raise"}, headers={"x-request-id": "raised"})

    assert (response.status_code, response.text) == (500, "internal server error")
    assert response.headers["content-type"] == TEXT
    assert response.headers["x-request-id"] == "raised"
    (line,) = [line for line in api.log(request_id="raised") if "text" in line]
    first, *frames = line["text"].splitlines()
    assert first == "the handler raised ValueError: secret inside"
    assert re.fullmatch(r'  File ".*/handler\.py", line \d+, in handle_get', frames[1])
    assert frames[-1] == "ValueError: secret inside"
    assert "cortex_serve" not in line["text"]


def test_an_exception_without_words_is_logged_by_its_name(api: Served) -> None:
    response = api.client.get(
        "/", params={"what": "raise unreadable"}, headers={"x-request-id": "unreadable"}
    )

    assert (response.status_code, response.text) == (500, "internal server error")
    (line,) = [line for line in api.log(request_id="unreadable") if "text" in line]
    assert line["text"].startswith("the handler raised Unreadable: <")
    assert "cortex_serve" not in line["text"]


def test_exit_in_a_handler_does_not_end_the_process(api: Served) -> None:
    response = api.client.get("/", params={"what": "exit"})

    assert (response.status_code, response.text) == (500, "internal server error")
    assert api.client.get("/", params={"what": "str"}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "HEAD", "TRACE", "BREW"])
def test_verbs_without_a_method_are_405(api: Served, method: str) -> None:
    response = api.client.request(method, "/", headers={"x-request-id": "r"})

    assert response.status_code == 405
    assert response.headers["allow"] == "POST, GET, OPTIONS"
    assert CORS.items() <= dict(response.headers).items()
    if method != "HEAD":
        message = f"this API does not answer {method}"
        assert response.json() == {"code": "method_not_allowed", "message": message, "request_id": "r"}


@pytest.mark.parametrize("path", ["/x", "/info/", "//", "/%2e%2e/etc/passwd", "/%00", "/;a=b", "/docs"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_paths_are_404(api: Served, path: str, method: str) -> None:
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    answer = api.raw(head.encode())

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"not_found"' in answer


def test_preflight(api: Served) -> None:
    response = api.client.options("/")
    assert (response.status_code, response.content) == (204, b"")
    assert CORS.items() <= dict(response.headers).items()
    assert "content-length" not in response.headers or api.carrier != "wsgi"

    asked = {"origin": "https://a.example", "access-control-request-headers": "authorization, x-own"}
    response = api.client.options("/", headers=asked)
    assert response.headers["access-control-allow-headers"] == "authorization, x-own"


def test_cors_on_every_response(api: Served) -> None:
    for params in (
        {"what": "str"},
        {"what": "raise"},
        {"what": "http exception"},
        {"what": "no content"},
        {},
    ):
        assert CORS.items() <= dict(api.client.get("/", params=params).headers).items()
    bad = api.client.post("/", content=b"{", headers={"content-type": "application/json"})
    assert CORS.items() <= dict(bad.headers).items()


def test_info(api: Served) -> None:
    response = api.client.get("/info")
    assert (response.status_code, response.json()) == (200, {})
    assert api.client.options("/info").status_code == 204
    refused = api.client.post("/info")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, OPTIONS")


@pytest.mark.parametrize("given", ["a", "A.b_c-9", "x" * 128])
def test_a_harmless_request_id_is_kept(api: Served, given: str) -> None:
    response = api.client.post("/", content=b"x", headers={"x-request-id": given})

    assert response.headers["x-request-id"] == given
    assert {"posted"} == {line["text"] for line in api.log(request_id=given) if "text" in line}


def test_answered_requests_are_noted(api: Served) -> None:
    api.client.post("/", content=b"x", headers={"x-request-id": "noted"})

    def noted() -> list[object]:
        return [line["access"] for line in api.log(request_id="noted") if "access" in line]

    assert wait_for(noted, within=5, what="the access line") == [["POST", "/", 200]]


def test_preflights_info_and_other_paths_are_not_noted(api: Served) -> None:
    for method, path in (("OPTIONS", "/"), ("GET", "/info"), ("GET", "/x")):
        api.client.request(method, path, headers={"x-request-id": "unnoted"})
    api.client.post("/", content=b"x", headers={"x-request-id": "after"})

    wait_for(lambda: api.log(request_id="after"), within=5, what="the access line")
    assert api.log(request_id="unnoted") == []


@pytest.mark.parametrize("given", ["", "../../etc", "a b", "x" * 129, "a;b", "{}", "é"])
def test_any_other_request_id_is_replaced(api: Served, given: str) -> None:
    response = api.client.post("/", content=b"x", headers={b"x-request-id": given.encode("latin-1")})

    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_made_request_ids_differ(api: Served) -> None:
    ids = {api.client.post("/", content=b"x").headers["x-request-id"] for _ in range(20)}
    assert len(ids) == 20


UNUSUAL = """
    import asyncio
    from starlette.exceptions import HTTPException
    from starlette.responses import Response, StreamingResponse

    class Stop(BaseException):
        pass

    async def pieces():
        yield "one"

    class Handler:
        def __init__(self, config):
            pass

        {keyword} handle_post(self, payload):
            if payload == "base":
                raise Stop("of the user")
            if payload == "cancelled":
                raise asyncio.CancelledError("of the user")
            if payload == "a number":
                raise HTTPException(400, "no", {{"retry-after": 5}})
            if payload == "not latin":
                raise HTTPException(400, "no", {{"x-a": "\\u20ac"}})
            if payload == "two lines":
                return Response("yes", headers={{"x-a": "b\\r\\nc: d"}})
            if payload == "two lines of a stream":
                return StreamingResponse(pieces(), headers={{"x-a": "b\\r\\nc: d"}})
            return payload
"""


@pytest.mark.parametrize(
    ("carrier", "keyword"),
    [("wsgi", "def"), ("asgi", "def"), ("asgi", "async def")],
)
def test_whatever_a_method_raises_or_says_is_answered_in_our_words_and_logged(
    serve: Callable[..., Served], carrier: str, keyword: str
) -> None:
    api = serve(UNUSUAL.format(keyword=keyword), carrier=carrier)
    for payload in ("base", "cancelled", "a number", "not latin", "two lines", "two lines of a stream"):
        id_ = payload.replace(" ", "-")
        answer = api.client.post("/", json=payload, headers={"x-request-id": id_})
        assert (answer.status_code, answer.text) == (500, "internal server error"), payload
        assert answer.headers["x-request-id"] == id_
        assert "c" not in answer.headers
        assert api.wait_for_access(id_) == ["POST", "/", 500]
        assert [line["level"] for line in api.log(request_id=id_) if "text" in line] == ["ERROR"], payload
    assert api.client.post("/", json="fine").text == "fine"
