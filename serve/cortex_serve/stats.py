"""What a worker counts while it serves, without a lock on the request path.

Each thread writes its own counters; `snapshot` reads all of them. The counters of a thread that ended go to
the next new one, so nothing is lost and nothing grows.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from time import perf_counter

import msgspec

from cortex_serve.batching.counts import BatchCounts

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latency histogram in seconds; one more bucket holds everything above."""

CLIENT_CLOSED = 499
GATEWAY_TIMEOUT = 504


class StatsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the worker started.

    Attributes:
        in_flight: requests being answered now.
        responses: finished requests by status class: "2XX", "3XX", "4XX", "5XX".
        client_closed: those of "4XX" whose client had gone (499).
        latency_buckets: finished requests per bucket of `BUCKETS` and above, not cumulative.
        latency_sum: seconds of all finished requests together.
        oldest_call: as `Stats.oldest_call`.
    """

    in_flight: int = 0
    responses: dict[str, int] = {}
    client_closed: int = 0
    latency_buckets: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)
    latency_sum: float = 0.0
    oldest_call: float | None = None


class Counters:
    """One thread's share; only that thread writes it.

    Attributes:
        began: `perf_counter` at which the call of the handler began that this thread runs now; 0 for none.
    """

    __slots__ = ("began", "buckets", "classes", "client_closed", "in_flight", "seconds")

    def __init__(self) -> None:
        self.began = 0.0
        self.in_flight = 0
        self.client_closed = 0
        self.classes = [0, 0, 0, 0, 0, 0]
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def finish(self, status: int, seconds: float) -> None:
        """Count a request that `in_flight` was raised for."""
        self.in_flight -= 1
        self.classes[status // 100] += 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
        if status == CLIENT_CLOSED:
            self.client_closed += 1


class Stats:
    """All counters of this process.

    Attributes:
        calls: when each call of the handler began that can be cancelled (coroutines), by anything.
        batches: what was counted of batches; None where requests are not batched.
    """

    def __init__(self) -> None:
        self.calls: dict[object, float] = {}
        self._on_threads: dict[object, float] = {}
        self.batches: Callable[[], BatchCounts] | None = None
        self._all: list[Counters] = []
        self._free: list[Counters] = []
        self._local = _Lease(self._all, self._free)

    def counters(self) -> Counters:
        """The calling thread's counters."""
        return self._local.counters

    def coroutine(self) -> Call:
        """A call that can be cancelled; it runs while this is entered."""
        return Call(self.calls)

    def on_thread(self) -> Call:
        """A call on a thread that counts nothing else; it runs while this is entered."""
        return Call(self._on_threads)

    def oldest_call(self) -> float | None:
        """For how many seconds the longest of the calls of the handler that run now has run; None when none runs."""
        return _oldest([*self._begun_on_threads(), *list(self.calls.values())])

    def oldest_on_thread(self) -> float | None:
        """The same of those that nothing can cancel."""
        return _oldest(self._begun_on_threads())

    def _begun_on_threads(self) -> list[float]:
        counted = [at for each in list(self._all) if (at := each.began)]
        return [*counted, *list(self._on_threads.values())]

    def snapshot(self) -> StatsSnapshot:
        every = list(self._all)
        totals = [sum(column) for column in zip(*(each.classes for each in every), strict=True)]
        return StatsSnapshot(
            in_flight=sum(each.in_flight for each in every),
            responses={f"{number}XX": count for number, count in enumerate(totals) if count},
            client_closed=sum(each.client_closed for each in every),
            latency_buckets=_columns([each.buckets for each in every]),
            latency_sum=sum(each.seconds for each in every),
            oldest_call=self.oldest_call(),
        )


def total(snapshots: Iterable[StatsSnapshot]) -> StatsSnapshot:
    """The sum over workers."""
    every = list(snapshots)
    classes = sorted({name for each in every for name in each.responses})
    return StatsSnapshot(
        in_flight=sum(each.in_flight for each in every),
        responses={name: sum(each.responses.get(name, 0) for each in every) for name in classes},
        client_closed=sum(each.client_closed for each in every),
        latency_buckets=_columns([each.latency_buckets for each in every]),
        latency_sum=sum(each.latency_sum for each in every),
        oldest_call=max((each.oldest_call for each in every if each.oldest_call is not None), default=None),
    )


def _oldest(began: list[float]) -> float | None:
    return perf_counter() - min(began) if began else None


def _columns(rows: Iterable[Iterable[int]]) -> tuple[int, ...]:
    summed = tuple(sum(column) for column in zip(*rows, strict=True))
    return summed or (0,) * (len(BUCKETS) + 1)


class Call:
    """One call of the handler, among the others of its sort; entered once."""

    __slots__ = ("_calls",)

    def __init__(self, calls: dict[object, float]) -> None:
        self._calls = calls

    def __enter__(self) -> None:
        self._calls[self] = perf_counter()

    def __exit__(self, *_: object) -> None:
        del self._calls[self]


class _Lease(threading.local):
    """Counters for as long as the thread lives."""

    def __init__(self, every: list[Counters], free: list[Counters]) -> None:
        try:
            self.counters = free.pop()
        except IndexError:
            self.counters = Counters()
            every.append(self.counters)
        self._return = _Return(self.counters, free)


class _Return:
    """Gives the counters back when the thread, and with it this object, goes."""

    __slots__ = ("_counters", "_free")

    def __init__(self, counters: Counters, free: list[Counters]) -> None:
        self._counters = counters
        self._free = free

    def __del__(self) -> None:
        self._free.append(self._counters)
