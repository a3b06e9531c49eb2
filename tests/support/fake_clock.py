"""A clock whose hands are turned by the test, and a loop that is run until nothing more happens by itself."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

SETTLED = 40
"""Rounds of the event loop after which everything that could happen without time has happened."""


class FakeClock:
    """Time stands still until `advance`."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._start = now
        self._passed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._start + self._passed

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._passed + seconds, next(self._order), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking sleepers in their order."""
        end = self._passed + seconds
        await self.settle()
        while (due := self._next()) is not None and due <= end:
            self._wake(due)
            await self.settle()
        self._passed = end

    async def until(self, condition: Callable[[], bool], *, within: float = 3600.0) -> None:
        """Let as little time pass as it takes for the condition to hold, at most `within` seconds."""
        end = self._passed + within
        await self.settle(condition)
        while not condition():
            due = self._next()
            assert due is not None, "nothing sleeps, so nothing will change any more"
            assert due <= end, f"the condition does not hold after {within} seconds"
            self._wake(due)
            await self.settle(condition)

    async def settle(self, condition: Callable[[], bool] = lambda: False) -> None:
        """Run what can run without time passing."""
        for _ in range(SETTLED):
            if condition():
                return
            await asyncio.sleep(0)

    def _next(self) -> float | None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def _wake(self, due: float) -> None:
        self._passed = max(self._passed, due)
        while self._sleepers and self._sleepers[0][0] <= due:
            _, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
