"""Whether everything that has to be served is served; if not, why; and whether there is any hope."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from cortex_core.models.settling import Settled
from cortex_serve.agent.notes import Names, reason, title
from cortex_serve.agent.succession import Step, Succession

_DOING: Mapping[Step, str] = {
    "fetching": "is being fetched",
    "trying": "is being tried",
    "unloading": "waits for the one before it to be unloaded",
    "loading": "is being loaded",
}


def obstacles(
    settled: Settled | None,
    successions: Collection[Succession],
    *,
    on_demand: bool,
    all_required: bool,
    names: Names,
) -> Iterator[str]:
    """Why not all that has to be served is served yet, for people.

    Args:
        on_demand: nothing has to be loaded, only known.
        all_required: each model has to be served; otherwise any one, and those that are on their way.
    """
    if settled is None or not settled.is_complete:
        yield "the models have not been listed yet"
    elif not on_demand:
        if not successions:
            yield from _nothing_there(settled, names)
        any_serves = any(each.serving is not None for each in successions)
        for succession in successions:
            if succession.serving is not None:
                continue
            if succession.next is not None:
                called = title(succession.name, names)
                yield f"{called}: version {succession.next.name} {_DOING[succession.step]}"
            elif all_required or not any_serves:
                yield from reasons(succession, names)


def hopeless(
    successions: Collection[Succession], settled: Settled, *, all_required: bool
) -> list[Succession]:
    """Models that have nothing to serve, if that is reason enough to give up; nothing but new content will help.

    Args:
        all_required: one such model is enough; otherwise it takes all.
    """
    waited_for = {pending.model for pending in settled.pending}
    dead = [each for each in successions if each.name not in waited_for and _is_hopeless(each)]
    return dead if all_required or len(dead) == len(successions) else []


def reasons(succession: Succession, names: Names) -> list[str]:
    """Why a model's versions cannot be had, the highest first."""
    return [
        reason(edition, edition.failure, names)
        for edition in reversed(succession.upstream)
        if edition.failure is not None
    ]


def _nothing_there(settled: Settled, names: Names) -> Iterator[str]:
    for pending in settled.pending:
        yield f"{title(pending.model, names)}: version {pending.version} {pending.why}"
    yield from map(str, settled.problems)
    if not settled.pending and not settled.problems:
        yield "there are no models"


def _is_hopeless(succession: Succession) -> bool:
    if succession.serving is not None or succession.previous is not None or succession.next is not None:
        return False
    return all(each.failure is not None and each.failure.is_permanent for each in succession.upstream)
