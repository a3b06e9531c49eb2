"""One event loop beside synchronous carriers, for the few responses that need one.

It is started by the first response that does, and ends with the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from cortex_serve.response import run

CHUNK_WITHIN = 300.0
"""Seconds a response may take until its next chunk; it holds one of the server's threads meanwhile."""

_CHUNKS_AHEAD = 8


class Background:
    """The loop and its thread."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            with self._starting:
                if self._loop is None:
                    loop = asyncio.new_event_loop()
                    threading.Thread(target=_run, args=(loop,), name="cortex-background", daemon=True).start()
                    self._loop = loop
        return self._loop

    def close(self) -> None:
        """Stop the loop; what still runs on it is abandoned."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


class Exchange(Iterator[bytes]):
    """An ASGI response that runs on the loop while its chunks are taken on the thread that iterates.

    The response is at most a few chunks ahead. `close` ends it, unless it has sent everything.

    Args:
        loop: runs in another thread.
        app: the response.
        scope: of its request.
        failed: told what the response raised when it had sent everything; on the loop.
        chunk_within: seconds that each of its messages may take.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app: ASGIApp,
        scope: Scope,
        *,
        failed: Callable[[BaseException], None],
        chunk_within: float = CHUNK_WITHIN,
    ) -> None:
        self.complete = False
        self._sent_all = False
        self._closed = False
        self._loop = loop
        self._failed = failed
        self._chunk_within = chunk_within
        self._messages: SimpleQueue[Message | BaseException | None] = SimpleQueue()
        self._window = asyncio.Semaphore(_CHUNKS_AHEAD)
        self._running = asyncio.run_coroutine_threadsafe(self._run(app, scope), loop)

    def start(self) -> tuple[int, list[tuple[bytes, bytes]]]:
        """Wait for status and headers.

        Raises:
            TimeoutError: they took too long.
            Exception: whatever the response raised instead.
        """
        message = self._next()
        if message is None:
            raise RuntimeError("the response ended before it began")
        return message["status"], list(message.get("headers", ()))

    def __next__(self) -> bytes:
        if self.complete:
            raise StopIteration
        message = self._next()
        if message is None:
            raise RuntimeError("the response ended before its last chunk")
        self.complete = not message.get("more_body", False)
        return bytes(message.get("body", b""))

    def close(self) -> None:
        if not self.complete:
            self._closed = True
            self._running.cancel()

    def _next(self) -> Message | None:
        try:
            message = self._messages.get(timeout=self._chunk_within)
        except Empty:
            self._running.cancel()
            raise TimeoutError(f"the response sent nothing for {self._chunk_within:g} seconds") from None
        if isinstance(message, BaseException):
            raise message
        self._loop.call_soon_threadsafe(self._window.release)
        return message

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        _, error = await outcome(run(app, scope, never, self._send))
        if error is not None and self._sent_all and not self._closed:
            self._failed(error)
        self._messages.put(error)

    async def _send(self, message: Message) -> None:
        await self._window.acquire()
        self._sent_all = message["type"] == "http.response.body" and not message.get("more_body", False)
        self._messages.put(message)


async def never() -> Message:
    """A `receive` without messages: the carrier itself watches for a client that goes."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("never")


def result_of(awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop) -> Any:
    """Run an awaitable on another thread's loop and wait for it."""
    result, error = asyncio.run_coroutine_threadsafe(outcome(awaitable), loop).result()
    if error is not None:
        raise error
    return result


async def outcome(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """What it returned, or raised: a SystemExit that left its task would end the loop, and with it everybody's."""
    try:
        return await awaitable, None
    except BaseException as error:  # noqa: BLE001 - the user's code may raise anything
        return None, error
