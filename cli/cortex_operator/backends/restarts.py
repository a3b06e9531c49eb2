"""How long to wait before what died is started again."""

from __future__ import annotations

FIRST = 0.1
LIMIT = 30.0
STABLE = 10.0
"""Seconds of being ready after which earlier deaths are forgotten."""


class Restarts:
    """Counts deaths and spaces the restarts: at once after the first death of what was ready, else later."""

    def __init__(self) -> None:
        self.count = 0
        self._row = 0

    def next(self, *, ready_for: float | None) -> float:
        """Count a death.

        Args:
            ready_for: seconds it had been ready for, None if it never was.

        Returns:
            Seconds to wait before the restart.
        """
        self.count += 1
        if ready_for is not None and ready_for >= STABLE:
            self._row = 0
        self._row += 1
        if self._row == 1 and ready_for is not None:
            return 0.0
        steps = self._row - (1 if ready_for is None else 2)
        return min(LIMIT, FIRST * float(1 << min(steps, 30)))
