"""Load that does not wait: requests leave when they are due, whatever has become of those before.

A client that waits for its answer sends less when the server is slow, and so hides that it is. Here time is measured
from the moment at which a request was due.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from support.raw_http import Address, Answer, Connection, Cut, Ended, Nonsense

PATIENCE = 30.0
"""Seconds an answer may take."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One request, by the monotonic clock.

    Attributes:
        due: when it had to leave.
        left: when it did.
        ended: when its answer had come whole.
        answer: None if it failed.
        failure: why.
    """

    due: float
    left: float
    ended: float
    answer: Answer | None
    failure: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.due

    @property
    def status(self) -> int:
        return self.answer.status if self.answer is not None else 0


class OpenLoop:
    """Sends the same request at a steady rate over as many connections as that takes.

    Args:
        request: its bytes.
        keeps: whether connections are used again.
    """

    def __init__(self, address: Address, request: bytes, *, keeps: bool = True) -> None:
        self._address = address
        self._request = request
        self._keeps = keeps
        self._idle: list[Connection] = []
        self._running: set[asyncio.Task[None]] = set()
        self.outcomes: list[Outcome] = []

    async def send(self, rate: float, seconds: float) -> tuple[float, float]:
        """Send for so long; returns when it began and ended. Answers may come later: see `finish`."""
        began = time.monotonic()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.ensure_future(self._ask(due))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        ended = began + seconds
        await asyncio.sleep(max(ended - time.monotonic(), 0))
        return began, ended

    async def finish(self) -> None:
        """Wait for the answers of all that was sent, and close the connections."""
        while self._running:
            await asyncio.wait(self._running)
        for connection in self._idle:
            await connection.close()

    async def _ask(self, due: float) -> None:
        left = time.monotonic()
        answer, failure = None, ""
        try:
            answer = await asyncio.wait_for(self._exchange(), PATIENCE)
        except (OSError, Ended, Cut, Nonsense, asyncio.TimeoutError) as error:
            failure = f"{type(error).__name__} {error}"
        ended = time.monotonic()
        self.outcomes.append(Outcome(due=due, left=left, ended=ended, answer=answer, failure=failure))

    async def _exchange(self) -> Answer:
        connection = self._idle.pop() if self._idle else await Connection.open(self._address)
        try:
            await connection.send(self._request)
            answer = await connection.answer()
        except BaseException:
            await connection.reset()
            raise
        if self._keeps and answer.headers.get("connection") != "close":
            self._idle.append(connection)
        else:
            await connection.close()
        return answer


def share(outcomes: Sequence[Outcome], part: float, what: Callable[[Outcome], float] | None = None) -> float:
    """The time, in seconds, within which this part of them had their answer; 0 if there are none.

    Args:
        what: another time of theirs.
    """
    values = sorted(map(what or (lambda outcome: outcome.seconds), outcomes))
    return values[min(int(len(values) * part), len(values) - 1)] if values else 0.0


def statuses(outcomes: Sequence[Outcome]) -> Counter[int]:
    """0 are failures."""
    return Counter(outcome.status for outcome in outcomes)
