"""What went wrong with one content of a version, and when it is worth trying again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cortex_core.spec.types import Struct

FILE = "failures.json"

FETCH_AGAIN = (1.0, 60.0)
LOAD_AGAIN = (30.0, 600.0)
OUT_OF_MEMORY_AGAIN = (60.0, 1800.0)
"""Seconds after the first failure, doubled with each one more, and the most."""

CORRUPT_TRIES = 3

Stage = Literal["fetch", "load"]


class Failure(Struct):
    """Why a content cannot be had.

    Attributes:
        error: one line, for people.
        failed_at: monotonic seconds.
        tries: how often in a row.
        retry_at: monotonic seconds from which on it may be tried again; None: never, only other content helps.
        killed: it ended the process that loaded it.
    """

    stage: Stage
    error: str
    failed_at: float
    tries: int
    retry_at: float | None
    killed: bool = False

    @property
    def is_permanent(self) -> bool:
        return self.retry_at is None

    def holds(self, now: float) -> bool:
        """Whether it is too early to try again."""
        return self.retry_at is None or now < self.retry_at


class Remembered(Struct):
    """A content that kills the process that loads it; kept over restarts."""

    model: str
    version: str
    digest: str
    error: str


def fetching_failed(
    before: Failure | None, *, error: str, transient: bool, corrupt: bool, now: float
) -> Failure:
    """Storage may come back at any time; content that is not what its manifest says gets a few tries."""
    tries = _tries(before, "fetch")
    again = tries < CORRUPT_TRIES if corrupt else transient
    return _failure("fetch", error, tries, FETCH_AGAIN if again else None, now)


def loading_failed(before: Failure | None, *, error: str, transient: bool, now: float) -> Failure:
    """`load_model` raised, or took too long."""
    return _failure("load", error, _tries(before, "load"), LOAD_AGAIN if transient else None, now)


def loading_killed(before: Failure | None, *, how: str, out_of_memory: bool, now: float) -> Failure:
    """The process that loaded it ended. Memory may suffice later; anything else will happen again."""
    again = OUT_OF_MEMORY_AGAIN if out_of_memory else None
    error = f"the process {how} while it was being loaded"
    return _failure("load", error, _tries(before, "load"), again, now, killed=True)


def remembered(failure: Remembered, now: float) -> Failure:
    """What an earlier life knows."""
    return Failure(stage="load", error=failure.error, failed_at=now, tries=1, retry_at=None, killed=True)


def _tries(before: Failure | None, stage: Stage) -> int:
    return before.tries + 1 if before is not None and before.stage == stage else 1


def _failure(
    stage: Stage,
    error: str,
    tries: int,
    again: tuple[float, float] | None,
    now: float,
    *,
    killed: bool = False,
) -> Failure:
    retry_at = None
    if again is not None:
        first, most = again
        retry_at = now + min(most, first * 2.0 ** min(tries - 1, 30))
    return Failure(stage=stage, error=error, failed_at=now, tries=tries, retry_at=retry_at, killed=killed)


def write(folder: Path, failures: Sequence[Remembered]) -> None:
    """Keep them for the next life, in place of all that was kept before."""
    partial = folder / f".{FILE}.partial"
    partial.write_bytes(msgspec.json.encode(failures))
    partial.replace(folder / FILE)


def read(folder: Path) -> tuple[Remembered, ...]:
    """What `write` kept; nothing when that cannot be read: then a version is tried once more."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=tuple[Remembered, ...])
    except (FileNotFoundError, msgspec.DecodeError):
        return ()
