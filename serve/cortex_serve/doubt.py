"""Whether a worker may hang; while it may, nobody new is let in.

Who sent a request to a worker that turns out to hang loses it with that worker: nobody else knows whether it was begun.
But the client of the call that hangs is answered at the limit by the gateway, and asks again at once. So from just
before the limit, new connections are turned away, over gRPC new calls, and tried again, elsewhere or once another worker is
here; what has begun goes on. That a worker does hang, and what then, is decided from outside (`overdue.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

EARLY = 0.25
"""Seconds before the limit of a call at which it is doubted: its client may be told sooner than we count."""
CANCELLED_WITHIN = 0.1
"""Seconds after the limit at which a coroutine is doubted; at the limit it is cancelled."""
AGAIN = 0.02
"""Seconds after which a doubted call is looked at again; it may have ended."""


class Doubt:
    """Looks at the calls of one worker; used by one thread.

    Args:
        limit: seconds that a call of the handler may take.
        cancels: whether a call that takes longer is cancelled.
        oldest_call: for how many seconds the longest call that runs now has run; None when none runs.
        turn_away: has newcomers turned away.
        let_in: has them accepted again.
    """

    def __init__(
        self,
        limit: float,
        *,
        cancels: bool,
        oldest_call: Callable[[], float | None],
        turn_away: Callable[[], None],
        let_in: Callable[[], None],
    ) -> None:
        self._bearable = limit + CANCELLED_WITHIN if cancels else limit - EARLY
        self._oldest_call = oldest_call
        self._turn_away = turn_away
        self._let_in = let_in
        self._doubted = False

    def look(self) -> float:
        """Turn away or let in, if that has changed.

        Returns:
            Seconds after which to look again. Of a call that begins meanwhile too little is known then only if
            that is longer than a call may take.
        """
        oldest = self._oldest_call()
        doubted = oldest is not None and oldest >= self._bearable
        if doubted != self._doubted:
            self._doubted = doubted
            (self._turn_away if doubted else self._let_in)()
        if doubted:
            return AGAIN
        return inf if oldest is None else self._bearable - oldest
