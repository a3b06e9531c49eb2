"""Clients that ask again and again until they are stopped, each in a thread of its own, a request at a time."""

from __future__ import annotations

import functools
import itertools
import operator
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Generic, TypeVar

Report = TypeVar("Report", bound=Any)
"""A dataclass whose fields add up. A client writes one; they are read in one."""


class Clients(ABC, Generic[Report]):
    """So many clients.

    Args:
        report: makes an empty one.
        pause: seconds between a client's requests.
        timeout: seconds a request may take.
    """

    def __init__(self, report: type[Report], count: int, *, pause: float, timeout: float) -> None:
        self._timeout = timeout
        self._pause = pause
        self._stop = threading.Event()
        self._report = report
        self._reports = [report() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(count)
        ]

    @abstractmethod
    def _client(self, number: int) -> None:
        """What a client's thread does; its report has the same number."""

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Report:
        """Stop after the requests in flight and add up what happened."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout + 5)
            assert not thread.is_alive(), "a client hangs"
        return self.so_far()

    def so_far(self) -> Report:
        total = self._report()
        for name in (field.name for field in fields(total)):
            add = operator.ior if isinstance(getattr(total, name), set) else operator.iadd
            each = (getattr(report, name) for report in self._reports)
            setattr(total, name, functools.reduce(add, each, getattr(total, name)))
        return total

    def _requests(self, client: int) -> Iterator[int]:
        """A client's requests, when they are due: a number of its own for each."""
        for number in itertools.count(client * 1_000_000):
            if self._stop.wait(self._pause):
                return
            yield number
