"""From an RPC to the handler's method of its name, and back.

    grpcio ─▶ _Call ─▶ admission ─▶ a thread, or the event loop: the method ─▶ messages, status ─▶ grpcio

All counting is done on the event loop. An RPC counts as in flight until its method has ended, also when the client
has not waited for that.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc

from cortex_core.models.errors import ModelError
from cortex_core.runtime import NOT_BEGUN
from cortex_serve import tracebacks
from cortex_serve.rpc import status
from cortex_serve.rpc.context import Aborted, AsyncContext, Cancelled, Kept, PlainContext
from cortex_serve.rpc.deadlines import Deadlines
from cortex_serve.rpc.method import InvalidMessage, Method, WrongAnswer
from cortex_serve.rpc.service import Service
from cortex_serve.rpc.streams import Inlet, Outlet, Running, settled, whole
from cortex_serve.rpc.threads import HandlerThreads, Handover, Wakeups
from cortex_serve.stats import CLIENT_CLOSED, Stats

if TYPE_CHECKING:
    from cortex_serve.application import Log
    from cortex_serve.models.request import Use

_STILL_THERE = 1.0
_ROUNDED = 0.01
"""Share of a deadline by which it may have grown on its way to the server."""
_UNDERWAY = 0.1
"""Seconds that the request, with the deadline, may have taken longer to the server than that the client has left."""
_AGAIN = ("grpc-retry-pushback-ms", "1000")
_ELSEWHERE = (NOT_BEGUN, "1")


class Calls:
    """Answers the RPCs of one service. Made on the event loop that it answers on.

    Args:
        methods: by the RPC's name.
        threads: for methods that are not async.
        begin: makes what an RPC uses of models; None without models.
        request_id: makes a request's id of the one it brought.
        timeout: seconds that any RPC may take; None: as long as it likes.
        unary_timeout: the same for those whose answer is one message.
        max_in_flight: RPCs that may be answered or wait for a thread at once.
        turns_away: whether RPCs that come now had better go elsewhere.

    Attributes:
        latest: `perf_counter` at which the latest RPC came.
    """

    def __init__(
        self,
        service: Service,
        methods: dict[str, Method],
        *,
        threads: HandlerThreads,
        stats: Stats,
        log: Log,
        begin: Callable[[], Use] | None,
        request_id: Callable[[str | None], str],
        timeout: float | None,
        unary_timeout: float,
        max_in_flight: int,
        turns_away: Callable[[], bool],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.wakeups = Wakeups(self.loop)
        self.handover = Handover(self.loop, threads.start)
        self.stats = stats
        self.log = log
        self.begin = begin
        self.request_id = request_id
        self.counters = stats.counters()
        self.latest = 0.0
        self.patient: set[object] = set()
        self._service = service
        self._methods = methods
        self.timeout = timeout or unary_timeout
        self.deadlines = Deadlines(self.loop, self.timeout, _Call.stop_late)
        self._limits_streams = timeout is not None
        self._max_in_flight = max_in_flight
        self._turns_away = turns_away
        self.loop.call_later(_STILL_THERE, self._say_still_there)

    def handlers(self) -> Any:
        """The service, as grpcio takes it."""
        handlers = {
            name: _FORMS[method.rpc.gives_stream](self._behavior(method))
            for name, method in self._methods.items()
        }
        return grpc.method_handlers_generic_handler(self._service.name, handlers)

    def _behavior(self, method: Method) -> Callable[..., Coroutine[Any, Any, bytes | None]]:
        path = f"/{self._service.name}/{method.rpc.name}"
        is_limited = self._limits_streams or not method.rpc.gives_stream

        async def answer(messages: Any, real: Any) -> bytes | None:
            call = _Call(self, method, path, real, is_limited=is_limited)
            if self._turns_away():
                await call.refuse("a call of this process may hang; try again", _ELSEWHERE)
            if self.counters.in_flight > self._max_in_flight:
                await call.refuse(f"{self._max_in_flight} requests are being answered already; try again")
            return await call.answer(messages)

        return answer

    def _say_still_there(self) -> None:
        """Streams may last; that the event loop of these has not stopped is what has to be seen from outside."""
        now = perf_counter()
        for call in self.patient:
            self.stats.calls[call] = now
        self.loop.call_later(_STILL_THERE, self._say_still_there)


class _Call:
    """One RPC."""

    __slots__ = (
        "_answered",
        "_calls",
        "_context",
        "_ends",
        "_id",
        "_inlet",
        "_method",
        "_outlet",
        "_path",
        "_real",
        "_started",
        "_status",
        "_stopped",
        "_task",
        "_use",
        "_working",
    )

    def __init__(self, calls: Calls, method: Method, path: str, real: Any, *, is_limited: bool) -> None:
        self._calls = calls
        self._method = method
        self._path = path
        self._real = real
        self._started = calls.latest = perf_counter()
        self._ends = self._started + calls.timeout if is_limited else None
        self._status = 0
        self._working = False
        self._answered = False
        self._stopped: tuple[Any, str] | None = None
        self._context: Kept | None = None
        self._outlet: Outlet | None = None
        self._inlet: Inlet | None = None
        self._task = asyncio.current_task()
        self._id = calls.request_id(_value(real.invocation_metadata(), "x-request-id"))
        self._use: Use | None = None
        calls.counters.in_flight += 1
        calls.log.request_id.set(self._id)
        if calls.begin is not None:
            from cortex_serve.models.request import current

            self._use = calls.begin()
            current.set(self._use)

    async def refuse(self, why: str, *also: tuple[str, str]) -> None:
        """UNAVAILABLE, which clients and proxies take as "nothing was done, try again", and when to."""
        try:
            await self._end_with(grpc.StatusCode.UNAVAILABLE, why, _AGAIN, *also)
        finally:
            self._finish()

    async def answer(self, messages: Any) -> bytes | None:
        if self._ends is not None:
            self._calls.deadlines.begin(self)
        try:
            try:
                request = messages if self._method.rpc.takes_stream else await self._only_message()
                message = await (
                    self._awaited(request) if self._method.is_async else self._on_thread(request)
                )
            except asyncio.CancelledError as error:
                self._give_up()
                await self._end_stopped()
                if _is_cancelled(self._task):
                    raise
                self._calls.deadlines.end(self)
                await self._fail(error)
            except GeneratorExit:  # this coroutine is thrown away
                raise
            except BaseException as error:  # noqa: BLE001  # the user's code may raise anything
                self._calls.deadlines.end(self)
                await self._fail(error)
            await self._end_stopped()
            assert self._context is not None
            if self._context.aborted or self._context.has_status:
                await self._end_with(self._context.status, self._context.text)
            self._real.set_trailing_metadata(self._trailing())
            if self._context.compresses and message is not None:
                self._calls.deadlines.end(self)
                await self._real.send_initial_metadata(())
            self._status = 200
            return message
        finally:
            self._calls.deadlines.end(self)
            self._give_up()
            self._answered = True
            self._status = self._status or self._left()
            if not self._working:
                self._finish()

    async def _only_message(self) -> bytes:
        """The request, which grpcio is asked for here so that a request that never comes is known, too."""
        try:
            message = await self._real.read()
        except grpc.aio.UsageError as error:  # the server has been stopped
            raise Cancelled(str(error)) from error
        if message is grpc.aio.EOF:
            await settled()
            name = self._method.rpc.request.DESCRIPTOR.full_name
            raise InvalidMessage(f"the request has no message, and must have one of type {name}")
        data: bytes = message
        return data

    def _left(self) -> int:
        """The status of an RPC that its client ended: at its deadline, or before.

        Clients tell both in the same way, and their deadlines pass a moment before the server's copies of them.
        """
        remaining = self._real.time_remaining()
        if remaining is None:
            return CLIENT_CLOSED
        elapsed = perf_counter() - self._started
        is_late = remaining <= elapsed * _ROUNDED + min(elapsed, _UNDERWAY)
        return status.in_http(grpc.StatusCode.DEADLINE_EXCEEDED) if is_late else CLIENT_CLOSED

    async def _on_thread(self, request: Any) -> bytes | None:
        calls, method = self._calls, self._method
        done = calls.loop.create_future()
        self._context = context = PlainContext(
            self._real, self._ends, run=self._run_on_loop, cancel=self._cancel
        )
        filling = None
        if method.rpc.takes_stream:
            self._inlet = Inlet(method.parsed, calls.wakeups)
            filling = calls.loop.create_task(_quietly(self._inlet.fill(request)))
        if method.rpc.gives_stream:
            self._outlet = Outlet(calls.wakeups)
        self._working = True
        inside = contextvars.copy_context()
        calls.handover.start(
            lambda: self._work(inside, request, context, done), is_alone=calls.counters.in_flight == 1
        )
        try:
            if self._outlet is not None:
                await self._outlet.send(self._send)
            message: bytes | None = await done
            return message
        finally:
            if filling is not None:
                filling.cancel()

    def _work(
        self, inside: contextvars.Context, request: Any, context: PlainContext, done: asyncio.Future[Any]
    ) -> None:
        """What the thread does."""
        message: bytes | None = None
        failure: BaseException | None = None
        running = Running(self._calls.stats.counters())
        try:
            if context.active and self._real.time_remaining() != 0:  # else nobody waits for it any more
                message = inside.run(self._call, request, context, running)
            else:
                failure = Cancelled("the client has left before its turn")
        except BaseException as error:  # noqa: BLE001  # as above
            failure = error
        finally:
            running.end()
        self._calls.wakeups.call(self._worked, inside, done, message, failure)

    def _call(self, request: Any, context: PlainContext, running: Running) -> bytes | None:
        method, inlet, outlet = self._method, self._inlet, self._outlet
        if inlet is not None:
            inlet.running = running
        value = method(method.parsed(request) if inlet is None else inlet, context)
        if outlet is None:
            return None if context.has_status else method.encoded(value)
        if value is None and context.has_status:
            return None
        messages = iter(method.stream(value))
        try:
            for each in messages:
                if context.aborted or not outlet.put(method.encoded(each), running):
                    break
        finally:
            _close(messages)
        return None

    def _worked(
        self,
        inside: contextvars.Context,
        done: asyncio.Future[Any],
        message: bytes | None,
        failure: BaseException | None,
    ) -> None:
        self._working = False
        if self._outlet is not None:
            self._outlet.end()
        if self._answered:  # nobody waits for it any more
            if failure is not None and not isinstance(failure, Aborted | Cancelled):
                inside.run(self._log, failure)
            self._finish()
        elif not done.done():
            if failure is None:
                done.set_result(message)
            else:
                done.set_exception(_raisable(failure))

    async def _awaited(self, request: Any) -> bytes | None:
        calls, method = self._calls, self._method
        messages = _parsed(request, method.parsed) if method.rpc.takes_stream else None
        self._context = context = AsyncContext(
            self._real, self._ends, read=partial(_next, messages), write=self._write
        )
        calls.stats.calls[self] = perf_counter()
        if method.rpc.gives_stream:
            calls.patient.add(self)
        try:
            value = method(method.parsed(request) if messages is None else messages, context)
            if inspect.isawaitable(value):
                value = await value
            if not method.rpc.gives_stream:
                return None if context.has_status else method.encoded(value)
            if value is not None:  # else it has written, with the context's `write`
                await self._send_all(method.stream(value), context)
            return None
        finally:
            calls.patient.discard(self)
            calls.stats.calls.pop(self, None)

    async def _send_all(self, messages: Any, context: Kept) -> None:
        stream = _iterated(messages)
        try:
            async for each in stream:
                if context.aborted:
                    break
                await self._write(each)
        finally:
            if hasattr(messages, "aclose"):
                await messages.aclose()

    async def _write(self, message: Any) -> None:
        await self._send(self._method.encoded(message))

    async def _send(self, message: bytes) -> None:
        try:
            await self._real.write(message)
        except (
            grpc.aio.InternalError
        ) as error:  # grpcio knows that the client has left, and has yet to say so
            raise Cancelled("the client has gone") from error

    def _run_on_loop(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._calls.loop).result()

    def _cancel(self) -> None:
        """What `context.cancel` does, on the thread."""
        self._calls.wakeups.call(self._stop, grpc.StatusCode.CANCELLED, "the method has cancelled it")

    def stop_late(self) -> None:
        """It has taken as long as it may."""
        self._stop(grpc.StatusCode.DEADLINE_EXCEEDED, f"it took longer than {self._calls.timeout:g} s")

    def _stop(self, code: grpc.StatusCode, details: str) -> None:
        """End it with a status now; the method is told, and may go on."""
        if self._task is not None and not self._answered:
            self._stopped = code, details
            self._task.cancel()

    async def _end_stopped(self) -> None:
        """End it if `_stop` has cancelled it; else return."""
        if self._stopped is not None:
            _uncancel(self._task)
            await self._end_with(*self._stopped)

    def _give_up(self) -> None:
        """Tell the method that nobody waits for it any more."""
        if self._context is not None and self._context.active:
            for callback in self._context.end():
                self._calls.loop.call_soon(callback)
        if self._inlet is not None:
            self._inlet.close()
        if self._outlet is not None:
            self._outlet.close()

    async def _fail(self, error: BaseException) -> None:
        """Answer an RPC whose method raised."""
        if self._context is not None and self._context.aborted:
            await self._end_with(self._context.status, self._context.text)
        if isinstance(error, Cancelled):
            raise asyncio.CancelledError
        if not isinstance(error, InvalidMessage):
            self._log(error)
        await self._end_with(*status.of(error))

    def _log(self, error: BaseException) -> None:
        logger = self._calls.log.logger
        if isinstance(error, WrongAnswer):
            logger.error("%s", error)
        elif isinstance(error, ModelError):
            logger.warning("%s", error)
        else:
            error = error.__cause__ if isinstance(error, _Stopped) and error.__cause__ else error
            logger.error(
                "the handler raised %s: %s",
                type(error).__name__,
                tracebacks.words(error),
                exc_info=(type(error), error, tracebacks.from_first_user_frame(error)),
            )

    async def _end_with(self, code: Any, details: str, *also: tuple[str, str]) -> None:
        """End the RPC with a status that is not OK; does not return."""
        self._status = status.in_http(code)
        await self._real.abort(code, status.sendable(details), (*self._trailing(), *also))

    def _trailing(self) -> tuple[tuple[str, Any], ...]:
        given = self._context.trailing if self._context is not None else ()
        models = self._use.header() if self._use is not None else ""
        return (*given, ("x-request-id", self._id), *((("x-cortex-model", models),) if models else ()))

    def _finish(self) -> None:
        seconds = perf_counter() - self._started
        self._calls.counters.finish(self._status, seconds)
        self._calls.log.access("GRPC", self._path, self._status, seconds, self._id)
        if self._use is not None:
            self._use.release()
        self._context = self._task = None  # which know this call: else it would stay until a collection


class _Stopped(Exception):
    """Stands for what cannot be raised in a coroutine."""


def _raisable(failure: BaseException) -> BaseException:
    if isinstance(failure, StopIteration) or not isinstance(failure, Exception):
        stopped = _Stopped()
        stopped.__cause__ = failure
        return stopped
    return failure


def _value(metadata: Iterable[tuple[str, Any]], name: str) -> str | None:
    return next((str(value) for key, value in metadata if key == name), None)


def _close(messages: Iterator[Any]) -> None:
    close = getattr(messages, "close", None)
    if close is not None:
        close()


async def _quietly(coroutine: Coroutine[Any, Any, None]) -> None:
    """What ends a request's stream is seen by who answers it."""
    with suppress(Exception):
        await coroutine


async def _parsed(messages: AsyncIterable[bytes], parse: Callable[[bytes], Any]) -> AsyncIterator[Any]:
    async for message in whole(messages):
        yield parse(message)


async def _next(messages: AsyncIterator[Any] | None) -> Any:
    if messages is None:
        return grpc.aio.EOF
    return await anext(messages, grpc.aio.EOF)


async def _iterated(messages: Any) -> AsyncIterator[Any]:
    if isinstance(messages, AsyncIterable):
        async for each in messages:
            yield each
    else:
        for each in messages:
            yield each


def _is_cancelled(task: Any) -> bool:
    """Whether somebody has cancelled a task whose coroutine has raised so: it may have done that by itself."""
    return not hasattr(task, "cancelling") or bool(task.cancelling())  # before Python 3.11 nobody can know


def _uncancel(task: Any) -> None:
    if hasattr(task, "uncancel"):  # from Python 3.11 on
        task.uncancel()


_FORMS: dict[bool, Callable[..., Any]] = {
    False: grpc.stream_unary_rpc_method_handler,
    True: grpc.stream_stream_rpc_method_handler,
}
"""By whether the answer is a stream. Of requests grpcio need not know: on the wire, one message is a stream of one."""
