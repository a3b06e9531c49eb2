"""What `get` and `history` show, as tables: a header and rows of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from cortex.times import age, latency, local_time
from cortex_core.models.versions import order
from cortex_core.operator_api import ApiStatus, GroupCounts, HistoryEntry, ModelStatus, ReplicaStatus
from cortex_core.spec.types import AsyncAPI, BatchAPI, RealtimeAPI, TaskAPI, TrafficSplitter

Table = tuple[list[str], list[list[str]]]

KINDS = (BatchAPI, TaskAPI, RealtimeAPI, AsyncAPI, TrafficSplitter)
"""In the order in which they are listed."""

MODELS_SHOWN = 20
STALE = 90.0
"""Seconds after which it is said how old is what is known of a model's location; they are listed much more often."""

_TITLES: dict[type, str] = {
    BatchAPI: "batch api",
    TaskAPI: "task api",
    RealtimeAPI: "realtime api",
    AsyncAPI: "async api",
    TrafficSplitter: "traffic splitter",
}
_HIDDEN_WHEN_EMPTY = frozenset({
    "stale", "failed", "4XX", "5XX", "error", "restarts", "failure", "waiting for", "last checked",
})  # fmt: skip
_EMPTY = frozenset({"", "0"})
_LONGEST_TARGETS = 50


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """An API and the environment it runs in."""

    env: str
    api: ApiStatus


def apis(deployed: Sequence[Deployed], *, now: float, with_env: bool) -> Iterator[Table]:
    """A table for each kind that is there.

    Args:
        now: seconds since the epoch.
        with_env: show the environment's column.
    """
    for kind in KINDS:
        of_kind = [each for each in deployed if isinstance(each.api.spec, kind)]
        if of_kind:
            yield _of_kind(kind, of_kind, now=now, with_env=with_env)


def replicas(rows: Sequence[ReplicaStatus], *, now: float) -> Table:
    header = ["replica", "state", "restarts", "age", "in flight", "waiting for", "failure"]
    return _shown(header, [_replica_row(row, now=now) for row in rows])


def models(rows: Sequence[ModelStatus], *, now: float) -> Table:
    """At most `MODELS_SHOWN` of them, by name and then the highest version first."""
    header = ["model name", "model version", "state", "loaded", "last checked", "error"]
    shown = nsmallest(MODELS_SHOWN, rows, key=lambda row: (_urgency(row), *_place(row)))
    return _shown(header, [_model_row(row, now=now) for row in sorted(shown, key=_place)])


def history(entries: Sequence[HistoryEntry], *, now: float) -> Table:
    """Releases, newest first."""
    header = ["api id", "last deployed", "age", "by", "state", ""]
    return header, [_history_row(entry, now=now) for entry in entries]


def _urgency(row: ModelStatus) -> int:
    """Of many models, those that somebody has to look after are shown, and then what requests get."""
    urgent = ("failed", "pending", "live")
    return urgent.index(row.state) if row.state in urgent else len(urgent)


def _place(row: ModelStatus) -> tuple[str, int, str]:
    return row.name, -order(row.version), row.digest


def _model_row(row: ModelStatus, *, now: float) -> list[str]:
    is_stale = row.checked_at is not None and now - row.checked_at > STALE
    checked = f"{_age(row.checked_at, now)} ago" if is_stale else ""
    return [row.name, row.version, row.state, _age(row.loaded_at, now), checked, row.error or ""]


def _of_kind(kind: type, deployed: Sequence[Deployed], *, now: float, with_env: bool) -> Table:
    columns: list[str] = []
    cells: Callable[[ApiStatus], list[str]] = _no_cells
    if kind is TrafficSplitter:
        columns, cells = ["apis"], _splitter_cells
    elif kind in (RealtimeAPI, AsyncAPI):
        columns, cells = ["status", "up-to-date", "stale", "requested", "failed"], _replica_cells
    counted = kind is RealtimeAPI
    header = ["env", _TITLES[kind], *columns, "last update"]
    rows = [
        [each.env, each.api.spec.name, *cells(each.api), age(now - each.api.last_updated)]
        + (_request_cells(each.api) if counted else [])
        for each in deployed
    ]
    if counted:
        header += ["avg request", "2XX", "4XX", "5XX"]
    return _shown(header, sorted(rows), hide=frozenset() if with_env else frozenset({"env"}))


def _replica_row(row: ReplicaStatus, *, now: float) -> list[str]:
    return [
        row.id,
        row.state,
        str(row.restarts),
        _age(row.started_at, now),
        str(row.in_flight),
        row.waiting_for or "",
        row.failure or "",
    ]


def _history_row(entry: HistoryEntry, *, now: float) -> list[str]:
    when = (local_time(entry.deployed_at), age(now - entry.deployed_at))
    return [entry.release_id, *when, entry.reason, entry.state, "current" if entry.current else ""]


def _age(moment: float | None, now: float) -> str:
    return "-" if moment is None else age(now - moment)


def _replica_cells(api: ApiStatus) -> list[str]:
    counts = api.status.replica_counts
    numbers = (counts.updated.ready, counts.stale.ready, counts.requested, _failed(counts.updated))
    return [api.status.status, *map(str, numbers)]


def _failed(counts: GroupCounts) -> int:
    return counts.failed + counts.killed + counts.killed_oom + counts.err_image_pull


def _request_cells(api: ApiStatus) -> list[str]:
    network = api.metrics.network_stats
    return [latency(network.latency), str(network.code_2xx), str(network.code_4xx), str(network.code_5xx)]


def _splitter_cells(api: ApiStatus) -> list[str]:
    assert isinstance(api.spec, TrafficSplitter)
    targets = " ".join(
        f"{each.name}:{each.weight}{' (shadow)' if each.shadow else ''}" for each in api.spec.apis
    )
    return [targets if len(targets) <= _LONGEST_TARGETS else targets[: _LONGEST_TARGETS - 3] + "..."]


def _no_cells(_: ApiStatus) -> list[str]:
    return []


def _shown(header: list[str], rows: list[list[str]], *, hide: frozenset[str] = frozenset()) -> Table:
    """Without the columns that are hidden, or hidden when empty and empty here."""
    keep = [
        number
        for number, title in enumerate(header)
        if title not in hide
        and not (title in _HIDDEN_WHEN_EMPTY and all(row[number] in _EMPTY for row in rows))
    ]
    return [header[number] for number in keep], [[row[number] for number in keep] for row in rows]
