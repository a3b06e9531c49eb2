"""What counts as a call of the handler, and from when to when: the supervisor judges by it who hangs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from io import BytesIO
from typing import Any

import pytest

from cortex_serve.application import Application


class Silence:
    logger = logging.getLogger("silence")
    request_id: ContextVar[str] = ContextVar("request_id", default="")

    def access(self, *noted: Any) -> None: ...


class Seen:
    """Notes at which moments a call runs."""

    def __init__(self) -> None:
        self.moments: list[tuple[str, bool]] = []
        self.runs: Callable[[], bool] = lambda: False

    def __call__(self, moment: str) -> None:
        self.moments.append((moment, self.runs()))


class Body(BytesIO):
    """A body of a slow client."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(b"body")
        self._seen = seen

    def read(self, size: int | None = -1) -> bytes:
        self._seen("body")
        return super().read(size)


def watched(handler: Any, seen: Seen) -> Application:
    application = Application(handler, threads=1, log=Silence())
    seen.runs = lambda: application.stats.snapshot().oldest_call is not None
    return application


def _runs_on_thread(application: Application) -> bool:
    return application.stats.oldest_on_thread() is not None


def by_wsgi(application: Application, seen: Seen) -> None:
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "CONTENT_LENGTH": "4",
        "wsgi.input": Body(seen),
    }
    body = application.wsgi(environ, lambda *_: seen("start"))
    for _ in body:
        seen("sent")
    getattr(body, "close", lambda: None)()
    seen("end")


def by_asgi(application: Application, seen: Seen) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"bo", "more_body": True},
        {"type": "http.request", "body": b"dy"},
    ]

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.get_running_loop().create_future()
        seen("body")
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        seen("start" if message["type"] == "http.response.start" else "sent")

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(application.asgi(scope, receive, send))  # type: ignore[arg-type]  # a coroutine
    seen("end")


@pytest.mark.parametrize("carry", [by_wsgi, by_asgi])
def test_a_call_runs_from_its_body_to_its_return(carry: Callable[[Application, Seen], None]) -> None:
    seen = Seen()
    after = threading.Event()

    class Handler:
        def handle_post(self, payload: Any) -> Any:
            seen("call")
            return "value", callback

    def callback() -> None:
        seen("callback")
        after.set()

    application = watched(Handler(), seen)
    carry(application, seen)
    assert after.wait(5)
    application.close()

    assert ("call", True) in seen.moments
    assert {runs for moment, runs in seen.moments if moment != "call"} == {False}
    assert {moment for moment, _ in seen.moments} == {"body", "call", "start", "sent", "callback", "end"}


@pytest.mark.parametrize("carry", [by_wsgi, by_asgi])
def test_each_chunk_of_a_generator_is_a_call(carry: Callable[[Application, Seen], None]) -> None:
    seen = Seen()

    def chunks() -> Iterator[str]:
        seen("chunk")
        yield "1"
        seen("chunk")
        yield "2"

    class Handler:
        def handle_post(self, payload: Any) -> Any:
            return chunks()

    application = watched(Handler(), seen)
    carry(application, seen)
    application.close()

    assert [runs for moment, runs in seen.moments if moment == "chunk"] == [True, True]
    assert {runs for moment, runs in seen.moments if moment != "chunk"} == {False}


def test_coroutines_and_async_generators_run_on_the_loop() -> None:
    seen = Seen()

    class Handler:
        async def handle_post(self, payload: Any) -> Any:
            seen("call")
            await asyncio.sleep(0)
            seen("call")

            async def chunks() -> Any:
                seen("call")
                yield "1"
                await asyncio.sleep(0)
                seen("call")

            return chunks()

    application = watched(Handler(), seen)
    by_asgi(application, seen)
    application.close()

    assert [runs for moment, runs in seen.moments if moment == "call"] == [True] * 4
    assert {runs for moment, runs in seen.moments if moment != "call"} == {False}


def test_only_calls_on_threads_cannot_be_cancelled() -> None:
    seen = Seen()

    def chunks() -> Iterator[str]:
        seen("thread")
        yield "1"

    async def waiting_chunks() -> AsyncIterator[str]:
        seen("loop")
        yield "1"

    class Plain:
        def handle_post(self, payload: Any) -> Any:
            seen("thread")
            return chunks()

        async def handle_get(self) -> None: ...

    class Waiting:
        async def handle_post(self, payload: Any) -> Any:
            seen("loop")
            return waiting_chunks()

    for handler in (Plain(), Waiting()):
        application = watched(handler, seen)
        seen.runs = partial(_runs_on_thread, application)
        by_asgi(application, seen)
        application.close()

    assert [runs for moment, runs in seen.moments if moment == "thread"] == [True] * 2
    assert [runs for moment, runs in seen.moments if moment == "loop"] == [False] * 2


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("carry", [by_wsgi, by_asgi])
def test_a_call_that_raised_runs_no_longer(
    carry: Callable[[Application, Seen], None], error: type[BaseException]
) -> None:
    seen = Seen()

    class Handler:
        def handle_post(self, payload: Any) -> Any:
            raise error("of the handler")

    application = watched(Handler(), seen)
    carry(application, seen)
    application.close()

    assert {runs for _, runs in seen.moments} == {False}
    assert application.stats.snapshot().responses == {"5XX": 1}
    assert application.stats.snapshot().in_flight == 0


def test_a_thread_goes_on_when_its_request_was_ended() -> None:
    go_on = threading.Event()
    ended = threading.Event()

    class Handler:
        def handle_post(self, payload: Any) -> Any:
            go_on.wait(10)
            ended.set()

        async def handle_get(self) -> None: ...

    application = Application(Handler(), threads=1, log=Silence(), request_timeout=0.05)
    by_asgi(application, Seen())
    snapshot = application.stats.snapshot()
    assert snapshot.responses == {"5XX": 1}
    assert snapshot.oldest_call is not None, "the supervisor sees it"
    go_on.set()
    assert ended.wait(5)
    application.pool.shutdown()
    assert application.stats.snapshot().oldest_call is None
    application.close()
