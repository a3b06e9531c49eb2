"""What the rollout of models is told: what is there, what was done, what the workers said."""

from __future__ import annotations

from typing import TypeAlias

from cortex_core.models.settling import Settled
from cortex_core.spec.types import Struct
from cortex_serve import control
from cortex_serve.agent.disk import StoredVersion
from cortex_serve.agent.failures import Remembered


class Started(Struct):
    """The first event: what an earlier life left on disk."""

    present: tuple[StoredVersion, ...] = ()
    failures: tuple[Remembered, ...] = ()


class Seen(Struct):
    """What is upstream now."""

    settled: Settled


class Fetched(Struct):
    """The answer to a `Fetch`: the files are on this machine."""

    serial: int
    directory: str


class FetchingFailed(Struct):
    """The answer to a `Fetch`.

    Attributes:
        error: one line, for people.
        transient: whether the same may work later.
        corrupt: the content is not what its manifest says.
    """

    serial: int
    error: str
    transient: bool
    corrupt: bool = False


class Tried(Struct):
    """The answer to a `Try`.

    Attributes:
        error: None when it can be loaded.
        transient: whether the same may work later.
        killed: it ended the process that loaded it.
    """

    serial: int
    error: str | None = None
    transient: bool = False
    killed: bool = False


class NoTrial(Struct):
    """The answer to a `Try` that could not be carried out."""

    serial: int


class WorkerStarted(Struct):
    number: int


class WorkerReady(Struct):
    number: int


class WorkerEnded(Struct):
    """A worker is gone, with all that it held.

    Attributes:
        how: "was killed by SIGSEGV", "exited with status 3".
        out_of_memory: it was killed for the memory it took: the same may work later.
    """

    number: int
    how: str
    out_of_memory: bool = False


class Said(Struct):
    """A worker's message; those that are not about models change nothing."""

    number: int
    message: control.Message


class Tick(Struct):
    """Time has passed; see `Rollout.due`."""


Event: TypeAlias = (
    Started
    | Seen
    | Fetched
    | FetchingFailed
    | Tried
    | NoTrial
    | WorkerStarted
    | WorkerReady
    | WorkerEnded
    | Said
    | Tick
)
