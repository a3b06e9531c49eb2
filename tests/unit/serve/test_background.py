"""A response on the background loop, taken chunk by chunk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest
from starlette.types import Receive, Scope, Send

from cortex_serve.background import Background, Exchange


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    background = Background()
    yield background.loop
    background.close()


def test_a_response_that_falls_silent_is_ended(loop: asyncio.AbstractEventLoop) -> None:
    cancelled = threading.Event()
    failures: list[BaseException] = []

    async def falls_silent(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()

    exchange = Exchange(loop, falls_silent, {"type": "http"}, failed=failures.append, chunk_within=0.05)

    assert exchange.start() == (200, [])
    assert next(exchange) == b"begun"
    with pytest.raises(TimeoutError, match=r"^the response sent nothing for 0\.05 seconds$"):
        next(exchange)
    assert cancelled.wait(5)


def test_what_a_response_raises_after_its_end_is_told_however_soon_it_does(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def fails_afterwards(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})
        raise ValueError("afterwards")

    failures: SimpleQueue[BaseException] = SimpleQueue()
    for _ in range(300):
        exchange = Exchange(loop, fails_afterwards, {"type": "http"}, failed=failures.put)
        assert exchange.start() == (200, [])
        assert list(exchange) == [b"whole"]
        exchange.close()
        assert str(failures.get(timeout=5)) == "afterwards"
