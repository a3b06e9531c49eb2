"""C-75 over gRPC: who leaves finishes what has begun, and fails nobody on the way."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.talk import Served

SOURCE = """
    import time
    from shared.text_pb2 import Text


    class Handler:
        def __init__(self, config, proto_module_pb2):
            pass

        def Echo(self, payload):
            if payload.text.isdigit():
                time.sleep(int(payload.text) / 1000)
            return payload

        def Count(self, payload):
            for number in range(int(payload.text)):
                time.sleep(0.05)
                yield Text(text=str(number))

        def Join(self, payload):
            return Text(text=" ".join(each.text for each in payload))

        def Chat(self, payload):
            for each in payload:
                yield each

        def Nothing(self): ...
"""

ASYNC = (
    SOURCE.replace("import time", "import asyncio")
    .replace("def Echo", "async def Echo")
    .replace("def Count", "async def Count")
    .replace("time.sleep", "await asyncio.sleep")
)


@pytest.mark.parametrize("source", [SOURCE, ASYNC], ids=["plain", "async"])
def test_what_has_begun_is_finished(serve: Callable[..., Served], source: str) -> None:
    api = serve(source, threads=3)
    call = api.stub.Echo.future(api.text("1000"))
    stream = api.stub.Count(api.text("40"))
    assert next(stream).text == "0"
    went = threading.Event()

    def words() -> Any:
        yield api.text("a")
        went.wait(20)
        yield api.text("b")

    joined = api.stub.Join.future(words())
    api.process.send_signal(signal.SIGTERM)
    time.sleep(1)
    went.set()
    assert call.result(timeout=10).text == "1000"
    assert joined.result(timeout=10).text == "a b"
    assert [each.text for each in stream] == [str(number) for number in range(1, 40)]
    assert api.process.wait(10) == 0
    assert "'2XX': 3" in str(api.log()[-1])


def test_nobody_is_failed_when_workers_replace_each_other(serve: Callable[..., Served]) -> None:
    """Clients that keep calling, on one connection each, go over to the next worker, as a proxy does."""
    workers = [serve(SOURCE, threads=2)]
    stubs = workers[0].stubs
    newest = workers[0]
    finished = threading.Event()
    failures: list[str] = []

    def call_on() -> int:
        count = 0
        target = newest
        stub = stubs.stub(channel := target.connect())
        while not finished.is_set():
            if target is not newest:  # told by health or by discovery, before GOAWAY
                channel.close()
                target = newest
                channel = target.connect()
                stub = stubs.stub(channel)
            try:
                assert stub.Echo(stubs.Text(text=f"n{count}"), timeout=20).text == f"n{count}"
            except grpc.RpcError as error:
                failures.append(str(error))
            count += 1
        channel.close()
        return count

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(call_on) for _ in range(4)]
        try:
            for _ in range(2):
                time.sleep(0.3)
                leaving, newest = newest, serve(SOURCE, threads=2)
                workers.append(newest)
                leaving.process.send_signal(signal.SIGTERM)
                assert leaving.process.wait(10) == 0
        finally:
            finished.set()
        answered = sum(client.result() for client in clients)
    assert failures == []
    assert answered > 200


def test_a_client_that_learns_late_is_served_meanwhile(serve: Callable[..., Served]) -> None:
    api = serve(SOURCE, threads=2)
    api.process.send_signal(signal.SIGTERM)
    late = time.monotonic() + 1
    while time.monotonic() < late:
        assert api.stub.Echo(api.text("x"), timeout=5).text == "x"
    assert api.process.wait(5) == 0
    with pytest.raises(grpc.RpcError) as caught:
        api.stub.Echo(api.text("x"))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_open_watches_and_reflections_do_not_hold_it_up(serve: Callable[..., Served]) -> None:
    api = serve(SOURCE)
    watch = health_pb2_grpc.HealthStub(api.channel).Watch(
        health_pb2.HealthCheckRequest(service="tested.Talk")
    )
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    left = threading.Event()

    def questions() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        left.wait(20)

    answers = reflection_pb2_grpc.ServerReflectionStub(api.channel).ServerReflectionInfo(questions())
    next(answers)
    api.process.send_signal(signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert list(watch) == []
    assert api.process.wait(15) == 0
    left.set()


def test_a_port_that_is_taken_is_said(serve: Callable[..., Served], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(SOURCE, port=port)
