"""How long to wait before what died is started again."""

from __future__ import annotations

FIRST = 0.1
LIMIT = 30.0


class Restarts:
    """Counts deaths and spaces the restarts: at once after the first death of what was ready, else later.

    Args:
        stable_after: seconds of being ready after which earlier deaths are forgotten.
    """

    def __init__(self, *, stable_after: float) -> None:
        self.count = 0
        self._stable_after = stable_after
        self._delays: int | None = None  # in a row; None before the first death

    def next(self, *, ready_for: float | None) -> float:
        """Count a death.

        Args:
            ready_for: seconds it had been ready for, None if it never was.

        Returns:
            Seconds to wait before the restart.
        """
        self.count += 1
        if ready_for is not None and (self._delays is None or ready_for >= self._stable_after):
            self._delays = 0
            return 0.0
        self._delays = (self._delays or 0) + 1
        return min(LIMIT, FIRST * float(1 << min(self._delays - 1, 30)))
