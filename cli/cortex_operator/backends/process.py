"""The process backend: replicas are processes of this machine, and nothing else is needed.

process.py          which replicas there are: prepare, apply, remove, adopt
replica_process.py  the life of one
launch.py           its command line, environment and files (pure)
processes.py        processes that outlive the operator
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cortex_core import archive
from cortex_core.errors import CortexError
from cortex_core.home import Home
from cortex_core.models.layout import locations
from cortex_core.release import Release
from cortex_core.runtime import GRPC_REQUIREMENTS, S3_REQUIREMENTS, SHUTDOWN_GRACE
from cortex_core.spec.types import Dependencies, is_grpc, models_of, source_of
from cortex_core.storage import open_storage
from cortex_operator import processes
from cortex_operator.backends import launch, limitations, log_reader
from cortex_operator.backends.environments import Environment, Environments
from cortex_operator.backends.launch import Prepared, Slot
from cortex_operator.backends.memory_groups import MemoryGroups
from cortex_operator.backends.protocol import (
    LogLine,
    LogQuery,
    Notice,
    PreparationFailed,
    Replica,
    Workload,
)
from cortex_operator.backends.readiness import Readiness
from cortex_operator.backends.replica_process import ReplicaProcess, Surroundings
from cortex_operator.clock import Clock, SystemClock
from cortex_operator.processes import Process

LOGS_KEPT = 50
"""How many gone replicas of an API keep their log."""

RETURN_SECONDS = 600.0
"""How long the copies of models wait for their replica to be started again, once there is an operator again."""

_FETCHED = ".fetched-"

_log = logging.getLogger(__name__)


class EnvironmentSource(Protocol):
    """What makes environments; see `Environments`."""

    async def prepare(
        self,
        project: Path,
        dependencies: Dependencies,
        report: Callable[[str], None],
        *,
        release: str,
        env: Mapping[str, str] | None = None,
        extras: Sequence[str] = (),
    ) -> Environment:
        """The environment of an extracted project. Raises `PreparationFailed`."""
        ...

    async def sweep(self) -> None:
        """Remove what an operator that was killed left half made. Called once, before the first `prepare`."""
        ...

    async def remove_unused(self, *, in_use: Collection[str], kept: Collection[str]) -> None:
        """Remove environments that no one of `kept` needs and that were not prepared lately.

        Args:
            in_use: digests of environments in which something runs.
            kept: what was given as `release` to `prepare`.
        """
        ...


class ProcessBackend:
    """Runs workloads as processes; implements `cortex_operator.backends.protocol.Backend`.

    Args:
        home: where everything lies and by which our processes are known; its folders exist.
        environ: the environment replicas inherit.
        environments: makes the virtual environments; None is those of the home.
        clock: where time comes from.
        grace: seconds a replica has to end after SIGTERM.
        silence: seconds after which a replica is killed that was ready and whose admin port answers nothing.
        limit_memory: whether to limit memory where the kernel lets us.
    """

    name = "process"

    def __init__(
        self,
        home: Home,
        *,
        environ: Mapping[str, str],
        environments: EnvironmentSource | None = None,
        clock: Clock | None = None,
        grace: float = SHUTDOWN_GRACE + 5,
        silence: float = 30.0,
        limit_memory: bool = True,
    ) -> None:
        self._home = home
        self._environments: EnvironmentSource = environments or Environments(
            home.environments, environ=environ
        )
        self._memory = MemoryGroups.detect(_short_digest(home.root)) if limit_memory else None
        self._clock = clock or SystemClock()
        self._opened_at = self._clock.monotonic()
        self._unreturned: frozenset[str] = frozenset()
        self._changed = asyncio.Event()
        self._readiness = Readiness()
        self._around = Surroundings(
            home=home.root,
            replicas=home.replicas,
            logs=home.logs,
            inherited=environ,
            prepare=lambda release: self._prepare(release, _tell_nobody),
            readiness=self._readiness,
            memory=self._memory,
            clock=self._clock,
            changed=self._changed.set,
            grace=grace,
            silence=silence,
        )
        self._wanted: dict[str, Workload] = {}
        self._slots: dict[str, dict[int, ReplicaProcess]] = {}
        self._prepared: dict[str, Prepared] = {}
        self._preparing: dict[str, asyncio.Lock] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Adopt the replicas that run, and take away what is left of others."""
        found = await asyncio.to_thread(processes.members, self._home.root)
        adopted = [
            replica for process in processes.leaders(found) if (replica := self._adopt(process)) is not None
        ]
        known = {replica.slot.marker for replica in adopted}
        strays = {process.marker for process in found if Slot.of(process.marker) is not None} - known
        await asyncio.gather(*(processes.sweep(self._home.root, marker) for marker in strays))
        await self._environments.sweep()
        await asyncio.to_thread(archive.sweep, self._home.projects)
        await asyncio.to_thread(self._clear, {replica.slot.replica for replica in adopted})
        await asyncio.gather(*(replica.answered() for replica in adopted))

    async def close(self) -> None:
        for task in self._stopping:
            task.cancel()
        await asyncio.gather(*(replica.abandon() for replica in self._replicas()))
        await self._readiness.close()

    def refusals(self, release: Release) -> list[Notice]:
        return limitations.refusals(release)

    def ignored(self, release: Release) -> list[Notice]:
        return limitations.ignored(release, memory_limits=self._memory is not None)

    async def prepare(self, release: Release, report: Callable[[str], None]) -> None:
        await self._prepare(release, report)

    async def apply(self, workload: Workload) -> None:
        self._wanted[workload.id] = workload
        self._fill(workload)
        for replica in list(self._slots[workload.id].values()):
            if replica.slot.number >= workload.replicas:
                task = asyncio.create_task(self._stop(replica))
                self._stopping.add(task)
                task.add_done_callback(self._stopped)

    async def remove(self, workload_id: str) -> None:
        self._wanted.pop(workload_id, None)
        replicas = list(self._slots.get(workload_id, {}).values())
        outcomes = await asyncio.gather(
            *(self._stop(replica) for replica in replicas), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        self._slots.pop(workload_id, None)
        for release in {replica.release.id: replica.release for replica in replicas}.values():
            await self._tidy(release)

    async def observe(self) -> list[Replica]:
        return [replica.view() for replica in self._replicas()]

    async def changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def logs(self, api: str, query: LogQuery) -> AsyncIterator[LogLine]:
        return log_reader.read(self._home.logs / api, query)

    async def sweep(self, kept: Collection[str]) -> None:
        """See `Backend.sweep`. What replicas that are adopted use is on their command lines."""
        running = await asyncio.to_thread(processes.members, self._home.root)
        roots = {self._home.environments, self._home.environments.resolve()}
        used = {
            Path(interpreter).relative_to(root).parts[0]
            for process in running
            for interpreter in process.argv[:1]
            for root in roots
            if root in Path(interpreter).parents
        }
        prepared = {
            self._prepared[replica.release.id].environment.digest
            for replica in self._replicas()
            if replica.release.id in self._prepared
        }
        in_use = used | {digest for digest in prepared if digest is not None}
        await self._environments.remove_unused(in_use=in_use, kept=kept)
        if self._clock.monotonic() - self._opened_at > RETURN_SECONDS:
            await self._remove_unreturned()

    async def forget(self, api: str) -> None:
        await asyncio.to_thread(shutil.rmtree, self._home.logs / api, ignore_errors=True)

    def _replicas(self) -> list[ReplicaProcess]:
        return [slots[number] for slots in self._slots.values() for number in sorted(slots)]

    def _adopt(self, process: Process) -> ReplicaProcess | None:
        """Look after a process that runs; None if it is no replica, or cannot be told which."""
        slot, ports = Slot.of(process.marker), launch.ports_of(process)
        release = launch.read_release(self._home.replicas / slot.replica) if slot is not None else None
        if slot is None or ports is None or release is None:
            return None
        replica = ReplicaProcess(slot, release, self._around)
        replica.adopt(process, ports)
        self._slots.setdefault(slot.workload, {})[slot.number] = replica
        return replica

    def _clear(self, living: Collection[str]) -> None:
        """Remove what an operator that was killed left, and replicas that died while nobody looked.

        Copies of models stay for a while (`sweep`): their replica may be started again, and S3 be far away.
        """
        folders = [folder for folder in self._home.replicas.iterdir() if folder.name not in living]
        kept = [folder for folder in folders if launch.is_worth_keeping(folder)]
        self._unreturned = frozenset(folder.name for folder in kept)
        gone = set(folders) - set(kept)
        for folder in (*gone, *self._home.projects.glob(f"{_FETCHED}*")):
            shutil.rmtree(folder, ignore_errors=True)
        if self._memory is not None:
            self._memory.sweep()

    async def _remove_unreturned(self) -> None:
        """Remove the folders of replicas that nobody has started again."""
        gone = self._unreturned - {replica.slot.replica for replica in self._replicas()}
        self._unreturned = frozenset()
        for name in gone:
            await asyncio.to_thread(launch.remove_folder, self._home.replicas / name)

    def _fill(self, workload: Workload) -> None:
        """Start what is missing; a slot that is being stopped is filled once it is empty."""
        slots = self._slots.setdefault(workload.id, {})
        for number in range(workload.replicas):
            if number not in slots:
                slot = Slot(workload=workload.id, number=number)
                slots[number] = ReplicaProcess(slot, workload.release, self._around)
                slots[number].start()
                self._changed.set()

    async def _stop(self, replica: ReplicaProcess) -> None:
        await replica.stop()
        slots = self._slots.get(replica.slot.workload, {})
        if slots.get(replica.slot.number) is replica:
            del slots[replica.slot.number]
            self._changed.set()
        wanted = self._wanted.get(replica.slot.workload)
        if wanted is not None:
            self._fill(wanted)

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self._stopping.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("a replica could not be stopped: %s", task.exception())

    async def _prepare(self, release: Release, report: Callable[[str], None]) -> Prepared:
        async with self._preparing.setdefault(release.id, asyncio.Lock()):
            prepared = self._prepared.get(release.id)
            if prepared is None or not prepared.is_there():
                prepared = await self._make(release, report)
                self._prepared[release.id] = prepared
            return prepared

    async def _make(self, release: Release, report: Callable[[str], None]) -> Prepared:
        project = self._home.projects / release.project_digest
        try:
            if not project.is_dir():
                report("extracting the project")
                await asyncio.to_thread(_extract, release, project)
        except CortexError as error:
            raise PreparationFailed(f"the project could not be extracted: {error.message}") from error
        source = source_of(release.spec)
        assert source is not None, "a splitter has no replicas"
        environment = await self._environments.prepare(
            project,
            source.dependencies,
            report,
            release=release.id,
            env=source.env,
            extras=_extras(release),
        )
        return Prepared(project=project, environment=environment)

    async def _tidy(self, release: Release) -> None:
        """Drop what is kept of a release that no replica here has any more."""
        replicas = self._replicas()
        if all(replica.release.id != release.id for replica in replicas):
            self._prepared.pop(release.id, None)
            self._preparing.pop(release.id, None)
        living = {replica.slot.replica for replica in replicas}
        await asyncio.to_thread(log_reader.prune, self._home.logs / release.name, living, LOGS_KEPT)


def _extract(release: Release, project: Path) -> None:
    folder, _, name = release.project_url.rpartition("/")
    with tempfile.TemporaryDirectory(dir=project.parent, prefix=_FETCHED) as scratch:
        fetched = Path(scratch) / "project.tar.gz"
        open_storage(folder).download(name, fetched)
        with fetched.open("rb") as file:
            archive.extract(file, project, digest=release.project_digest)


def _extras(release: Release) -> tuple[str, ...]:
    """What its replicas need beside the runtime's requirements."""
    models = models_of(release.spec)
    in_s3 = models is not None and any(each.startswith("s3://") for each in locations(models))
    grpc = GRPC_REQUIREMENTS if is_grpc(release.spec) else ()
    return (S3_REQUIREMENTS if in_s3 else ()) + grpc


def _short_digest(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]


def _tell_nobody(_: str) -> None:
    """Nobody waits for what a restart has to prepare."""
