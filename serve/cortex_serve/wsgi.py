"""The WSGI carrier: the handler runs on the server's own thread; no event loop between it and the socket."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.datastructures import Headers

from cortex_serve import response
from cortex_serve.background import Background, Exchange
from cortex_serve.deadline import late_after, waited
from cortex_serve.payload import BodyIncomplete, BodyTooLarge, BodyWithoutLength
from cortex_serve.response import NO_BODY, Answer, AnswerCut, Chunks
from cortex_serve.stats import CLIENT_CLOSED, Counters

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from cortex_serve.application import Application, Plan

_Result = TypeVar("_Result")


class Carrier:
    """The application as WSGI calls it."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._background = Background()
        self._plans = application.plans
        self._counters = application.stats.counters
        self._access = application.log.access
        self._id = application.log.request_id
        self._max_body_bytes = application.max_body_bytes
        self._late_after = late_after(application.request_timeout)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        started = perf_counter()
        request_id = self._application.request_id(environ.get("HTTP_X_REQUEST_ID"))
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"] or "/"
        plan = self._plans.get(method)
        if path != "/" or (plan is None and method == "OPTIONS"):
            return self._elsewhere(environ, start_response, path, request_id)
        counters = self._counters()
        counters.in_flight += 1
        token = self._id.set(request_id)
        try:
            answer = self._answer(environ, plan, request_id, counters)
            if answer.app is not None:
                return self._stream(environ, start_response, answer, request_id, started)
            body = [answer.body]
            start_response(response.status_line(answer.status), sent_headers(answer, request_id))
            seconds = perf_counter() - started
            counters.finish(answer.status, seconds)
            self._access(method, path, answer.status, seconds, request_id)
            return _Sent(body, self._later(answer)) if answer.after else body
        finally:
            self._id.reset(token)

    def close(self) -> None:
        self._background.close()

    def _answer(
        self, environ: WSGIEnvironment, plan: Plan | None, request_id: str, counters: Counters
    ) -> Answer:
        if plan is None:
            discard_body(environ, self._max_body_bytes)
            return self._application.elsewhere(environ["REQUEST_METHOD"], "/", request_id, None)
        try:
            if plan.payload:
                body = read_body(environ, self._max_body_bytes)
            else:
                body = b""
                discard_body(environ, self._max_body_bytes)
            if self._is_late(environ):
                return self._application.timed_out(request_id)
            arguments = plan.arguments(
                body,
                environ.get("CONTENT_TYPE"),
                environ.get("QUERY_STRING", ""),
                RequestHeaders(raw=raw_headers(environ)) if plan.headers else None,
            )
            counters.began = perf_counter()
            try:
                value = plan.call(**arguments)
            finally:
                counters.began = 0.0
            answer = response.answer(value)
            return self._application.timed_out(request_id, answer.after) if self._is_late(environ) else answer
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            return self._application.failed(error, request_id)

    def _is_late(self, environ: WSGIEnvironment) -> bool:
        """Whether its client has been answered by the gateway."""
        if self._late_after is None:
            return False
        return waited(environ.get("HTTP_X_REQUEST_START")) > self._late_after

    def _elsewhere(
        self, environ: WSGIEnvironment, start_response: StartResponse, path: str, request_id: str
    ) -> Iterable[bytes]:
        discard_body(environ, self._max_body_bytes)
        preflight = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS")
        answer = self._application.elsewhere(environ["REQUEST_METHOD"], path, request_id, preflight)
        start_response(response.status_line(answer.status), sent_headers(answer, request_id))
        return [answer.body]

    def _stream(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        answer: Answer,
        request_id: str,
        started: float,
    ) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]

        def finish(status: int) -> None:
            seconds = perf_counter() - started
            self._counters().finish(status, seconds)
            self._access(method, "/", status, seconds, request_id)

        counters = self._counters()
        counters.began = perf_counter()
        try:
            chunks: _Generated | Exchange
            if isinstance(answer.app, Chunks) and isinstance(answer.app.body_iterator, GeneratorType):
                chunks = _Generated(answer.app.body_iterator)
            else:
                chunks = Exchange(
                    self._background.loop,
                    answer.app,
                    _scope(environ, raw_headers(environ)),
                    failed=self._application.log_failure,
                )
            status, raw = chunks.start()
            headers = response.merged(response.decoded(raw))
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            failure = self._application.failed(error, request_id)
            start_response(response.status_line(failure.status), sent_headers(failure, request_id))
            finish(failure.status)
            return _Sent([failure.body], self._later(answer))
        finally:
            counters.began = 0.0
        start_response(response.status_line(status), [*headers, ("x-request-id", request_id)])
        return _Stream(
            chunks,
            status=status,
            counters=self._counters,
            finish=finish,
            failed=self._application.log_failure,
            after=self._later(answer),
            context=contextvars.copy_context(),
        )

    def _later(self, answer: Answer) -> Callable[[], None]:
        """Runs the answer's callbacks, in the context of its request."""
        context = contextvars.copy_context()
        callbacks = self._application.callbacks
        after = answer.after  # without the answer, so that its body goes when it was sent

        def run() -> None:
            for callback in after:
                if not context.run(callbacks.submit, callback, lambda: self._background.loop):
                    counters = self._counters()
                    counters.began = perf_counter()  # it keeps this thread from requests, and may hang
                    context.run(callbacks.run, callback, lambda: self._background.loop)
                    counters.began = 0.0

        return run


def read_body(environ: WSGIEnvironment, limit: int) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge: it is larger than `limit` bytes.
        BodyIncomplete: it ended before its declared length.
        BodyWithoutLength: it came in chunks, which end here in the same way when they are cut. From the gateway, every
            body has a length.
    """
    read = environ["wsgi.input"].read
    declared = environ.get("CONTENT_LENGTH")
    if declared:
        length = int(declared)
        if length > limit:
            raise BodyTooLarge
        body: bytes = read(length)
        while len(body) < length:
            piece = read(length - len(body))
            if not piece:
                raise BodyIncomplete
            body += piece
        return body
    if "HTTP_TRANSFER_ENCODING" in environ:
        raise BodyWithoutLength
    return b""


def discard_body(environ: WSGIEnvironment, limit: int) -> None:
    """Take a body that nobody wants off the connection, at most so many bytes.

    The server would close the connection instead, under the answer and under the request that comes next.
    """
    if "CONTENT_LENGTH" in environ or "HTTP_TRANSFER_ENCODING" in environ:
        read = environ["wsgi.input"].read
        while limit > 0 and (piece := read(_DISCARDED)):
            limit -= len(piece)


_DISCARDED = 65536
"""Bytes at a time."""


class _Sent:
    """A body, and what to do when the server has taken it."""

    def __init__(self, body: list[bytes], close: Callable[[], None]) -> None:
        self._body = body
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)


class _Generated:
    """What the handler's generator yields, on the server's thread."""

    def __init__(self, chunks: GeneratorType[Any, Any, Any]) -> None:
        self._chunks = chunks
        self._first: bytes | None = None

    def start(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        headers, self._first = response.first_chunk(next(self._chunks, b""))
        return 200, headers

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return response.chunk_bytes(next(self._chunks))

    def close(self) -> None:
        self._chunks.close()


class _Stream:
    """A response whose chunks are still to come; counted and logged when it ends.

    One that fails midway is counted as a 500 and logged; the server cuts it.
    """

    def __init__(
        self,
        chunks: _Generated | Exchange,
        *,
        status: int,
        counters: Callable[[], Counters],
        finish: Callable[[int], None],
        failed: Callable[[BaseException], None],
        after: Callable[[], None],
        context: contextvars.Context,
    ) -> None:
        self._chunks = chunks
        self._status = CLIENT_CLOSED
        self._status_when_complete = status
        self._counters = counters
        self._finish = finish
        self._failed = failed
        self._after = after
        self._context = context

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(self._take)

    def close(self) -> None:
        """Called by the server when all was sent, the client has gone, or a chunk failed."""
        try:
            self._context.run(self._called, self._chunks.close)
        except BaseException as error:  # noqa: BLE001 - the user's `finally` may raise anything
            self._context.run(self._failed, error)
        self._finish(self._status)
        self._after()

    def _take(self) -> bytes:
        try:
            return self._called(self._chunks.__next__)
        except StopIteration:
            self._status = self._status_when_complete
            raise
        except BaseException as error:
            self._status = 500
            self._failed(error)
            raise AnswerCut from error

    def _called(self, function: Callable[[], _Result]) -> _Result:
        """Run a part of the user's code; the server's thread is busy with it."""
        counters = self._counters()
        counters.began = perf_counter()
        try:
            return function()
        finally:
            counters.began = 0.0


class RequestHeaders(Headers):
    """Headers as WSGI keeps them: it does not tell `-` from `_` in a name."""

    def __getitem__(self, key: str) -> str:
        return super().__getitem__(key.replace("_", "-"))

    def __contains__(self, key: Any) -> bool:
        return isinstance(key, str) and super().__contains__(key.replace("_", "-"))

    def getlist(self, key: str) -> list[str]:
        return super().getlist(key.replace("_", "-"))


def raw_headers(environ: WSGIEnvironment) -> list[tuple[bytes, bytes]]:
    """The request's headers as ASGI has them."""
    return [
        (
            name.removeprefix("HTTP_").replace("_", "-").lower().encode("latin-1"),
            value.encode("latin-1", "replace"),
        )
        for name, value in environ.items()
        if name.startswith("HTTP_") or (name in _ALSO_HEADERS and value)
    ]


_ALSO_HEADERS = ("CONTENT_TYPE", "CONTENT_LENGTH")


def sent_headers(answer: Answer, request_id: str) -> list[tuple[str, str]]:
    """All headers of an answer."""
    if answer.status in NO_BODY:
        return [*answer.headers, ("x-request-id", request_id)]
    return [*answer.headers, ("content-length", str(len(answer.body))), ("x-request-id", request_id)]


def _scope(environ: WSGIEnvironment, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    """What a response needs to know of its request, as ASGI says it."""
    return {
        "type": "http",
        "asgi": response.ASGI,
        "method": environ["REQUEST_METHOD"],
        "path": "/",
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1", "replace"),
        "headers": headers,
        "extensions": {},
    }
