"""Decides which version of every model is fetched, tried, loaded, served, dropped and evicted. Pure: no I/O, no
threads, no clock; events in, actions out.

    event ─▶ facts (`editions.py`) ─▶ each model it is about takes its next steps (`succession.py`) ─▶ actions

What follows from one event is ordered so that no worker ever sees a gap:

    Switch to nothing    what is to be unloaded is asked for by nobody any more
    Publish              what is new is known
    Switch               what all hold is served
    Publish              what was served is not needed any more (only if the first one did not say so)
    Evict, Fetch, Tell   the disk has room before it is filled

A serial that has left the snapshot never comes back: the same content, seen again, is a new edition and takes over
the files of the old one. So nobody has to know which workers have already dropped it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from msgspec import structs

from cortex_core.models.settling import Settled
from cortex_core.models.tree import Model, Version
from cortex_core.spec.types import Struct
from cortex_serve import control
from cortex_serve.agent import failures, notes, rows
from cortex_serve.agent.actions import (
    Action,
    GiveUp,
    Publish,
    Remember,
    Switch,
    Tell,
    Try,
)
from cortex_serve.agent.disk_cache import CacheLimits
from cortex_serve.agent.editions import Content, Edition
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
from cortex_serve.agent.failures import Failure, Remembered
from cortex_serve.agent.readiness import hopeless, obstacles
from cortex_serve.agent.readiness import reasons as why
from cortex_serve.agent.stock import Stock
from cortex_serve.agent.succession import Rules, Succession, Workers
from cortex_serve.cells import COUNT
from cortex_serve.snapshot import ServedModel, Snapshot

ROOM_WITHIN = 60.0
"""Seconds a request waits for room in the disk cache while everything there is in use."""

LOAD_GRACE = 30.0
"""Seconds on top of the load timeout in which a worker itself says that a load took too long."""

FETCH_AGAIN_ON_REQUEST = 1.0
"""Seconds after a failed fetch in which a request gets the same error, not another fetch."""

DEATHS = 2
"""Workers in a row that may not survive loading what an earlier one did load; for what is new, one is enough."""


class RolloutCounts(Struct):
    """What happened since the start.

    Attributes:
        swaps: times that another version, or another content, took over from one that served.
        fetch_failures, load_failures: how often, of whatever kind.
        evictions: versions that were removed from disk.
        on_disk: versions on disk.
        servables: serials in use, with those that have left the snapshot and that somebody still holds.
    """

    swaps: int = 0
    fetch_failures: int = 0
    load_failures: int = 0
    evictions: int = 0
    on_disk: int = 0
    servables: int = 0


class Rollout:
    """The models of one replica. For one thread.

    Args:
        policy: how the next version takes over; see `cortex_core.spec.types.Models.swap_policy`.
        cache: with limits, everything is fetched and loaded on demand.
        trials: whether versions can be tried in a process of their own.
        workers: how many there are to be.
        names: what people call a model.
        all_required: each model must have a version that can be loaded (`path`, `paths`); otherwise any one.
        load_timeout: seconds `load_model` and `warm_up` may take.
    """

    def __init__(
        self,
        *,
        policy: Literal["availability", "resource"],
        cache: CacheLimits | None,
        trials: bool,
        workers: int,
        names: Callable[[str], str],
        all_required: bool,
        load_timeout: float = 600.0,
    ) -> None:
        unload_first = policy == "resource"
        self._rules = Rules(
            unload_first=unload_first, on_demand=cache is not None, trials=trials and not unload_first
        )
        self._names = names
        self._all_required = all_required
        self._load_timeout = load_timeout
        self._workers = Workers(number=workers)
        self._counts = RolloutCounts()
        self._now = 0.0
        self._out: list[Action] = []
        self._stock = Stock(
            limit=cache.disk if cache is not None else None, out=self._out, is_next=self._is_next
        )
        self._may_be_hopeless = False
        self._gave_up = False

        self._settled: Settled | None = None
        self._remembered: dict[Content, Remembered] = {}
        self._cells: dict[str, int] = {}  # never given to another model: a worker may be late
        self._successions: dict[str, Succession] = {}

        self._dirty: set[str] = set()  # models that may have a step to take
        self._busy: set[str] = set()  # models with a version on its way
        self._timers: list[tuple[float, str]] = []
        self._asked: dict[int, float] = {}  # requests wait for these, not on their way yet: until when

        self._shown: dict[str, ServedModel] = {}
        self._epoch = 0

    # what the agent calls

    def handle(self, event: Event, *, now: float) -> list[Action]:
        """What is to be done, in this order.

        Args:
            now: monotonic seconds, never less than before.
        """
        self._now = now
        self._wake()
        self._note_event(event)
        self._take_steps()
        self._stock.sweep()
        self._answer_requests()
        if not self._busy:  # other versions than the latest, once every latest is live
            self._stock.fetch_in_background()
        self._conclude()
        out = list(self._out)
        self._out.clear()
        return out

    def due(self) -> float | None:
        """When a `Tick` is wanted, monotonic seconds."""
        return self._timers[0][0] if self._timers else None

    def unready(self) -> list[str]:
        """Why not all that has to be served is served yet, for people. Empty for good once it was.

        Workers are to be started without waiting for it: it is they who load.
        """
        return list(self._obstacles())

    def models(self) -> list[rows.ModelRow]:
        """Every version that is known, by name and value."""
        return rows.rows(
            self._successions.values(), self._settled, self._workers, names=self._names, now=self._now
        )

    def counts(self) -> RolloutCounts:
        return structs.replace(
            self._counts,
            evictions=self._stock.evictions,
            on_disk=self._stock.on_disk,
            servables=len(self._stock),
        )

    # events

    def _note_event(self, event: Event) -> None:
        match event:
            case Started():
                self._stock.open(event.present)
                self._remembered = {(each.model, each.version, each.digest): each for each in event.failures}
            case Seen():
                self._see(event.settled)
            case Fetched():
                self._fetched(event)
            case FetchingFailed():
                self._fetching_failed(event)
            case Tried() | NoTrial():
                self._tried(event)
            case WorkerStarted():
                self._workers.started.add(event.number)
                self._dirty |= self._busy
            case WorkerReady():
                self._workers.ready.add(event.number)
                self._dirty |= self._busy
            case WorkerEnded():
                self._worker_ended(event)
            case Said():
                self._said(event.number, event.message)
            case Tick():
                pass

    def _see(self, settled: Settled) -> None:
        is_first = self._settled is None or not self._settled.is_complete
        problems = self._settled.problems if self._settled is not None else ()
        self._out += notes.are_wrong(problems, settled.problems)
        self._settled = settled
        self._may_be_hopeless = True
        for name, model in settled.models.items():
            succession = self._successions.get(name) or self._begin(name)
            if succession is not None and succession.model != model:
                succession.model = model
                succession.upstream = [self._edition(model, version) for version in model.versions]
                self._dirty.add(name)
        if not settled.is_complete:
            return
        for name in self._successions.keys() - settled.models.keys():
            self._leave(self._successions[name])
        if is_first:
            self._stock.drop_leftovers()

    def _begin(self, name: str) -> Succession | None:
        cell = self._cells.get(name, len(self._cells))
        if cell == COUNT:
            return None
        if name not in self._cells and cell == COUNT - 1:
            self._out.append(notes.are_too_many(COUNT))
        self._cells[name] = cell
        succession = self._successions[name] = Succession(name=name, cell=cell, rules=self._rules)
        return succession

    def _edition(self, model: Model, version: Version) -> Edition:
        assert self._settled is not None
        manifest = self._settled.manifests.get((model.name, version.name))
        edition = self._stock.edition(model.name, model.location, version, manifest, now=self._now)
        remembered = self._remembered.get(edition.content)
        if remembered is not None and edition.failure is None:
            edition.failure = failures.remembered(remembered, self._now)
        return edition

    def _leave(self, succession: Succession) -> None:
        succession.leave()
        self._dirty.add(succession.name)
        self._out.append(notes.is_gone(succession.name, self._names))

    def _fetched(self, event: Fetched) -> None:
        edition = self._stock.get(event.serial)
        if edition is None:
            return
        self._stock.fetched(edition, event.directory)
        if edition.failure is not None and edition.failure.stage == "fetch":
            edition.failure = None
        for number in sorted(edition.waiting):
            self._tell_where(number, edition)
        if not edition.is_retired:
            self._dirty.add(edition.model)

    def _fetching_failed(self, event: FetchingFailed) -> None:
        edition = self._stock.get(event.serial)
        if edition is None:
            return
        self._stock.not_fetched(edition)
        if edition.is_retired:
            return
        failure = failures.fetching_failed(
            edition.failure,
            error=event.error,
            transient=event.transient,
            corrupt=event.corrupt,
            now=self._now,
        )
        self._fail(edition, failure)
        self._refuse(edition, failure.error, transient=not failure.is_permanent)

    def _tried(self, event: Tried | NoTrial) -> None:
        edition = self._stock.get(event.serial)
        if edition is None:
            return
        edition.trial = "over"
        if edition.is_retired:
            return
        self._dirty.add(edition.model)
        if isinstance(event, Tried) and event.error is not None:
            failure = failures.loading_failed(
                edition.failure, error=event.error, transient=event.transient, now=self._now
            )
            self._fail(edition, structs.replace(failure, killed=event.killed))

    def _worker_ended(self, event: WorkerEnded) -> None:
        number = event.number
        self._workers.started.discard(number)
        self._workers.ready.discard(number)
        suspects = [
            edition
            for edition in self._stock
            if number in edition.loading and not edition.held - {number} and not edition.is_retired
        ]
        for edition in self._stock:
            edition.forget(number)
        for edition in suspects:
            self._killed(edition, event, among=len(suspects))
        self._dirty |= self._busy

    def _killed(self, edition: Edition, event: WorkerEnded, *, among: int) -> None:
        """A worker ended while it loaded this one, perhaps beside others, and no worker has it.

        What an earlier worker did load gets a second chance: the worker may have been ended by somebody. Of several,
        those that are innocent are told from the others by a trial.
        """
        edition.deaths += 1
        if edition.was_held and edition.deaths < DEATHS:
            return
        if among > 1 and self._rules.trials and not event.out_of_memory:
            error = f"the process {event.how} while it and {among - 1} more were being loaded"
            failure = failures.loading_failed(edition.failure, error=error, transient=True, now=self._now)
        else:
            failure = failures.loading_killed(
                edition.failure, how=event.how, out_of_memory=event.out_of_memory, now=self._now
            )
        self._fail(edition, failure)

    def _said(self, number: int, message: control.Message) -> None:
        if isinstance(message, control.Want):
            self._want(number, message)
            return
        if not isinstance(
            message, control.ModelLoading | control.ModelLoaded | control.ModelFailed | control.ModelDropped
        ):
            return
        edition = self._stock.get(message.serial)
        if edition is None or number not in self._workers.started:
            return
        edition.loading.pop(number, None)
        match message:
            case control.ModelLoading():
                edition.loading[number] = self._now
                self._wake_at(self._now + self._load_timeout + LOAD_GRACE, edition.model)
            case control.ModelLoaded():
                self._loaded(number, edition, message.seconds)
            case control.ModelFailed():
                edition.pinned.discard(number)
                self._loading_failed(edition, message.error, transient=message.transient)
            case control.ModelDropped():
                edition.pinned.discard(number)
                edition.held.discard(number)
        if not edition.is_retired:
            self._dirty.add(edition.model)

    def _loaded(self, number: int, edition: Edition, seconds: float) -> None:
        edition.held.add(number)
        edition.was_held = True
        edition.deaths = 0
        edition.load_seconds = max(edition.load_seconds, seconds)
        if self._workers.all_hold(edition):
            edition.held_at = self._now

    def _loading_failed(self, edition: Edition, error: str, *, transient: bool) -> None:
        succession = self._successions.get(edition.model)
        if edition.is_retired or succession is None:
            return
        if edition is not succession.next:
            if edition.held or edition.fails(self._now):
                return  # others have it; or it is known
            if transient and (self._rules.on_demand or edition is not succession.serving):
                return  # the worker has told who asked
        failure = failures.loading_failed(edition.failure, error=error, transient=transient, now=self._now)
        self._fail(edition, failure)

    def _want(self, number: int, want: control.Want) -> None:
        edition = self._stock.get(want.serial)
        self._stock.use((*want.used, want.serial))
        if edition is None or edition.is_retired:
            here = control.Here(serial=want.serial, error="it has just been replaced", transient=True)
            self._out.append(Tell(number=number, here=here))
        elif edition.directory is not None:
            self._tell_where(number, edition)
        elif (failure := edition.failure) is not None and not self._may_fetch_again(failure):
            edition.waiting.add(number)
            self._refuse(edition, failure.error, transient=not failure.is_permanent)
        else:
            edition.waiting.add(number)
            self._asked.setdefault(edition.serial, self._now + ROOM_WITHIN)
            self._wake_at(self._now + ROOM_WITHIN, edition.model)

    def _may_fetch_again(self, failure: Failure) -> bool:
        """Who asks does not have to wait as long as what is fetched without being asked for."""
        if not failure.holds(self._now):
            return True
        is_transient = failure.stage == "fetch" and not failure.is_permanent
        return is_transient and self._now >= failure.failed_at + FETCH_AGAIN_ON_REQUEST

    # steps

    def _wake(self) -> None:
        """Whatever was to happen by now."""
        while self._timers and self._timers[0][0] <= self._now:
            _, name = heapq.heappop(self._timers)
            succession = self._successions.get(name)
            if succession is not None:
                self._dirty.add(name)
                for edition in succession.editions:
                    self._end_endless_loads(edition)

    def _end_endless_loads(self, edition: Edition) -> None:
        """A worker that cannot even say that its load takes too long."""
        limit = self._load_timeout + LOAD_GRACE
        late = [number for number, since in edition.loading.items() if self._now >= since + limit]
        for number in late:
            del edition.loading[number]
            error = f"loading has not come to an end within {self._load_timeout:g} seconds"
            self._loading_failed(edition, error, transient=False)

    def _wake_at(self, time: float, name: str) -> None:
        heapq.heappush(self._timers, (time, name))

    def _take_steps(self) -> None:
        """Every model that something happened to goes as far as it can.

        This comes to an end: another round is only for models that have switched, or found no room on disk.
        """
        while self._dirty:
            changed = [self._successions[name] for name in sorted(self._dirty & self._successions.keys())]
            self._dirty.clear()
            for succession in changed:
                self._advance(succession)
            for succession in changed:
                if succession.serving is None and succession.cell_says:
                    self._write_cell(succession, 0)
            self._publish(changed)
            self._stock.sweep()
            for succession in changed:
                self._fetch_next(succession)
            for succession in changed:
                if succession.can_switch(self._workers):
                    self._switch(succession)

    def _advance(self, succession: Succession) -> None:
        before, unloading = succession.editions, succession.unload_until
        to_try = succession.advance(self._now, self._workers)
        if to_try is not None and to_try.directory is not None:
            self._out.append(Try(serial=to_try.serial, directory=to_try.directory))
        if succession.unload_until is not None and succession.unload_until != unloading:
            self._wake_at(succession.unload_until, succession.name)
        for edition in before:
            if edition not in succession.editions:
                self._refuse(edition, "it has just been replaced", transient=True)
                self._stock.retire(edition)
        if not self._rules.on_demand:
            self._stock.fetch_some_time(reversed(succession.upstream), now=self._now)
        (self._busy.add if succession.is_busy else self._busy.discard)(succession.name)

    def _publish(self, changed: Iterable[Succession]) -> None:
        differs = self._epoch == 0
        for succession in changed:
            served = succession.served(self._now) if succession.editions else None
            if served != self._shown.get(succession.name):
                differs = True
                if served is not None:
                    self._shown[succession.name] = served
            if served is None:
                self._shown.pop(succession.name, None)
                del self._successions[succession.name]
        if differs and self._settled is not None:
            self._epoch += 1
            models = tuple(self._shown[name] for name in sorted(self._shown))
            snapshot = Snapshot(epoch=self._epoch, has_names=self._settled.has_names, models=models)
            self._out.append(Publish(snapshot=snapshot))

    def _fetch_next(self, succession: Succession) -> None:
        edition = succession.next
        if edition is None or edition.directory is not None or succession.can_switch(self._workers):
            return
        if not self._stock.fetch(edition, urgent=True):
            succession.no_room = True
            self._dirty.add(succession.name)

    def _switch(self, succession: Succession) -> None:
        before = succession.switch()
        live = succession.serving
        assert live is not None
        if live.failure is not None and not self._rules.on_demand:
            live.failure = None
        self._write_cell(succession, live.serial)
        self._dirty.add(succession.name)
        if before is not None and before is not live:
            self._count(swaps=1)
        if self._workers.have_begun or not self._rules.on_demand:  # else there are thousands
            is_gone = before is not None and not succession.is_upstream(before)
            self._out.append(notes.is_live(live, before, is_gone=is_gone, names=self._names, now=self._now))

    def _write_cell(self, succession: Succession, serial: int) -> None:
        succession.cell_says = serial
        self._out.append(Switch(cell=succession.cell, serial=serial))

    def _is_next(self, edition: Edition) -> bool:
        succession = self._successions.get(edition.model)
        return succession is not None and edition is succession.next

    # requests that wait for files

    def _answer_requests(self) -> None:
        for serial, until in list(self._asked.items()):
            edition = self._stock.get(serial)
            if edition is not None and edition.waiting and not self._stock.fetch(edition, urgent=True):
                if self._now < until:
                    continue
                error = "there is no room in the disk cache: everything in it is in use"
                self._refuse(edition, error, transient=True)
            del self._asked[serial]

    def _tell_where(self, number: int, edition: Edition) -> None:
        edition.waiting.discard(number)
        edition.pinned.add(number)
        here = control.Here(serial=edition.serial, directory=edition.directory)
        self._out.append(Tell(number=number, here=here))

    def _refuse(self, edition: Edition, error: str, *, transient: bool) -> None:
        """Tell all that wait for it that it does not come."""
        here = control.Here(serial=edition.serial, error=error, transient=transient)
        self._out += [Tell(number=number, here=here) for number in sorted(edition.waiting)]
        edition.waiting.clear()

    # failures, and the end

    def _fail(self, edition: Edition, failure: Failure) -> None:
        before, edition.failure = edition.failure, failure
        edition.trial = "running" if edition.trial == "running" else None
        edition.was_held = False
        self._may_be_hopeless = True
        self._dirty.add(edition.model)
        if failure.retry_at is not None:
            self._wake_at(failure.retry_at, edition.model)
        if failure.stage == "fetch":
            self._count(fetch_failures=1)
        else:
            self._count(load_failures=1)
        if failure.killed and failure.is_permanent:
            self._remember(edition, failure)
        if before is None or (before.stage, before.error) != (failure.stage, failure.error):
            succession = self._successions.get(edition.model)
            serving = succession.serving if succession is not None else None
            self._out.append(notes.has_failed(edition, serving, names=self._names, now=self._now))

    def _remember(self, edition: Edition, failure: Failure) -> None:
        self._remembered[edition.content] = Remembered(
            model=edition.model,
            version=edition.name,
            digest=edition.version.digest,
            error=failure.error,
        )
        self._out.append(Remember(failures=tuple(self._remembered.values())))

    def _forget_failures(self) -> None:
        """Of contents that are gone."""
        is_complete = self._settled is not None and self._settled.is_complete
        gone = [content for content in self._remembered if content not in self._stock]
        if gone and is_complete:
            self._remembered = {
                content: each for content, each in self._remembered.items() if content not in gone
            }
            self._out.append(Remember(failures=tuple(self._remembered.values())))

    def _conclude(self) -> None:
        self._forget_failures()
        if not self._workers.have_begun and next(self._obstacles(), None) is None:
            self._workers.have_begun = True
            if self._rules.on_demand:
                self._out.append(notes.are_known(len(self._successions)))
        if self._may_be_hopeless and not self._gave_up and (reasons := self._no_hope()):
            self._gave_up = True
            self._out.append(GiveUp(message="; ".join(reasons)))
        self._may_be_hopeless = False

    def _obstacles(self) -> Iterator[str]:
        if self._workers.have_begun:
            return iter(())
        return obstacles(
            self._settled,
            self._successions.values(),
            on_demand=self._rules.on_demand,
            all_required=self._all_required,
            names=self._names,
        )

    def _no_hope(self) -> list[str]:
        """Once everything was served, one model that cannot be served any more does not end the others."""
        if self._rules.on_demand or self._settled is None or not self._settled.is_complete:
            return []
        one_is_enough = self._all_required and not self._workers.have_begun
        dead = hopeless(self._successions.values(), self._settled, all_required=one_is_enough)
        return [reason for each in dead for reason in why(each, self._names)]

    def _count(self, **more: int) -> None:
        counts = self._counts
        self._counts = structs.replace(
            counts, **{name: getattr(counts, name) + number for name, number in more.items()}
        )
