"""Models leave memory on a thread of their own: what their end takes is no request's business."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from cortex_serve.models.holding import Holding


class Disposal:
    """Lets go of models that left, once nobody uses them.

    Args:
        dropped: called for each, on the disposal's thread, when it is gone.
    """

    def __init__(self, dropped: Callable[[Holding], None]) -> None:
        self._dropped = dropped
        self._queue: SimpleQueue[Holding | None] = SimpleQueue()
        Thread(target=self._run, name="cortex-drop-models", daemon=True).start()

    def put(self, holding: Holding) -> None:
        """Look whether it can go: when it leaves, and whenever a user of it has ended since."""
        self._queue.put(holding)

    def close(self) -> None:
        self._queue.put(None)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            holdings = {first}
            try:
                while (more := self._queue.get_nowait()) is not None:
                    holdings.add(more)
            except Empty:
                pass
            else:
                return
            let_go([each for each in holdings if not each.users and not each.is_gone], self._dropped)


def let_go(holdings: list[Holding], dropped: Callable[[Holding], None]) -> None:
    """Free the memory of models that nobody uses, now."""
    if not holdings:
        return
    with _memory_given_back():
        for holding in holdings:
            holding.forget()
        gc.collect()
    for holding in holdings:
        dropped(holding)


def free_memory() -> None:
    """Give back what nobody uses."""
    with _memory_given_back():
        gc.collect()


@contextmanager
def _memory_given_back() -> Iterator[None]:
    """Have what is freed meanwhile go back to the system.

    glibc keeps up to 64 MiB of free memory in each of its arenas, of which a process with threads has many, and
    its `malloc_trim` leaves out the end of all but the main one. The end of an arena goes back when something is
    freed there and the limit is low, which it must not be for requests: they would get their memory anew each time.
    """
    if _glibc is None:
        yield
        return
    with _trimming:
        _glibc.mallopt(_M_MMAP_THRESHOLD, _MOST_IN_ARENAS)  # what glibc goes up to by itself
        _glibc.mallopt(_M_TRIM_THRESHOLD, 0)
        try:
            yield
            _glibc.malloc_trim(0)
        finally:
            _glibc.mallopt(_M_TRIM_THRESHOLD, 2 * _MOST_IN_ARENAS)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MOST_IN_ARENAS = 32 * 2**20
_trimming = Lock()


def _load_glibc() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


_glibc = _load_glibc()
