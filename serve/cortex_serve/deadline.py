"""When a request's time is up. Its client has been answered 504 by the gateway then, whatever comes after it.

The gateway says when a request began, for APIs with a `request_timeout`: earlier than we know of it.
"""

from __future__ import annotations

import time
from time import perf_counter

from cortex_core.runtime import REQUEST_TIMEOUT

STARTED = "x-request-start"
"""Header that the gateway sets, whatever the client sent: when the request began, in epoch seconds."""
TICK = 0.05
"""Seconds by which the gateway may be early: its timers go by when it last looked at the clock."""


def late_after(request_timeout: float) -> float | None:
    """Seconds that a request may wait; None if the gateway does not say when it began."""
    return None if request_timeout == REQUEST_TIMEOUT else request_timeout


def waited(started: str | None) -> float:
    """Seconds since a request began.

    Args:
        started: what it brought as `STARTED`; 0 seconds if that is not there, no number, or still to come.
    """
    try:
        return max(0.0, time.time() - float(started)) if started else 0.0
    except ValueError:
        return 0.0


def reached(deadline: float) -> bool:
    """Whether a client that is gone now was sent away by the gateway because its time was up.

    Args:
        deadline: by `perf_counter`.
    """
    return perf_counter() >= deadline - TICK
