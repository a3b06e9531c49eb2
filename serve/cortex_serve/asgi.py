"""The ASGI carrier, for handlers that wait: coroutine functions and generators.

Methods that are not run on threads of their own. A client that goes away cancels what runs for it, and so does the
end of the time that a request may take.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import ExitStack
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from cortex_serve import response
from cortex_serve.background import never
from cortex_serve.deadline import STARTED, late_after, reached, waited
from cortex_serve.payload import BodyIncomplete, BodyTooLarge
from cortex_serve.response import NO_BODY, Answer, Chunks
from cortex_serve.stats import CLIENT_CLOSED

if TYPE_CHECKING:
    from cortex_serve.application import Application, Plan


class Carrier:
    """The application as ASGI calls it."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._threads = application.pool
        self._tells_age = late_after(application.request_timeout) is not None
        self._coroutine = application.stats.coroutine
        self._on_a_thread = application.stats.on_thread
        self._left_alone = set[asyncio.Task[None]]()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
        else:
            await self._serve(scope, receive, send)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def deliver(
        self,
        answer: Answer,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        deadline: float,
    ) -> int:
        """Send an answer that was made elsewhere, and run what comes after it.

        Args:
            deadline: of its request, by `perf_counter`.

        Returns:
            The status for the statistics.
        """

        async def made() -> Answer:
            return answer

        return await self._finish(made(), scope, receive, _Reply(send, request_id), deadline)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        headers = first_values(scope["headers"])
        request_id = self._application.request_id(headers.get(b"x-request-id"))
        method = scope["method"]
        path = scope["path"] or "/"
        plan = self._application.plans.get(method)
        reply = _Reply(send, request_id)
        if path != "/" or (plan is None and method == "OPTIONS"):
            await self._discard_body(headers, receive)
            preflight = headers.get(b"access-control-request-headers")
            await reply.send(self._application.elsewhere(method, path, request_id, preflight))
            return
        counters = self._application.stats.counters()
        overloaded = (
            counters.in_flight >= self._application.max_in_flight
        )  # the loop's thread counts them all
        counters.in_flight += 1
        token = self._application.log.request_id.set(request_id)
        status = CLIENT_CLOSED
        try:
            if overloaded:
                await self._discard_body(headers, receive)
                await reply.send(self._application.overloaded(request_id))
                status = reply.status
            else:
                status = await self._respond(plan, scope, headers, receive, reply)
        finally:
            seconds = perf_counter() - started
            counters.finish(status, seconds)
            self._application.log.access(method, path, status, seconds, request_id)
            self._application.log.request_id.reset(token)

    async def _respond(
        self,
        plan: Plan | None,
        scope: Scope,
        headers: dict[bytes, str],
        receive: Receive,
        reply: _Reply,
    ) -> int:
        """Answer a request for the API itself; returns the status for the statistics."""
        if plan is None or not plan.payload:
            await self._discard_body(headers, receive)
        if plan is None:
            await reply.send(self._application.elsewhere(scope["method"], "/", reply.request_id, None))
            return reply.status
        try:
            body = await self._body(headers, receive) if plan.payload else b""
        except (BodyTooLarge, BodyIncomplete) as error:
            await reply.send(self._application.failed(error, reply.request_id))
            return reply.status
        deadline = self._deadline(headers)
        if perf_counter() > deadline:
            await reply.send(self._application.timed_out(reply.request_id))
            return reply.status
        call = self._call(plan, scope, headers, body, reply.request_id)
        return await self._finish(call, scope, receive, reply, deadline)

    def _deadline(self, headers: dict[bytes, str]) -> float:
        age = waited(headers.get(_STARTED)) if self._tells_age else 0.0
        return perf_counter() + self._application.request_timeout - age

    async def _finish(
        self, making: Awaitable[Answer], scope: Scope, receive: Receive, reply: _Reply, deadline: float
    ) -> int:
        """Send an answer once it is made; ends with the client, and when the time is up."""
        watch = _Watch(receive, reply, deadline)
        answer = None
        try:
            answer = await making
            await watch.on_time()
            await self._reply(answer, scope, reply, watch)
        except asyncio.CancelledError as error:
            if not watch.client_gone and not watch.time_is_up:  # the handler's own, of a task it waited for
                await self._fail(error, reply)
        finally:
            watch.end()
        status = await self._end_late(reply) if watch.time_is_up else reply.status
        if answer is not None:
            await self.run_after(answer)
        return CLIENT_CLOSED if watch.client_gone else status

    async def _end_late(self, reply: _Reply) -> int:
        """Answer a request whose time is up, unless the gateway has; a response that has begun is cut by the server."""
        answer = self._application.timed_out(reply.request_id)
        self._application.log.logger.warning(
            "a call of the handler was ended: it did not finish within %g s",
            self._application.request_timeout,
        )
        if not reply.started:
            await reply.send(answer)
        return answer.status

    async def _call(
        self, plan: Plan, scope: Scope, headers: dict[bytes, str], body: bytes, request_id: str
    ) -> Answer:
        try:
            arguments = plan.arguments(
                body,
                headers.get(b"content-type"),
                scope["query_string"],
                Headers(raw=scope["headers"]) if plan.headers else None,
            )
            if plan.is_async:
                with self._coroutine():
                    value = await plan.call(**arguments)
            else:
                value = await self._on_thread(plan, arguments, request_id)
            if inspect.isawaitable(value):
                with self._coroutine():
                    value = await value
            return response.answer(value)
        except _ENDED:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            return self._application.failed(error, request_id)

    async def _on_thread(self, plan: Plan, arguments: dict[str, Any], request_id: str) -> Any:
        context = contextvars.copy_context()

        def call() -> Any:
            with self._on_a_thread():
                return context.run(plan.call, **arguments)

        calling = self._threads.submit(call)
        try:
            return await asyncio.wrap_future(calling)
        except asyncio.CancelledError:
            if not calling.cancelled():  # it cannot be stopped
                alone = asyncio.ensure_future(self._finish_alone(calling, request_id))
                self._left_alone.add(alone)
                alone.add_done_callback(self._left_alone.discard)
            raise

    async def _finish_alone(self, calling: Future[Any], request_id: str) -> None:
        """Do what is to be done after a call whose answer nobody waits for any more."""
        try:
            answer = response.answer(await asyncio.wrap_future(calling))
        except _ENDED:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
            answer = self._application.failed(error, request_id)
        await self.run_after(answer)

    async def _reply(self, answer: Answer, scope: Scope, reply: _Reply, watch: _Watch) -> None:
        busy = ExitStack()

        async def send(message: Message) -> None:
            await watch.on_time()
            await reply.pass_on(message)
            if reply.complete:
                busy.close()  # what it does in the background may take its time

        try:
            if answer.app is None:
                await reply.send(answer)
            elif isinstance(answer.app, Chunks):
                chunks = answer.app.on(self._threads, self._on_a_thread, self._coroutine)
                await response.run(chunks, scope, never, send)
            else:
                with busy:
                    busy.enter_context(self._coroutine())
                    await response.run(answer.app, {**scope, "asgi": response.ASGI}, never, send)
        except _ENDED:
            raise
        except BaseException as error:  # noqa: BLE001 - the user's code may raise anything; headers may be none
            await self._fail(error, reply)

    async def _fail(self, error: BaseException, reply: _Reply) -> None:
        if not reply.started:
            await reply.send(self._application.failed(error, reply.request_id))
            return
        self._application.log_failure(error)  # the server cuts a response that has no end
        if not reply.complete:
            reply.status = 500

    async def run_after(self, answer: Answer) -> None:
        """Call what comes after an answer; on the loop."""
        loop = asyncio.get_running_loop()
        callbacks = self._application.callbacks
        for callback in answer.after:
            if not callbacks.submit(callback, lambda: loop):
                with self._on_a_thread():  # it keeps its request from ending, and may hang
                    await loop.run_in_executor(None, callbacks.run, callback, lambda: loop)

    async def _discard_body(self, headers: dict[bytes, str], receive: Receive) -> None:
        """See `wsgi.discard_body`."""
        has_body = b"content-length" in headers or b"transfer-encoding" in headers
        left = self._application.max_body_bytes if has_body else 0
        while left > 0:
            message = await receive()
            left = left - len(message.get("body", b"")) if message.get("more_body", False) else 0

    async def _body(self, headers: dict[bytes, str], receive: Receive) -> bytes:
        """The whole body."""
        limit = self._application.max_body_bytes
        declared = headers.get(b"content-length")
        if declared is not None and int(declared) > limit:
            raise BodyTooLarge
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BodyIncomplete
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise BodyTooLarge
            pieces.append(piece)
            if not message.get("more_body", False):
                if declared is not None and size < int(declared):
                    raise BodyIncomplete
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)


_ENDED = (asyncio.CancelledError, GeneratorExit)
"""How a task ends that somebody else ends."""


class _Reply:
    """The way back to the client.

    Attributes:
        status: that was sent.
        started, complete: whether the first, and the last, message was sent.
    """

    def __init__(self, send: Send, request_id: str) -> None:
        self.status = 500
        self.started = False
        self.complete = False
        self.request_id = request_id
        self._send = send

    async def send(self, answer: Answer) -> None:
        """Send an answer that has a body."""
        headers = answer.headers
        if answer.status not in NO_BODY:
            headers = [*headers, ("content-length", str(len(answer.body)))]
        await self._start(answer.status, headers)
        self.complete = True
        await self._send({"type": "http.response.body", "body": answer.body})

    async def pass_on(self, message: Message) -> None:
        """Send a message of a response that speaks ASGI itself; our headers are added."""
        if message["type"] == "http.response.start":
            headers = response.merged(response.decoded(message.get("headers", ())))
            await self._start(message["status"], headers)
            return
        self.complete = not message.get("more_body", False)
        await self._send(message)

    async def _start(self, status: int, headers: response.Headers) -> None:
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        raw.append((b"x-request-id", self.request_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": raw})
        self.status = status
        self.started = True


class _Watch:
    """Cancels the task it was made in when the client goes, or its time is up, before the response is complete.

    Args:
        deadline: when the time is up, by `perf_counter`.

    Attributes:
        client_gone, time_is_up: why it was cancelled. A client that goes when its time is up was sent away by the gateway.
    """

    def __init__(self, receive: Receive, reply: _Reply, deadline: float) -> None:
        self.client_gone = False
        self.time_is_up = False
        self._reply = reply
        self._deadline = deadline
        self._task = asyncio.current_task()
        self._watching = asyncio.ensure_future(self._watch(receive))
        self._alarm = asyncio.get_running_loop().call_later(deadline - perf_counter(), self._end_late)

    async def on_time(self) -> None:
        """Go on only in time: while the user's code held the loop, nothing could cancel the task.

        Raises:
            CancelledError: the time is up.
        """
        if self.time_is_up or perf_counter() >= self._deadline:
            self._alarm.cancel()
            self._end_late()
            await asyncio.sleep(0)

    def end(self) -> None:
        self._alarm.cancel()
        self._watching.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._reply.complete and not self.time_is_up and self._task is not None:
            self.time_is_up = reached(self._deadline)
            self.client_gone = not self.time_is_up
            self._task.cancel()

    def _end_late(self) -> None:
        if not self._reply.complete and not self.client_gone and self._task is not None:
            self.time_is_up = True
            self._task.cancel()


def first_values(headers: list[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """The headers the carrier itself looks at."""
    return {name: value.decode("latin-1") for name, value in headers if name in _LOOKED_AT}


_STARTED = STARTED.encode()
_LOOKED_AT = frozenset(
    {
        b"x-request-id",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"access-control-request-headers",
        _STARTED,
    }
)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
