"""From what a handler returned, or raised, to what the client gets.

    bytes                          200, application/octet-stream
    str                            200, text/plain; charset=utf-8
    a Starlette Response           as it is
    a generator, sync or async     200, streamed chunk by chunk (text or bytes)
    a tuple (value, callable)      the value as above; the callable runs after the response was sent
    anything else                  200, application/json

An `Answer` has either a body or an ASGI application that sends the rest.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from types import AsyncGeneratorType, GeneratorType
from typing import Any, TypeAlias

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cortex_core.runtime import NOT_BEGUN
from cortex_serve import json_text

Headers: TypeAlias = list[tuple[str, str]]

CORS: Headers = [
    ("access-control-allow-origin", "*"),
    ("access-control-allow-methods", "POST, GET, PUT, PATCH, DELETE, OPTIONS"),
    ("access-control-allow-headers", "*"),
    ("access-control-allow-credentials", "true"),
    ("access-control-expose-headers", "Content-Length, Content-Range"),
]
JSON: Headers = [("content-type", "application/json"), *CORS]
TEXT: Headers = [("content-type", "text/plain; charset=utf-8"), *CORS]
BYTES: Headers = [("content-type", "application/octet-stream"), *CORS]

MAY_RETURN = (
    "a handler may return bytes, a string, anything that `json.dumps` can write, a starlette Response, "
    "a generator of strings or bytes, or a tuple of one of these and a function to call afterwards"
)

_END = object()
_CORS_NAMES = frozenset(name for name, _ in CORS)
_OURS = frozenset({"x-request-id", "transfer-encoding", NOT_BEGUN})
"""Headers that only we may set: how a body is framed, and what the gateway acts on."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
NO_BODY = (204, 205, 304)

ASGI = {"version": "3.0", "spec_version": "2.4"}
"""What responses are told of their server. For earlier versions Starlette streams in a task of its own, beside one that
watches for the client; a SystemExit that left it would end the loop."""


class AnswerCut(Exception):
    """Raised by a body, has an answer end in the middle. Why has been logged; what granian says about it is not."""


class NotSerializable(Exception):
    """The handler returned what cannot be sent."""


class Answer(msgspec.Struct, gc=False):
    """What to send.

    Attributes:
        status: HTTP status.
        headers: without `content-length` and `x-request-id`, which the carrier adds; not to be changed.
        body: whole, unless `app` is set.
        app: sends the start and the body itself.
        after: functions to call once everything was sent.
    """

    status: int
    headers: Headers
    body: bytes = b""
    app: Any = None
    after: tuple[Callable[[], Any], ...] = ()


def answer(value: Any) -> Answer:
    """Turn a handler's return value into a response.

    Raises:
        NotSerializable: the value is none of what a handler may return.
    """
    if type(value) is tuple and len(value) == 2 and callable(value[1]):
        result = answer(value[0])
        result.after = (*result.after, value[1])
        return result
    if isinstance(value, bytes):
        return Answer(200, BYTES, value)
    try:
        if isinstance(value, str):
            return Answer(200, TEXT, value.encode())
        if isinstance(value, Response):
            return _as_it_is(value)
        if isinstance(value, (GeneratorType, AsyncGeneratorType)):
            return Answer(200, CORS, app=Chunks(value))
        return Answer(200, JSON, json_text.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        if inspect.iscoroutine(value):
            value.close()
            raise NotSerializable("the handler returned a coroutine; define it with `async def`") from None
        raise NotSerializable(
            f"the handler returned a value of type {type(value).__name__!r} that cannot be sent "
            f"({error or type(error).__name__}); {MAY_RETURN}"
        ) from error


def error(
    status: int, code: str, message: str, request_id: str, *headers: tuple[str, str], **more: str
) -> Answer:
    """An error of ours: JSON with a code for programs and a message for people."""
    body = {**more, "code": code, "message": message, "request_id": request_id}
    return Answer(status, [*JSON, *headers], msgspec.json.encode(body))


def text_error(status: int, message: str) -> Answer:
    """An error whose body is text."""
    return Answer(status, TEXT, message.encode("utf-8", "replace"))


def raised(exception: HTTPException) -> Answer:
    """An HTTPException of Starlette or FastAPI that the handler raised: its status, its detail as text."""
    detail: Any = exception.detail  # FastAPI's may be anything
    text = detail if isinstance(detail, str) else json_text.encode(detail).decode()
    headers = _without_length((name.lower(), value) for name, value in (exception.headers or {}).items())
    body = b"" if exception.status_code in NO_BODY else text.encode("utf-8", "replace")
    return Answer(_sendable(exception.status_code), merged([*TEXT[:1], *headers]), body)


def merged(headers: Headers) -> Headers:
    """The user's headers without those of `_OURS`, and those of CORS where they set none of that name.

    Raises:
        NotSerializable: one of them is no header.
    """
    names = {name for name, _ in headers}
    for name, value in headers:
        if not (isinstance(value, str) and _HEADER_VALUE.fullmatch(value) and _HEADER_NAME.fullmatch(name)):
            raise NotSerializable(f"{name}: {value!r} is no header that can be sent")
    return [
        *(header for header in headers if header[0] not in _OURS),
        *(CORS if names.isdisjoint(_CORS_NAMES) else [header for header in CORS if header[0] not in names]),
    ]


def decoded(raw: list[tuple[bytes, bytes]]) -> Headers:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw]


def status_line(status: int) -> str:
    """The status with its phrase, e.g. "200 OK"."""
    return _STATUS_LINES.get(status) or f"{status} "


class Chunks:
    """Sends what a generator yields, as it comes.

    Nothing is sent before the first chunk, so an exception before it is still an ordinary error.

    Args:
        chunks: the generator.
        threads: that run it if it is not async; None is the event loop's own.
        on_thread: entered while the generator runs on one of them.
        coroutine: entered while an async one runs.
    """

    def __init__(
        self,
        chunks: Generator[Any, Any, Any] | AsyncGenerator[Any, Any],
        threads: Executor | None = None,
        on_thread: Callable[[], AbstractContextManager[None]] = nullcontext,
        coroutine: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.body_iterator = chunks
        self._threads = threads
        self._on_thread = on_thread
        self._coroutine = coroutine

    def on(
        self,
        threads: Executor,
        on_thread: Callable[[], AbstractContextManager[None]],
        coroutine: Callable[[], AbstractContextManager[None]],
    ) -> Chunks:
        """The same, on these threads."""
        return Chunks(self.body_iterator, threads, on_thread, coroutine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's shape
        if isinstance(self.body_iterator, AsyncGenerator):
            following = self._awaited(self.body_iterator)
        else:
            following = self._made_on_threads(self.body_iterator)
        headers, body = first_chunk(await following(b""))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        while (chunk := await following(_END)) is not _END:
            await send({"type": "http.response.body", "body": chunk_bytes(chunk), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _awaited(self, chunks: AsyncGenerator[Any, Any]) -> Callable[[Any], Awaitable[Any]]:
        """Gives the next chunk, or what it is given if there is none."""

        async def following(end: Any) -> Any:
            with self._coroutine():
                return await anext(chunks, end)

        return following

    def _made_on_threads(self, chunks: Generator[Any, Any, Any]) -> Callable[[Any], Awaitable[Any]]:
        """The same, each chunk made on one of the threads, all in the caller's context."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()

        def take(end: Any) -> Any:
            with self._on_thread():
                return context.run(next, chunks, end)

        return lambda end: loop.run_in_executor(self._threads, take, end)


async def run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Run an answer's application; a generator behind it is closed in any case, and now."""
    try:
        await app(scope, receive, send)
    finally:
        chunks = getattr(app, "body_iterator", None)
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def first_chunk(chunk: Any) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The first chunk of a stream, and the headers it decides."""
    headers = TEXT if isinstance(chunk, str) else BYTES
    return [(name.encode(), value.encode()) for name, value in headers], chunk_bytes(chunk)


def chunk_bytes(chunk: Any) -> bytes:
    if isinstance(chunk, str):
        return chunk.encode()
    if isinstance(chunk, (bytes, bytearray, memoryview)):
        return bytes(chunk)
    raise NotSerializable(f"a generator may yield strings and bytes, but it yielded {type(chunk).__name__!r}")


def _as_it_is(response: Response) -> Answer:
    status = _sendable(response.status_code)
    after = (response.background,) if response.background is not None else ()
    if type(response).__call__ is not Response.__call__:
        return Answer(status, CORS, app=response)
    headers = _without_length(decoded(response.raw_headers))
    return Answer(status, merged(headers), bytes(response.body), after=after)


def _without_length(headers: Iterable[tuple[str, str]]) -> Headers:
    """The carrier gives it."""
    return [header for header in headers if header[0] != "content-length"]


def _sendable(status: int) -> int:
    if not 200 <= status <= 599:
        raise NotSerializable(f"{status} is not the status of a response; it must be from 200 to 599")
    return status


_STATUS_LINES = {each.value: f"{each.value} {each.phrase}" for each in HTTPStatus}
