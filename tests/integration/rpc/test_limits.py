"""Threads, waiting, deadlines, cancellation: who is called, who is refused, what stops when nobody waits any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.installation import wait_for
from support.talk import Served

PLAIN = """
    import threading, time
    from pathlib import Path
    from cortex_internal.lib.log import logger
    from shared.text_pb2 import Text

    gate = Path("../gate").absolute()


    class Handler:
        def __init__(self, config, proto_module_pb2):
            self.maker = threading.get_ident()
            self.running = self.most = 0
            self.lock = threading.Lock()

        def enter(self, step):
            with self.lock:
                self.running += step
                self.most = max(self.most, self.running)

        def wait(self):
            deadline = time.monotonic() + 20
            while gate.exists() and time.monotonic() < deadline:
                time.sleep(0.005)

        def Echo(self, payload, context):
            logger.info("called with %s", payload.text)
            self.enter(1)
            if payload.text.startswith("wait"):
                context.add_callback(lambda: logger.info("callback of %s", payload.text))
                self.wait()
                logger.info("%s is %s", payload.text, "active" if context.is_active() else "left")
                context.send_initial_metadata([("x-first", "1")])
            self.enter(-1)
            if payload.text == "most":
                return Text(text=str(self.most))
            return Text(text=str(threading.get_ident() == self.maker))

        def Count(self, payload, context):
            self.enter(1)
            number = 0
            try:
                while payload.text == "ever" or number < int(payload.text):
                    number += 1
                    yield Text(text="x" * 1000)
            finally:
                self.enter(-1)
                logger.info("closed on %s", threading.current_thread().name)

        def Join(self, payload):
            self.enter(1)
            logger.info("joining")
            try:
                return Text(text=" ".join(each.text for each in payload))
            finally:
                self.enter(-1)
                logger.info("joined")

        def Chat(self, payload):
            for each in payload:
                yield Text(text=each.text)

        def Nothing(self): ...
"""

ASYNC = """
    import asyncio
    from pathlib import Path
    from cortex_internal.lib.log import logger
    from shared.text_pb2 import Text


    class Handler:
        def __init__(self, config, proto_module_pb2):
            pass

        async def Echo(self, payload):
            if payload.text.startswith("wait"):
                logger.info("called with %s", payload.text)
                try:
                    await asyncio.sleep(20)
                except asyncio.CancelledError:
                    logger.info("cancelled %s", payload.text)
                    raise
            return Text(text="done")

        async def Count(self, payload):
            try:
                while True:
                    yield Text(text="x")
                    await asyncio.sleep(0.001)
            finally:
                logger.info("closed")

        async def Join(self, payload):
            return Text(text=" ".join([each.text async for each in payload]))

        def Chat(self, payload):
            for each in payload:
                yield Text(text=each.text)

        def Nothing(self): ...
"""


def code_of(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call.result(timeout=20)
    error: Any = caught.value
    return error.code()


@pytest.mark.parametrize("threads", [1, 3])
def test_so_many_calls_at_a_time_as_there_are_threads(
    serve: Callable[..., Served], gate: Callable[..., Any], threads: int
) -> None:
    api = serve(PLAIN, threads=threads)
    with gate():
        calls = [api.stub.Echo.future(api.text(f"wait {number}")) for number in range(10)]
        wait_for(lambda: len(called(api)) == threads, within=10, what="all threads are busy")
        assert not [call for call in calls if call.done()]
        assert health(api) == health_pb2.HealthCheckResponse.SERVING
    on_the_constructors_thread = {call.result(timeout=10).text for call in calls}
    assert threads > 1 or on_the_constructors_thread == {"True"}
    assert api.stub.Echo(api.text("most")).text == str(threads)
    assert sorted(called(api)) == ["most", *(f"wait {number}" for number in range(10))]


def health(api: Served) -> Any:
    return health_pb2_grpc.HealthStub(api.channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status


def called(api: Served) -> list[str]:
    """What Echo was called with, in order."""
    texts = [line.get("text", "") for line in api.log()]
    return [text.removeprefix("called with ") for text in texts if text.startswith("called with ")]


def test_more_than_may_wait_are_refused_at_once(
    serve: Callable[..., Served], gate: Callable[..., Any]
) -> None:
    api = serve(PLAIN, threads=1, max_in_flight=5)
    with gate():
        calls = [api.stub.Echo.future(api.text("wait")) for _ in range(5)]
        wait_for(lambda: called(api), within=10, what="the thread is busy")
        probe = api.stub.Echo.future(api.text("wait"))
        assert code_of(probe) is grpc.StatusCode.UNAVAILABLE
        assert probe.details() == "5 requests are being answered already; try again"
        trailing = dict(probe.trailing_metadata())
        assert trailing["grpc-retry-pushback-ms"] == "1000"
        assert api.wait_for_access(trailing["x-request-id"]) == ("/tested.Talk/Echo", 503)
    for call in calls:
        assert call.result(timeout=10).text == "True"
    assert api.stub.Echo(api.text("again")).text == "True"


def test_who_has_left_while_waiting_is_not_called(
    serve: Callable[..., Served], gate: Callable[..., Any]
) -> None:
    api = serve(PLAIN, threads=1)
    with gate():
        first = api.stub.Echo.future(api.text("wait"))
        wait_for(lambda: called(api), within=10, what="the thread is busy")
        too_late = api.stub.Echo.future(api.text("too late"), timeout=0.2)
        gone = api.stub.Echo.future(api.text("gone"), metadata=(("x-request-id", "gone"),))
        assert code_of(too_late) is grpc.StatusCode.DEADLINE_EXCEEDED
        gone.cancel()
        health(api)  # an answer to what was sent after it: the server has seen it
    assert first.result(timeout=10)
    assert api.wait_for_access("gone") == ("/tested.Talk/Echo", 499)
    assert api.stub.Echo(api.text("last")).text == "True"
    assert called(api) == ["wait", "last"]


def test_a_plain_method_learns_that_its_client_has_left(
    serve: Callable[..., Served], gate: Callable[..., Any]
) -> None:
    api = serve(PLAIN, threads=1)
    with gate():
        call = api.stub.Echo.future(api.text("wait 1"), metadata=(("x-request-id", "left"),))
        wait_for(lambda: called(api), within=10, what="the method runs")
        call.cancel()
        api.wait_for_log("callback of wait 1")
        assert not [line for line in api.log(request_id="left") if "access" in line]  # it has not ended
    api.wait_for_log("wait 1 is left")
    assert api.wait_for_access("left") == ("/tested.Talk/Echo", 499)
    assert not [line for line in api.log(request_id="left") if line.get("level") == "ERROR"]


def test_a_generator_is_closed_when_its_client_leaves(serve: Callable[..., Served]) -> None:
    api = serve(PLAIN, threads=1)
    stream = api.stub.Count(api.text("ever"), metadata=(("x-request-id", "left"),))
    for _ in range(10):
        next(stream)
    stream.cancel()
    assert api.wait_for_log("closed on ")["text"] == "closed on cortex-handler_0"
    assert api.wait_for_access("left") == ("/tested.Talk/Count", 499)
    assert api.stub.Echo(api.text("free")).text == "True"


def test_a_stream_of_requests_ends_when_its_client_leaves(serve: Callable[..., Served]) -> None:
    api = serve(PLAIN, threads=1)
    leaving = threading.Event()

    def requests() -> Iterator[Any]:
        yield api.text("a")
        leaving.wait(20)

    call = api.stub.Join.future(requests(), metadata=(("x-request-id", "left"),))
    api.wait_for_log("joining")
    waiting = api.stub.Echo.future(api.text("next"))
    time.sleep(0.2)
    assert not waiting.done()  # a stream has a thread to itself
    call.cancel()
    leaving.set()
    api.wait_for_log("joined")
    assert api.wait_for_access("left") == ("/tested.Talk/Join", 499)
    assert waiting.result(timeout=10).text == "True"
    assert not [line for line in api.log(request_id="left") if line.get("level") == "ERROR"]


def test_a_slow_reader_makes_the_generator_wait(serve: Callable[..., Served]) -> None:
    api = serve(PLAIN, threads=2)
    stream = api.stub.Count(api.text("20000"))
    next(stream)
    time.sleep(0.5)
    assert "closed" not in "".join(line.get("text", "") for line in api.log())
    assert sum(1 for _ in stream) == 19_999


def test_a_request_that_never_comes_takes_no_thread(serve: Callable[..., Served]) -> None:
    api = serve(PLAIN, threads=1)
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(20)
        yield from ()

    opened = api.channel.stream_unary("/tested.Talk/Echo").future(nothing())
    assert api.stub.Echo(api.text("not stuck"), timeout=10).text == "True"
    opened.cancel()
    never.set()


def test_the_apis_own_deadline(serve: Callable[..., Served], gate: Callable[..., Any]) -> None:
    api = serve(PLAIN, threads=2, request_timeout=1_000_000_000)
    with gate():
        began = time.monotonic()
        call = api.stub.Echo.future(api.text("wait"))
        assert code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.9 < time.monotonic() - began < 5
        assert call.details() == "it took longer than 1 s"
        assert dict(call.trailing_metadata())["x-request-id"]
    stream = api.stub.Count(api.text("ever"), metadata=(("x-request-id", "long"),))
    with pytest.raises(grpc.RpcError) as caught:
        for _ in stream:
            pass
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert api.wait_for_access("long") == ("/tested.Talk/Count", 504)
    api.wait_for_log("closed on ")


def test_coroutines_are_cancelled(serve: Callable[..., Served]) -> None:
    api = serve(ASYNC, threads=1)
    call = api.stub.Echo.future(api.text("wait a"), metadata=(("x-request-id", "a"),))
    deadline = api.stub.Echo.future(api.text("wait b"), timeout=0.5)
    api.wait_for_log("called with wait a")
    assert api.stub.Echo(api.text()).text == "done"
    assert [each.text for each in api.stub.Chat(map(api.text, "ab"))] == ["a", "b"]
    call.cancel()
    assert api.wait_for_log("cancelled wait a")["request_id"] == "a"
    assert code_of(deadline) is grpc.StatusCode.DEADLINE_EXCEEDED
    api.wait_for_log("cancelled wait b")
    assert api.wait_for_access("a") == ("/tested.Talk/Echo", 499)
    stream = api.stub.Count(api.text())
    next(stream)
    stream.cancel()
    api.wait_for_log("closed")


def test_coroutines_have_a_deadline_too(serve: Callable[..., Served]) -> None:
    api = serve(ASYNC, threads=1, request_timeout=1_000_000_000)
    call = api.stub.Echo.future(api.text("wait"))
    assert code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
    api.wait_for_log("cancelled wait")
    assert "the handler raised" not in str(api.log())


def test_a_coroutine_that_does_not_mind_being_cancelled_is_late_all_the_same(
    serve: Callable[..., Served],
) -> None:
    stubborn = ASYNC.replace("raise\n", "pass\n")
    api = serve(stubborn, threads=1, request_timeout=1_000_000_000)
    call = api.stub.Echo.future(api.text("wait"), metadata=(("x-request-id", "late"),))
    assert code_of(call) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert api.wait_for_access("late") == ("/tested.Talk/Echo", 504)
