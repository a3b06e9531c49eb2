"""A replica around a `Rollout`, in memory: a disk, trials and workers that do what actions say, one step at a time.

It checks what must hold at every moment, and knows which contents of which versions are bad, and how.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cortex_core.models.settling import Pending, Settled
from cortex_core.models.tree import LayoutProblem, Model, ModelFile, Version
from cortex_serve import control
from cortex_serve.agent import actions, events
from cortex_serve.agent.disk import StoredVersion
from cortex_serve.agent.disk_cache import CacheLimits
from cortex_serve.agent.rollout import Rollout
from cortex_serve.snapshot import Servable, Snapshot

Bad = Literal["raises", "kills", "out_of_memory", "no_memory", "unfetchable", "corrupt", "storage_down"]
Place = tuple[str, str, str]
"""Model, version, content."""


def version(name: str, content: str = "a", model: str = "iris") -> Version:
    file = ModelFile(path="model.pkl", size=3, etag=content, modified_ns=5_000_000_000)
    digest = hashlib.sha256(f"{model}/{name}/{content}".encode()).hexdigest()
    return Version(name=name, prefix=f"{name}/", files=(file,), digest=digest)


def settled(
    models: Mapping[str, Mapping[str, str]],
    *,
    pending: tuple[Pending, ...] = (),
    problems: tuple[LayoutProblem, ...] = (),
    is_complete: bool = True,
) -> Settled:
    """Args: models: by name, contents by version."""
    return Settled(
        models={
            model: Model(
                name=model,
                location="s3://bucket/models",
                versions=tuple(version(name, versions[name], model) for name in sorted(versions, key=int)),
                is_versioned=True,
            )
            for model, versions in models.items()
            if versions
        },
        manifests={},
        pending=pending,
        problems=problems,
        has_names=True,
        is_complete=is_complete,
    )


def stored(model: str, name: str, content: str = "a") -> StoredVersion:
    return StoredVersion(model=model, location="s3://bucket/models", version=version(name, content, model))


@dataclass
class FakeWorker:
    """Follows snapshots as a worker does; loads one servable a step."""

    number: int
    has_started_late: bool = False
    is_ready: bool = False
    snapshot: Snapshot | None = None
    held: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)

    def known(self) -> dict[int, Servable]:
        return {each.serial: each for model in self.models() for each in model.versions}

    def models(self):
        return self.snapshot.models if self.snapshot is not None else ()

    def missing(self) -> list[Servable]:
        return [
            each
            for each in self.known().values()
            if each.resident and each.serial not in self.held | self.failed
        ]


class World:
    """Everything around a rollout. `upstream`: contents by version by model; change it, then `see`."""

    def __init__(
        self,
        upstream: Mapping[str, Mapping[str, str]],
        *,
        workers: int = 1,
        policy: Literal["availability", "resource"] = "availability",
        cache: CacheLimits | None = None,
        trials: bool = True,
        all_required: bool = True,
        bad: Mapping[Place, Bad] | None = None,
        present: tuple[StoredVersion, ...] = (),
        failures: tuple[Any, ...] = (),
        starts: bool = True,
    ) -> None:
        self.rollout = Rollout(
            policy=policy,
            cache=cache,
            trials=trials,
            workers=workers,
            names=str,
            all_required=all_required,
        )
        self.upstream = {model: dict(versions) for model, versions in upstream.items()}
        self.bad = dict(bad or {})
        self.cache = cache
        self.count = workers
        self.policy = policy
        self.now = 1000.0
        self.log: list[actions.Action] = []
        self.disk: dict[tuple[str, str, str], StoredVersion] = {_key(each): each for each in present}
        self.fetches: dict[int, Any] = {}
        self.tries: dict[int, str] = {}
        self.cells: dict[int, int] = {}
        self.snapshot: Snapshot | None = None
        self.remembered: tuple[Any, ...] = failures
        self.servables: dict[int, tuple[str, str, str]] = {}
        self.workers: dict[int, FakeWorker] = {}
        self.pinned: dict[tuple[int, int], str] = {}
        self.answers: list[tuple[int, control.Here]] = []
        self.gave_up: str | None = None
        self.served: dict[str, list[str]] = {}
        self.highest: dict[str, str] = {}
        self.handle(events.Started(present=present, failures=failures))
        if starts:
            for number in range(workers):
                self.start_worker(number)
            self.see()

    # what happens

    def handle(self, event: events.Event) -> list[actions.Action]:
        out = self.rollout.handle(event, now=self.now)
        assert len(out) < 20_000
        for action in out:
            self.log.append(action)
            self._carry_out(action)
        return out

    def see(self, **more: Any) -> list[actions.Action]:
        self.highest = {
            model: name for model, name in self.highest.items() if name in self.upstream.get(model, {})
        }
        return self.handle(events.Seen(settled=settled(self.upstream, **more)))

    def start_worker(self, number: int) -> None:
        self.workers[number] = FakeWorker(number)
        self.handle(events.WorkerStarted(number=number))
        self.workers[number].snapshot = self.snapshot

    def end_worker(
        self, number: int, how: str = "was killed by SIGKILL", *, out_of_memory: bool = False
    ) -> None:
        del self.workers[number]
        self.pinned = {key: each for key, each in self.pinned.items() if key[0] != number}
        self.handle(events.WorkerEnded(number=number, how=how, out_of_memory=out_of_memory))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.handle(events.Tick())

    def want(self, number: int, serial: int, used: tuple[int, ...] = ()) -> None:
        self.say(number, control.Want(serial=serial, used=used))

    def say(self, number: int, message: control.Message) -> None:
        self.handle(events.Said(number=number, message=message))

    def handle_failed(self, number: int, serial: int) -> None:
        """A worker is done with the files of a servable that it did not load."""
        self.say(number, control.ModelFailed(serial=serial, error="the request is gone", transient=True))

    # one step of everything that is going on

    def steps(self) -> list[tuple[str, int]]:
        found = [("fetch", serial) for serial in self.fetches] + [("try", serial) for serial in self.tries]
        for worker in self.workers.values():
            is_behind = worker.snapshot is not self.snapshot
            if is_behind:
                found.append(("follow", worker.number))
            if worker.missing():
                found.append(("load", worker.number))
            elif not worker.is_ready and not is_behind:
                found.append(("ready", worker.number))
            if self._droppable(worker):
                found.append(("drop", worker.number))
        return sorted(found)

    def step(self, kind: str, which: int) -> None:
        getattr(self, f"_{kind}")(which)

    def run(self, *, most: int = 100_000, restart: bool = True, wait: bool = False) -> World:
        """Everything goes on until nothing is left to do; with `wait` also what is due later, for an hour."""
        until = self.now + 3600
        for _ in range(most):
            steps = self.steps()
            if restart:
                for number in set(range(self.count)) - self.workers.keys():
                    self.start_worker(number)
                    steps = steps or [("follow", number)]
            if steps:
                self.step(*steps[0])
            elif wait and (due := self.rollout.due()) is not None and due <= until:
                self.now = max(self.now, due)
                self.handle(events.Tick())
            elif not self.steps():
                return self
        raise AssertionError("this never ends")

    def _fetch(self, serial: int) -> None:
        wanted = self.fetches.pop(serial)
        each = StoredVersion(model=wanted.model, location=wanted.location, version=wanted.version)
        bad = self.bad.get(_place(each))
        if bad in ("unfetchable", "corrupt", "storage_down") and _key(each) not in self.disk:
            self.handle(
                events.FetchingFailed(
                    serial=serial, error=bad, transient=bad == "storage_down", corrupt=bad == "corrupt"
                )
            )
            return
        self.disk[_key(each)] = each
        self.check()
        self.handle(events.Fetched(serial=serial, directory=directory(each)))

    def _try(self, serial: int) -> None:
        path = self.tries.pop(serial)
        assert path in map(directory, self.disk.values()), "what is tried is on disk"
        bad = self.bad.get(self.servables[serial])
        error = f"{bad} in the trial" if bad in ("raises", "kills", "no_memory", "out_of_memory") else None
        self.handle(
            events.Tried(
                serial=serial,
                error=error,
                transient=bad in ("no_memory", "out_of_memory"),
                killed=bad == "kills",
            )
        )

    def _follow(self, number: int) -> None:
        worker = self.workers[number]
        worker.snapshot = self.snapshot
        worker.failed.clear()

    def _load(self, number: int) -> None:
        worker = self.workers[number]
        self.load(number, worker.missing()[0].serial)

    def load(self, number: int, serial: int) -> None:
        worker = self.workers[number]
        self.say(number, control.ModelLoading(serial=serial))
        bad = self.bad.get(self.servables[serial])
        if serial not in self.shown() and (number, serial) not in self.pinned:
            bad = "raises"  # the worker has not heard that this is gone, with its files
        if bad in ("kills", "out_of_memory"):
            self.end_worker(number, "was killed by SIGSEGV", out_of_memory=bad == "out_of_memory")
        elif bad in ("raises", "no_memory"):
            worker.failed.add(serial)
            self.pinned.pop((number, serial), None)
            self.say(number, control.ModelFailed(serial=serial, error=bad, transient=bad == "no_memory"))
        else:
            worker.held.add(serial)
            self.say(number, control.ModelLoaded(serial=serial, seconds=0.5))

    def _ready(self, number: int) -> None:
        self.workers[number].is_ready = True
        self.handle(events.WorkerReady(number=number))

    def _drop(self, number: int) -> None:
        self.drop(number, self._droppable(self.workers[number])[0])

    def drop(self, number: int, serial: int) -> None:
        self.workers[number].held.discard(serial)
        self.pinned.pop((number, serial), None)
        self.say(number, control.ModelDropped(serial=serial))

    def _droppable(self, worker: FakeWorker) -> list[int]:
        known = worker.known()
        latest = set(self.cells.values())
        keeps = {each.serial for each in known.values() if each.resident}
        if self.cache is not None:
            keeps |= known.keys()
        return sorted(serial for serial in worker.held - keeps if serial not in latest or serial not in known)

    # what actions do

    def _carry_out(self, action: actions.Action) -> None:
        match action:
            case actions.Fetch(wanted=wanted):
                self.fetches[wanted.serial] = wanted
                self.servables[wanted.serial] = _place(wanted)
            case actions.CancelFetch(serial=serial):
                self.fetches.pop(serial, None)
            case actions.Try(serial=serial, directory=path):
                assert serial not in self.tries
                self.tries[serial] = path
            case actions.Publish(snapshot=snapshot):
                self._publish(snapshot)
            case actions.Switch(cell=cell, serial=serial):
                self._switch(cell, serial)
            case actions.Tell(number=number, here=here):
                self.answers.append((number, here))
                if here.directory is not None and number in self.workers:
                    self.pinned[number, here.serial] = here.directory
            case actions.Evict(stored=each):
                self._evict(each)
            case actions.Remember(failures=failures):
                self.remembered = failures
            case actions.GiveUp(message=message):
                assert self.gave_up is None
                self.gave_up = message

    def _publish(self, snapshot: Snapshot) -> None:
        before, self.snapshot = self.snapshot, snapshot
        assert before is None or snapshot.epoch > before.epoch
        assert before is None or snapshot.models != before.models, "published although nothing differs"
        on_disk = set(map(directory, self.disk.values()))
        serials = set()
        for model in snapshot.models:
            values = [each.value for each in model.versions]
            assert values == sorted(values)
            for each in model.versions:
                self.servables.setdefault(each.serial, self._place_of(model.name, each))
                serials.add(each.serial)
                assert not each.resident or each.directory is not None, "a resident needs files"
                assert each.directory is None or each.directory in on_disk, "what is published is on disk"
            assert model.target == 0 or model.target in {each.serial for each in model.versions}
            says = self.cells.get(model.cell, 0)
            assert says == 0 or says in {each.serial for each in model.versions}, (
                "the cell's servable is known"
            )
        self.check()

    def _place_of(self, model: str, servable: Servable) -> Place:
        for name, content in _contents(servable.version):
            if version(name, content, model).digest == servable.digest:
                return model, name, content
        raise AssertionError(servable)

    def _switch(self, cell: int, serial: int) -> None:
        self.cells[cell] = serial
        if serial == 0:
            return
        assert self.snapshot is not None
        model = next(each for each in self.snapshot.models if each.cell == cell)
        servable = next(each for each in model.versions if each.serial == serial)
        self._never_back(model.name, servable)
        self.served.setdefault(model.name, []).append(f"{servable.version}{self.servables[serial][2]}")
        if self.cache is None:
            holders = [worker.number for worker in self.workers.values() if serial in worker.held]
            ready = [worker.number for worker in self.workers.values() if worker.is_ready]
            assert holders, "somebody holds what is live"
            if self.rollout.unready() == []:
                assert set(ready) <= set(holders), "every ready worker holds what goes live"

    def _never_back(self, model: str, servable: Servable) -> None:
        before = self.highest.get(model)
        rows = [row for row in self.rollout.models() if (row.name, row.version) == (model, before)]
        has_failed = any(row.state == "failed" for row in rows)
        assert before is None or has_failed or servable.value >= int(before), "never back"
        if servable.version in self.upstream.get(model, {}):
            self.highest[model] = servable.version
        else:
            self.highest.pop(model, None)

    def _evict(self, each: StoredVersion) -> None:
        path = directory(each)
        assert path not in self.pinned.values(), "pinned"
        assert path not in self.tries.values(), "being tried"
        for worker in self.workers.values():
            assert not any(self.directory_of(serial) == path for serial in worker.held), "held"
        for model in self.snapshot.models if self.snapshot is not None else ():
            assert path not in {servable.directory for servable in model.versions}, "in the snapshot"
        self.disk.pop(_key(each), None)

    def directory_of(self, serial: int) -> str:
        model, name, content = self.servables[serial]
        return directory(stored(model, name, content))

    def check(self) -> None:
        if self.cache is not None:
            coming = {self.directory_of(serial) for serial in self.fetches}
            there = set(map(directory, self.disk.values()))
            assert len(coming | there) <= self.cache.disk, "the disk cache has a limit"

    # what a test asks

    def live(self, model: str = "iris") -> str | None:
        """The version and content of what the cell says."""
        for served in self.snapshot.models if self.snapshot is not None else ():
            if served.name == model and (serial := self.cells.get(served.cell, 0)):
                _, name, content = self.servables[serial]
                return f"{name}{content}"
        return None

    def serial(self, model: str, name: str) -> int:
        assert self.snapshot is not None
        served = next(each for each in self.snapshot.models if each.name == model)
        return [each.serial for each in served.versions if each.version == name][-1]

    def shown(self) -> set[int]:
        models = self.snapshot.models if self.snapshot is not None else ()
        return {each.serial for model in models for each in model.versions}

    def cell(self, model: str = "iris") -> int:
        assert self.snapshot is not None
        return self.cells.get(next(each.cell for each in self.snapshot.models if each.name == model), 0)

    def states(self, model: str = "iris") -> dict[str, str]:
        return {row.version: row.state for row in self.rollout.models() if row.name == model}

    def error(self, name: str, model: str = "iris") -> str | None:
        return next(row.error for row in self.rollout.models() if (row.name, row.version) == (model, name))

    def notes(self) -> list[str]:
        return [f"{each.level} {each.message}" for each in self.log if isinstance(each, actions.Note)]

    def on_disk(self) -> set[str]:
        return {directory(each) for each in self.disk.values()}

    def kinds(self, keep: Callable[[actions.Action], bool] = lambda _: True) -> list[str]:
        return [type(each).__name__ for each in self.log if not isinstance(each, actions.Note) and keep(each)]


def _contents(name: str):
    return [(name, content) for content in "abcdefgh"]


def _key(each: StoredVersion) -> Place:
    return each.model, each.version.name, each.version.digest


def _place(each) -> Place:
    return each.model, each.version.name, each.version.files[0].etag


def directory(each: StoredVersion) -> str:
    return f"/models/{each.model}/{each.version.name}@{each.version.files[0].etag}"
