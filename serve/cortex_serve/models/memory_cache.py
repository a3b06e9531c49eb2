"""What may be in memory when only so much may: the least recently used makes room. Pure.

Whoever calls holds a lock. What loads counts like what is loaded, so the limit also holds while loading.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class MemoryCache(Generic[Item]):
    """What is loaded, in the order of its last use, and what is loading.

    Args:
        size: how many may be loaded or loading.
        in_use: whether a loaded one must stay.

    Attributes:
        evictions: how many had to make room.
    """

    def __init__(self, size: int, *, in_use: Callable[[Item], bool]) -> None:
        self.evictions = 0
        self._size = size
        self._in_use = in_use
        self._loading: set[Item] = set()
        self._loaded: OrderedDict[Item, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._loading) + len(self._loaded)

    def used(self, item: Item) -> None:
        """A loaded one was used now."""
        self._loaded.move_to_end(item)

    def reserve(self, item: Item) -> tuple[Item, ...] | None:
        """Get a place for one that is to be loaded.

        Returns:
            Those that have to leave memory before, at most one; None when all that are there must stay.
        """
        if len(self) < self._size:
            self._loading.add(item)
            return ()
        for oldest in self._loaded:
            if not self._in_use(oldest):
                del self._loaded[oldest]
                self._loading.add(item)
                self.evictions += 1
                return (oldest,)
        return None

    def loaded(self, item: Item) -> None:
        """One with a place is in memory now, and was used last."""
        self._loading.remove(item)
        self._loaded[item] = None

    def free(self, item: Item) -> None:
        """Give back its place, if it has one."""
        self._loading.discard(item)
        self._loaded.pop(item, None)
