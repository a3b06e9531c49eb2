"""What was answered for each API, added up over the gateway's restarts.

Envoy counts from its own start. `TrafficLog` keeps what it said last, so that its death loses only what was
counted since. It lives in the operator's memory: when both were restarted, counts begin anew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cortex_core.operator_api import NetworkStats

_CALLERS_FAULT = frozenset({1, 3, 5, 6, 7, 8, 9, 10, 11, 16})
"""Statuses of gRPC that are 4xx in HTTP: cancelled, invalid, not found, … (google.rpc.Code has the table)."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Answers of one API.

    Attributes:
        classes: how many by the status' first digit.
        timed, milliseconds: how many of them were timed, and their times' sum.
    """

    classes: Mapping[int, int] = field(default_factory=dict)
    timed: int = 0
    milliseconds: float = 0.0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            classes={
                key: self.classes.get(key, 0) + other.classes.get(key, 0)
                for key in {*self.classes, *other.classes}
            },
            timed=self.timed + other.timed,
            milliseconds=self.milliseconds + other.milliseconds,
        )

    @property
    def answers(self) -> int:
        return sum(self.classes.values())

    def stats(self) -> NetworkStats:
        return NetworkStats(
            latency=self.milliseconds / self.timed if self.timed else None,
            code_2xx=self.classes.get(2, 0),
            code_4xx=self.classes.get(4, 0),
            code_5xx=self.classes.get(5, 0),
            total=self.answers,
        )


def in_classes(statuses: Mapping[int, int]) -> dict[int, int]:
    """Answers of gRPC by the class of the HTTP status that says the same.

    Args:
        statuses: how many by status code.
    """
    classes: dict[int, int] = {}
    for status, count in statuses.items():
        number = 2 if status == 0 else 4 if status in _CALLERS_FAULT else 5
        classes[number] = classes.get(number, 0) + count
    return classes


class TrafficLog:
    """Totals over all the Envoys that ran so far."""

    def __init__(self) -> None:
        self._ended: dict[str, Traffic] = {}
        self._current: dict[str, Traffic] = {}

    def observe(self, current: Mapping[str, Traffic]) -> None:
        """Remember what the running Envoy says; it begins anew with an API whose cluster has changed."""
        for name, before in self._current.items():
            if current.get(name, Traffic()).answers < before.answers:
                self._ended[name] = self._total(name)
        self._current = dict(current)

    def restarted(self) -> None:
        """The Envoy that was observed is no more; the next one counts from zero."""
        self._ended = {name: self._total(name) for name in {*self._ended, *self._current}}
        self._current = {}

    def keep(self, apis: Collection[str]) -> None:
        """Forget all others: an API that is created again is counted anew."""
        self._ended = {name: traffic for name, traffic in self._ended.items() if name in apis}
        self._current = {name: traffic for name, traffic in self._current.items() if name in apis}

    def stats(self) -> dict[str, NetworkStats]:
        return {name: self._total(name).stats() for name in {*self._ended, *self._current}}

    def _total(self, name: str) -> Traffic:
        return self._ended.get(name, Traffic()) + self._current.get(name, Traffic())
