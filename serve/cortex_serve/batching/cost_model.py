"""What a batch costs, learned from the batches that ran: seconds = call + item × size."""

from __future__ import annotations

from collections import deque
from statistics import median

WINDOW = 32
"""Batches that are remembered."""

_CAUTION = 0.9
"""Share of the remembered batches that were at most as slow as is foretold."""


class CostModel:
    """Foretells how long a batch takes.

    The slope is a resistant line's (medians of the smallest and of the largest batches), so that a few outliers
    do not move it; the first call, which often warms something up, is left out. While all batches have one size,
    nothing is known of the slope: then slightly larger ones are tried.

    Attributes:
        call, item: seconds of a call, and of each request in it; 0 while nothing is known.
    """

    def __init__(self) -> None:
        self.call = 0.0
        self.item = 0.0
        self._warm = False
        self._sizes_differ = False
        self._large = 0
        self._seen: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    def observe(self, size: int, seconds: float) -> None:
        """Learn from a batch."""
        if not self._warm:
            self._warm = True
            return
        self._seen.append((size, seconds))
        self.item = self._slope()
        rest = sorted(seconds - self.item * size for size, seconds in self._seen)
        self.call = max(rest[int(_CAUTION * (len(rest) - 1))], 0.0)

    def seconds(self, size: int) -> float:
        """How long a batch of this size takes."""
        return self.call + self.item * size

    def most_within(self, seconds: float) -> int:
        """The largest batch that takes at most so long; at least 1, and not far above what was tried."""
        most = self._large + max(self._large if self._sizes_differ else self._large // 8, 1)
        if self.seconds(most) > seconds:
            share = (seconds - self.call) / self.item if self.item else self._large * seconds / self.call
            most = int(share)
        return max(most, 1)

    def _slope(self) -> float:
        by_size = sorted(self._seen)
        third = -(-len(by_size) // 3)
        small, large = by_size[:third], by_size[-third:]
        fewer, more = median(size for size, _ in small), median(size for size, _ in large)
        self._large = int(more)
        self._sizes_differ = more > fewer
        if not self._sizes_differ:
            return 0.0
        slope = (median(seconds for _, seconds in large) - median(seconds for _, seconds in small)) / (
            more - fewer
        )
        return min(max(slope, 0.0), median(seconds / size for size, seconds in by_size))
