"""Messages between the event loop and a method that runs on a thread: a few go ahead, then one waits for the other."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from queue import SimpleQueue
from time import perf_counter
from typing import Any

from cortex_serve.rpc.context import Cancelled
from cortex_serve.rpc.threads import Wakeups
from cortex_serve.stats import Counters

AHEAD = 4
"""Messages of one stream that may wait for their reader; each may be large."""

_SETTLES = 0.001
"""Seconds. A request that its client gives up ends like one that is complete; a moment later one knows."""

_END = object()
_GONE = object()


async def whole(messages: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The messages of a request, whose end is the end and not that the client has left: then this is cancelled."""
    async for message in messages:
        yield message
    await settled()


async def settled() -> None:
    """Wait until one knows whether a request has ended because its client has left: then this is cancelled."""
    await asyncio.sleep(_SETTLES)


class Running:
    """How long the method has been running on its thread: what it waits for the client does not count.

    Args:
        counters: of the thread, on which this is made.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._thread = threading.get_ident()
        counters.began = perf_counter()

    def pause(self) -> None:
        if threading.get_ident() == self._thread:  # methods may read from threads of their own
            self._counters.began = 0.0

    def resume(self) -> None:
        if threading.get_ident() == self._thread:
            self._counters.began = perf_counter()

    def end(self) -> None:
        self._counters.began = 0.0


class Inlet:
    """A request's messages: an iterator on the thread, filled by the event loop.

    Args:
        parse: makes a message of bytes.
    """

    def __init__(self, parse: Callable[[bytes], Any], wakeups: Wakeups) -> None:
        self.running: Running | None = None
        self._parse = parse
        self._wakeups = wakeups
        self._space = asyncio.Semaphore(AHEAD)
        self._messages: SimpleQueue[Any] = SimpleQueue()
        self._over: object | None = None

    async def fill(self, messages: AsyncIterable[bytes]) -> None:
        """Pass on all messages; on the loop."""
        try:
            async for message in whole(messages):
                self._messages.put(message)
                await self._space.acquire()
            self._messages.put(_END)
        finally:
            self.close()

    def close(self) -> None:
        """Let nobody wait for more."""
        self._messages.put(_GONE)

    def __iter__(self) -> Inlet:
        return self

    def __next__(self) -> Any:
        if self._over is None:
            message = self._next()
            if message is not _END and message is not _GONE:
                self._wakeups.call(self._space.release)
                return self._parse(message)
            self._over = message
        if self._over is _GONE:
            raise Cancelled("the client has gone")
        raise StopIteration

    def _next(self) -> Any:
        if self.running is None:
            return self._messages.get()
        self.running.pause()
        try:
            return self._messages.get()
        finally:
            self.running.resume()


class Outlet:
    """An answer's messages: put in on the thread, sent by the event loop."""

    def __init__(self, wakeups: Wakeups) -> None:
        self._wakeups = wakeups
        self._space = threading.Semaphore(AHEAD)
        self._messages: deque[bytes] = deque()
        self._arrival = asyncio.Event()
        self._is_closed = False
        self._is_ended = False

    def put(self, message: bytes, running: Running) -> bool:
        """Have a message sent, when there is room for it; on the thread.

        Returns:
            False when nobody wants more.
        """
        running.pause()
        self._space.acquire()
        running.resume()
        if self._is_closed:
            return False
        self._wakeups.call(self._arrived, message)
        return True

    async def send(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Send messages until `end`; on the loop."""
        while True:
            while self._messages:
                await write(self._messages.popleft())
                self._space.release()
            if self._is_ended:
                return
            self._arrival.clear()
            await self._arrival.wait()

    def end(self) -> None:
        """There are no more; on the loop."""
        self._is_ended = True
        self._arrival.set()

    def close(self) -> None:
        """Let nobody wait for room; on the loop."""
        self._is_closed = True
        self._space.release()

    def _arrived(self, message: bytes) -> None:
        self._messages.append(message)
        self._arrival.set()
