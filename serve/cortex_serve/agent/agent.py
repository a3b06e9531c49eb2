"""The agent of a replica: follows model directories and decides what the replica's workers hold and serve.

    Source ──what is there──▶ ┐                             ┌─▶ Fetcher      fetch a version to this machine
    Fetcher ─fetched────────▶ │ events ─▶ Rollout ─▶ actions ─▶ Trials       load it in a throw-away process
    Trials ──tried──────────▶ │   (one thread; pure)        ├─▶ snapshot, cells, orders to workers
    workers ─loaded, …──────▶ ┘                             └─▶ disk, log

Whatever waits does so in other threads. The supervisor only puts events into the queue.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from cortex_core.errors import CortexError
from cortex_core.models.settling import Settled
from cortex_core.operator_api import ModelStatus
from cortex_core.spec.types import Struct
from cortex_serve import control, snapshot
from cortex_serve.agent import failures
from cortex_serve.agent.actions import (
    Action,
    CancelFetch,
    Evict,
    Fetch,
    GiveUp,
    Note,
    Publish,
    Remember,
    Switch,
    Tell,
    Try,
)
from cortex_serve.agent.disk import Disk, FetchFailed, StoredVersion
from cortex_serve.agent.events import (
    Event,
    Fetched,
    FetchingFailed,
    NoTrial,
    Said,
    Seen,
    Started,
    Tick,
    Tried,
    WorkerEnded,
    WorkerReady,
    WorkerStarted,
)
from cortex_serve.agent.fetching import Fetcher
from cortex_serve.agent.rollout import Rollout, RolloutCounts
from cortex_serve.agent.rows import ModelRow
from cortex_serve.agent.source import LocationStatus, Source
from cortex_serve.agent.trials import TrialResult, Trials
from cortex_serve.cells import Cells

Result = TypeVar("Result")
Order = control.Order

ANSWER_WITHIN = 1.0
"""Seconds that who asks something waits for the agent's thread."""

_AGAIN = 0.05
"""Seconds after which orders are sent again to a worker that has too many waiting."""

_PUBLISH_AGAIN = 1.0
_CLOSE_WITHIN = 2.0
_FETCHES_END_WITHIN = 1.0


class Parts(Protocol):
    """What the agent works with. Those that do something are made by it and told whom to answer."""

    folder: Path
    cells: Cells
    disk: Disk
    rollout: Rollout

    def report(self, level: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        """A line for the log."""

    def source(self, changed: Callable[[Settled], None], present: list[StoredVersion]) -> Source: ...

    def fetcher(self, source: Source, done: Callable[[int, Path | FetchFailed], None]) -> Fetcher: ...

    def trials(self, done: Callable[[int, TrialResult], None]) -> Trials: ...


class AgentCounts(Struct):
    """What metrics show.

    Attributes:
        rollout: what was decided so far.
        listed_ago: seconds since the location that was not listed for the longest was listed successfully; None before
            the first time.
        passes: successful listings so far.
    """

    rollout: RolloutCounts
    listed_ago: float | None
    passes: int


class Agent:
    """Follows the models of one replica; see `supervisor.Models`.

    Args:
        parts: what it works with.
        clock: monotonic seconds.
        wall_clock: seconds since the epoch.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = parts
        self._clock = clock
        self._wall_clock = wall_clock
        self._inbox: SimpleQueue[Event | Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cortex-agent", daemon=True)
        self._mailboxes: dict[int, _Mailbox] = {}
        self._source: Source | None = None
        self._fetcher: Fetcher | None = None
        self._trials: Trials | None = None
        self._unpublished: snapshot.Snapshot | None = None
        self._present: list[StoredVersion] = []
        self._newest: Settled | None = None
        self._give_up: Callable[[str], None] = lambda _: None
        self._rows: list[ModelStatus] = []
        self._counted = RolloutCounts()

    # for the supervisor

    @property
    def folder(self) -> Path:
        return self._parts.folder

    @property
    def cells(self) -> int:
        return self._parts.cells.descriptor

    def start(self, give_up: Callable[[str], None]) -> None:
        """Once this returns, workers may be started: none follows what an earlier life published."""
        self._give_up = give_up
        if self._succeeds(self._open):
            self._thread.start()

    def worker_started(self, number: int, tell: Callable[[Order], bool]) -> None:
        def register() -> None:
            self._mailboxes[number] = _Mailbox(tell)
            self._handle(WorkerStarted(number=number))

        self._inbox.put(register)

    def said(self, number: int, message: control.Message) -> None:
        if isinstance(message, control.Ready):
            self._inbox.put(WorkerReady(number=number))
        elif not isinstance(message, control.Loaded | control.Report):
            self._inbox.put(Said(number=number, message=message))

    def worker_ended(self, number: int, how: str, *, out_of_memory: bool) -> None:
        def unregister() -> None:
            self._mailboxes.pop(number, None)
            self._handle(WorkerEnded(number=number, how=how, out_of_memory=out_of_memory))

        self._inbox.put(unregister)

    def unready(self) -> list[str]:
        waiting = self._ask(self._parts.rollout.unready, otherwise=["the models' agent is busy"])
        if not waiting:
            return []  # what an earlier life left is served also while its location cannot be listed
        unlisted = [
            f"{each.location} cannot be listed: {each.error}"
            for each in self._locations()
            if each.error is not None and each.checked_at is None
        ]
        return unlisted + waiting

    def close(self) -> None:
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join(_CLOSE_WITHIN)
        if self._trials is not None:
            self._trials.close()
        if self._fetcher is not None:
            self._fetcher.close(_FETCHES_END_WITHIN)
        if self._source is not None:
            self._source.close()
        self._parts.disk.close()

    # for the admin port

    def models(self) -> list[ModelStatus]:
        """Every version that is known, also those that wait for something or failed."""
        rows = self._ask(self._parts.rollout.models, otherwise=None)
        if rows is not None:
            checked: dict[str | None, float | None] = {
                each.location: each.checked_at for each in self._locations()
            }
            since = self._wall_clock() - self._clock()
            self._rows = [_status(row, checked.get(row.location), since) for row in rows]
        return self._rows

    def counts(self) -> AgentCounts:
        """What metrics show."""
        locations = self._locations()
        listed = [each.checked_at for each in locations if each.checked_at is not None]
        self._counted = self._ask(self._parts.rollout.counts, otherwise=self._counted)
        return AgentCounts(
            rollout=self._counted,
            listed_ago=self._wall_clock() - min(listed) if len(listed) == len(locations) > 0 else None,
            passes=sum(each.passes for each in locations),
        )

    def _locations(self) -> list[LocationStatus]:
        return self._source.locations() if self._source is not None else []

    def _ask(self, question: Callable[[], Result], *, otherwise: Result) -> Result:
        """What the agent's thread answers; `otherwise` when it is too busy, or gone."""
        answer: Future[Result] = Future()
        self._inbox.put(lambda: answer.set_result(question()))
        try:
            return answer.result(ANSWER_WITHIN)
        except FutureTimeoutError:
            return otherwise

    # the agent's thread

    def _run(self) -> None:
        if not self._succeeds(self._begin):
            return
        while True:
            try:
                event = self._inbox.get(timeout=self._time_left())
            except Empty:
                event = Tick()
            if event is None:
                return
            try:
                self._take(event)
            except Exception:  # noqa: BLE001  a defect of ours must not freeze all models
                self._report_defect()

    def _open(self) -> None:
        self._present = self._parts.disk.open()
        snapshot.remove(self.folder)

    def _begin(self) -> None:
        self._source = self._parts.source(self._changed, self._present)
        self._fetcher = self._parts.fetcher(self._source, self._fetched)
        self._handle(Started(present=tuple(self._present), failures=failures.read(self.folder)))
        self._source.start()

    def _succeeds(self, step: Callable[[], None]) -> bool:
        """Without all steps of the start, nothing is followed, and the replica has to end."""
        try:
            step()
        except Exception as error:  # noqa: BLE001  whatever the reason
            if not isinstance(error, CortexError | OSError):
                self._report_defect()
            self._give_up(f"models cannot be followed: {error}")
            return False
        return True

    def _take(self, event: Event | Callable[[], None]) -> None:
        if isinstance(event, Seen) and event.settled is not self._newest:
            return  # what came later is in the queue
        if callable(event):
            event()
        else:
            self._handle(event)
        if self._unpublished is not None:
            self._publish(self._unpublished)
        for mailbox in self._mailboxes.values():
            mailbox.deliver()

    def _handle(self, event: Event) -> None:
        for action in self._parts.rollout.handle(event, now=self._clock()):
            try:
                self._carry_out(action)
            except Exception:  # noqa: BLE001  the rollout relies on the others
                self._report_defect()

    def _report_defect(self) -> None:
        self._parts.report("ERROR", "the models' agent failed", {"exc_info": traceback.format_exc()})

    def _time_left(self) -> float | None:
        """Seconds until there is something to do, or None."""
        times = []
        if any(mailbox.is_waiting for mailbox in self._mailboxes.values()):
            times.append(_AGAIN)
        if self._unpublished is not None:
            times.append(_PUBLISH_AGAIN)
        due = self._parts.rollout.due()
        if due is not None:
            times.append(max(due - self._clock(), 0))
        return min(times, default=None)

    # what the rollout wants done

    def _carry_out(self, action: Action) -> None:
        match action:
            case Fetch(wanted=wanted) if self._fetcher is not None:
                self._fetcher.submit(wanted)
            case CancelFetch(serial=serial) if self._fetcher is not None:
                self._fetcher.cancel(serial)
            case Try(serial=serial, directory=directory):
                self._try(serial, directory)
            case Publish(snapshot=published):
                self._publish(published)
            case Switch(cell=cell, serial=serial):
                self._parts.cells.write(cell, serial)
            case Tell(number=number, here=here):
                if number in self._mailboxes:
                    self._mailboxes[number].put(here)
            case Evict(stored=stored):
                self._parts.disk.remove(stored)
            case Remember(failures=remembered):
                self._remember(remembered)
            case Note(level=level, message=message, fields=fields):
                self._parts.report(level, message, fields)
            case GiveUp(message=message):
                self._give_up(message)

    def _try(self, serial: int, directory: str) -> None:
        try:
            self._trials = self._trials or self._parts.trials(self._tried)
            self._trials.submit(serial, directory)
        except Exception:
            self._inbox.put(NoTrial(serial=serial))
            raise

    def _publish(self, published: snapshot.Snapshot) -> None:
        """If the disk is full, workers go on with what they have; it is tried again until there is room."""
        try:
            snapshot.publish(self.folder, published)
        except OSError as error:
            if self._unpublished is None:
                self._parts.report("ERROR", f"what models to load cannot be written: {error}; trying again")
            self._unpublished = published
            return
        self._unpublished = None
        for mailbox in self._mailboxes.values():
            mailbox.follow()

    def _remember(self, remembered: tuple[failures.Remembered, ...]) -> None:
        try:
            failures.write(self.folder, remembered)
        except OSError as error:
            self._parts.report("WARNING", f"what models failed cannot be written down: {error}")

    # answers, from other threads

    def _changed(self, settled: Settled) -> None:
        self._newest = settled
        self._inbox.put(Seen(settled=settled))

    def _fetched(self, serial: int, result: Path | FetchFailed) -> None:
        if isinstance(result, Path):
            self._inbox.put(Fetched(serial=serial, directory=str(result)))
        else:
            failed = FetchingFailed(
                serial=serial, error=result.message, transient=result.transient, corrupt=result.corrupt
            )
            self._inbox.put(failed)

    def _tried(self, serial: int, result: TrialResult) -> None:
        if result.kind == "unavailable":
            self._inbox.put(NoTrial(serial=serial))
        else:
            killed = (
                result.kind == "failed" and not result.transient
            )  # or hung: the next life must not try it
            tried = Tried(serial=serial, error=result.error, transient=result.transient, killed=killed)
            self._inbox.put(tried)


class _Mailbox:
    """Orders for one worker; those that it does not take yet wait."""

    def __init__(self, tell: Callable[[Order], bool]) -> None:
        self._tell = tell
        self._waiting: deque[Order] = deque()

    @property
    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def put(self, order: Order) -> None:
        self._waiting.append(order)

    def follow(self) -> None:
        """One is enough, however many snapshots it has not seen."""
        if not any(isinstance(order, control.Follow) for order in self._waiting):
            self._waiting.append(control.Follow())

    def deliver(self) -> None:
        while self._waiting and self._tell(self._waiting[0]):
            self._waiting.popleft()


def _status(row: ModelRow, checked_at: float | None, since: float) -> ModelStatus:
    """Args: since: what makes monotonic seconds seconds since the epoch."""
    return ModelStatus(
        name=row.name,
        version=row.version,
        digest=row.digest,
        state=row.state,
        loaded_at=None if row.loaded_at is None else row.loaded_at + since,
        error=row.error,
        modified_at=None if row.modified_ns is None else row.modified_ns / 1e9,
        checked_at=checked_at,
    )
