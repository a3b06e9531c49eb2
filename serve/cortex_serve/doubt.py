"""Whether a worker may hang; while it may, nobody new is let in.

Who sent a request to a worker that turns out to hang loses it with that worker: nobody else knows whether it was begun.
But the client of the call that hangs is answered at the limit by the gateway, and asks again at once. So from just
before the limit, new connections are turned away, over gRPC new calls, and tried again, elsewhere or once another worker is
here; what has begun goes on. That a worker does hang, and what then, is decided from outside (`overdue.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

EARLY = 0.25
"""Seconds before the limit of a call at which it is doubted: its client may be told sooner than we count."""
CANCELLED_WITHIN = 0.1
"""Seconds after the limit at which a coroutine is doubted in any case; at the limit it is cancelled."""
AGAIN = 0.02
"""Seconds after which a long call is looked at again; it may have ended."""


class Pulse:
    """Whether an event loop goes on. Coroutines that take long are no reason for doubt while it does.

    Args:
        call_soon: has the loop call a function, from any thread.
    """

    def __init__(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._call_soon = call_soon
        self._asked = False

    def is_missing(self) -> bool:
        """Whether the loop has not answered since this was asked last, if it was; asks again."""
        missing = self._asked
        if not missing:
            self._asked = True
            with suppress(RuntimeError):  # it has ended
                self._call_soon(self._answer)
        return missing

    def _answer(self) -> None:
        self._asked = False


class Doubt:
    """Looks at the calls of one worker; used by one thread.

    Args:
        limit: seconds that a call of the handler may take.
        pulse: of the loop that coroutines run on, which are cancelled when they take longer; None if calls have threads.
        oldest_call: for how many seconds the longest call that runs now has run; None when none runs.
        oldest_on_thread: the same of calls that have threads, which nothing cancels.
        turn_away: has newcomers turned away.
        let_in: has them accepted again.
    """

    def __init__(
        self,
        limit: float,
        *,
        pulse: Pulse | None,
        oldest_call: Callable[[], float | None],
        oldest_on_thread: Callable[[], float | None],
        turn_away: Callable[[], None],
        let_in: Callable[[], None],
    ) -> None:
        self._limit = limit
        self._pulse = pulse
        self._oldest_call = oldest_call
        self._oldest_on_thread = oldest_on_thread
        self._turn_away = turn_away
        self._let_in = let_in
        self._doubted = False

    def look(self) -> float:
        """Turn away or let in, if that has changed.

        Returns:
            Seconds after which to look again; no call that begins meanwhile is long by then.
        """
        oldest = self._oldest_call() or 0.0
        left = self._until_long(oldest)
        doubted = left <= 0 and self._is_doubtful(oldest)
        if doubted != self._doubted:
            self._doubted = doubted
            (self._turn_away if doubted else self._let_in)()
        return left if left > 0 else AGAIN

    def _is_doubtful(self, oldest: float) -> bool:
        if self._pulse is None or oldest >= self._limit + CANCELLED_WITHIN:
            return True
        return self._until_long(self._oldest_on_thread() or 0.0) <= 0 or self._pulse.is_missing()

    def _until_long(self, call: float) -> float:
        """Seconds until a call that has run so long may hang."""
        return self._limit - EARLY - call
