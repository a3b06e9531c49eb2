"""The threads that plain methods of a handler run on: exactly so many calls at a time, in the order they came.

    event loop ── calls, many at one wake-up ─▶ queue ─▶ thread: work()
         ▲                                                 │
         └─────────── results, many at one wake-up ────────┘

Waking a thread or an event loop costs more than a small handler takes, for they also take the interpreter from each
other. So results gather while the loop is busy, and calls gather while others come.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

_TURNS = 8
"""An RPC that comes takes about four turns of the loop until its message is there; after more, no other one is coming."""
_WAITS = 0.002
"""Seconds. While threads keep the interpreter busy a turn takes long, and a thread may be free."""


class HandlerThreads:
    """Threads for one handler; they end with the process.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._run, name=f"cortex-handler_{number}", daemon=True).start()

    def start(self, work: Callable[[], object]) -> None:
        """Run `work`, which must not raise, as soon as a thread is free."""
        self._work.put(work)

    def result(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on one of the threads, wait for it, and return what it returns."""
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001  # raised where it is waited for
                future.set_exception(error)

        self.start(work)
        return future.result()

    def close(self) -> None:
        """Let the threads end when they have done what waits."""
        for _ in range(self.count):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            work = None  # else its request, and what that uses, would live until the next one


class Handover:
    """Brings calls from an event loop to threads, in their order: those that gather until no more are coming.

    Args:
        loop: all methods are called on it.
        start: has a thread run a call.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, start: Callable[[Callable[[], object]], object]
    ) -> None:
        self._loop = loop
        self._start = start
        self._gathered: list[Callable[[], object]] = []
        self._seen = 1
        self._quiet = 0
        self._until = 0.0

    def start(self, work: Callable[[], object], *, is_alone: bool) -> None:
        """Run `work`, which must not raise, on a thread soon.

        Args:
            is_alone: there is no other call. Who was alone the last time, too, is not kept waiting.
        """
        if is_alone and self._seen == 1:
            self._start(work)
            return
        self._gathered.append(work)
        if len(self._gathered) == 1:
            self._seen = self._quiet = 0
            self._until = self._loop.time() + _WAITS
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        count = len(self._gathered)
        self._quiet = self._quiet + 1 if count == self._seen else 0
        self._seen = count
        if self._quiet < _TURNS and self._loop.time() < self._until:
            self._loop.call_soon(self._look)
            return
        for work in self._gathered:
            self._start(work)
        self._gathered.clear()


class Wakeups:
    """Brings calls from other threads to an event loop: all that gather before it looks, at one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Have the loop call a function, which must not raise, soon; from any thread."""
        self._calls.append((function, args))
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._call_all)

    def _call_all(self) -> None:
        self._woken = False  # before looking: who adds a call from here on wakes the loop again
        while self._calls:
            function, args = self._calls.popleft()
            function(*args)
