"""C-41: the four forms, plain and `async`; what a method gets, what its client gets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from support.h2_frames import message, request
from support.talk import Served, Stubs, start

from cortex_operator.gateway.limits import MAX_HEADERS_KIB

GZIP = b"\x1f\x8b\x08"
"""How what is compressed begins."""

PLAIN = """
    import threading
    import grpc
    import talk_pb2, talk_pb2_grpc
    from cortex_internal.lib.log import logger
    from google.protobuf.empty_pb2 import Empty
    from shared.text_pb2 import Text


    class Handler:
        def __init__(self, config, proto_module_pb2):
            assert proto_module_pb2 is talk_pb2
            assert talk_pb2_grpc.TalkStub
            self.greeting = config["greeting"]

        def Echo(self, payload, context):
            logger.info("echo %s", payload.text)
            given = dict(context.invocation_metadata())
            context.send_initial_metadata([("x-first", "1")])
            context.set_trailing_metadata([("x-given", given.get("x-given", "")), ("x-bin", b"\\x00")])
            return Text(text=payload.text)

        def Count(self, *, payload):
            for number in range(int(payload.text)):
                yield Text(text=f"{self.greeting} {number}")

        def Join(self, payload, context):
            context.set_compression(grpc.Compression.Gzip)
            return Text(text=" ".join(each.text for each in payload))

        def Chat(self, context, payload):
            for each in payload:
                yield Text(text=each.text.upper())
                if each.text == "end":
                    return

        def Nothing(self):
            return Empty()
"""

ASYNC = (
    PLAIN.replace("def Echo", "async def Echo")
    .replace("context.send", "await context.send")
    .replace("def Count", "async def Count")
)
ASYNC = ASYNC.replace("def Join", "async def Join").replace("def Chat", "async def Chat")
ASYNC = ASYNC.replace("for each in payload:", "async for each in payload:").replace(
    'Text(text=" ".join(each.text for each in payload))',
    'Text(text=" ".join([each.text async for each in payload]))',
)


@pytest.fixture(scope="module", params=("plain", "async"))
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stubs: Stubs
) -> Iterator[Served]:
    source = PLAIN if request.param == "plain" else ASYNC
    served = start(tmp_path_factory.mktemp("api"), source, stubs)
    yield served
    served.close()


def test_each_rpc_calls_its_own_method(api: Served) -> None:
    text = api.text
    assert api.stub.Echo(text("hi")).text == "hi"
    assert [each.text for each in api.stub.Count(text("3"))] == ["hello 0", "hello 1", "hello 2"]
    assert api.stub.Join(map(text, "abc")).text == "a b c"
    assert [each.text for each in api.stub.Chat(map(text, "abc"))] == ["A", "B", "C"]
    assert api.stub.Nothing(api.stubs.Empty()) == api.stubs.Empty()


def test_streams_may_be_empty(api: Served) -> None:
    assert list(api.stub.Count(api.text("0"))) == []
    assert api.stub.Join(iter(())).text == ""
    assert list(api.stub.Chat(iter(()))) == []


def test_a_conversation_takes_turns(api: Served) -> None:
    heard: list[str] = []
    answered = threading.Semaphore(0)

    def lines() -> Iterator[Any]:
        for number, line in enumerate(("a", "b", "end")):
            assert len(heard) == number  # each line only after the answer to the one before
            yield api.text(line)
            assert answered.acquire(timeout=10)

    for answer in api.stub.Chat(lines()):
        heard.append(answer.text)
        answered.release()
    assert heard == ["A", "B", "END"]


def test_the_method_may_stop_listening(api: Served) -> None:
    assert [each.text for each in api.stub.Chat(map(api.text, ["end", *"abc"]))] == ["END"]


def test_long_streams_arrive_whole_and_in_order(api: Served) -> None:
    count = 2000
    assert [each.text for each in api.stub.Count(api.text(str(count)))] == [
        f"hello {n}" for n in range(count)
    ]
    words = [str(number) for number in range(count)]
    assert api.stub.Join(map(api.text, words)).text == " ".join(words)
    assert [each.text for each in api.stub.Chat(map(api.text, words))] == words


@pytest.mark.parametrize("size", [0, 5 * 2**20])
def test_messages_of_any_size(api: Served, size: int) -> None:
    text = "x" * size
    assert api.stub.Echo(api.text(text)).text == text
    assert [len(each.text) for each in api.stub.Chat(map(api.text, [text, text]))] == [size, size]


def test_an_answer_is_compressed_if_the_method_says_so(api: Served) -> None:
    asked = message(api.text("x" * 1000).SerializeToString())
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(request("/tested.Talk/Join", asked, **{"grpc-accept-encoding": "gzip"}))
        received = b""
        while GZIP not in received:
            piece = connection.recv(65536)
            assert piece, received
            received += piece


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_that_is_too_large(api: Served, compression: Any) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        api.stub.Echo(api.text("x" * (64 * 2**20)), compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert api.stub.Echo(api.text("still there")).text == "still there"


def test_metadata(api: Served) -> None:
    given = (("x-given", "this"), ("x-request-id", "mine.1"))
    _, call = api.stub.Echo.with_call(api.text("named"), metadata=given)
    assert ("x-first", "1") in call.initial_metadata()
    trailing = dict(call.trailing_metadata())
    assert trailing == {"x-given": "this", "x-bin": b"\x00", "x-request-id": "mine.1"}
    assert api.wait_for_log("echo named")["request_id"] == "mine.1"
    assert api.wait_for_access("mine.1") == ("/tested.Talk/Echo", 200)


def test_metadata_may_be_as_large_as_the_gateway_lets_through(api: Served) -> None:
    """Of grpcio's own limits the lower one refuses at random."""
    large = "x" * MAX_HEADERS_KIB * 1024
    _, call = api.stub.Echo.with_call(api.text(), metadata=[("x-large", large)], timeout=20)
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("given", [(), (("x-request-id", "../../etc"),), (("x-request-id", "x" * 129),)])
def test_a_request_id_that_is_none_is_replaced(api: Served, given: Any) -> None:
    _, call = api.stub.Nothing.with_call(api.stubs.Empty(), metadata=given)
    request_id = dict(call.trailing_metadata())["x-request-id"]
    assert len(request_id) == 32
    assert api.wait_for_access(request_id) == ("/tested.Talk/Nothing", 200)


def test_health(api: Served) -> None:
    health = health_pb2_grpc.HealthStub(api.channel)
    for name in ("", "tested.Talk"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="tested.Nix"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="tested.Nix"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(api: Served, version: str) -> None:
    ask = api.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="tested.Talk"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="shared.Text"),
    ]
    services, service, message = ask(iter(questions))
    named = {each.name for each in services.list_services_response.service}
    assert {"tested.Talk", "grpc.health.v1.Health"} <= named
    assert b"Chat" in b"".join(service.file_descriptor_response.file_descriptor_proto)
    assert b"text" in b"".join(message.file_descriptor_response.file_descriptor_proto)


def test_unknown_methods(api: Served) -> None:
    for path in ("/tested.Talk/Nix", "/tested.Nix/Echo"):
        with pytest.raises(grpc.RpcError) as caught:
            api.channel.unary_unary(path)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
