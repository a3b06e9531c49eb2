"""Which of the versions on disk goes when another one needs its place: the one whose last use is longest ago."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from cortex_core.spec.types import Struct


class CacheLimits(Struct):
    """`cache_size` and `disk_cache_size`: how many versions may be in memory and on disk."""

    memory: int
    disk: int


class DiskCache:
    """The places on disk: each is taken by a version that is there or on its way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._places: dict[int, None] = {}  # serials, the least recently used first

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, serial: int) -> bool:
        return serial in self._places

    def use(self, serials: Iterable[int]) -> None:
        """These were used, in this order; what has no place is left out."""
        for serial in serials:
            if serial in self._places:
                del self._places[serial]
                self._places[serial] = None

    def leave(self, serial: int) -> None:
        self._places.pop(serial, None)

    def take(self, serial: int) -> None:
        """Take a place, also beyond the limit: for what is there already."""
        self._places[serial] = None

    def victims(self, places: int, can_go: Callable[[int], bool]) -> list[int] | None:
        """Which have to leave for so many new ones to find a place.

        Args:
            places: how many; 0 to be within the limit.
            can_go: whether nobody uses a version.

        Returns:
            The least recently used first; None when there are not enough that can go.
        """
        excess = len(self._places) + places - self._limit
        if excess <= 0:
            return []
        found = list(islice(filter(can_go, self._places), excess))
        return found if len(found) == excess else None
