"""A backend in memory: its replicas do what the test says, and it outlives the operators that use it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Literal

from cortex_core.release import Release
from cortex_core.spec.types import RealtimeAPI
from cortex_operator.backends.launch import serving_processes
from cortex_operator.backends.protocol import (
    LogLine,
    LogQuery,
    Notice,
    PreparationFailed,
    Replica,
    Workload,
)

Behaviour = Literal["ready", "slow", "dying", "broken handler"]
"""What a release's replicas do when started: get ready, not get ready by themselves, die again and again,
or not get past loading the handler."""

Step = Callable[[str], Awaitable[None]]


async def no_step(name: str) -> None:
    """What happens at each step when the test has nothing to say."""


@dataclass
class FakeBackend:
    """Replicas are entries of a dictionary.

    Attributes:
        behaviour: by project digest; "ready" for all others.
        preparation: project digests whose preparation fails, with the error.
        step: awaited before and after every method; where a test stops an operator.
        asked: every method called, in order, as "apply iris-ab12 2".
        removed: workloads removed, in order.
        kept: releases that the last sweep was to keep.
    """

    name: str = "fake"
    behaviour: dict[str, Behaviour] = field(default_factory=dict)
    preparation: dict[str, PreparationFailed] = field(default_factory=dict)
    step: Step = no_step
    asked: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    prepared: set[str] = field(default_factory=set)
    workloads: dict[str, Workload] = field(default_factory=dict)
    replicas: dict[str, Replica] = field(default_factory=dict)
    lines: dict[str, list[LogLine]] = field(default_factory=dict)
    followed: int = 0
    kept: set[str] = field(default_factory=set)
    _ports: int = 10_000
    _event: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self) -> None:
        self.prepared.clear()
        await self.step("before open")

    async def close(self) -> None:
        pass

    def refusals(self, release: Release) -> list[Notice]:
        if isinstance(release.spec, RealtimeAPI):
            return []
        return [Notice(path="kind", text=f"{release.kind} does not run here")]

    def ignored(self, release: Release) -> list[Notice]:
        gpu = isinstance(release.spec, RealtimeAPI) and release.spec.compute.gpu > 0
        return [Notice(path="compute.gpu", text="has no effect here")] if gpu else []

    async def prepare(self, release: Release, report: Callable[[str], None]) -> None:
        await self._begin(f"prepare {release.id}")
        report("installing 3 packages")
        if (failure := self.preparation.get(release.project_digest)) is not None:
            raise failure
        self.prepared.add(release.id)
        await self.step("after prepare")

    async def apply(self, workload: Workload) -> None:
        await self._begin(f"apply {workload.id} {workload.replicas}")
        assert workload.replicas >= 1
        kept = self.workloads.get(workload.id)
        if kept is None:
            assert workload.release.id in self.prepared, "applied before it was prepared"
        self.workloads[workload.id] = workload
        for slot in range(workload.replicas):
            if f"{workload.id}-{slot}" not in self.replicas:
                self._start(workload, slot)
        for each in [r for r in self.replicas.values() if r.workload == workload.id]:
            if int(each.id.rpartition("-")[2]) >= workload.replicas:
                del self.replicas[each.id]
        self.change()
        await self.step("after apply")

    async def remove(self, workload_id: str) -> None:
        await self._begin(f"remove {workload_id}")
        if self.workloads.pop(workload_id, None) is not None:
            self.removed.append(workload_id)
        for each in [r for r in self.replicas.values() if r.workload == workload_id]:
            del self.replicas[each.id]
        self.change()
        await self.step("after remove")

    async def observe(self) -> list[Replica]:
        return list(self.replicas.values())

    async def changed(self) -> None:
        await self._event.wait()
        self._event.clear()

    async def logs(self, api: str, query: LogQuery) -> AsyncIterator[LogLine]:
        lines = [each for each in self.lines.get(api, []) if query.replica in (None, each.replica)]
        for line in lines if query.tail is None else lines[len(lines) - min(query.tail, len(lines)) :]:
            yield line
        if query.follow:
            self.followed += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.followed -= 1

    async def sweep(self, kept: Collection[str]) -> None:
        self.kept = set(kept)

    async def forget(self, api: str) -> None:
        await self._begin(f"forget {api}")
        self.lines.pop(api, None)
        await self.step("after forget")

    # what the test does

    def change(self) -> None:
        """Say that something changed."""
        self._event.set()

    def set(self, replica_id: str, **changes: object) -> None:
        """Make a replica look different."""
        self.replicas[replica_id] = replace(self.replicas[replica_id], **changes)  # type: ignore[arg-type]
        self.change()

    def of(self, api: str) -> list[Replica]:
        return [each for each in self.replicas.values() if each.api == api]

    def reboot(self) -> None:
        """The machine was started anew: nothing runs."""
        self.workloads.clear()
        self.replicas.clear()
        self.change()

    async def _begin(self, what: str) -> None:
        self.asked.append(what)
        await self.step(f"before {what}")

    def _start(self, workload: Workload, slot: int) -> None:
        release = workload.release
        replica = Replica(
            id=f"{workload.id}-{slot}",
            api=release.name,
            workload=workload.id,
            release_id=release.id,
            state="initializing",
            host="127.0.0.1",
            admin_port=1,
            ports=tuple(self._next_port() for _ in range(serving_processes(release))),
        )
        match self.behaviour.get(release.project_digest, "ready"):
            case "ready":
                replica = replace(replica, state="ready")
            case "dying":
                replica = replace(replica, state="failed", failure="exit code 3", restarts=2)
            case "broken handler":
                replica = replace(
                    replica, state="failed", failure="exit code 1", handler_failed=True, restarts=1
                )
                line = {
                    "message": "cannot load",
                    "exc_info": 'Traceback\n  File "handler.py", line 1\nKeyError: 1',
                }
                self.lines.setdefault(release.name, []).append(
                    LogLine(replica=replica.id, text=json.dumps(line))
                )
        self.replicas[replica.id] = replica

    def _next_port(self) -> int:
        self._ports += 1
        return self._ports
