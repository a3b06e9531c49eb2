"""The models of a worker: which are in memory, which are on their way there, which are leaving.

    agent ── snapshot, cells ──▶ ModelTable ◀── get_model ── requests
      ▲   loading, loaded,           │ loads in the background: residents, and what a request asks for
      └── failed, dropped, want ─────┘ lets go in the background: what left, when its last request has ended

What "latest" means is the model's cell, read at each request; the table only has to hold what the cell may say. A
request that asks for something else waits for a load, which is one for all that wait.

`_lock` protects which servables are held, loading and leaving; it is held for moments, never while the user's code
runs, a message is sent or a file is read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from cortex_core.models.errors import LoadFailed, ModelUnavailable
from cortex_core.models.versions import asked_value, no_such_version
from cortex_core.models.wording import clipped, quoted
from cortex_serve import control, tracebacks
from cortex_serve.cells import Cells
from cortex_serve.models.catalog import Catalog, Place
from cortex_serve.models.client import ModelClient
from cortex_serve.models.disposal import Disposal, let_go
from cortex_serve.models.holding import GONE, Holding
from cortex_serve.models.loader import Failure, Loader, called
from cortex_serve.models.memory_cache import MemoryCache
from cortex_serve.models.request import Use
from cortex_serve.snapshot import ServedModel, Snapshot

_LOAD_AGAIN = 30.0
"""Seconds after which a request may try again what failed for a reason that may pass."""
_LOOK_AGAIN = 0.02
_MOST_USED_TOLD = 4096


@dataclass(frozen=True, kw_only=True)
class Waits:
    """How long is waited for what, in seconds.

    Attributes:
        fetch: a request for a version's files.
        room: a load until one of the models in a full cache is not in use.
        replaced: a request while there is nothing that "latest" means.
        fallback: a request for the last good version, after the latest could not be loaded.
    """

    fetch: float = 600.0
    room: float = 60.0
    replaced: float = 30.0
    fallback: float = 1.0


class ModelTable:
    """The models of this worker.

    Args:
        cells: what "latest" means.
        read_snapshot: what the agent published last; None while there is nothing.
        send: gives a message to the agent; may block.
        cache_size: how many models may be in memory; None: all that are asked for.
        load_timeout: seconds that `load_model` and `warm_up` may take for one model.
        names: what people call a model.
        logger: where failures go.
        waits: how long is waited for what.

    Attributes:
        client: for the handler's constructor.
        catalog: what there is.
        held: what is given out, by serial.
        hits: how often a model was in memory.
        gives_freely: a model in memory may be given out without a lock: no cache has to know of it.
        read_cell: the serial in a cell.
    """

    def __init__(
        self,
        cells: Cells,
        *,
        read_snapshot: Callable[[], Snapshot | None],
        send: Callable[[control.Message], None],
        cache_size: int | None,
        load_timeout: float,
        names: Callable[[str], str],
        logger: logging.Logger,
        waits: Waits | None = None,
    ) -> None:
        self.client = ModelClient(self)
        self.catalog = Catalog(None)
        self.held: dict[int, Holding] = {}
        self.hits = 0
        self.gives_freely = cache_size is None
        self.read_cell = cells.read
        self._read_snapshot = read_snapshot
        self._send = send
        self._names = names
        self._logger = logger
        self._waits = waits = waits or Waits()
        self._patience = waits.fetch + waits.room + load_timeout
        self._cache: MemoryCache[Holding] | None = None
        if cache_size is not None:
            self._cache = MemoryCache(cache_size, in_use=self._must_stay)
        self._used: dict[int, None] = {}
        self._misses = 0
        self._loads: dict[int, _Load] = {}
        self._failures: dict[int, tuple[str, float]] = {}
        self._leaving: set[Holding] = set()
        self._waiting_for_room = 0
        self._instance: Any = None
        self._started = False
        self._closed = False
        self._following = threading.Lock()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._loader = Loader(timeout=load_timeout)
        self._disposal = Disposal(self._dropped)

    def bind(self, instance: Any) -> None:
        """Load with this handler's `load_model`; its constructor is about to run."""
        self._instance = instance

    def start(self) -> None:
        """Load residents in the background from here on."""
        self._started = True
        self._load_residents()

    def follow(self) -> None:
        """Take over a newer snapshot, if there is one. Never waits for a load."""
        with self._following:
            snapshot = self._read_snapshot()
            if snapshot is None or snapshot.epoch <= self.catalog.epoch:
                return
            catalog = Catalog(snapshot)
            with self._changed:
                self.catalog = catalog
                for holding in [each for each in self.held.values() if not self._stays(each)]:
                    self._let_leave(holding)
                for serial in [each for each in self._failures if self._knows_failure(each)]:
                    del self._failures[serial]
                for load in [each for each in self._loads.values() if each.is_fetching]:
                    if load.serial not in catalog.places:
                        del self._loads[load.serial]
                        load.finish(_Left)
                self._changed.notify_all()
        if self._started:
            self._load_residents()

    def answer(self, here: control.Here) -> None:
        """Take the answer to a `Want`: load what is here now, or tell those who wait why it is not."""
        with self._changed:
            load = self._loads.get(here.serial)
            is_awaited = load is not None and load.is_fetching
            if load is not None and is_awaited:
                load.is_fetching = False
                load.directory = here.directory
                if here.directory is None:
                    self._abandon(load)
            is_needed = load is not None or here.serial in self.held
        if load is None or not is_awaited:
            if not is_needed:
                self._send(control.ModelDropped(serial=here.serial))
        elif here.directory is not None:
            self._loader.submit(load, urgent=True)
        else:
            load.finish(partial(self._failed, load.holding.place, here.error or "its files cannot be had"))

    def wait_until_held(self) -> None:
        """Return when all residents of the newest snapshot are in memory; there is one then."""
        with self._changed:
            while not self._closed:
                residents = self.catalog.residents()
                if all(place.servable.serial in self.held for place in residents) and (
                    residents or self._nothing_is_coming()
                ):
                    return
                self._changed.wait(_LOOK_AGAIN)

    def _nothing_is_coming(self) -> bool:
        """Whether, without a resident, there is nothing to wait for: not so while the first ones are being fetched."""
        models = self.catalog.models.values()
        served = any(self.read_cell(model.cell) for model in models)
        return self.catalog.epoch >= 0 and (served or not any(model.target for model in models))

    def counts(self) -> control.ModelCounts:
        """What was counted since the worker started."""
        with self._lock:
            return control.ModelCounts(
                hits=self.hits,
                misses=self._misses,
                evictions=self._cache.evictions if self._cache else 0,
                held=len(self.held) + len(self._leaving),
            )

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Versions of all models, by the names people know."""
        catalog = self.catalog
        described = {}
        for model in catalog.models.values():
            latest = catalog.places.get(self.read_cell(model.cell))
            described[self._names(model.name)] = {
                "versions": [each.version for each in model.versions],
                "latest": latest.servable.version if latest else None,
            }
        return described

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._changed:
            self._closed = True
            for load in self._loads.values():
                load.finish(_Left)
            self._changed.notify_all()
        self._disposal.close()

    def use(self) -> Use:
        """For a request that begins."""
        return Use(self._given_back)

    def get(self, name: str | None, version: str | int | None, use: Use | None) -> Any:
        """What `ModelClient.get_model` returns, wherever it has to come from."""
        give_up = monotonic() + self._patience
        while True:
            if use is not None and not use.is_open:
                use = None
            catalog = self._known()
            model = catalog.model(name)
            value = asked_value(version)
            if value is None:
                given = self._latest(model, use, give_up)
            else:
                given = self._version(catalog, model, value, version, use, give_up)
            if given is not GONE:
                return given
            if monotonic() >= give_up or self._closed:
                raise self._unavailable(model, "is being replaced")

    # -- which one

    def _known(self) -> Catalog:
        """The catalog; a constructor may be earlier than the first snapshot."""
        if self.catalog.epoch < 0:
            until = monotonic() + self._patience
            self.follow()
            with self._changed:
                while self.catalog.epoch < 0:
                    if monotonic() >= until or self._closed:
                        raise ModelUnavailable("the models are not known yet; try again")
                    self._changed.wait(1.0)
        return self.catalog

    def _version(
        self, catalog: Catalog, model: ServedModel, value: int, asked: object, use: Use | None, give_up: float
    ) -> Any:
        if use is not None:
            taken = use.version((model.name, value))
            if taken is not GONE:
                return taken
        servable = catalog.version(model, value, asked=asked, served=self.read_cell(model.cell))
        place = Place(model=model, servable=servable)
        try:
            return self._possible(place, use, by_number=True, give_up=give_up)
        except LoadFailed:
            self.follow()
            if servable.serial in self.catalog.places:
                raise
            return GONE  # it has been replaced or removed meanwhile, which is why

    def _latest(self, model: ServedModel, use: Use | None, give_up: float) -> Any:
        if use is not None:
            taken = use.latest.get(model.name, GONE)
            if taken is not GONE:
                return taken
        place = self._latest_place(model)
        try:
            return self._possible(place, use, by_number=False, give_up=give_up)
        except LoadFailed:
            serial = place.servable.serial
            self._wait_while(model.name, serial, self._waits.fallback)
            if self._serial_of(model.name) in (serial, 0):
                raise
            return GONE

    def _latest_place(self, model: ServedModel) -> Place:
        """What "latest" means; waits while that is nothing."""
        until = monotonic() + self._waits.replaced
        while True:
            serial = self._serial_of(model.name)
            place = self.catalog.places.get(serial)
            if place is None and serial:
                self.follow()  # the cell may be ahead of the message that says so
                place = self.catalog.places.get(serial)
            if place is not None:
                return place
            model = self.catalog.model(model.name)
            if not model.versions:
                raise no_such_version(model.name, None, ())
            failed = [each for each in model.versions if each.error is not None]
            if not serial and len(failed) == len(model.versions):
                raise self._failed(Place(model=model, servable=failed[-1]), failed[-1].error or "")
            if monotonic() >= until or self._closed:
                raise self._unavailable(model, "is being replaced")
            self._wait_while(model.name, serial, until - monotonic())

    def _serial_of(self, name: str) -> int:
        model = self.catalog.models.get(name)
        return 0 if model is None else self.read_cell(model.cell) or model.target

    def _wait_while(self, name: str, serial: int, within: float) -> None:
        """Until "latest" means something else; cells change without a message."""
        until = monotonic() + within
        with self._changed:
            while self._serial_of(name) == serial and not self._closed and (left := until - monotonic()) > 0:
                self._changed.wait(min(left, _LOOK_AGAIN))

    # -- from memory, or by a load

    def _possible(self, place: Place, use: Use | None, *, by_number: bool, give_up: float) -> Any:
        error = place.servable.error
        if error is not None and place.servable.serial not in self.held:
            raise self._failed(place, error)
        return self._obtain(place, use, by_number=by_number, give_up=give_up)

    def _obtain(self, place: Place, use: Use | None, *, by_number: bool, give_up: float) -> Any:
        """The model; `GONE` if it left before it could be given out."""
        with self._lock:
            holding = self.held.get(place.servable.serial)
            if holding is not None:
                self.hits += 1
                return self._give(holding, use, by_number)
            self._misses += 1
            waiter = use or object()
            load, is_new = self._join(place, waiter, by_number)
        if is_new:
            self._begin(load, urgent=True)
        else:
            self._loader.hurry(load)
        try:
            with self._loader.spare():
                load.wait(max(give_up - monotonic(), 0))
            with self._lock:
                return self._give(load.holding, use, by_number, waited=True)
        except _Left:
            return GONE
        except TimeoutError:
            raise self._unavailable(place.model, "takes long to be fetched and loaded") from None
        finally:
            self._end_wait(load, waiter, use)

    def _join(self, place: Place, waiter: object, by_number: bool) -> tuple[_Load, bool]:
        """The one load of this servable, and whether it is a new one."""
        serial = place.servable.serial
        error, until = self._failures.get(serial, ("", 0.0))
        if monotonic() < until:
            raise self._failed(place, error)
        load = self._loads.get(serial)
        if load is not None and self._loader.current() is load:
            raise self._failed(place, "load_model asks for the model that it is to load")
        is_new = load is None
        if load is None:
            load = self._loads[serial] = self._load(place)
        load.holding.users.add(waiter)
        load.holding.by_number = load.holding.by_number or by_number
        return load, is_new

    def _end_wait(self, load: _Load, waiter: object, use: Use | None) -> None:
        with self._lock:
            if use is None or not use.uses(load.holding):
                load.holding.users.discard(waiter)
            if load.is_fetching and not load.holding.users and not self._is_resident(load.serial):
                self._abandon(load)  # nobody waits; whoever asks next asks the agent again
        self._given_back((load.holding,))

    def _give(self, holding: Holding, use: Use | None, by_number: bool, *, waited: bool = False) -> Any:
        holding.by_number = holding.by_number or by_number
        if self._cache is not None and not holding.is_leaving:
            serial = holding.place.servable.serial
            self._cache.used(holding)
            self._used.pop(serial, None)
            self._used[serial] = None
        if use is None:
            return holding.kept if waited else holding.model
        return use.take(holding, latest=not by_number, waited=waited)

    def _load(self, place: Place) -> _Load:
        return _Load(self, Holding(place, self._names(place.model.name)))

    def _begin(self, load: _Load, *, urgent: bool) -> None:
        if load.directory is not None:
            self._loader.submit(load, urgent=urgent)
            return
        try:
            self._take_place(load)  # what makes room for it in memory may have to make room on disk too
        except ModelUnavailable as error:
            with self._lock:
                self._abandon(load)
            load.finish(partial(ModelUnavailable, error.message))
            return
        with self._lock:
            load.is_fetching = load.is_pinned = True
            used = tuple(self._used)[-_MOST_USED_TOLD:]
            self._used.clear()
        self._send(control.Want(serial=load.serial, used=used))

    def _load_residents(self) -> None:
        begun = []
        with self._lock:
            for place in self.catalog.residents():
                serial = place.servable.serial
                if serial not in self.held and serial not in self._loads and serial not in self._failures:
                    self._loads[serial] = load = self._load(place)
                    begun.append(load)
        for load in begun:
            self._begin(load, urgent=False)

    # -- one load, on a thread of the loader

    def prepare(self, load: _Load) -> bool:
        """Get ready to load: make room. False: nobody wants it any more."""
        with self._lock:
            is_wanted = self._is_wanted(load)
            if not is_wanted:
                self._abandon(load)
        if is_wanted:
            self._take_place(load)
            self._send(control.ModelLoading(serial=load.serial))
            return True
        load.finish(_Left)
        if load.is_pinned:
            self._send(control.ModelDropped(serial=load.serial))
        return False

    def call(self, load: _Load) -> Any:
        """Run the user's code."""
        instance = self._instance
        return called(instance.load_model, getattr(instance, "warm_up", None), load.directory or "")

    def loaded(self, load: _Load, model: Any, seconds: float) -> None:
        """Give it out from here on.

        The agent hears of it first: whoever gets it may have it dropped again before another thread says a word.
        """
        holding = load.holding
        self._send(control.ModelLoaded(serial=load.serial, seconds=seconds))
        with self._changed:
            holding.model = model
            self._loads.pop(load.serial, None)
            self.held[load.serial] = holding
            if self._cache is not None:
                self._cache.loaded(holding)
            self._changed.notify_all()
        load.finish(None)
        with self._lock:
            if self.held.get(load.serial) is holding and not self._stays(holding):
                self._let_leave(holding)

    def load_failed(self, load: _Load, failure: Failure) -> None:
        """Tell everybody."""
        is_full = isinstance(failure.exception, ModelUnavailable)
        with self._changed:
            self._loads.pop(load.serial, None)
            if not is_full:
                until = monotonic() + _LOAD_AGAIN if failure.transient else inf
                self._failures[load.serial] = (failure.error, until)
            if self._cache is not None:
                self._cache.free(load.holding)
            self._changed.notify_all()
        self._log(load.holding.place, failure)
        self._send(control.ModelFailed(serial=load.serial, error=failure.error, transient=failure.transient))
        if is_full:
            load.finish(partial(ModelUnavailable, failure.error))
        else:
            load.finish(partial(self._failed, load.holding.place, failure.error))

    def _is_wanted(self, load: _Load) -> bool:
        place = self.catalog.places.get(load.serial)
        return place is not None and (place.servable.resident or bool(load.holding.users))

    def _take_place(self, load: _Load) -> None:
        """Have a place in the cache for it, if there is one that is limited and it has none yet.

        Raises:
            ModelUnavailable: everything there is in use, for too long.
        """
        with self._changed:
            if self._cache is None or load.has_place:
                return
            evicted = self._make_room(self._cache, load.holding)
            load.has_place = True
        let_go(evicted, self._dropped)

    def _abandon(self, load: _Load) -> None:
        """It will not be loaded; whoever calls holds the lock."""
        self._loads.pop(load.serial, None)
        if self._cache is not None:
            self._cache.free(load.holding)
            self._changed.notify_all()

    def _make_room(self, cache: MemoryCache[Holding], holding: Holding) -> list[Holding]:
        """Get a place in the cache, once there is one.

        Returns:
            What has to be let go first.
        """
        until = monotonic() + self._waits.room
        self._waiting_for_room += 1
        try:
            while (evicted := cache.reserve(holding)) is None:
                left = until - monotonic()
                if left <= 0 or self._closed:
                    raise ModelUnavailable("every model in the cache is in use; try again")
                self._changed.wait(left)
        finally:
            self._waiting_for_room -= 1
        for each in evicted:
            del self.held[each.place.servable.serial]
            each.leave()
            self._leaving.add(each)
        return list(evicted)

    # -- leaving

    def _stays(self, holding: Holding) -> bool:
        """Whether the newest snapshot leaves it in memory.

        A resident does. Of the others: nothing of a model that is to make room for its next version; else what is
        the latest, or is going to be, and what was asked for by number.
        """
        place = self.catalog.places.get(holding.place.servable.serial)
        if place is None:
            return False
        serial, model = place.servable.serial, place.model
        return place.servable.resident or (
            model.target != 0 and (holding.by_number or serial in (model.target, self.read_cell(model.cell)))
        )

    def _must_stay(self, holding: Holding) -> bool:
        """Whether it cannot make room for others."""
        serial = holding.place.servable.serial
        return bool(holding.users) or holding.is_leaving or self._is_resident(serial)

    def _is_resident(self, serial: int) -> bool:
        place = self.catalog.places.get(serial)
        return place is not None and place.servable.resident

    def _let_leave(self, holding: Holding) -> None:
        del self.held[holding.place.servable.serial]
        holding.leave()
        self._leaving.add(holding)
        self._disposal.put(holding)

    def _given_back(self, holdings: Collection[Holding]) -> None:
        """Some request uses them no more."""
        for holding in holdings:
            if holding.is_leaving:
                self._disposal.put(holding)
        if self._waiting_for_room:
            with self._changed:
                self._changed.notify_all()

    def _dropped(self, holding: Holding) -> None:
        with self._changed:
            self._leaving.discard(holding)
            if self._cache is not None:
                self._cache.free(holding)
            self._changed.notify_all()
        self._send(control.ModelDropped(serial=holding.place.servable.serial))

    # -- words

    def _knows_failure(self, serial: int) -> bool:
        """Whether the newest snapshot is of an agent that knows of the failure: from here on it decides."""
        place = self.catalog.places.get(serial)
        return place is None or place.servable.error is not None or not place.servable.resident

    def _failed(self, place: Place, cause: str) -> LoadFailed:
        name = self._names(place.model.name)
        version = place.servable.version
        return LoadFailed(f"model {quoted(name)}: version {quoted(version)} cannot be loaded", cause=cause)

    def _unavailable(self, model: ServedModel, why: str) -> ModelUnavailable:
        return ModelUnavailable(f"model {quoted(self._names(model.name))} {why}; try again")

    def _log(self, place: Place, failure: Failure) -> None:
        name, version = clipped(self._names(place.model.name)), clipped(place.servable.version)
        error = failure.exception
        if error is None or isinstance(error, ModelUnavailable):
            where = f", and is still at\n{failure.hangs_at}" if failure.hangs_at else ""
            self._logger.error(
                "model %s: version %s cannot be loaded: %s%s", name, version, failure.error, where
            )
            return
        self._logger.error(
            "model %s: version %s cannot be loaded",
            name,
            version,
            exc_info=(type(error), error, tracebacks.from_first_user_frame(error)),
        )


class _Left(Exception):
    """What was waited for has left the snapshot; ask again what there is."""


class _Load:
    """One load, and those who wait for it: the users of its holding.

    Attributes:
        directory: of its files; None while they are not here.
        is_fetching: the agent was asked for them and has not answered yet.
        is_pinned: the agent keeps them until it is told that they are not needed.
        has_place: the cache has room for it.
    """

    def __init__(self, table: ModelTable, holding: Holding) -> None:
        self.holding = holding
        self.serial = holding.place.servable.serial
        self.directory = holding.place.servable.directory
        self.is_fetching = False
        self.is_pinned = False
        self.has_place = False
        self._table = table
        self._error: Callable[[], Exception] | None = None
        self._over = threading.Event()

    def wait(self, timeout: float) -> None:
        """Return once the model can be given out.

        Raises:
            TimeoutError: that took longer.
            Exception: what `finish` was called with.
        """
        if not self._over.wait(timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error()

    def finish(self, error: Callable[[], Exception] | None) -> None:
        """End the wait; `error` makes what each who waits is to raise."""
        if not self._over.is_set():
            self._error = error
            self._over.set()

    def begin(self) -> bool:
        return self._table.prepare(self)

    def call(self) -> Any:
        return self._table.call(self)

    def end(self, model: Any, seconds: float) -> None:
        self._table.loaded(self, model, seconds)

    def fail(self, failure: Failure) -> None:
        self._table.load_failed(self, failure)
