"""`request_timeout`: what waits is ended, and nobody is called for who has been answered."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest
from support.installation import wait_for

if TYPE_CHECKING:
    from conftest import Served

SECOND = 1_000_000_000

WAITING = """
    import asyncio, logging, time

    logger = logging.getLogger("cortex")

    class Handler:
        def __init__(self, config):
            pass

        async def handle_get(self):
            logger.info("called")
            try:
                await asyncio.sleep(30)
            finally:
                logger.info("get ended")

        async def handle_post(self, payload):
            logger.info("called")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                raise ValueError("of the handler")

        async def handle_put(self):
            logger.info("called")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return "swallowed"

        async def handle_patch(self):
            logger.info("called")
            async def chunks():
                try:
                    yield "first"
                    await asyncio.sleep(30)
                finally:
                    logger.info("stream ended")
            return chunks()

        def handle_delete(self):
            time.sleep(1.5)
            yield "late"
"""

SLOW = """
    import logging, time

    class Handler:
        def __init__(self, config):
            pass

        def handle_post(self, payload):
            logging.getLogger("cortex").info("called")
            time.sleep(1.2)
            return payload
"""

AFTER = """
    import asyncio, logging, time

    logger = logging.getLogger("cortex")

    class Handler:
        def __init__(self, config):
            pass

        def after(self):
            logger.info("after")

        def handle_post(self, payload):
            logger.info("called")
            time.sleep(1.2)
            return [("late", self.after)] if isinstance(payload, list) else ("late", self.after)

        def handle_put(self, payload):
            logger.info("called")
            time.sleep(1.2)
            raise ValueError("of the handler")
"""
AFTER_ASYNC = f"""{AFTER}
        async def handle_get(self):
            logger.info("called")
            await asyncio.sleep(30)
            return "never", self.after

        async def handle_patch(self, payload):
            logger.info("called")
            async def chunks():
                yield "first"
                await asyncio.sleep(30)
            return chunks(), self.after
"""

BLOCKING = """
    import logging, time

    logger = logging.getLogger("cortex")

    class Handler:
        def __init__(self, config):
            pass

        def after(self):
            logger.info("after")

        async def handle_get(self):
            logger.info("called")
            time.sleep(1.2)
            return "late", self.after

        async def handle_put(self):
            logger.info("called")
            time.sleep(1.2)
            raise ValueError("of the handler")

        async def handle_patch(self):
            logger.info("called")
            async def chunks():
                time.sleep(1.2)
                yield "late"
            return chunks(), self.after

        async def handle_post(self, payload):
            logger.info("called")
            async def chunks():
                yield "first"
                time.sleep(1.2)
            return chunks(), self.after
"""

CALLED = """
    import logging

    class Handler:
        def __init__(self, config):
            pass

        def handle_post(self, payload):
            logging.getLogger("cortex").info("called")
            return payload
"""


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
def test_what_waits_is_ended(serve: Callable[..., Served], carrier: str) -> None:
    api = serve(WAITING, carrier=carrier, request_timeout=SECOND // 2)
    for method in ("GET", "POST", "PUT", "DELETE"):
        began = time.monotonic()
        ended = api.client.request(
            method, "/", headers={"x-request-id": method, "content-type": "text/plain"}, content=b"x"
        )
        assert time.monotonic() - began < 1.4, method
        assert ended.status_code == 504, method
        assert ended.json() == {
            "code": "timeout",
            "message": "the request was not answered within 0.5 s",
            "request_id": method,
        }
        said = [line["text"] for line in api.log(request_id=method) if "text" in line]
        assert "a call of the handler was ended: it did not finish within 0.5 s" in said
        assert api.wait_for_access(method)[2] == 504
    assert "get ended" in [line.get("text") for line in api.log(request_id="GET")]


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
def test_a_stream_that_has_begun_is_cut(serve: Callable[..., Served], carrier: str) -> None:
    api = serve(WAITING, carrier=carrier, request_timeout=SECOND // 2)
    with api.client.stream("PATCH", "/", headers={"x-request-id": "cut"}) as stream:
        assert stream.status_code == 200
        pieces = stream.iter_raw()
        assert next(pieces) == b"first"
        with pytest.raises(httpx.RemoteProtocolError):
            next(pieces)
    api.wait_for_log("stream ended")
    api.wait_for_log("a call of the handler was ended")
    assert api.wait_for_access("cut") == ["PATCH", "/", 504]


@pytest.mark.parametrize("carrier", ["wsgi", "asgi", "uvicorn"])
def test_nobody_is_called_for_who_was_answered_by_the_gateway(
    serve: Callable[..., Served], carrier: str
) -> None:
    api = serve(CALLED, carrier=carrier, request_timeout=5 * SECOND)

    def post(started: str) -> httpx.Response:
        return api.client.post("/", json=1, headers={"x-request-start": started, "x-request-id": "r"})

    late = post(f"{time.time() - 6:.3f}")
    assert late.status_code == 504
    assert late.json()["code"] == "timeout"
    assert [line for line in api.log() if line.get("text") == "called"] == []
    for started in (f"{time.time() - 3:.3f}", f"{time.time() + 60:.3f}", "", "nan", "t=12", "-"):
        assert post(started).text == "1", started
    assert len([line for line in api.log() if line.get("text") == "called"]) == 6


def leave(api: Served, method: str, *, age: float, at: float = 0.0, request_id: str) -> None:
    """Ask, with a request that is so many seconds old, and be gone once it is called and as old as `at`."""
    began = time.time() - age
    head = (
        f"{method} / HTTP/1.1\r\nhost: x\r\nx-request-id: {request_id}\r\ncontent-length: 1\r\n"
        f"content-type: application/json\r\nx-request-start: {began:.3f}\r\n\r\n1"
    )
    with socket.create_connection(api.address, timeout=10) as connection:
        connection.sendall(head.encode())
        wait_for(lambda: api.log(request_id=request_id), within=10, what=f"{request_id!r} is called")
        time.sleep(max(0.0, began + at - time.time()))


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH"])
def test_who_is_sent_away_at_the_deadline_was_answered_504(
    serve: Callable[..., Served], carrier: str, method: str
) -> None:
    """The gateway's clock and ours are a moment apart; it may be first."""
    api = serve(WAITING, carrier=carrier, request_timeout=5 * SECOND)
    leave(api, method, age=4, at=4.98, request_id="late")
    assert api.wait_for_access("late") == [method, "/", 504]
    said = [(line["level"], line["text"]) for line in api.log() if line.get("level") in ("ERROR", "WARNING")]
    ended = ("WARNING", "a call of the handler was ended: it did not finish within 5 s")
    assert all(line == ended or "of the handler" in line[1] for line in said), said


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_who_leaves_before_the_deadline_has_left(
    serve: Callable[..., Served], carrier: str, method: str
) -> None:
    api = serve(WAITING, carrier=carrier, request_timeout=5 * SECOND)
    leave(api, method, age=0, request_id="left")
    assert api.wait_for_access("left") == [method, "/", 499]


@pytest.mark.parametrize("carrier", ["wsgi", "asgi"])
def test_a_plain_method_that_returns_too_late_is_logged_as_504(
    serve: Callable[..., Served], carrier: str
) -> None:
    api = serve(SLOW, carrier=carrier, request_timeout=5 * SECOND)
    began = {"x-request-start": f"{time.time() - 4.8:.3f}", "x-request-id": "late"}
    assert api.client.post("/", json=1, headers=began).status_code == 504
    assert api.wait_for_access("late") == ["POST", "/", 504]


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "POST"])
def test_a_coroutine_that_holds_the_event_loop_until_it_is_too_late_is_logged_as_504(
    serve: Callable[..., Served], carrier: str, method: str
) -> None:
    """No timer can run meanwhile."""
    api = serve(BLOCKING, carrier=carrier, request_timeout=5 * SECOND)
    leave(api, method, age=4, at=5.05, request_id="late")
    assert api.wait_for_access("late") == [method, "/", 504]
    if method == "PUT":
        api.wait_for_log("the handler raised ValueError: of the handler")
    else:
        api.wait_for_log("after")
    assert len([line for line in api.log() if line.get("text") == "after"]) == (method != "PUT")


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
def test_a_coroutine_that_returns_too_late_is_answered_504(
    serve: Callable[..., Served], carrier: str
) -> None:
    api = serve(BLOCKING, carrier=carrier, request_timeout=SECOND)
    for method in ("GET", "PUT", "PATCH"):
        assert api.client.request(method, "/", headers={"x-request-id": method}).status_code == 504
        assert api.wait_for_access(method) == [method, "/", 504]
    with pytest.raises(httpx.RemoteProtocolError):
        api.client.post("/", json=1, headers={"x-request-id": "POST"})
    assert api.wait_for_access("POST") == ["POST", "/", 504]


AFTERWARDS = {
    "wsgi": ("wsgi", "POST", AFTER),
    "asgi": ("asgi", "POST", AFTER),
    "a plain method among coroutines": ("asgi", "POST", AFTER_ASYNC),
    "a stream": ("asgi", "PATCH", AFTER_ASYNC),
    "a batch": ("asgi", "POST", AFTER),
}


@pytest.mark.parametrize(("carrier", "method", "source"), AFTERWARDS.values(), ids=AFTERWARDS)
@pytest.mark.parametrize("why", ["late", "left"])
def test_what_is_to_be_called_afterwards_is_called_once_a_method_has_returned(
    serve: Callable[..., Served],
    request: pytest.FixtureRequest,
    carrier: str,
    method: str,
    source: str,
    why: str,
) -> None:
    is_batch = "batch" in request.node.callspec.id
    batching = {"server_side_batching": {"max_batch_size": 4, "batch_interval": 0}} if is_batch else {}
    api = serve(source, carrier=carrier, request_timeout=5 * SECOND, **batching)
    leave(api, method, age=4 if why == "late" else 0, at=5.2 if why == "late" else 0, request_id="r")
    status = api.wait_for_access("r")[2]
    assert status == (504 if why == "late" else 200 if carrier == "wsgi" else 499)
    assert api.wait_for_log("after")["request_id"] == "r"
    assert len([line for line in api.log() if line.get("text") == "after"]) == 1


def test_nothing_is_called_after_a_coroutine_that_was_cancelled(serve: Callable[..., Served]) -> None:
    api = serve(AFTER_ASYNC, carrier="asgi", request_timeout=SECOND)
    assert api.client.get("/").status_code == 504
    api.client.post("/", json=1)
    api.wait_for_log("after")
    assert len([line for line in api.log() if line.get("text") == "after"]) == 1


@pytest.mark.parametrize("carrier", ["wsgi", "asgi"])
def test_what_a_plain_method_raises_too_late_is_logged(serve: Callable[..., Served], carrier: str) -> None:
    api = serve(AFTER, carrier=carrier, request_timeout=5 * SECOND)
    leave(api, "PUT", age=4, at=5.2, request_id="r")
    assert api.wait_for_log("the handler raised ValueError: of the handler")["request_id"] == "r"


def test_who_is_sent_away_at_the_deadline_while_a_batch_runs_was_answered_504(
    serve: Callable[..., Served],
) -> None:
    batching = {"max_batch_size": 4, "batch_interval": 0}
    api = serve(SLOW, carrier="asgi", request_timeout=5 * SECOND, server_side_batching=batching)
    leave(api, "POST", age=4, at=4.98, request_id="late")
    assert api.wait_for_access("late") == ["POST", "/", 504]
    leave(api, "POST", age=0, request_id="left")
    assert api.wait_for_access("left") == ["POST", "/", 499]


@pytest.mark.parametrize("carrier", ["asgi", "uvicorn"])
def test_a_call_is_ended_when_the_gateway_ends_its_request(
    serve: Callable[..., Served], carrier: str
) -> None:
    """What it waited on its way counts."""
    api = serve(WAITING, carrier=carrier, request_timeout=20 * SECOND)
    began = time.monotonic()
    ended = api.client.get("/", headers={"x-request-start": f"{time.time() - 19:.3f}"})
    assert ended.status_code == 504
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("carrier", ["wsgi", "asgi"])
def test_without_a_timeout_the_header_means_nothing(serve: Callable[..., Served], carrier: str) -> None:
    api = serve(CALLED, carrier=carrier)
    assert api.client.post("/", json=1, headers={"x-request-start": "1.5"}).text == "1"
