"""Requests for batches, carried without a task, a thread or a turn of the event loop for each.

    server's thread        reads the body, puts the request into its queue; learns that a client has gone
    thread of the handler  calls it
    attendant              sends the answer

What is streamed, or has something to run after it, is sent by a task on the server's loop, like any other. What is to
run after an answer does so, too, when nobody waits for the answer any more.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from cortex_core.spec.types import ServerSideBatching
from cortex_serve.batching.batcher import Batcher, Reply
from cortex_serve.batching.call import BatchCall, Called
from cortex_serve.batching.queue import Policy, Queue
from cortex_serve.deadline import STARTED, late_after, reached, waited
from cortex_serve.payload import BodyIncomplete, BodyTooLarge
from cortex_serve.response import NO_BODY, Answer
from cortex_serve.response import Headers as SentHeaders
from cortex_serve.stats import CLIENT_CLOSED, GATEWAY_TIMEOUT

if TYPE_CHECKING:
    from cortex_serve.application import Application
    from cortex_serve.models.request import Use

MODELS = "x-cortex-model"


class Exchange(Protocol):
    """A request and the way back to its client, as the server offers them to any thread."""

    @property
    def scope(self) -> Scope:
        """Of the request, as ASGI says it."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's."""

    @property
    def receive(self) -> Receive:
        """For tasks on the loop."""

    @property
    def send(self) -> Send:
        """For tasks on the loop."""

    def listen(self, heard: Callable[[Message], None]) -> None:
        """Have `heard` called with the next message, on the server's thread; it must be quick and not raise."""

    def forget(self) -> None:
        """Listen no longer, if what was listened for has not come."""

    def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a whole response, without waiting."""

    def end(self) -> None:
        """Let go of it; a response that is not complete is cut."""


class Carrier:
    """Takes the requests that are batched.

    Args:
        application: whose requests they are. From here on nothing else can call its `handle_post`.
        spec: how they are batched.
        begin: makes what a batch uses of models; None for an API without models.

    Attributes:
        plan: of `handle_post`.
        tells_age: requests say when they began.
        batcher: runs the batches.
    """

    def __init__(
        self, application: Application, spec: ServerSideBatching, begin: Callable[[], Use] | None
    ) -> None:
        self.application = application
        self.plan = application.plans["POST"]
        self.tells_age = late_after(application.request_timeout) is not None
        self._call = BatchCall(application, self.plan.call, begin=begin)
        self._waits = ThreadPoolExecutor(1, thread_name_prefix="cortex-batch") if self.plan.is_async else None
        self.batcher: Batcher[BatchedRequest] = Batcher(
            Queue(Policy.of(spec)),
            self._replies,
            submit=(self._waits or application.pool).submit,
            running=application.stats.coroutine if self.plan.is_async else application.stats.on_thread,
            limit=application.max_in_flight,
            timeout=application.request_timeout,
        )
        self.plan.call = _not_batched
        self.batcher.start()

    def close(self) -> None:
        self.batcher.close()
        if self._waits is not None:
            self._waits.shutdown(wait=False, cancel_futures=True)

    def __call__(self, exchange: Exchange) -> bool:
        """Take a request; False if it is none for a batch."""
        scope = exchange.scope
        if scope.get("method") != "POST" or scope["path"] not in ("", "/"):
            return False
        BatchedRequest(self, exchange).begin()
        return True

    def _replies(self, requests: Sequence[BatchedRequest]) -> Iterator[Reply]:
        called = self._call(requests)
        return _each_with_its_answer(requests, called)


def _each_with_its_answer(requests: Sequence[BatchedRequest], called: Called) -> Iterator[Reply]:
    """Lazy, so that the next call of the handler need not wait for it."""
    try:
        for request, answer in zip(requests, called.answers, strict=True):
            yield partial(request.reply, answer, called)
            if not request.is_replied:  # it was given up while the batch ran
                request.finish_alone(answer, called)
    finally:
        if called.use is not None:
            called.use.release()


def _not_batched(**_arguments: Any) -> None:
    raise RuntimeError("requests for `handle_post` are taken by the batching carrier")


class BatchedRequest:
    """One request, from its first byte to the last of its answer.

    Attributes:
        request_id: it goes by.
        arguments: of the method, for this request alone; set before it waits for a batch.
        is_replied: what the handler answered was on its way to the client.
        loop: the server's.
    """

    __slots__ = (
        "_application",
        "_carrier",
        "_deadline",
        "_declared",
        "_exchange",
        "_headers",
        "_pieces",
        "_size",
        "_started",
        "arguments",
        "is_replied",
        "loop",
        "request_id",
    )

    def __init__(self, carrier: Carrier, exchange: Exchange) -> None:
        self._started = perf_counter()
        self._deadline = math.inf
        self._carrier = carrier
        self._application = carrier.application
        self._exchange = exchange
        self._headers = Headers(raw=exchange.scope["headers"])
        self._pieces: list[bytes] = []
        self._size = 0
        self.arguments: dict[str, Any] = {}
        self.is_replied = False
        self.loop = exchange.loop
        self.request_id = self._application.request_id(self._headers.get("x-request-id"))
        declared = self._headers.get("content-length")
        self._declared = None if declared is None else int(declared)

    # on the server's thread

    def begin(self) -> None:
        """Read the body and wait for a batch. One that nobody wants is read, too: see `wsgi.discard_body`."""
        self._application.stats.counters().in_flight += 1
        has_body = self._declared is not None or "transfer-encoding" in self._headers
        if not has_body and not self._carrier.plan.payload:
            self._wait()
        elif self._declared is not None and self._declared > self._application.max_body_bytes:
            self._fail(BodyTooLarge())
        else:
            self._exchange.listen(self._read)

    def _read(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self._fail(BodyIncomplete())
            return
        piece = message.get("body", b"")
        self._size += len(piece)
        self._pieces.append(piece)
        more = message.get("more_body", False)
        if self._size > self._application.max_body_bytes:
            self._fail(BodyTooLarge())
        elif self._size == self._declared or (not more and self._declared is None):
            self._wait()
        elif more:
            self._exchange.listen(self._read)
        else:
            self._fail(BodyIncomplete())

    def _wait(self) -> None:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        try:
            self.arguments = self._carrier.plan.arguments(
                body, self._headers.get("content-type"), self._exchange.scope["query_string"], self._headers
            )
        except BaseException as error:  # noqa: BLE001 - nothing may get out of here, and everyone is answered
            self._fail(error)
            return
        age = waited(self._headers.get(STARTED)) if self._carrier.tells_age else 0.0
        self._deadline = perf_counter() + self._application.request_timeout - age
        if age > self._application.request_timeout:
            self.expire()
        elif self._carrier.batcher.put(self, age=age):
            self._exchange.listen(self._hear)
        elif self._carrier.batcher.turns_away:
            self.send_elsewhere()
        else:
            self.refuse()

    def _hear(self, message: Message) -> None:
        if message["type"] != "http.disconnect":
            self._exchange.listen(self._hear)
        elif self._carrier.batcher.drop(self):
            self._end(GATEWAY_TIMEOUT if reached(self._deadline) else CLIENT_CLOSED)

    # on any thread, once the batcher has given it back

    def reply(self, answer: Answer, called: Called) -> None:
        """Answer what the handler answered."""
        self.is_replied = True
        if answer.app is not None or answer.after:
            self._exchange.forget()
            self._on_loop(self._deliver(answer, called), called)
        else:
            self._send(answer, called.models)

    def finish_alone(self, answer: Answer, called: Called) -> None:
        """Do what is to be done after an answer that nobody waits for any more."""
        if answer.after:
            self._on_loop(self._application.run_after(answer), called)

    def refuse(self) -> None:
        """Answer that there are too many requests."""
        self._send(self._application.overloaded(self.request_id))

    def expire(self) -> None:
        """Answer that it took too long."""
        self._send(self._application.timed_out(self.request_id))

    def send_elsewhere(self) -> None:
        """Answer that it was not begun, which the gateway keeps from the client and tries elsewhere."""
        self._send(self._application.not_begun(self.request_id))

    def _fail(self, error: BaseException) -> None:
        self._send(self._application.failed(error, self.request_id))

    def _send(self, answer: Answer, models: str = "") -> None:
        self._exchange.forget()
        try:
            self._pass_on(answer, models)
        except Exception as error:  # noqa: BLE001 - a header that cannot be sent, say; others wait for their answers
            answer = self._application.failed(error, self.request_id)
            self._pass_on(answer, models)
        self._end(answer.status)

    def _pass_on(self, answer: Answer, models: str) -> None:
        headers: SentHeaders = [*answer.headers, ("x-request-id", self.request_id)]
        if models:
            headers.append((MODELS, models))
        if answer.status not in NO_BODY:
            headers.append(("content-length", str(len(answer.body))))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._exchange.answer(answer.status, raw, answer.body)

    def _on_loop(self, work: Coroutine[Any, Any, None], called: Called) -> None:
        """Have something done in the context of the call, but for this request alone."""

        async def done() -> None:
            try:
                await work
            finally:
                if called.use is not None:
                    called.use.release()

        if called.use is not None:
            called.use.hold()
        context = called.context.copy()
        context.run(self._application.log.request_id.set, self.request_id)
        context.run(asyncio.run_coroutine_threadsafe, done(), self.loop)

    async def _deliver(self, answer: Answer, called: Called) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and called.models:
                named = (MODELS.encode(), called.models.encode())
                message = {**message, "headers": [*message["headers"], named]}
            await self._exchange.send(message)

        status = 500
        try:
            status = await self._application.deliver(
                answer,
                self._exchange.scope,
                self._exchange.receive,
                send,
                request_id=self.request_id,
                deadline=self._deadline,
            )
        finally:
            self._exchange.end()
            self._end(status)

    def _end(self, status: int) -> None:
        seconds = perf_counter() - self._started
        self._application.stats.counters().finish(status, seconds)
        self._application.log.access("POST", "/", status, seconds, self.request_id)
