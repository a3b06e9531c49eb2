"""One replica as a process: started, watched, started again when it dies, until it is told to stop.

pending ──spawn──▶ initializing ◀──▶ ready          (asked at /readyz)
   ▲                    │              │
   └──────delay──── failed, killed_oom ◀── dead      (told by the kernel)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cortex_core.release import Release
from cortex_core.restarts import Restarts
from cortex_core.runtime import EXIT_HANDLER_FAILED
from cortex_core.spec.types import Compute
from cortex_core.spec.units import parse_quantity
from cortex_operator import processes
from cortex_operator.backends import launch, readiness
from cortex_operator.backends.launch import Ports, Prepared, Slot
from cortex_operator.backends.log_reader import last_error
from cortex_operator.backends.memory_groups import MemoryGroup, MemoryGroups
from cortex_operator.backends.ports import HOST, Port
from cortex_operator.backends.protocol import PreparationFailed, Replica, ReplicaState
from cortex_operator.backends.readiness import Readiness
from cortex_operator.clock import Clock
from cortex_operator.processes import Process, SurvivedError

STABLE_AFTER = 10.0
"""Seconds of being ready after which earlier deaths are forgotten."""
LAST_WORDS = 2.0
"""Seconds before a replica's death in which what it logged may be the reason; older errors are other matters."""
KILLED_WORKER_SHOWN = 600.0
"""Seconds for which a replica that is ready says that its memory limit cost it a worker."""
READY_INTERVAL = 1.0
"""Seconds between two questions to a replica that is ready."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all replicas of a backend share.

    Attributes:
        home: root of the home, by which their processes are found.
        replicas: folder that holds a folder for each replica.
        logs: folder that holds a folder for each API.
        inherited: the environment they inherit.
        prepare: makes a release's project and environment ready, or finds that they are.
        memory: where memory groups can be made, if anywhere.
        changed: called when something about a replica changed.
        grace: seconds a replica has to end after SIGTERM.
        silence: seconds after which a replica is killed that was ready and whose admin port answers nothing.
    """

    home: Path
    replicas: Path
    logs: Path
    inherited: Mapping[str, str]
    prepare: Callable[[Release], Awaitable[Prepared]]
    readiness: Readiness
    memory: MemoryGroups | None
    clock: Clock
    changed: Callable[[], None]
    grace: float
    silence: float


class ReplicaProcess:
    """The replica of one slot.

    Args:
        slot: whose replica it is.
        release: what it runs.
        around: what it shares with others.
    """

    def __init__(self, slot: Slot, release: Release, around: Surroundings) -> None:
        self.slot = slot
        self.release = release
        self._around = around
        self._folder = around.replicas / slot.replica
        self._ports: tuple[Port, ...] = ()  # that of the admin server comes last
        self._process: Process | None = None
        self._group: MemoryGroup | None = None
        self._state: ReplicaState = "pending"
        self._failure: str | None = None
        self._waiting_for: str | None = None
        self._handler_failed = False
        self._restarts = Restarts(stable_after=STABLE_AFTER)
        self._started_at = 0.0
        self._ready_since: float | None = None
        self._kills_seen = 0
        self._killed_worker: tuple[float, str] | None = None  # when, by the monotonic clock, and what to say
        self._shown = self.view()
        self._first_answer = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run it from now on."""
        self._begin(None)

    def adopt(self, process: Process, ports: Ports) -> None:
        """Take over a process that runs already, and run the replica from now on."""
        self._ports = tuple(Port.in_use(number) for number in (*ports.serving, ports.admin))
        self._process = process
        self._started_at = process.started_at - 1  # the kernel counts full seconds since it booted
        self._group = MemoryGroup.of(process.pid)
        self._kills_seen = self._kills()
        self._state = "initializing"
        self._begin(process)

    async def answered(self) -> None:
        """Return once it is known whether an adopted replica is ready."""
        await self._first_answer.wait()

    async def abandon(self) -> None:
        """Stop looking after it; its process goes on running."""
        for task in (self._end, self._life):
            await _cancel(task)
        self._release_ports()

    async def stop(self) -> None:
        """End it and return when all its processes and files are gone, whoever else is waiting for that."""
        if self._end is None or self._end.done():
            self._end = asyncio.create_task(self._stop())
        await asyncio.shield(self._end)

    def view(self) -> Replica:
        """It as it is now."""
        ports = self._numbers()
        process = self._process
        return Replica(
            id=self.slot.replica,
            api=self.release.name,
            workload=self.slot.workload,
            release_id=self.release.id,
            state=self._state,
            host=HOST if ports is not None else None,
            ports=ports.serving if ports is not None else (),
            admin_port=ports.admin if ports is not None else None,
            pid=process.pid if process is not None else None,
            restarts=self._restarts.count,
            failure=self._failure,
            waiting_for=self._waiting_for if self._state == "initializing" else None,
            handler_failed=self._handler_failed,
            started_at=process.started_at if process is not None else None,
        )

    def _begin(self, process: Process | None) -> None:
        self._life = asyncio.create_task(self._live(process))
        self._life.add_done_callback(self._report_defect)

    def _report_defect(self, life: asyncio.Task[None]) -> None:
        """A life ends by being cancelled; anything else is our mistake: say so, and do not look alive."""
        if not life.cancelled() and life.exception() is not None:
            _log.error(
                "replica %s is not looked after any more", self.slot.replica, exc_info=life.exception()
            )
            self._failure = f"a defect of the operator: {life.exception()!r}"
            self._become("failed")
            self._first_answer.set()

    async def _live(self, process: Process | None) -> None:
        """Start, watch, wait, again; never ends by itself."""
        while True:
            self._ready_since = None
            failed: ReplicaState = "failed"
            try:
                if process is None:
                    process = await self._spawn()
                failed = await self._watch(process)
            except (OSError, PreparationFailed, SurvivedError) as error:
                self._failure = _first_line(str(error))
                _log.warning("replica %s could not be started: %s", self.slot.replica, error)
            process = self._process = None
            delay = self._restarts.next(ready_for=self._ready_for())
            self._become(failed)
            self._first_answer.set()
            await self._sweep()
            await self._around.clock.sleep(delay)

    async def _spawn(self) -> Process:
        around = self._around
        prepared = await around.prepare(self.release)
        ports = self._hold_ports()
        logs = around.logs / self.release.name
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        launch.write_release(self._folder, self.release)
        self._group = self._limit_memory()
        self._started_at = around.clock.now()
        self._waiting_for = None
        self._process = processes.spawn(
            launch.command(self.slot, self.release, ports, prepared=prepared, folder=self._folder, logs=logs),
            marker=self.slot.marker,
            home=around.home,
            environ=launch.environ(around.inherited, self.release, prepared=prepared),
            cwd=prepared.project,
            output=self._folder / launch.OUTPUT_FILE,
        )
        self._confine(self._process)
        self._become("initializing")
        return self._process

    async def _watch(self, process: Process) -> ReplicaState:
        """Follow whether it is ready until it is dead; answers what that makes of it."""
        ports = self._numbers()
        assert ports is not None
        clock = self._around.clock
        ready_at = heard_at = clock.monotonic()
        silences = 0
        death = asyncio.ensure_future(processes.ended(process))
        try:
            while not death.done():
                answer = await self._around.readiness.ask(ports.admin)
                now = clock.monotonic()
                if answer.state == "silent":
                    silences += 1
                else:
                    silences, heard_at = 0, now
                    self._waiting_for = answer.waiting_for
                if answer.state == "ready":
                    ready_at = now
                    self._become_ready()
                elif not death.done():
                    self._become_unready()
                self._first_answer.set()
                if self._is_hung(silences, now - heard_at):
                    return await self._give_up(process)
                pause = READY_INTERVAL if answer.state == "ready" else readiness.interval(now - ready_at)
                await asyncio.wait([death], timeout=pause)
            return self._died(death.result())
        finally:
            death.cancel()

    def _is_hung(self, silences: int, seconds: float) -> bool:
        """Whether what was ready has answered nothing for too long (several times: we may have slept too)."""
        return self._ready_since is not None and silences > 2 and seconds > self._around.silence

    def _become_ready(self) -> None:
        if self._ready_since is None:
            self._ready_since = self._around.clock.monotonic()
        self._note_killed_worker()
        self._failure = self._recently_killed_worker()
        self._handler_failed = False
        self._become("ready")

    def _become_unready(self) -> None:
        """It answers that it is not ready, or nothing; perhaps a part of it was killed."""
        if self._note_killed_worker():
            self._failure = self._recently_killed_worker()
            self._become("killed_oom")
        else:  # also what it waits for may be another thing now
            self._become("initializing" if self._state == "ready" else self._state)

    def _note_killed_worker(self) -> bool:
        """Whether its memory limit killed a part of it since it was looked at last."""
        kills = self._kills()
        if kills <= self._kills_seen:
            return False
        self._kills_seen = kills
        self._killed_worker = (self._around.clock.monotonic(), f"a worker was {self._memory_failure()}")
        _log.warning("replica %s: %s", self.slot.replica, self._killed_worker[1])
        return True

    def _recently_killed_worker(self) -> str | None:
        if self._killed_worker is None:
            return None
        at, what = self._killed_worker
        return what if self._around.clock.monotonic() - at < KILLED_WORKER_SHOWN else None

    async def _give_up(self, process: Process) -> ReplicaState:
        await processes.terminate(process, grace=0)
        self._failure = f"killed: it answered nothing for {self._around.silence:g} s"
        return "failed"

    def _died(self, status: int | None) -> ReplicaState:
        """Say why."""
        if self._kills() > self._kills_seen:
            self._failure = self._memory_failure()
            return "killed_oom"
        said = self._last_words() if status is None or status >= 0 else None
        self._failure = f"{_how(status)}: {said}" if said else _how(status)
        self._handler_failed = status == EXIT_HANDLER_FAILED and self._ready_since is None
        _log.warning("replica %s %s", self.slot.replica, self._failure)
        return "failed"

    def _last_words(self) -> str | None:
        """What it logged or printed at its end."""
        since = self._around.clock.now() - LAST_WORDS
        log_since = max(self._started_at, since)
        said = last_error(self._around.logs / self.release.name, self.slot.replica, log_since)
        return said or _last_line(self._folder / launch.OUTPUT_FILE, since)

    def _ready_for(self) -> float | None:
        """Seconds since it first was ready in this life, None if it never was."""
        return None if self._ready_since is None else self._around.clock.monotonic() - self._ready_since

    async def _stop(self) -> None:
        await _cancel(self._life)
        self._become("terminating")
        if self._process is not None:
            await processes.terminate(self._process, grace=self._around.grace)
        await processes.sweep(self._around.home, self.slot.marker)
        await self._remove_group()
        self._release_ports()
        await asyncio.to_thread(launch.remove_folder, self._folder)

    async def _sweep(self) -> None:
        """Take away what a dead replica left, so that the next one finds its port and its memory free."""
        try:
            await processes.sweep(self._around.home, self.slot.marker)
            await self._remove_group()
        except (OSError, SurvivedError) as error:
            _log.warning("replica %s left something behind: %s", self.slot.replica, error)

    def _become(self, state: ReplicaState) -> None:
        self._state = state
        view = self.view()
        if view != self._shown:
            self._shown = view
            self._around.changed()

    def _hold_ports(self) -> Ports:
        """The ports it had; others if somebody else listens there now, or it had too few."""
        count = launch.serving_processes(self.release) + 1
        if len(self._ports) != count or not all(port.hold() for port in self._ports):
            self._release_ports()
            self._ports = ()  # choosing may fail
            self._ports = Port.choose(count)
        ports = self._numbers()
        assert ports is not None
        return ports

    def _numbers(self) -> Ports | None:
        if not self._ports:
            return None
        *serving, admin = (port.number for port in self._ports)
        return Ports(serving=tuple(serving), admin=admin)

    def _release_ports(self) -> None:
        for port in self._ports:
            port.release()

    def _limit_memory(self) -> MemoryGroup | None:
        """A new memory group, if the spec limits memory and we may."""
        compute: Compute | None = getattr(self.release.spec, "compute", None)
        self._kills_seen = 0
        if compute is None or compute.mem is None or self._around.memory is None:
            return None
        return self._around.memory.create(self.slot.replica, int(parse_quantity(compute.mem)))

    def _confine(self, process: Process) -> None:
        if self._group is not None:
            try:
                self._group.add(process.pid)
            except OSError as error:
                _log.warning("replica %s runs without its memory limit: %s", self.slot.replica, error)

    def _kills(self) -> int:
        return self._group.kills() if self._group is not None else 0

    def _memory_failure(self) -> str:
        assert self._group is not None
        limit, peak = (_in_mebibytes(amount) for amount in (self._group.limit(), self._group.peak()))
        return f"killed by the kernel: out of memory (limit {limit}, peak {peak})"

    async def _remove_group(self) -> None:
        if self._group is not None:
            await self._group.remove()
            self._group = None


async def _cancel(task: asyncio.Task[None] | None) -> None:
    """End a task, whatever it thinks of that."""
    while task is not None and not task.done():
        task.cancel()  # again, as before Python 3.12 `asyncio.wait_for` may swallow one
        await asyncio.wait([task], timeout=1)


def _how(status: int | None) -> str:
    """How a process ended; of a process that another operator started the kernel does not tell."""
    if status is None:
        return "ended"
    if status < 0:
        return f"killed by signal {-status} ({_signal_name(-status)})"
    return f"exited with code {status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _in_mebibytes(amount: int | None) -> str:
    return "unknown" if amount is None else f"{amount / 1024**2:.0f} MiB"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last_line(path: Path, since: float) -> str | None:
    """The last line that a process printed past its log, if it printed anything since then."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime < since:
                return None
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)
