"""Whether a worker hangs, judged from outside by what it says and how long it has said nothing.

A call of the handler that overstays is seen in a fresh report: when the longest call that the last one knew of
would be overdue, the worker is asked again. Something that holds the interpreter's lock (GIL) keeps the worker from
reporting at all; it began after the last report, so silence has a limit too, except while a model is loaded,
which may honestly take that long. Nobody is judged by silence who was not asked just before: after a pause of the
whole machine everybody has been silent.

    listening ──due──▶ ask ──overdue, or no answer──▶ give up ──¼ s──▶ abort ──1 s──▶ kill
                        └──answered in time──▶ listening
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal, TypeAlias

OVERSTAY = 0.5
"""Seconds that a call may go on beyond its limit: it may be about to end, or be cancelled."""

SILENCE = 0.75
"""Seconds beyond the limit of a call after which silence is too long; a worker reports more often than that."""

SILENCE_LIMIT = 300.0
"""Seconds of silence that are too long whatever a call may take."""

SILENCE_SHOWN = 30.0
"""Seconds of silence after which people are told."""

ANSWER_WITHIN = 0.5
HANG_UP_WITHIN = 0.25
"""Seconds a worker gets to close its connections, so that its clients learn that what comes now was not begun."""
ABORT_WITHIN = 1.0
"""Seconds a worker gets to write down the stacks of its threads."""

Step: TypeAlias = Literal["ask", "warn", "give up", "abort", "kill"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a worker may be busy.

    Attributes:
        request: seconds a call of the handler may take.
        load: seconds it may take to load a model.
    """

    request: float
    load: float = 0.0

    @property
    def silence(self) -> float:
        return min(self.request + SILENCE, SILENCE_LIMIT)


class Watch:
    """Watches one worker, from when it is ready.

    Args:
        now: monotonic time, in seconds, as everywhere here.

    Attributes:
        reason: why it is thought to hang, for people; None while it is not.
    """

    def __init__(self, limits: Limits, *, now: float) -> None:
        self.reason: str | None = None
        self._limits = limits
        self._leaves = False
        self._oldest_call = 0.0
        self._overdue_at = inf
        self._endings: list[tuple[float, Step]] = []
        self.heard(now=now, loading=False)

    def heard(self, *, now: float, loading: bool) -> None:
        """It said something.

        Args:
            loading: whether it is loading a model.
        """
        self._heard_at = now
        loads = self._limits.load + SILENCE if loading else 0.0
        self._silence = inf if self._leaves else max(self._limits.silence, loads)
        self._asked_at: float | None = None
        self._warn_at = inf if self._leaves else now + SILENCE_SHOWN

    def leaves(self, *, now: float) -> None:
        """It was told to end, and may say nothing more; its calls are still judged."""
        self._leaves = True
        self.heard(now=now, loading=False)

    def reported(self, oldest_call: float | None, *, now: float) -> None:
        """It said for how many seconds its longest call has run; None: none runs."""
        self._oldest_call = oldest_call or 0.0
        self._overdue_at = inf if oldest_call is None else now - oldest_call + self._limits.request + OVERSTAY

    @property
    def due(self) -> float:
        """When to look again; infinite when there is nothing to wait for."""
        if self.reason is not None:
            return self._endings[0][0] if self._endings else inf
        return min(self._ask_at, self._silent_at, self._warn_at)

    def look(self, now: float) -> Step | None:
        """What to do now; each step is said once."""
        if self.reason is not None:
            return self._endings.pop(0)[1] if now >= self.due else None
        limit = f"the limit is request_timeout: {self._limits.request:g}s"
        if self._oldest_call >= self._limits.request + OVERSTAY:
            return self._give_up(now, f"a call of the handler has run for {self._oldest_call:.1f} s; {limit}")
        if now >= self._silent_at:
            if self._silence != self._limits.request + SILENCE:
                limit = f"the limit is {self._silence:g} s"
            what = f"something holds the interpreter's lock for {now - self._heard_at:.1f} s"
            return self._give_up(now, f"{what}; {limit}")
        if now >= self._ask_at:
            self._asked_at = now
            return "ask"
        if now >= self._warn_at:
            self._warn_at = inf
            return "warn"
        return None

    @property
    def _ask_at(self) -> float:
        """When to ask: when a call will be overdue, and just before silence is too long."""
        moments = (self._overdue_at, self._quiet_at)
        return min((at for at in moments if self._asked_at is None or at > self._asked_at), default=inf)

    @property
    def _quiet_at(self) -> float:
        return self._heard_at + self._silence - ANSWER_WITHIN

    @property
    def _silent_at(self) -> float:
        """When silence is too long, for one that was asked just before."""
        if self._asked_at is None or self._asked_at < self._quiet_at:
            return inf
        return self._asked_at + ANSWER_WITHIN

    def _give_up(self, now: float, reason: str) -> Step:
        self.reason = reason
        abort_at = now + HANG_UP_WITHIN
        self._endings = [(abort_at, "abort"), (abort_at + ABORT_WITHIN, "kill")]
        return "give up"
