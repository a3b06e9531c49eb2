"""What clients and logs see of methods that fail: a fixed text for the one, the reason for the other (D25)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from support.talk import Served, Stubs, start

from cortex_serve.rpc.status import MAX_DETAILS

CANCELLED = pytest.param(
    "cancelled",
    "the handler raised CancelledError: secret",
    marks=pytest.mark.skipif(
        sys.version_info < (3, 11), reason="before Python 3.11 no coroutine can know whether it was cancelled"
    ),
)

PLAIN = """
    import asyncio
    import sys
    import grpc
    from shared.text_pb2 import Text


    class Odd(Exception):
        pass


    class Panic(BaseException):  # as extensions in Rust raise it
        pass


    class Status(grpc.Status):
        code, details, trailing_metadata = grpc.StatusCode.DATA_LOSS, "torn", (("x-why", "torn"),)


    def fail(how, context):
        if how == "raise":
            raise Odd("secret")
        if how == "panic":
            raise Panic("secret")
        if how == "exit":
            sys.exit("secret")
        if how == "interrupt":
            raise KeyboardInterrupt("secret")
        if how == "cancelled":
            raise asyncio.CancelledError("secret")
        if how == "stop":
            raise StopIteration("secret")
        if how == "abort":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now", (("x-why", "tired"),))
        if how == "abort quietly":
            try:
                context.abort(grpc.StatusCode.ABORTED, "enough")
            except Exception:
                return Text(text="unseen")
        if how == "abort with status":
            context.abort_with_status(Status())
        if how == "code":
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such thing")
            return None
        if how == "abort with an exception":
            context.abort(grpc.StatusCode.ABORTED, Odd("secret"))
        if how == "abort with a name":
            context.abort("ABORTED", "secret")
        if how == "abort with odd metadata":
            context.abort(grpc.StatusCode.ABORTED, "secret", [("x-file", "größe")])
        if how == "abort with the name of a file":
            context.abort(grpc.StatusCode.NOT_FOUND, "no file 'a\\udcff'")
        if how == "odd metadata":
            context.set_trailing_metadata([("X-File", "a")])
        if how == "metadata that is deadly":
            context.set_trailing_metadata([("grpc-timeout", "1S")])
        if how == "odd initial metadata":
            context.send_initial_metadata([("x-file", "a\\n")])
        if how == "abort with a story":
            context.abort(grpc.StatusCode.NOT_FOUND, "größe " * 10_000)
        if how == "code and answer":
            context.set_code(11)
        if how == "str":
            return "text"
        if how == "None":
            return None
        if how == "other message":
            from google.protobuf.empty_pb2 import Empty
            return Empty()
        if how == "generator":
            return (each for each in ())
        return Text(text=how)


    class Handler:
        def __init__(self, config, proto_module_pb2):
            pass

        def Echo(self, payload, context):
            return fail(payload.text, context)

        def Count(self, payload, context):
            if payload.text == "single":
                return Text()
            if payload.text == "number":
                return 5
            return self.count(payload, context)

        def count(self, payload, context):
            yield Text(text="1")
            yield Text(text="2")
            yield fail(payload.text, context)

        def Join(self, payload, context):
            return fail(" ".join(each.text for each in payload), context)

        def Chat(self, payload, context):
            for each in payload:
                yield fail(each.text, context)

        def Nothing(self):
            pass
"""

ASYNC = (
    PLAIN.replace("    def fail", "    async def fail")
    .replace("    context.abort", "    await context.abort")
    .replace("    context.send", "    await context.send")
    .replace("return fail", "return await fail")
    .replace("yield fail", "yield await fail")
    .replace("def Echo", "async def Echo")
    .replace("def Join", "async def Join")
    .replace("def count", "async def count")
    .replace("def Chat", "async def Chat")
    .replace("def Count", "async def Count")
    .replace('" ".join(each.text for each in payload)', '" ".join([each.text async for each in payload])')
    .replace("for each in payload:", "async for each in payload:")
)

INTERNAL = (grpc.StatusCode.INTERNAL, "internal server error")


@pytest.fixture(scope="module", params=("plain", "async"))
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stubs: Stubs
) -> Iterator[Served]:
    source = PLAIN if request.param == "plain" else ASYNC
    served = start(tmp_path_factory.mktemp("api"), source, stubs)
    yield served
    served.close()


def failed(call: Callable[[], Any]) -> tuple[Any, str, dict[str, Any]]:
    """Status, details and trailing metadata of an RPC that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code(), error.details(), dict(error.trailing_metadata())


@pytest.mark.parametrize(
    ("how", "logged"),
    [
        ("raise", "the handler raised Odd: secret"),
        ("panic", "the handler raised Panic: secret"),
        ("exit", "the handler raised SystemExit: secret"),
        ("interrupt", "the handler raised KeyboardInterrupt: secret"),
        CANCELLED,
        ("stop", "secret"),
        ("str", "Echo must return a message of type shared.Text, got an object of type 'str'"),
        ("None", "Echo must return a message of type shared.Text, got None"),
        (
            "other message",
            "must return a message of type shared.Text, got a message of type google.protobuf.Empty",
        ),
        ("generator", "Echo must return a message of type shared.Text, got an object of type 'generator'"),
    ],
)
def test_what_is_wrong_with_a_method_is_for_its_author(api: Served, how: str, logged: str) -> None:
    code, details, trailing = failed(lambda: api.stub.Echo(api.text(how), timeout=20))
    assert (code, details) == INTERNAL
    assert api.wait_for_access(trailing["x-request-id"]) == ("/tested.Talk/Echo", 500)
    [line] = [line for line in api.log(request_id=trailing["x-request-id"]) if "text" in line]
    assert line["level"] == "ERROR"
    assert logged in line["text"]
    assert "cortex_serve" not in line["text"]


@pytest.mark.parametrize(
    ("how", "logged"),
    [
        ("abort with an exception", "the details of a status must be a str, got Odd('secret')"),
        ("abort with a name", "'ABORTED' is no status code of gRPC; take one of grpc.StatusCode"),
        (
            "abort with odd metadata",
            "the value of 'x-file' in metadata may have printable ASCII, got 'größe'",
        ),
        ("odd metadata", "a key of metadata may have a-z, 0-9, '_', '-' and '.', got 'X-File'"),
        ("metadata that is deadly", "'grpc-timeout' is no key of metadata that can be set"),
        ("odd initial metadata", "the value of 'x-file' in metadata may have printable ASCII, got 'a\\n'"),
    ],
)
def test_a_status_or_metadata_that_cannot_be_sent(api: Served, how: str, logged: str) -> None:
    code, details, trailing = failed(lambda: api.stub.Echo(api.text(how), timeout=20))
    assert (code, details) == INTERNAL
    assert api.wait_for_access(trailing["x-request-id"]) == ("/tested.Talk/Echo", 500)
    [line] = [line for line in api.log(request_id=trailing["x-request-id"]) if "text" in line]
    assert logged in line["text"]


def test_a_traceback_begins_in_the_users_code(api: Served) -> None:
    _, _, trailing = failed(lambda: api.stub.Echo(api.text("raise")))
    [line] = [line for line in api.log(request_id=trailing["x-request-id"]) if "text" in line]
    frames = [text for text in line["text"].splitlines() if text.startswith("  File")]
    assert [frame.split("/")[-1].split('"')[0] for frame in frames] == ["handler.py", "handler.py"]


@pytest.mark.parametrize(
    ("how", "logged"),
    [
        ("raise", "the handler raised Odd: secret"),
        ("panic", "the handler raised Panic: secret"),
        ("exit", "the handler raised SystemExit: secret"),
        ("interrupt", "the handler raised KeyboardInterrupt: secret"),
        CANCELLED,
        ("str", "Count must yield messages of type shared.Text, got an object of type 'str'"),
        ("None", "Count must yield messages of type shared.Text, got None"),
    ],
)
def test_an_error_in_a_stream_comes_after_what_was_sent(api: Served, how: str, logged: str) -> None:
    received: list[str] = []

    def read() -> None:
        received.extend(each.text for each in api.stub.Count(api.text(how), timeout=20))

    code, details, trailing = failed(read)
    assert received == ["1", "2"]
    assert (code, details) == INTERNAL
    assert api.wait_for_access(trailing["x-request-id"]) == ("/tested.Talk/Count", 500)
    [line] = [line for line in api.log(request_id=trailing["x-request-id"]) if "text" in line]
    assert logged in line["text"]


@pytest.mark.parametrize(
    ("how", "got"), [("single", "a message of type shared.Text"), ("number", "an object of type 'int'")]
)
def test_a_stream_is_not_one_message(api: Served, how: str, got: str) -> None:
    code, details, trailing = failed(lambda: list(api.stub.Count(api.text(how), timeout=20)))
    assert (code, details) == INTERNAL
    api.wait_for_access(trailing["x-request-id"])
    [line] = [line for line in api.log(request_id=trailing["x-request-id"]) if "text" in line]
    assert line["text"] == (
        f"Count must yield messages of type shared.Text, or return an iterator of them, got {got}"
    )


def test_errors_behind_streams_of_requests(api: Served) -> None:
    code, details, _ = failed(lambda: api.stub.Join(iter([api.text("raise")])))
    assert (code, details) == INTERNAL
    heard: list[str] = []

    def converse() -> None:
        heard.extend(each.text for each in api.stub.Chat(map(api.text, ("a", "raise", "b"))))

    code, details, _ = failed(converse)
    assert (code, details) == INTERNAL
    assert heard == ["a"]


@pytest.mark.parametrize(
    ("how", "code", "details", "status"),
    [
        ("abort", grpc.StatusCode.FAILED_PRECONDITION, "not now", 400),
        ("abort quietly", grpc.StatusCode.ABORTED, "enough", 409),
        ("abort with status", grpc.StatusCode.DATA_LOSS, "torn", 500),
        ("abort with the name of a file", grpc.StatusCode.NOT_FOUND, "no file 'a\\udcff'", 404),
        ("code", grpc.StatusCode.NOT_FOUND, "no such thing", 404),
        ("code and answer", grpc.StatusCode.OUT_OF_RANGE, "", 400),
    ],
)
def test_a_status_of_the_methods_own(api: Served, how: str, code: Any, details: str, status: int) -> None:
    found = failed(lambda: api.stub.Echo(api.text(how), timeout=20))
    assert found[:2] == (code, details)
    if how == "abort":
        assert found[2]["x-why"] == "tired"
    request_id = found[2]["x-request-id"]
    assert api.wait_for_access(request_id) == ("/tested.Talk/Echo", status)
    assert [line for line in api.log(request_id=request_id) if "text" in line] == []


def test_long_details_are_cut(api: Served) -> None:
    """Clients refuse metadata of more than 8 KiB, and make another status of that."""
    code, details, _ = failed(lambda: api.stub.Echo(api.text("abort with a story"), timeout=20))
    assert code is grpc.StatusCode.NOT_FOUND
    assert ("größe " * 10_000).startswith(details)
    assert len(details.encode()) in (MAX_DETAILS, MAX_DETAILS - 1)


def test_abort_within_a_stream(api: Served) -> None:
    received: list[str] = []

    def read() -> None:
        received.extend(each.text for each in api.stub.Count(api.text("abort")))

    code, details, trailing = failed(read)
    assert (code, details, trailing["x-why"]) == (grpc.StatusCode.FAILED_PRECONDITION, "not now", "tired")
    assert received == ["1", "2"]


def test_bytes_that_are_no_message(api: Served) -> None:
    wanted = "what was sent is not a message of type shared.Text"
    unary = api.channel.unary_unary("/tested.Talk/Echo")
    assert failed(lambda: unary(b"\xff\xff"))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, wanted)
    stream = api.channel.stream_unary("/tested.Talk/Join")
    assert failed(lambda: stream(iter([b"", b"\xff\xff"])))[:2] == (grpc.StatusCode.INVALID_ARGUMENT, wanted)


def test_a_constructor_that_takes_an_rpcs_name(serve: Callable[..., Served]) -> None:
    source = PLAIN.replace(
        "            pass\n\n        def Echo", "            self.Echo = 5\n\n        def Echo"
    )
    message = "Handler.Echo: must be a method, but its constructor has made it an object of type 'int'"
    with pytest.raises(AssertionError, match=message):
        serve(source)
