"""What is not over in time: one timer for all RPCs, since making and cancelling one for each costs more than that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

What = TypeVar("What")


class Deadlines(Generic[What]):
    """Each has equally long, so the oldest is the first that is late. All methods are for the loop.

    Args:
        seconds: that each has.
        late: called with what is not over then.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, late: Callable[[What], object]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._late = late
        self._due: dict[What, float] = {}
        self._is_waiting = False

    def begin(self, what: What) -> None:
        due = self._due[what] = self._loop.time() + self._seconds
        if not self._is_waiting:
            self._wait(due)

    def end(self, what: What) -> None:
        """It is over; or it has been late, which does not matter."""
        self._due.pop(what, None)

    def _wait(self, due: float) -> None:
        self._is_waiting = True
        self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._is_waiting = False
        now = self._loop.time()
        for what, due in list(self._due.items()):
            if due > now:
                self._wait(due)
                return
            del self._due[what]
            self._late(what)
