"""What is counted of batches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the histogram of sizes; no batch is larger."""

WAITS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the histogram of waits in seconds; one more bucket holds everything above."""


class BatchCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the worker started.

    Attributes:
        sizes: batches per bucket of `SIZES`, not cumulative.
        requests: in all batches together.
        waits: requests per bucket of `WAITS` and above by how long they waited for their batch, not cumulative.
        waited: seconds of all requests together.
        waiting: requests that wait now.
    """

    sizes: tuple[int, ...] = (0,) * len(SIZES)
    requests: int = 0
    waits: tuple[int, ...] = (0,) * (len(WAITS) + 1)
    waited: float = 0.0
    waiting: int = 0


class Counter:
    """Counts batches; one thread at a time may."""

    def __init__(self) -> None:
        self._sizes = [0] * len(SIZES)
        self._requests = 0
        self._waits = [0] * (len(WAITS) + 1)
        self._waited = 0.0

    def add(self, waits: Iterable[float]) -> None:
        """Count a batch by the seconds that each of its requests has waited."""
        size = 0
        for seconds in waits:
            size += 1
            self._waits[bisect_left(WAITS, seconds)] += 1
            self._waited += seconds
        self._sizes[bisect_left(SIZES, size)] += 1
        self._requests += size

    def snapshot(self, *, waiting: int = 0) -> BatchCounts:
        return BatchCounts(
            sizes=tuple(self._sizes),
            requests=self._requests,
            waits=tuple(self._waits),
            waited=self._waited,
            waiting=waiting,
        )


def total(counts: Iterable[BatchCounts]) -> BatchCounts:
    """The sum over workers."""
    every = [BatchCounts(), *counts]
    return BatchCounts(
        sizes=tuple(map(sum, zip(*(each.sizes for each in every), strict=True))),
        requests=sum(each.requests for each in every),
        waits=tuple(map(sum, zip(*(each.waits for each in every), strict=True))),
        waited=sum(each.waited for each in every),
        waiting=sum(each.waiting for each in every),
    )
