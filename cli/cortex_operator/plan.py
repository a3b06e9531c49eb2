"""What a deploy will do, API by API: pure, shown by a dry run and carried out by a real one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from cortex_core.operator_api import ApiResult, Change
from cortex_core.release import Release
from cortex_core.spec.as_written import as_written
from cortex_core.spec.types import AsyncAPI, RealtimeAPI, Struct, TrafficSplitter

SHOWN_DIGITS = 12
"""Of a digest: enough to tell projects apart, and to read."""
NOTHING_TO_DO = "up to date"
TO_DO = ("creating", "updating")


class Requested(Struct, frozen=True):
    """What was asked for.

    Attributes:
        refusals: why this backend cannot run it at all.
        notices: parts of the spec that have no effect on this backend.
    """

    release: Release
    refusals: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


class Deployed(Struct, frozen=True):
    """What there is of an API.

    Attributes:
        live: the live release.
        upcoming: the release of the deployment in progress, and that deployment's id.
        deleting: the API is being deleted.
    """

    live: Release | None = None
    upcoming: Release | None = None
    deployment_id: str | None = None
    deleting: bool = False


def plan(requested: Sequence[Requested], deployed: Mapping[str, Deployed], *, force: bool) -> list[ApiResult]:
    """What happens to each API, in the order in which it happens: splitters after what they split over.

    Args:
        requested: the APIs of a file.
        deployed: what there is, by name.
        force: take over from deployments in progress.
    """
    in_order = sorted(requested, key=lambda each: isinstance(each.release.spec, TrafficSplitter))
    return [_plan(each, deployed.get(each.release.name, Deployed()), force) for each in in_order]


def replicas_for(release: Release, current: int | None) -> int:
    """How many replicas a deployment asks for.

    Args:
        current: how many are live now, or None when the API is created.
    """
    spec = release.spec
    if not isinstance(spec, RealtimeAPI | AsyncAPI):
        return 1
    scaling = spec.autoscaling
    wanted = scaling.init_replicas if current is None else current
    return max(1, scaling.min_replicas, min(wanted, scaling.max_replicas))


def changes(before: Release, after: Release) -> Iterator[Change]:
    """What differs between two releases, by path in the document, as people write it there."""
    if before.id == after.id:
        return
    yield from _differences((), as_written(before.spec), as_written(after.spec))
    for path, attribute in (("project", "project_digest"), ("runtime", "runtime_version")):
        old, new = getattr(before, attribute), getattr(after, attribute)
        if old != new:
            yield Change(path=path, before=old[:SHOWN_DIGITS], after=new[:SHOWN_DIGITS])


def failed(result: ApiResult, error: str, *, code: str) -> ApiResult:
    """The result of an API that cannot be deployed; `code` is one of `Problem`."""
    return msgspec.structs.replace(
        result, action="failed", message=error, error=error, code=code, replaces_replicas=False
    )


def _plan(requested: Requested, deployed: Deployed, force: bool) -> ApiResult:
    release, live, upcoming = requested.release, deployed.live, deployed.upcoming
    named = f"{release.name} ({release.kind})"
    result = ApiResult(
        name=release.name,
        kind=release.kind,
        action="updating" if live is not None else "creating",
        message=f"{'updating' if live is not None else 'creating'} {named}",
        release_id=release.id,
        replaces_replicas=live is not None and live.replica_digest != release.replica_digest,
        changes=() if live is None else tuple(changes(live, release)),
        notices=requested.notices,
    )
    if requested.refusals:
        return failed(result, f"{named}: " + "; ".join(requested.refusals), code="invalid_config")
    if deployed.deleting:
        error = f"{named} is being deleted; deploy it again when it is gone"
        return failed(result, error, code="conflict")
    if upcoming is not None and upcoming.id == release.id:
        return _unchanged(result, "already updating", f"{named} is already updating", deployed.deployment_id)
    if upcoming is not None and not force:
        message = f"{named} is already updating; wait until that is done, or take over with --force"
        result = _unchanged(result, "already updating", message, None)
        return msgspec.structs.replace(result, error=message, code="conflict")
    if upcoming is None and live is not None and live.id == release.id:
        return _unchanged(result, NOTHING_TO_DO, f"{named} is up to date", None)
    return result


def _unchanged(result: ApiResult, action: str, message: str, deployment_id: str | None) -> ApiResult:
    return msgspec.structs.replace(
        result, action=action, message=message, deployment_id=deployment_id, replaces_replicas=False
    )


def _differences(path: tuple[str, ...], before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            yield from _differences((*path, str(key)), before.get(key), after.get(key))
    elif before != after:
        yield Change(path=".".join(path), before=before, after=after)
