"""Calls that end in time, whatever the other side does."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import BoundedSemaphore, Thread
from typing import TypeVar

from cortex_core.storage.protocol import Stopped

Result = TypeVar("Result")

_ABANDONED_AT_MOST = 64
_ASK_SECONDS = 0.2


class DeadlinePassed(Exception):
    """There is no time left; whether the call took effect is not known."""


class Deadline:
    """A moment by which all of an operation's calls together must have ended.

    A socket's own timeout begins anew with every byte, so a peer that sends one now and then holds a caller for
    ever. Calls therefore run in threads of their own: one that is late is abandoned and ends with its socket.

    Args:
        seconds: from now.
        stopped: asked while a call runs: whether nobody waits for the operation any more.
    """

    _threads = BoundedSemaphore(_ABANDONED_AT_MOST)

    def __init__(self, seconds: float, stopped: Callable[[], bool] | None = None) -> None:
        self.seconds = seconds
        self._at = time.monotonic() + seconds
        self._stopped = stopped

    def extend(self, seconds: float) -> None:
        """More time, once it is known how much there is to do."""
        self.seconds += seconds
        self._at += seconds

    @property
    def passed(self) -> bool:
        """Whether a call that ends now was abandoned, so that nobody takes what it returns."""
        return time.monotonic() >= self._at or (self._stopped is not None and self._stopped())

    def remaining(self) -> float:
        """Seconds left. Raises `DeadlinePassed` when there are none."""
        seconds = self._at - time.monotonic()
        if seconds <= 0:
            raise DeadlinePassed
        return seconds

    def run(self, call: Callable[[], Result]) -> Result:
        """What the call returns or raises. Raises `DeadlinePassed` and `Stopped`."""
        self._check_stopped()
        if not self._threads.acquire(timeout=self.remaining()):
            raise DeadlinePassed
        future: Future[Result] = Future()

        def resolve() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  it is raised where the call is waited for
                future.set_exception(error)
            finally:
                self._threads.release()

        Thread(target=resolve, name="cortex-storage-call", daemon=True).start()
        while True:
            left = max(self._at - time.monotonic(), 0)
            try:
                return future.result(timeout=left if self._stopped is None else min(left, _ASK_SECONDS))
            except FutureTimeoutError:
                if future.done():
                    return future.result()
            self._check_stopped()
            self.remaining()

    def _check_stopped(self) -> None:
        if self._stopped is not None and self._stopped():
            raise Stopped
