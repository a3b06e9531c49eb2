"""One version of a model with one content, as far as this replica has come with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cortex_core.models.manifest import Manifest
from cortex_core.models.tree import Version
from cortex_serve.agent.disk import StoredVersion
from cortex_serve.agent.failures import Failure
from cortex_serve.snapshot import Servable

Content: TypeAlias = tuple[str, str, str]
"""Model, version, digest. While it is in the snapshot it has one serial; what has left comes back under another."""


@dataclass(kw_only=True, eq=False, slots=True)
class Edition:
    """One version with one content: what `snapshot.Servable` shows of it, and what only the agent knows.

    Attributes:
        seen_at: when it was first seen settled; monotonic seconds, as all times here.
        directory: its files, once they are known to be here.
        on_disk: its files are here, or were at the end of an earlier life.
        fetching: it is on its way, and how.
        trial: whether a throw-away process loads it; None: not decided yet. over: passed, or not needed.
        failure: the last one, until it has served or its files came.
        was_held: a worker of this life has loaded it.
        deaths: workers that ended while they loaded it, in a row.
        loading: since when, by worker.
        held: by these workers, in memory.
        pinned: by these workers, on disk: they asked for it and have not said that they are done.
        waiting: these workers asked for its files.
        load_seconds: the longest load.
        held_at: when every worker held it.
        is_retired: it has left the snapshot; gone once nobody holds it.
    """

    serial: int
    model: str
    location: str
    version: Version
    manifest: Manifest | None
    seen_at: float
    directory: str | None = None
    on_disk: bool = False
    fetching: Literal["background", "urgent"] | None = None
    trial: Literal["running", "over"] | None = None
    failure: Failure | None = None
    was_held: bool = False
    deaths: int = 0
    loading: dict[int, float] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    pinned: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    load_seconds: float = 0.0
    held_at: float | None = None
    is_retired: bool = False

    @property
    def name(self) -> str:
        return self.version.name

    @property
    def value(self) -> int:
        return self.version.value

    @property
    def content(self) -> Content:
        return self.model, self.version.name, self.version.digest

    @property
    def stored(self) -> StoredVersion:
        return StoredVersion(model=self.model, location=self.location, version=self.version)

    @property
    def in_memory(self) -> bool:
        return bool(self.held or self.loading)

    @property
    def in_use(self) -> bool:
        """Whether a process reads its files, may do so at any time, or holds what came from them."""
        return bool(
            self.held
            or self.loading
            or self.pinned
            or self.waiting
            or self.fetching
            or self.trial == "running"
        )

    def fails(self, now: float) -> bool:
        """Whether it is known that it cannot be had now."""
        return self.failure is not None and self.failure.holds(now)

    @property
    def is_hopeless(self) -> bool:
        """Whether only other content helps."""
        return self.failure is not None and self.failure.is_permanent

    def is_lost(self, now: float) -> bool:
        """Whether requests cannot be answered by it: nobody holds it, and it cannot be loaded."""
        failure = self.failure
        if failure is None or self.held or not failure.holds(now):
            return False
        return failure.stage == "load" or failure.is_permanent

    def servable(self, *, resident: bool, now: float) -> Servable:
        """What workers are told.

        Of files that nobody has to load they are not told where they are: they are to ask, so that the files stay.
        Nor of files that may still come that they are not here.
        """
        failure = self.failure if self.is_lost(now) or self.fails_to_load(now) else None
        return Servable(
            serial=self.serial,
            version=self.version.name,
            digest=self.version.digest,
            directory=self.directory if resident else None,
            resident=resident,
            error=failure.error if failure is not None else None,
        )

    def fails_to_load(self, now: float) -> bool:
        """Whether it is known that a worker that loads it now will fail.

        What killed a process is not loaded on demand again, in a worker that serves; only a trial may find it innocent.
        """
        failure = self.failure
        return failure is not None and failure.stage == "load" and (failure.killed or failure.holds(now))

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        self.loading.pop(worker, None)
        for workers in (self.held, self.pinned, self.waiting):
            workers.discard(worker)
