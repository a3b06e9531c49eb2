"""Time as an argument, and waiting for something with a limit."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from; tests turn the hands themselves."""

    def now(self) -> float:
        """Seconds since the epoch, to be shown and stored."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow, to wait by."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Bell:
    """Wakes everyone who waits. Who listens before looking misses nothing."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Wake all who listen now."""
        self._next.set()
        self._next = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """The next ring."""
        return self._next


async def heard(ring: asyncio.Event, clock: Clock, seconds: float) -> bool:
    """Wait for a ring, at most so many seconds; says whether it came."""
    waits = [asyncio.ensure_future(ring.wait()), asyncio.ensure_future(clock.sleep(max(0.0, seconds)))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return ring.is_set()
