"""The threads that plain methods of a handler run on: exactly so many calls at a time, in the order they came.

    event loop ── run(work) ─▶ queue ─▶ thread: work()
         ▲                                │
         └── results, many at one wake-up ┘

Waking an event loop costs more than a small handler takes, so results gather while it is busy.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class HandlerThreads:
    """Threads for one handler; they end with the process.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._count = count
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
        for _ in range(self._count):
            self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            work = None  # else its request, and what that uses, would live until the next one


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
