"""The bridge between RPCs and methods, without a network: a fake stands for grpcio's context."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue

from cortex_core.runtime import NOT_BEGUN
from cortex_serve.request_ids import RequestIds
from cortex_serve.rpc.calls import Calls
from cortex_serve.rpc.method import Method
from cortex_serve.rpc.service import Rpc, Service
from cortex_serve.rpc.threads import HandlerThreads
from cortex_serve.stats import Stats


class FakeLog:
    """Attributes: accesses: path and status of each RPC that has ended."""

    def __init__(self) -> None:
        self.logger = logging.Logger("test")
        self.request_id: ContextVar[str] = ContextVar("request_id", default="")
        self.accesses: list[tuple[str, int]] = []

    def access(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        self.accesses.append((path, status))


class Ended(Exception):
    """What `abort` raises."""


class FakeContext:
    """grpcio's context of an RPC; it keeps what is sent."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.sent: list[str] = []
        self.status: tuple[Any, str] | None = None
        self.trailing: dict[str, Any] = {}
        self.remaining: float | None = None
        self.has_left = False

    def time_remaining(self) -> float | None:
        return self.remaining

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-request-id", "one"),)

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = dict(metadata)

    async def read(self) -> Any:
        return self._request

    async def write(self, message: bytes) -> None:
        if self.has_left:
            raise grpc.aio.InternalError("the batch failed")
        self.sent.append(StringValue.FromString(message).value)

    async def abort(self, code: Any, details: str, metadata: Any) -> None:
        self.status = (code, details)
        self.trailing = dict(metadata)
        raise Ended


class Handler:
    """A handler with an RPC of each form."""

    def First(self, payload: Any) -> Any:
        return StringValue(value=f"first {payload.value}")

    def Second(self, payload: Any, context: Any) -> Any:
        return StringValue(value=f"second {payload.value}")

    async def Third(self, *, payload: Any) -> Any:
        return StringValue(value=f"third {payload.value}")

    def Many(self, payload: Any) -> Any:
        for number in range(int(payload.value)):
            yield StringValue(value=str(number))

    def All(self, payload: Any) -> Any:
        return StringValue(value="".join(each.value for each in payload))

    def Wrong(self, payload: Any) -> Any:
        return Int64Value(value=1)


def rpc(name: str, *, takes_stream: bool = False, gives_stream: bool = False) -> Rpc:
    return Rpc(
        name=name,
        request=StringValue,
        response=StringValue,
        takes_stream=takes_stream,
        gives_stream=gives_stream,
    )


RPCS = (
    *map(rpc, ("First", "Second", "Third", "Wrong")),
    rpc("Many", gives_stream=True),
    rpc("All", takes_stream=True),
)


class Site:
    """Calls for a handler, and ways to make them."""

    def __init__(self, handler: object, *, max_in_flight: int = 10, timeout: float | None = None) -> None:
        self.log = FakeLog()
        self.stats = Stats()
        self.turns_away = False
        self.threads = HandlerThreads(1)
        service = Service(name="tested.Service", rpcs=RPCS)
        methods = {
            each.name: Method(each, getattr(handler, each.name))
            for each in RPCS
            if hasattr(handler, each.name)
        }
        self.calls = Calls(
            service,
            methods,
            threads=self.threads,
            stats=self.stats,
            log=self.log,
            begin=None,
            request_id=RequestIds().of,
            timeout=timeout,
            unary_timeout=20,
            max_in_flight=max_in_flight,
            turns_away=lambda: self.turns_away,
        )
        self._handlers = self.calls.handlers()

    async def call(
        self, name: str, request: Any, *, remaining: float | None = None, has_left: bool = False
    ) -> tuple[str | None, FakeContext]:
        """The message of the answer if it has one, and the context, in a task of its own as grpcio does."""
        details: Any = type("Details", (), {"method": f"/tested.Service/{name}", "invocation_metadata": ()})
        handler = self._handlers.service(details)
        behavior = handler.stream_unary or handler.stream_stream
        context = FakeContext(request)
        context.remaining, context.has_left = remaining, has_left
        try:
            message = await asyncio.ensure_future(behavior(request, context))
        except Ended:
            message = None
        return (None if message is None else StringValue.FromString(message).value), context


def message(text: str) -> bytes:
    return StringValue(value=text).SerializeToString()


async def messages(*texts: str) -> AsyncIterator[bytes]:
    for text in texts:
        yield message(text)


def run(test: Callable[..., Coroutine[Any, Any, None]], handler: object = Handler(), **options: Any) -> None:
    async def main() -> None:
        site = Site(handler, **options)
        await asyncio.wait_for(test(site), 20)
        site.threads.close()

    asyncio.run(main())


def test_d05_each_rpc_has_its_own_method() -> None:
    async def test(site: Site) -> None:
        for name in ("First", "Second", "Third"):
            answer, context = await site.call(name, message("x"))
            assert answer == f"{name.lower()} x"
            assert context.trailing == {"x-request-id": "one"}
        assert site.log.accesses == [
            (f"/tested.Service/{name}", 200) for name in ("First", "Second", "Third")
        ]
        assert site.stats.snapshot().in_flight == 0

    run(test)


def test_streams() -> None:
    async def test(site: Site) -> None:
        answer, context = await site.call("Many", message("20"))
        assert answer is None
        assert context.sent == [str(number) for number in range(20)]
        assert (await site.call("All", messages("a", "b")))[0] == "ab"

    run(test)


@pytest.mark.parametrize(
    ("name", "request_", "code", "status"),
    [
        ("Wrong", message("x"), grpc.StatusCode.INTERNAL, 500),
        ("Many", message("x"), grpc.StatusCode.INTERNAL, 500),
        ("First", b"\xff", grpc.StatusCode.INVALID_ARGUMENT, 400),
        ("Third", b"\xff", grpc.StatusCode.INVALID_ARGUMENT, 400),
    ],
)
def test_failures(name: str, request_: bytes, code: Any, status: int) -> None:
    async def test(site: Site) -> None:
        _, context = await site.call(name, request_)
        assert context.status is not None
        assert context.status[0] is code
        assert site.log.accesses == [(f"/tested.Service/{name}", status)]

    run(test)


def test_more_than_may_wait_are_refused_and_whoever_left_counts_until_the_method_has_ended() -> None:
    gate = asyncio.Event()

    class Slow(Handler):
        def First(self, payload: Any, context: Any) -> Any:
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(20)
            return StringValue()

    loop: Any = None

    async def test(site: Site) -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(site.call("First", message("")))
        while site.stats.snapshot().oldest_call is None:
            await asyncio.sleep(0)
        first.cancel()
        while not first.done():
            await asyncio.sleep(0)
        assert site.stats.snapshot().in_flight == 1
        _, context = await site.call("Third", message(""))
        assert context.status is not None
        assert context.status[0] is grpc.StatusCode.UNAVAILABLE
        assert context.trailing["grpc-retry-pushback-ms"] == "1000"
        assert NOT_BEGUN not in context.trailing, "the gateway would send it again, whose limits it exceeds"
        gate.set()
        while site.stats.snapshot().in_flight:
            await asyncio.sleep(0)
        assert (await site.call("Third", message("x")))[0] == "third x"
        assert [status for _, status in site.log.accesses] == [503, 499, 200]

    run(test, Slow(), max_in_flight=1)


def test_who_comes_while_a_call_may_hang_is_sent_elsewhere() -> None:
    async def test(site: Site) -> None:
        site.turns_away = True
        message_, context = await site.call("First", message(""))
        assert message_ is None
        assert context.status is not None
        assert context.status[0] is grpc.StatusCode.UNAVAILABLE
        assert context.trailing[NOT_BEGUN] == "1"
        site.turns_away = False
        assert (await site.call("Third", message("x")))[0] == "third x"
        assert [status for _, status in site.log.accesses] == [503, 200]

    run(test, Handler())


def test_whose_deadline_has_passed_is_not_called() -> None:
    called: list[Any] = []

    class Noting(Handler):
        def First(self, payload: Any) -> Any:
            called.append(payload)
            return StringValue()

    async def test(site: Site) -> None:
        with pytest.raises(asyncio.CancelledError):
            await site.call("First", message("late"), remaining=0)
        await site.call("First", message("in time"), remaining=0.1)
        assert [each.value for each in called] == ["in time"]
        assert [status for _, status in site.log.accesses] == [504, 200]

    run(test, Noting())


def test_what_can_no_longer_be_sent_is_no_failure_of_the_handler() -> None:
    class Coroutines(Handler):
        async def Many(self, payload: Any) -> Any:
            yield StringValue()

    async def test(site: Site) -> None:
        with pytest.raises(asyncio.CancelledError):
            await site.call("Many", message("3"), has_left=True)
        while site.stats.snapshot().in_flight:
            await asyncio.sleep(0)
        assert site.log.accesses == [("/tested.Service/Many", 499)]

    run(test)
    run(test, Coroutines())


def test_waiting_for_the_client_is_no_running() -> None:
    more = asyncio.Event()
    taken: list[str] = []

    class Noting(Handler):
        def All(self, payload: Any) -> Any:
            taken.extend(each.value for each in payload)
            return StringValue(value="".join(taken))

    async def slowly() -> AsyncIterator[bytes]:
        yield message("a")
        await more.wait()
        yield message("b")

    async def test(site: Site) -> None:
        call = asyncio.ensure_future(site.call("All", slowly()))
        while not taken or site.stats.snapshot().oldest_call is not None:
            await asyncio.sleep(0)
        more.set()
        assert (await call)[0] == "ab"

    run(test, Noting())
