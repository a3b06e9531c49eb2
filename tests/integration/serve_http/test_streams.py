"""Generators as responses, and callbacks after responses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from support.installation import wait_for

if TYPE_CHECKING:
    from conftest import Served

SOURCE = """
    import asyncio, threading, time
    from cortex_internal.lib.log import logger
    from starlette.responses import StreamingResponse

    released = threading.Event()


    def texts():
        yield "one "
        yield b"zw\\xc3\\xb6lf "
        yield bytearray(b"end")


    async def awaited():
        yield b"\\x00"
        await asyncio.sleep(0)
        yield b"\\x01"


    def first_fails():
        raise ValueError("before the first chunk")
        yield


    def later_fails():
        yield "a"
        raise ValueError("in the middle")


    def wrong_chunk():
        yield 7


    def slow():
        yield "begun"
        released.wait(20)
        yield "!"


    def endless():
        try:
            while True:
                yield b"x" * 65536
        finally:
            logger.info("endless closed")


    async def endless_async():
        try:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)
        finally:
            logger.info("endless_async closed")


    def note():
        logger.info("called back")


    async def note_async():
        await asyncio.sleep(0)
        logger.info("called back async")


    def explode():
        raise RuntimeError("callback broke")


    def wait_then_note():
        released.wait(20)
        logger.info("slow callback done")


    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self, query_params):
            what = query_params["what"]
            if what == "response":
                return StreamingResponse(endless_async())
            return globals()[what]()

        def handle_post(self, query_params):
            return ["answer", 1], globals()[query_params["what"]]

        def handle_put(self):
            return texts(), note

        def handle_patch(self):
            return first_fails(), note

        def handle_delete(self):
            released.set()
            return "released"
"""


@pytest.mark.parametrize(
    ("what", "content_type", "body"),
    [
        ("texts", "text/plain; charset=utf-8", "one zwölf end".encode()),
        ("awaited", "application/octet-stream", b"\x00\x01"),
    ],
)
def test_generators(api: Served, what: str, content_type: str, body: bytes) -> None:
    response = api.client.get("/", params={"what": what}, headers={"x-request-id": "stream"})

    assert (response.status_code, response.content) == (200, body)
    assert response.headers["content-type"] == content_type
    assert response.headers["x-request-id"] == "stream"
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("what", ["first_fails", "wrong_chunk"])
def test_failing_before_the_first_chunk_is_an_ordinary_500(api: Served, what: str) -> None:
    response = api.client.get("/", params={"what": what}, headers={"x-request-id": f"{api.carrier}.{what}"})

    assert (response.status_code, response.text) == (500, "internal server error")
    text = {"first_fails": "ValueError: before the first chunk", "wrong_chunk": "it yielded 'int'"}[what]
    line = api.wait_for_log(text)
    assert line["request_id"] == f"{api.carrier}.{what}"


def test_failing_in_the_middle_is_logged_and_cuts_the_response(api: Served) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        api.client.get("/", params={"what": "later_fails"}, headers={"x-request-id": "middle"})
    line = api.wait_for_log("ValueError: in the middle")
    assert line["request_id"] == "middle"


def test_chunks_arrive_as_they_are_made(api: Served) -> None:
    with api.client.stream("GET", "/", params={"what": "slow"}) as response:
        chunks = response.iter_bytes()
        assert next(chunks) == b"begun"
        assert api.client.delete("/").text == "released"
        assert b"".join(chunks) == b"!"


@pytest.mark.parametrize("what", ["endless", "endless_async", "response"])
def test_a_client_that_leaves_ends_the_stream(api: Served, what: str) -> None:
    def closed() -> int:
        name = "endless closed" if what == "endless" else "endless_async closed"
        return sum(line.get("text") == name for line in api.log())

    before = closed()
    with api.client.stream("GET", "/", params={"what": what}, headers={"x-request-id": "left"}) as response:
        next(response.iter_raw())

    wait_for(lambda: closed() > before, within=10, what="the generator is closed")
    wait_for(
        lambda: ["GET", "/", 499] in [line.get("access") for line in api.log(request_id="left")],
        within=10,
        what="the access line with 499",
    )


@pytest.mark.parametrize(("what", "text"), [("note", "called back"), ("note_async", "called back async")])
def test_callbacks_run_after_the_response_with_its_request_id(api: Served, what: str, text: str) -> None:
    id_ = f"{api.carrier}.{what}"
    response = api.client.post("/", params={"what": what}, headers={"x-request-id": id_})

    assert (response.status_code, response.json()) == (200, ["answer", 1])
    assert response.headers["content-length"] == "12"

    def noted() -> bool:
        return text in [line.get("text") for line in api.log(request_id=id_)]

    wait_for(noted, within=10, what="the callback")


def test_a_stream_may_have_a_callback(api: Served) -> None:
    response = api.client.put("/", headers={"x-request-id": "both"})

    assert response.content == "one zwölf end".encode()
    wait_for(
        lambda: "called back" in [line.get("text") for line in api.log(request_id="both")],
        within=10,
        what="the callback",
    )


def test_a_callback_runs_also_when_the_stream_fails_before_its_first_chunk(api: Served) -> None:
    id_ = f"{api.carrier}.patch"
    assert api.client.patch("/", headers={"x-request-id": id_}).status_code == 500
    wait_for(
        lambda: "called back" in [line.get("text") for line in api.log(request_id=id_)],
        within=10,
        what="the callback",
    )


def test_a_failing_callback_is_logged_and_harmless(api: Served) -> None:
    response = api.client.post("/", params={"what": "explode"}, headers={"x-request-id": "broke"})

    assert (response.status_code, response.json()) == (200, ["answer", 1])
    line = api.wait_for_log("RuntimeError: callback broke")
    assert line["text"].startswith("a callback raised RuntimeError after its response was sent\nTraceback")
    assert line["request_id"] == "broke"
    assert "cortex_serve" not in line["text"]


@pytest.mark.parametrize("carrier", ["wsgi", "asgi", "uvicorn"])
def test_a_slow_callback_delays_no_request_and_few_run_at_once(
    serve: Callable[..., Served], carrier: str
) -> None:
    source = """
        import threading
        from cortex_internal.lib.log import logger

        released = threading.Event()
        running = set()
        most = [0]

        def callback():
            running.add(threading.get_ident())
            most[0] = max(most[0], len(running))
            released.wait(20)
            running.discard(threading.get_ident())
            logger.info("callback done")

        class Handler:
            def __init__(self, config):
                pass

            def handle_post(self):
                return "x", callback

            def handle_get(self):
                return most[0]

            def handle_delete(self):
                released.set()
                return "x"
    """
    api = serve(source, carrier=carrier, threads=1)

    started = time.monotonic()
    for _ in range(10):
        assert api.client.post("/").text == "x"
    assert api.client.get("/").json() == 1
    assert time.monotonic() - started < 10, "requests waited for callbacks, which wait 20 s"

    api.client.delete("/")
    wait_for(
        lambda: sum(line.get("text") == "callback done" for line in api.log()) == 10,
        within=10,
        what="all callbacks ran",
    )


ASYNC = """
    import asyncio, contextvars, threading, time
    from cortex_internal.lib.log import logger

    class Handler:
        def __init__(self, config):
            self.calls = 0
            self.running = 0
            self.most = 0

        async def handle_post(self, payload, query_params, headers):
            self.calls += 1
            await asyncio.sleep(0)
            logger.info("async post")
            return {"payload": payload, "a": query_params["a"], "h": headers["x-h"]}, self.after

        async def after(self):
            logger.info("async after")

        async def handle_get(self):
            for number in range(3):
                yield f"{number} "
                await asyncio.sleep(0)

        async def handle_put(self):
            logger.info("waiting")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                logger.info("cancelled")
                raise

        def handle_patch(self):
            self.running += 1
            self.most = max(self.most, self.running)
            time.sleep(0.05)
            self.running -= 1
            return [self.most, threading.current_thread().name]

        def handle_delete(self, query_params):
            yield query_params.get("a", "none")
"""


@pytest.fixture(params=["asgi", "uvicorn"])
def async_api(request: pytest.FixtureRequest, serve: Callable[..., Served]) -> Served:
    return serve(ASYNC, carrier=request.param, threads=2)


def test_async_methods(async_api: Served) -> None:
    response = async_api.client.post("/?a=1", json=[1], headers={"x-h": "h", "x-request-id": "async"})
    assert response.json() == {"payload": [1], "a": "1", "h": "h"}
    wait_for(
        lambda: (
            {"async post", "async after"} <= {line.get("text") for line in async_api.log(request_id="async")}
        ),
        within=5,
        what="both lines with the request id",
    )
    assert async_api.client.get("/").text == "0 1 2 "
    assert async_api.client.delete("/?a=b").text == "b"


def test_async_methods_interleave(async_api: Served) -> None:
    clients = [threading.Thread(target=_put_for, args=(async_api, 1.0)) for _ in range(8)]
    for client in clients:
        client.start()
    wait_for(
        lambda: sum(line.get("text") == "waiting" for line in async_api.log()) == 8,
        within=10,
        what="all requests wait at the same time",
    )
    for client in clients:
        client.join()
    wait_for(
        lambda: sum(line.get("text") == "cancelled" for line in async_api.log()) == 8,
        within=10,
        what="those whose client left were cancelled",
    )

    def statuses() -> list[int]:
        return [line["access"][2] for line in async_api.log() if "access" in line]

    wait_for(lambda: len(statuses()) == 8, within=10, what="their access lines")
    assert statuses() == [499] * 8
    assert async_api.client.post("/?a=1", json=1, headers={"x-h": "h"}).status_code == 200


def test_sync_methods_of_async_handlers_run_on_as_many_threads_as_configured(async_api: Served) -> None:
    answers: list[list[object]] = []

    def call() -> None:
        answers.append(httpx.patch(async_api.url, timeout=20, trust_env=False).json())

    clients = [threading.Thread(target=call) for _ in range(8)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert max(most for most, _ in answers) == 2
    assert {name for _, name in answers} == {"cortex-handler_0", "cortex-handler_1"}


def test_generators_run_on_as_many_threads_as_configured(serve: Callable[..., Served]) -> None:
    source = """
        import threading, time

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                for _ in range(3):
                    yield threading.current_thread().name + " "
                    time.sleep(0.01)
    """
    api = serve(source, carrier="asgi", threads=1)
    answers: list[str] = []

    def call() -> None:
        answers.append(httpx.get(api.url, timeout=20, trust_env=False).text)

    clients = [threading.Thread(target=call) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert answers == ["cortex-handler_0 " * 3] * 4


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
def test_one_request_too_many_is_told_to_come_back(
    serve: Callable[..., Served], tmp_path: Path, carrier: str
) -> None:
    source = """
        import os, time

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                while not os.path.exists("go"):
                    time.sleep(0.01)
                return "answered"

            async def handle_delete(self):
                pass
    """
    api = serve(source, carrier=carrier, threads=1, max_in_flight=2)
    statuses: list[int] = []

    def call() -> None:
        statuses.append(httpx.get(api.url, timeout=20, trust_env=False).status_code)

    clients = [threading.Thread(target=call) for _ in range(8)]
    for client in clients:
        client.start()
    wait_for(lambda: len(statuses) == 6, within=10, what="all but two are refused")
    refused = api.client.get("/", headers={"x-request-id": "many"})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] in ("1", "2")
    assert refused.json() == {
        "code": "overloaded",
        "message": "too many requests are being answered already; try again",
        "request_id": "many",
    }
    (tmp_path / "project" / "go").touch()
    for client in clients:
        client.join()
    assert sorted(statuses) == [200] * 2 + [503] * 6


@pytest.mark.parametrize("carrier", ["wsgi", "asgi"])
def test_a_traceback_begins_in_the_handler(serve: Callable[..., Served], carrier: str) -> None:
    source = """
        from starlette.responses import StreamingResponse

        class Handler:
            def __init__(self, config):
                pass

            def handle_get(self):
                return StreamingResponse(self.chunks())

            def chunks(self):
                yield "first"
                raise ValueError("in the stream")
    """
    api = serve(source, carrier=carrier)
    with suppress(httpx.RemoteProtocolError):
        api.client.get("/")
    text = api.wait_for_log("in the stream")["text"]
    begin = text.index("Traceback (most recent call last):\n")
    assert text[begin:].splitlines()[1].endswith('handler.py", line 13, in chunks')


EXITS = """
    from starlette.background import BackgroundTask
    from starlette.responses import StreamingResponse

    class Handler:
        def __init__(self, config):
            pass

        def handle_get(self):
            return StreamingResponse(self.chunks())

        def handle_post(self):
            return "answer", self.callback

        def handle_put(self):
            return StreamingResponse(self.chunks(), background=BackgroundTask(self.callback))

        def handle_delete(self):
            return StreamingResponse(self.exits())

        async def chunks(self):
            yield "one "
            yield "two"

        async def callback(self):
            raise {error}("of the user")

        async def exits(self):
            yield "one "
            raise {error}("of the user")
"""


@pytest.mark.parametrize("carrier", ["wsgi", "asgi", "uvicorn"])
@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_a_coroutine_raises_after_or_within_a_response_ends_nothing_else(
    serve: Callable[..., Served], carrier: str, error: str, method: str
) -> None:
    api = serve(EXITS.format(error=error), carrier=carrier)
    if method == "DELETE":
        with pytest.raises(httpx.RemoteProtocolError):
            api.client.request(method, "/", headers={"x-request-id": "first"})
    else:
        assert api.client.request(method, "/", headers={"x-request-id": "first"}).status_code == 200
    line = api.wait_for_log("of the user")
    assert line["request_id"] == "first"
    assert api.client.get("/").text == "one two"
    assert api.client.post("/").text == "answer"


def _put_for(api: Served, seconds: float) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.put(api.url, timeout=httpx.Timeout(10, read=seconds), trust_env=False)
