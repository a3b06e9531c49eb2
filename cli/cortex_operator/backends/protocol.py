"""What a place that runs replicas must be able to do.

A backend is declarative: the reconciler says what should run (`apply`), the backend keeps it running, restarting
with backoff what dies, also while nobody looks. What runs is always asked of the backend (`observe`); nothing
about it is remembered elsewhere, so an operator that starts anew adopts everything by asking.

Every method may be called again after a crash at any point, and concurrently for different workloads.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cortex_core.release import Release

ReplicaState = Literal["pending", "initializing", "ready", "terminating", "failed", "killed_oom"]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A group of equal replicas: what one deployment of a release runs.

    Attributes:
        id: unique; a refresh or a new release gets a new one, so old and new run beside each other.
        release: what to run.
        replicas: how many, at least 1.
    """

    id: str
    release: Release
    replicas: int


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One running or failed instance, as the backend sees it now.

    Attributes:
        id: `<workload>-<slot>`, stable over restarts.
        state: pending (not started yet), initializing (started, not ready), ready, terminating,
            failed (died; the backend will try again after a delay), killed_oom (died by the memory limit).
        host, ports: where the gateway reaches it, usually a port for each of its processes; kept over restarts, so
            that a connection attempt made while it restarts can simply be repeated. None, and none, while there
            is no address.
        restarts: how often it died; each time it is started again after a delay.
        failure: why it last died, one line, or None. Kept while it is restarted, cleared when it is ready; one
            that is ready says here for some minutes that a part of it was killed by the memory limit.
        waiting_for: what one that is initializing says it waits for ("fetching model iris version 7: 1.2 of
            2.0 GB"), or None.
        handler_failed: its handler could not be loaded (`EXIT_HANDLER_FAILED`) and it has not been ready since;
            starting it again will hardly help, a deployment gives up at once.
    """

    id: str
    api: str
    workload: str
    release_id: str
    state: ReplicaState
    host: str | None = None
    ports: tuple[int, ...] = ()
    admin_port: int | None = None
    pid: int | None = None
    restarts: int = 0
    failure: str | None = None
    waiting_for: str | None = None
    handler_failed: bool = False
    started_at: float | None = None


@dataclass(frozen=True, kw_only=True)
class LogQuery:
    """Which log lines are wanted.

    Attributes:
        tail: only the newest so many lines before following; None is all.
        since: seconds since the epoch; None is from the beginning.
        replica: one replica's id; None is all of the API.
        follow: go on until the caller stops iterating.
    """

    tail: int | None = None
    since: float | None = None
    replica: str | None = None
    follow: bool = False


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a replica's log; `text` is the JSON object as written."""

    replica: str
    text: str


class PreparationFailed(Exception):
    """The project or its environment could not be made ready: what failed, and the output's last lines."""

    def __init__(self, message: str, output: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.output = tuple(output)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A part of a spec that this backend will not honour: `path` in the document, and what happens instead."""

    path: str
    text: str


class Backend(Protocol):
    """Runs workloads. See the module's text for what holds for every method."""

    name: str

    async def open(self) -> None:
        """Find what already runs and begin to look after it. Called once, before anything else."""
        ...

    async def close(self) -> None:
        """Stop looking; what runs goes on running."""
        ...

    def refusals(self, release: Release) -> list[Notice]:
        """Parts of the spec that this backend cannot run at all; not empty means: do not deploy."""
        ...

    def ignored(self, release: Release) -> list[Notice]:
        """Parts of the spec that are accepted and have no effect here."""
        ...

    async def prepare(self, release: Release, report: Callable[[str], None]) -> None:
        """Fetch and extract the project and build its environment; quick when already done.

        Args:
            release: what will be applied next.
            report: told in a few words what is going on ("installing 12 packages").

        Raises:
            PreparationFailed: with the output of what failed.
        """
        ...

    async def apply(self, workload: Workload) -> None:
        """Make `workload.replicas` replicas of it run from now on. Returns at once; see `observe`.

        Called again with another count it starts or stops the difference, the highest slots first to go; with
        the same, does nothing.
        """
        ...

    async def remove(self, workload_id: str) -> None:
        """Stop all replicas of a workload gracefully and return when they and all they started are gone.

        Removing what is not there succeeds quietly.
        """
        ...

    async def observe(self) -> list[Replica]:
        """Everything that runs or tries to, whoever started it."""
        ...

    async def changed(self) -> None:
        """Return as soon as something that `observe` shows has changed since the last return."""
        ...

    def logs(self, api: str, query: LogQuery) -> AsyncIterator[LogLine]:
        """The API's log lines, oldest first, of all its replicas, also of those that are gone."""
        ...

    async def sweep(self, kept: Collection[str]) -> None:
        """Remove what was prepared for other releases, is used by nothing that runs, and was not lately.

        Args:
            kept: ids of the releases that are live or about to be.
        """
        ...

    async def forget(self, api: str) -> None:
        """Remove what is kept of an API that has no workload any more: logs, releases."""
        ...
