"""Each RPC has one access line, with the status it ended with; a method knows how much time there is until then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from support.talk import Served

from cortex_serve.rpc.serving import MAX_MESSAGE_BYTES

PLAIN = """
    import time
    from pathlib import Path
    from cortex_internal.lib.log import logger
    from shared.text_pb2 import Text

    gate = Path("../gate").absolute()


    class Handler:
        def __init__(self, config, proto_module_pb2):
            pass

        def Echo(self, payload, context):
            logger.info("called with %s", payload.text)
            while payload.text == "wait" and gate.exists():
                time.sleep(0.005)
            return Text(text=str(context.time_remaining()))

        def Count(self, payload, context):
            yield Text(text=str(context.time_remaining()))
            while payload.text == "wait" and gate.exists():
                time.sleep(0.005)
                yield Text()

        def Join(self, payload):
            return Text(text=" ".join(each.text for each in payload))

        def Chat(self, payload): ...

        def Nothing(self): ...
"""
ASYNC = (
    PLAIN.replace("import time", "import asyncio")
    .replace("time.sleep", "await asyncio.sleep")
    .replace("each.text for each", "[each.text async for each")
    .replace("in payload))", "in payload]))")
    .replace(" def ", " async def ")
    .replace("async def __init__", "def __init__")
)
BLOCKING = ASYNC.replace("await asyncio.sleep", "__import__('time').sleep")
"""While a method waits, the event loop stands still."""

LATE, CANCELLED = 504, 499


@pytest.fixture(params=("plain", "async"))
def api(request: pytest.FixtureRequest, serve: Callable[..., Served]) -> Served:
    return serve(PLAIN if request.param == "plain" else ASYNC, threads=1)


def named(name: str) -> Any:
    return (("x-request-id", name),)


def ends_late(wait: Callable[[], Any]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        wait()
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def seen_all(api: Served) -> None:
    """Wait for an answer to what is sent now: the server has seen all that was sent before."""
    api.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)


def lines_of(api: Served, name: str) -> list[int]:
    """Statuses of its access lines, once there is one and one of an RPC after it."""
    api.wait_for_access(name)
    last = f"after-{name}"
    api.stub.Echo(api.text(), metadata=named(last), timeout=20)
    api.wait_for_access(last)
    return [line["access"][2] for line in api.log(request_id=name) if "access" in line]


def test_a_deadline_or_a_cancellation_while_the_method_runs_or_waits_for_its_turn(
    api: Served, gate: Callable[[], Any]
) -> None:
    with gate():
        running = api.stub.Echo.future(api.text("wait"), timeout=1.0, metadata=named("running"))
        api.wait_for_log("called with wait")
        waiting = api.stub.Echo.future(api.text("wait"), timeout=1.0, metadata=named("waiting"))
        given_up = api.stub.Echo.future(api.text("wait"), timeout=60.0, metadata=named("given-up"))
        ends_late(running.result)
        ends_late(waiting.result)
        given_up.cancel()
        seen_all(api)
    assert [lines_of(api, name) for name in ("running", "waiting")] == [[LATE], [LATE]]
    assert lines_of(api, "given-up") == [CANCELLED]


def test_a_deadline_or_a_cancellation_in_a_stream(api: Served, gate: Callable[[], Any]) -> None:
    with gate():
        ends_late(lambda: list(api.stub.Count(api.text("wait"), timeout=1.0, metadata=named("late"))))
        stream = api.stub.Count(api.text("wait"), timeout=60.0, metadata=named("given-up"))
        next(stream)
        stream.cancel()
        seen_all(api)
    assert lines_of(api, "late") == [LATE]
    assert lines_of(api, "given-up") == [CANCELLED]


@pytest.mark.parametrize("method", ["Echo", "Join"])
def test_a_request_that_never_comes(api: Served, method: str) -> None:
    ended = threading.Event()

    def nothing() -> Iterator[bytes]:
        ended.wait(20)
        yield from ()

    ask = api.channel.stream_unary(f"/tested.Talk/{method}")
    late = ask.future(nothing(), timeout=1.0, metadata=named("late"))
    ends_late(late.result)
    given_up = ask.future(nothing(), timeout=60.0, metadata=named("given-up"))
    seen_all(api)
    given_up.cancel()
    ended.set()
    assert lines_of(api, "late") == [LATE]
    assert lines_of(api, "given-up") == [CANCELLED]


@pytest.mark.parametrize("method", ["Echo", "Join"])
def test_a_message_that_is_too_large(api: Served, method: str) -> None:
    """grpcio tells its client, and the server no more than that the RPC is over."""
    large = b"\0" * (MAX_MESSAGE_BYTES + 1)
    call = api.channel.stream_unary(f"/tested.Talk/{method}").future(iter([large]), metadata=named("large"))
    with pytest.raises(grpc.RpcError) as caught:
        call.result(timeout=20)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert lines_of(api, "large") == [CANCELLED]


def test_a_request_without_a_message(api: Served) -> None:
    call = api.channel.stream_unary("/tested.Talk/Echo").future(iter(()), timeout=20, metadata=named("empty"))
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "the request has no message, and must have one of type shared.Text"
    assert lines_of(api, "empty") == [400]


def test_a_deadline_while_the_event_loop_stands_still(
    serve: Callable[..., Served], gate: Callable[[], Any]
) -> None:
    api = serve(BLOCKING, threads=1)
    with gate():
        running = api.stub.Echo.future(api.text("wait"), metadata=named("running"))
        api.wait_for_log("called with wait")
        late = [
            api.stub.Echo.future(api.text(), timeout=0.2, metadata=named(f"late-{number}"))
            for number in range(10)
        ]
        for call in late:
            ends_late(call.result)
    assert running.result(timeout=20)
    assert [lines_of(api, f"late-{number}") for number in range(10)] == [[LATE]] * 10
    assert lines_of(api, "running") == [200]


@pytest.mark.parametrize("source", [PLAIN, ASYNC], ids=["plain", "async"])
def test_the_time_that_remains_is_the_clients_or_the_apis(serve: Callable[..., Served], source: str) -> None:
    api = serve(source, threads=1, request_timeout=30 * 10**9)

    def remaining(method: str, timeout: float | None) -> float:
        call = getattr(api.stub, method)(api.text(), timeout=timeout)
        return float(call.text if method == "Echo" else next(call).text)

    for method in ("Echo", "Count"):
        assert 25 < remaining(method, None) <= 30
        assert 25 < remaining(method, 60) <= 30
        assert 5 < remaining(method, 9.5) <= 9.51  # what a deadline is rounded to on the way


def test_without_a_limit_of_the_api(serve: Callable[..., Served]) -> None:
    api = serve(PLAIN, threads=1)
    assert 3500 < float(api.stub.Echo(api.text(), timeout=None).text) <= 3600
    assert next(api.stub.Count(api.text(), timeout=None)).text == "None"
