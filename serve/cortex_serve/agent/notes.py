"""What the rollout says in the log, in people's words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from cortex_core.models.tree import LayoutProblem
from cortex_serve.agent.actions import Note
from cortex_serve.agent.editions import Edition
from cortex_serve.agent.failures import Failure, Stage

Names: TypeAlias = Callable[[str], str]
"""What people call a model."""

MOST_PROBLEMS = 20
"""Lines about what is wrong with locations, at a time."""

_DONE: dict[Stage, str] = {"fetch": "fetched", "load": "loaded"}


def is_live(live: Edition, before: Edition | None, *, is_gone: bool, names: Names, now: float) -> Note:
    """A version serves from here on.

    Args:
        before: what served until now.
        is_gone: it is not upstream any more.
    """
    return Note(
        level="INFO",
        message=f"{_version(live, names)} {_goes_live(live, before, is_gone)}",
        fields={
            **_fields(live, names),
            "seconds": round(now - live.seen_at, 3),
            "load_seconds": round(live.load_seconds, 3) if live.held else None,
        },
    )


def has_failed(edition: Edition, serving: Edition | None, *, names: Names, now: float) -> Note:
    """A version could not be fetched or loaded."""
    failure = edition.failure
    assert failure is not None
    message = reason(edition, failure, names)
    if failure.retry_at is not None:
        message += f"; it is tried again in {failure.retry_at - now:g} s"
    if serving is not None and serving is not edition:
        other = "its earlier content" if serving.name == edition.name else f"version {serving.name}"
        message += f"; {other} serves on"
    return Note(
        level="ERROR" if failure.is_permanent else "WARNING",
        message=message,
        fields=_fields(edition, names),
    )


def is_gone(model: str, names: Names) -> Note:
    """A whole model is not upstream any more."""
    return Note(
        level="INFO",
        message=f"{title(model, names)} is gone: it is served no more",
        fields={"model": names(model)},
    )


def are_known(number: int) -> Note:
    """With caches, at the start."""
    message = f"{number} models are known; each is fetched and loaded when it is asked for"
    return Note(level="INFO", message=message, fields={})


def are_wrong(before: Iterable[LayoutProblem], now: Iterable[LayoutProblem]) -> Iterator[Note]:
    """What has come to be wrong with the locations, and, once, that nothing is any more."""
    known, wrong = {str(each) for each in before}, [str(each) for each in now]
    new = [text for text in wrong if text not in known]
    for text in new[:MOST_PROBLEMS]:
        yield Note(level="WARNING", message=f"models: {text}", fields={})
    if len(new) > MOST_PROBLEMS:
        rest = len(new) - MOST_PROBLEMS
        yield Note(level="WARNING", message=f"models: {rest} more things are wrong with locations", fields={})
    if known and not wrong:
        yield Note(level="INFO", message="models: nothing is wrong with locations any more", fields={})


def are_too_many(limit: int) -> Note:
    message = f"there were {limit} models by now; more are only seen after a restart"
    return Note(level="ERROR", message=message, fields={})


def reason(edition: Edition, failure: Failure, names: Names) -> str:
    """Why a version cannot be had."""
    return f"{_version(edition, names)} cannot be {_DONE[failure.stage]}: {failure.error}"


def title(model: str, names: Names) -> str:
    return f"model {names(model)}"


def _version(edition: Edition, names: Names) -> str:
    return f"{title(edition.model, names)}: version {edition.name}"


def _fields(edition: Edition, names: Names) -> dict[str, str | float | None]:
    return {"model": names(edition.model), "version": edition.name, "digest": edition.version.digest[:12]}


def _goes_live(live: Edition, before: Edition | None, is_gone: bool) -> str:
    if before is None:
        return "is live"
    if before is live:
        return "serves again"
    if before.name == live.name:
        return "is live with its new content"
    gone = ", which is gone" if is_gone and live.value < before.value else ""
    return f"is live (was {before.name}{gone})"
