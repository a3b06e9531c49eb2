"""Time as Envoy's timers see it, for tests of how long something is waited for at least."""

from __future__ import annotations

import time

_CLOCK_MONOTONIC_COARSE = 6


def envoy_clock() -> int:
    """Microseconds.

    Envoy leaves the choice of a clock to libevent, which takes the coarse one and counts in microseconds. That lags behind
    `time.monotonic` by up to a tick of the kernel, 4 ms for instance, so by any other clock a timer may be early.
    """
    return time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) // 1000
