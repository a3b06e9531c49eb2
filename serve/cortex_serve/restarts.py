"""When a worker that died is started again."""

from __future__ import annotations

FIRST_DELAY = 0.1
LONGEST_DELAY = 30.0
STEADY_AFTER = 2.0
"""Seconds of being ready after which earlier deaths are forgiven."""


class Restarts:
    """One worker's deaths: after the first it is started at once, after each further one later."""

    def __init__(self) -> None:
        self.count = 0
        self._in_a_row = 0

    def delay(self, *, ready_for: float) -> float:
        """Note a death.

        Args:
            ready_for: seconds the worker had been ready; 0 when it never was.

        Returns:
            Seconds to wait before it is started again.
        """
        self.count += 1
        self._in_a_row = 1 if ready_for >= STEADY_AFTER else self._in_a_row + 1
        if self._in_a_row == 1:
            return 0.0
        exponent = min(self._in_a_row - 2, 32)
        return float(min(FIRST_DELAY * 2**exponent, LONGEST_DELAY))
