"""Short turns at the interpreter while models load, so that requests wait less for theirs.

Python asks the thread that computes to let others run after 5 ms, each time: a request that takes its turn several
times while `load_model` computes is late by as often. With shorter turns the load itself is hardly slower.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType

SHORT = 0.0005
"""Seconds."""


class ShortTurns:
    """Turns are short while this is entered, by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered = 0
        self._usual = SHORT

    def __enter__(self) -> None:
        with self._lock:
            self._entered += 1
            if self._entered == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(min(SHORT, self._usual))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._entered -= 1
            if self._entered == 0:
                sys.setswitchinterval(self._usual)
