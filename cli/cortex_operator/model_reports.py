"""What replicas say about their models, asked at their admin ports, and one answer made of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import httpx
import msgspec

from cortex_core.models.versions import order
from cortex_core.operator_api import ModelState, ModelStatus
from cortex_operator.backends.protocol import Replica
from cortex_operator.clock import Clock

DEADLINE = 0.5
"""Seconds that whoever asks waits for replicas."""
LATE = 3.0
"""Seconds after which it will not come any more."""
FRESH = 0.5
"""Seconds for which an answer is not asked for again."""

Report = Sequence[ModelStatus]
Ask = Callable[[Replica], Awaitable[Report]]
"""Asks one replica. Raises `NoReport`."""

_STATES: tuple[ModelState, ...] = get_args(ModelState)
_reports = msgspec.json.Decoder(tuple[ModelStatus, ...])


class NoReport(Exception):
    """A replica does not say what its models do."""


class AdminPorts:
    """Asks at the admin ports of replicas; see `Ask`."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(
            timeout=LATE,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
            trust_env=False,
            verify=False,  # noqa: S501 - plain HTTP inside; loading certificates takes 40 ms
        )

    async def ask(self, replica: Replica) -> Report:
        try:
            response = await self._client.get(f"http://{replica.host}:{replica.admin_port}/models")
            return _reports.decode(response.content)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            raise NoReport(str(error)) from error

    async def close(self) -> None:
        await self._client.aclose()


@dataclass(kw_only=True)
class _Known:
    """Of one replica: what it said last, when it was asked, and whether it is being asked."""

    asked_at: float
    asking: asyncio.Task[None]
    report: Report = ()


class ModelReports:
    """The models of replicas, of all at once; whoever asks while they are being asked shares the answer.

    Args:
        ask: asks one replica.
        within: seconds for which an answer is waited for; one that comes later counts the next time.
    """

    def __init__(self, ask: Ask, *, clock: Clock, within: float = DEADLINE) -> None:
        self._ask = ask
        self._clock = clock
        self._within = within
        self._known: dict[str, _Known] = {}

    async def of(self, replicas: Sequence[Replica]) -> tuple[ModelStatus, ...]:
        """The models of those that are ready, or while none is, of those that will be."""
        asked = [each for each in replicas if each.state == "ready"] or [
            each for each in replicas if each.state == "initializing"
        ]
        reachable = [each for each in asked if each.host is not None and each.admin_port is not None]
        await asyncio.gather(*(self._refresh(each) for each in reachable))
        return merged({each.id: self._said(each) for each in reachable})

    def forget(self, living: Sequence[Replica]) -> None:
        """Drop what replicas said that are gone."""
        ids = {each.id for each in living}
        for replica in self._known.keys() - ids:
            del self._known[replica]

    async def close(self) -> None:
        tasks = [each.asking for each in self._known.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _said(self, replica: Replica) -> Report:
        known = self._known.get(replica.id)
        return known.report if known is not None else ()

    async def _refresh(self, replica: Replica) -> None:
        known = self._known.get(replica.id)
        now = self._clock.monotonic()
        if known is None or (known.asking.done() and now - known.asked_at >= FRESH):
            asking = asyncio.create_task(self._take(replica))
            known = _Known(asked_at=now, asking=asking, report=self._said(replica))
            self._known[replica.id] = known
        await asyncio.wait({known.asking}, timeout=self._within)

    async def _take(self, replica: Replica) -> None:
        try:
            report = await self._ask(replica)
        except NoReport:
            return
        if (known := self._known.get(replica.id)) is not None:
            known.report = report


def merged(reports: Mapping[str, Report]) -> tuple[ModelStatus, ...]:
    """One row for each version and content of each model; see `operator_api.ModelStatus`.

    Args:
        reports: by replica.
    """
    rows: defaultdict[tuple[str, str, str], dict[str, ModelStatus]] = defaultdict(dict)
    for replica in sorted(reports):
        for row in reports[replica]:
            rows[row.name, row.version, row.digest][replica] = row
    result = [_one(each) for each in rows.values()]
    return tuple(sorted(result, key=lambda row: (row.name, -order(row.version), row.digest)))


def _one(rows: Mapping[str, ModelStatus]) -> ModelStatus:
    """What the replicas that have a version say of it together."""
    first = next(iter(rows.values()))
    failed = {replica: row for replica, row in rows.items() if row.state == "failed"}
    loaded = [row.loaded_at for row in rows.values() if row.loaded_at is not None]
    modified = [row.modified_at for row in rows.values() if row.modified_at is not None]
    checked = [row.checked_at for row in rows.values() if row.checked_at is not None]
    return ModelStatus(
        name=first.name,
        version=first.version,
        digest=first.digest,
        state="failed" if failed else min((row.state for row in rows.values()), key=_STATES.index),
        loaded_at=max(loaded) if len(loaded) == len(rows) else None,
        error=_error(failed or rows, of=len(rows)),
        modified_at=max(modified, default=None),
        checked_at=min(checked, default=None),
    )


def _error(rows: Mapping[str, ModelStatus], *, of: int) -> str | None:
    """What is wrong; with the replica that says so, unless all say the same."""
    said = {replica: row.error for replica, row in rows.items() if row.error is not None}
    if not said:
        return None
    replica, error = next(iter(said.items()))
    return error if len(said) == of and set(said.values()) == {error} else f"{replica}: {error}"
