"""A request from its first byte to its answer, over a server that the test plays."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from cortex_core.spec.types import ServerSideBatching
from cortex_serve.application import Application

WITHIN = 20.0


class Log:
    logger = logging.getLogger("silence")
    request_id: ContextVar[str] = ContextVar("request_id", default="")

    def __init__(self) -> None:
        self.accessed: list[tuple[str, int]] = []

    def access(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        self.accessed.append((request_id, status))


class Exchange:
    """A request whose messages the test sends, one after the other."""

    def __init__(
        self, headers: dict[str, str] | None = None, *, method: str = "POST", path: str = "/"
    ) -> None:
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.scope: dict[str, Any] = {
            "type": "http", "method": method, "path": path, "query_string": b"q=1", "headers": raw,
        }  # fmt: skip
        self.loop: Any = None
        self.receive: Any = None
        self.send: Any = None
        self.heard: Callable[[dict[str, Any]], None] | None = None
        self.answered = threading.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    def listen(self, heard: Callable[[dict[str, Any]], None]) -> None:
        self.heard = heard

    def forget(self) -> None:
        self.heard = None

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        assert not self.answered.is_set(), "answered twice"
        self.status, self.body = status, body
        self.headers = {name.decode(): value.decode() for name, value in headers}
        self.answered.set()

    def says(self, **message: Any) -> None:
        """The server has a message for who listens."""
        assert self.heard is not None, "nobody listens"
        heard, self.heard = self.heard, None
        heard(message)

    def sends(self, body: bytes, *, more: bool = False) -> None:
        self.says(type="http.request", body=body, more_body=more)

    def goes(self) -> None:
        self.says(type="http.disconnect")

    def wait(self) -> tuple[int, bytes]:
        assert self.answered.wait(WITHIN), "not answered"
        return self.status, self.body


class Handler:
    def __init__(self) -> None:
        self.free = threading.Event()
        self.free.set()
        self.batches: list[list[Any]] = []

    def handle_post(self, payload: list[Any], query_params: list[Any]) -> list[Any]:
        self.batches.append(payload)
        assert self.free.wait(WITHIN)
        return [[each.decode(), query["q"]] for each, query in zip(payload, query_params, strict=True)]

    def handle_get(self) -> None: ...


class Desk:
    def __init__(self, handler: Any, **options: Any) -> None:
        self.log = Log()
        spec = ServerSideBatching(max_batch_size=4)
        self.application = Application(handler, threads=1, log=self.log, batching=spec, **options)

    def take(self, exchange: Exchange) -> Exchange:
        assert self.application.batching is not None
        assert self.application.batching(exchange)
        return exchange

    def in_flight(self) -> int:
        return self.application.stats.snapshot().in_flight


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(handler: Any, **options: Any) -> Desk:
        desks.append(Desk(handler, **options))
        return desks[-1]

    yield make
    for each in desks:
        each.application.close()


def test_a_body_of_declared_length(desk: Callable[..., Desk]) -> None:
    one = desk(Handler())
    exchange = one.take(Exchange({"content-length": "4", "x-request-id": "mine"}))
    exchange.sends(b"da", more=True)
    exchange.sends(b"ta", more=True)

    assert exchange.wait() == (200, b'["data","1"]')
    assert exchange.headers["content-length"] == "12"
    assert exchange.headers["x-request-id"] == "mine"
    assert exchange.headers["content-type"] == "application/json"
    wait_until(lambda: one.log.accessed == [("mine", 200)])
    assert one.in_flight() == 0
    assert one.application.stats.snapshot().responses == {"2XX": 1}


def test_a_body_without_length(desk: Callable[..., Desk]) -> None:
    exchange = desk(Handler()).take(Exchange())
    exchange.sends(b"a", more=True)
    exchange.sends(b"b")

    assert exchange.wait() == (200, b'["ab","1"]')


def test_no_body(desk: Callable[..., Desk]) -> None:
    exchange = desk(Handler()).take(Exchange())
    exchange.sends(b"")

    assert exchange.wait() == (200, b'["","1"]')


@pytest.mark.parametrize("headers", [{"content-length": "7"}, {}])
def test_bodies_that_are_too_large(desk: Callable[..., Desk], headers: dict[str, str]) -> None:
    one = desk(Handler(), max_body_bytes=6)
    exchange = one.take(Exchange(headers))
    if not headers:
        exchange.sends(b"123456", more=True)
        exchange.sends(b"7", more=True)

    assert exchange.wait()[0] == 413
    assert one.in_flight() == 0


def test_bodies_that_end_early(desk: Callable[..., Desk]) -> None:
    one = desk(Handler())
    short = one.take(Exchange({"content-length": "7"}))
    short.sends(b"123")
    assert short.wait()[0] == 400
    broken = one.take(Exchange({"content-length": "7"}))
    broken.sends(b"123", more=True)
    broken.goes()
    assert broken.wait()[0] == 400
    assert one.in_flight() == 0


def test_json_is_read_before_the_batch(desk: Callable[..., Desk]) -> None:
    handler = Handler()
    exchange = desk(handler).take(Exchange({"content-type": "application/json"}))
    exchange.sends(b"{")

    assert exchange.wait()[0] == 400
    assert not handler.batches


def test_who_goes_while_waiting(desk: Callable[..., Desk]) -> None:
    handler = Handler()
    handler.free.clear()
    one = desk(handler)
    first, goes, stays = (one.take(Exchange()) for _ in range(3))
    first.sends(b"first")
    wait_until(lambda: bool(handler.batches))
    for exchange, body in ((goes, b"goes"), (stays, b"stays")):
        exchange.sends(body)
    goes.goes()
    assert one.in_flight() == 2
    handler.free.set()

    assert stays.wait() == (200, b'["stays","1"]')
    assert handler.batches == [[b"first"], [b"stays"]]
    assert not goes.answered.is_set()
    assert one.application.stats.snapshot().client_closed == 1


def test_what_is_heard_after_the_body_is_not_the_end(desk: Callable[..., Desk]) -> None:
    handler = Handler()
    handler.free.clear()
    one = desk(handler)
    exchange = one.take(Exchange({"content-length": "4"}))
    exchange.sends(b"data", more=True)
    exchange.sends(b"")
    handler.free.set()

    assert exchange.wait()[0] == 200


def test_a_method_that_does_not_want_the_body(desk: Callable[..., Desk]) -> None:
    class Counts:
        def handle_post(self, query_params: list[Any]) -> list[Any]:
            return [query["q"] for query in query_params]

    exchange = desk(Counts()).take(Exchange({"content-length": "3"}))
    exchange.sends(b"abc")
    assert exchange.wait() == (200, b"1")


def test_a_method_that_wants_nothing(desk: Callable[..., Desk]) -> None:
    class Nothing:
        def handle_post(self) -> list[Any]:
            return ["one"]

    assert desk(Nothing()).take(Exchange()).wait() == (200, b"one")


def test_a_request_that_was_answered_by_the_gateway_already(desk: Callable[..., Desk]) -> None:
    handler = Handler()
    exchange = desk(handler, request_timeout=5.0).take(Exchange({"x-request-start": "1000000000.0"}))
    exchange.sends(b"late")

    assert exchange.wait()[0] == 504
    assert not handler.batches


def test_too_many(desk: Callable[..., Desk]) -> None:
    handler = Handler()
    handler.free.clear()
    one = desk(handler, max_in_flight=2)
    exchanges = [one.take(Exchange()) for _ in range(3)]
    for exchange in exchanges:
        exchange.sends(b"a")

    assert exchanges[2].wait()[0] == 503
    assert exchanges[2].headers["retry-after"] in ("1", "2")
    handler.free.set()
    assert [exchange.wait()[0] for exchange in exchanges] == [200, 200, 503]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/info"), ("OPTIONS", "/")])
def test_what_is_not_batched(desk: Callable[..., Desk], method: str, path: str) -> None:
    application = desk(Handler()).application

    assert application.batching is not None
    assert not application.batching(Exchange(method=method, path=path))


def test_nothing_else_calls_the_method(desk: Callable[..., Desk]) -> None:
    """Another server, that knows nothing of batches, does not hand single requests to a method that wants lists."""
    handler = Handler()
    application = desk(handler).application
    sent: list[Any] = []
    body = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        return body.pop() if body else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(application.asgi(Exchange().scope, receive, send))  # type: ignore[arg-type]  # a coroutine
    assert sent[0]["status"] == 500
    assert not handler.batches
    assert application.is_async
    with pytest.raises(RuntimeError):
        _ = application.wsgi


def wait_until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(int(WITHIN / 0.002)):
        if condition():
            return
        pause.wait(0.002)
    raise AssertionError("it never came true")
