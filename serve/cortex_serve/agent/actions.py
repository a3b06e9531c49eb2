"""What the rollout of models wants done. Each is carried out before the next one is begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from cortex_core.spec.types import Struct
from cortex_serve.agent.disk import StoredVersion, Wanted
from cortex_serve.agent.failures import Remembered
from cortex_serve.control import Here
from cortex_serve.snapshot import Snapshot


class Fetch(Struct):
    """Begin to fetch; the answer is `Fetched` or `FetchingFailed`. Said again of one on its way: it is urgent now."""

    wanted: Wanted


class CancelFetch(Struct):
    """Nobody wants it any more. It need not be answered; an `Evict` removes what had come already."""

    serial: int


class Try(Struct):
    """Load it in a process to be thrown away; the answer is `Tried` or `NoTrial`, always."""

    serial: int
    directory: str


class Publish(Struct):
    """Replace the snapshot, and tell the workers to follow."""

    snapshot: Snapshot


class Switch(Struct):
    """Write a model's cell: from here on "latest" means this in all workers; 0: nothing."""

    cell: int
    serial: int


class Tell(Struct):
    """Send it to this worker; if that is gone, to nobody."""

    number: int
    here: Here


class Evict(Struct):
    """Remove it from disk, before anything else is done: the next action may fetch the same again."""

    stored: StoredVersion


class Remember(Struct):
    """Keep for the next life, in place of all that was kept before."""

    failures: tuple[Remembered, ...]


class Note(Struct):
    """A line for the log."""

    level: Literal["INFO", "WARNING", "ERROR"]
    message: str
    fields: Mapping[str, str | float | None]


class GiveUp(Struct):
    """Nothing can be served, and nothing but new content will change that. Said once."""

    message: str


Action: TypeAlias = Fetch | CancelFetch | Try | Publish | Switch | Tell | Evict | Remember | Note | GiveUp
