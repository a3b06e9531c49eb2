"""`request_timeout`: what waits is ended, and nobody is called for who has been answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest

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
            try:
                await asyncio.sleep(30)
            finally:
                logger.info("get ended")

        async def handle_post(self, payload):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                raise ValueError("of the handler")

        async def handle_put(self):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return "swallowed"

        async def handle_patch(self):
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


@pytest.mark.parametrize("carrier", ["wsgi", "asgi"])
def test_without_a_timeout_the_header_means_nothing(serve: Callable[..., Served], carrier: str) -> None:
    api = serve(CALLED, carrier=carrier)
    assert api.client.post("/", json=1, headers={"x-request-start": "1.5"}).text == "1"
