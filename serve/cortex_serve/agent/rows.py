"""What people are shown of a replica's models: one row for each version, with the state it is in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from cortex_core.models.settling import Settled
from cortex_core.models.tree import LayoutProblem
from cortex_core.operator_api import ModelState
from cortex_core.spec.types import Struct
from cortex_serve.agent.editions import Edition
from cortex_serve.agent.succession import Step, Succession, Workers

NOBODY = "-"
"""The name of no model, and of no version."""


class ModelRow(Struct):
    """One version, or what is wrong where one should be; as `operator_api.ModelStatus`, but for the times.

    Attributes:
        name: what people call the model; "-" for what is about a `dir` as a whole.
        version: "-" for what is about a model as a whole.
        digest: the first 12 hex digits; "" when there is none.
        loaded_at: when every worker held it, monotonic seconds.
        error: why it failed, what it waits for, or what is wrong with it.
        modified_ns: when its newest file was written, nanoseconds since the epoch.
        location: as written in the API file.
    """

    name: str
    version: str
    digest: str
    state: ModelState
    loaded_at: float | None = None
    error: str | None = None
    modified_ns: int | None = None
    location: str | None = None


def rows(
    successions: Iterable[Succession],
    settled: Settled | None,
    workers: Workers,
    *,
    names: Callable[[str], str],
    now: float,
) -> list[ModelRow]:
    """By model, then version; a version's older content before the newer."""
    problems = list(settled.problems) if settled is not None else []
    found = [row for each in successions for row in _of_model(each, workers, problems, names, now)]
    known = {(row.name, row.version, row.digest) for row in found}
    for pending in settled.pending if settled is not None else ():
        row = ModelRow(
            name=names(pending.model),
            version=pending.version,
            digest=pending.digest[:12],
            state="pending",
            error=pending.why,
        )
        if (row.name, row.version, row.digest) not in known:
            found.append(row)
    found += _of_problems(problems, found, names)
    return sorted(found, key=lambda row: (row.name, int(row.version) if row.version != NOBODY else -1))


def _of_model(
    succession: Succession,
    workers: Workers,
    problems: Sequence[LayoutProblem],
    names: Callable[[str], str],
    now: float,
) -> Iterator[ModelRow]:
    wrong = {
        each.version: each.message for each in problems if each.model == succession.name and each.version
    }
    missing = next((str(each) for each in problems if _is_of_all(each, succession.name)), None)
    for edition in succession.editions:
        failure = edition.failure
        error = failure.error if failure is not None else wrong.get(edition.name)
        yield ModelRow(
            name=names(edition.model),
            version=edition.name,
            digest=edition.version.digest[:12],
            state=_state(edition, succession, workers, now),
            loaded_at=edition.held_at if edition.held else None,
            error=error or (missing if edition is succession.serving else None),
            modified_ns=max(file.modified_ns for file in edition.version.files),
            location=edition.location,
        )


def _is_of_all(problem: LayoutProblem, model: str) -> bool:
    """Whether it says that there is no version of the model at all; what is served then is what was there."""
    return problem.rejects and problem.version is None and problem.model in (model, None)


def _state(edition: Edition, succession: Succession, workers: Workers, now: float) -> ModelState:
    if edition is succession.serving and (edition.held or not succession.rules.on_demand):
        return "live"
    if edition.fails(now):
        return "failed"
    if edition is succession.next:
        return _STATES[succession.step]
    if edition.fetching:
        return "fetching"
    if edition.held and workers.all_hold(edition):
        return "ready"
    if edition.loading:
        return "loading"
    tried_in_vain = edition.failure is not None and not edition.held
    return "failed" if tried_in_vain else "available"


_STATES: dict[Step, ModelState] = {
    "fetching": "fetching",
    "trying": "loading",
    "unloading": "loading",
    "loading": "loading",
}


def _of_problems(
    problems: Sequence[LayoutProblem], found: Sequence[ModelRow], names: Callable[[str], str]
) -> Iterator[ModelRow]:
    """Versions that are rejected, and models, and a `dir`, of which there is nothing else to see."""
    models = {row.name for row in found}
    versions = {(row.name, row.version) for row in found}
    for problem in problems:
        name = names(problem.model) if problem.model is not None else NOBODY
        version = problem.version or NOBODY
        is_seen = (name, version) in versions if problem.version else (name in models or not found)
        if problem.version is None and problem.model is None:
            is_seen = bool(found)
        if problem.rejects and not is_seen:
            yield ModelRow(name=name, version=version, digest="", state="failed", error=str(problem))
