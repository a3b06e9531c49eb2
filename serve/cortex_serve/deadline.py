"""Requests that waited so long before their call could begin that their clients have been answered.

The gateway has ended them then. It says when a request began, for APIs with a `request_timeout`.
"""

from __future__ import annotations

import time

from cortex_core.runtime import REQUEST_TIMEOUT

STARTED = "x-request-start"
"""Header that the gateway sets, whatever the client sent: when the request began, in epoch seconds."""


def late_after(request_timeout: float) -> float | None:
    """Seconds that a request may wait; None if the gateway does not say when it began."""
    return None if request_timeout == REQUEST_TIMEOUT else request_timeout


def waited(started: str | None) -> float:
    """Seconds since a request began.

    Args:
        started: what it brought as `STARTED`; 0 seconds if that is not there, or no number.
    """
    try:
        return time.time() - float(started) if started else 0.0
    except ValueError:
        return 0.0
