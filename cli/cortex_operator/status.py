"""How an API is doing: pure functions from what shall run and what does run to what people see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cortex_core.operator_api import GroupCounts, ReplicaCounts, ReplicaStatus, Status, StatusCode
from cortex_core.spec.types import AsyncAPI, RealtimeAPI, Struct
from cortex_operator.backends.protocol import Replica
from cortex_operator.gateway.protocol import Upstream
from cortex_operator.routes import addresses
from cortex_operator.state import StoredApi, StoredDeployment

STALLED_AFTER = 15 * 60.0
"""Seconds that a replica may wait for a place to run before that is called a problem."""

SHOWN: dict[StatusCode, str] = {
    "status_live": "live",
    "status_updating": "updating",
    "status_error": "error",
    "status_error_image_pull": "error (image pull)",
    "status_oom": "error (out of memory)",
    "status_stalled": "compute unavailable",
    "status_unknown": "unknown",
}


class Observed(Struct, frozen=True):
    """Everything a status is made of.

    Attributes:
        deployment: the API's newest one.
        min_replicas: of the release that shall run.
        now: seconds since the epoch.
    """

    api: StoredApi
    deployment: StoredDeployment
    min_replicas: int
    replicas: tuple[Replica, ...]
    now: float


def status(observed: Observed) -> Status:
    """The API's status, in the order of precedence of the product's specification."""
    workload, requested = wanted(observed.api, observed.deployment)
    updated = [each for each in observed.replicas if each.workload == workload]
    stale = [each for each in observed.replicas if each.workload != workload]
    counts = count(updated, observed)
    code = _code(counts, requested, observed)
    return Status(
        status_code=code,
        status=SHOWN[code],
        replica_counts=ReplicaCounts(requested=requested, updated=counts, stale=count(stale, observed)),
        message=_message(updated, observed),
    )


def wanted(api: StoredApi, deployment: StoredDeployment) -> tuple[str | None, int]:
    """The workload that shall run, and with how many replicas: the upcoming one's, else the live one's."""
    if not deployment.finished:
        return deployment.workload_id, deployment.replicas_requested
    if api.live is not None:
        return api.live.workload_id, api.live.replicas
    return None, deployment.replicas_requested


def count(replicas: Iterable[Replica], observed: Observed) -> GroupCounts:
    """How many replicas are in which state."""
    names: list[str] = []
    for each in replicas:
        stalled = each.state == "pending" and observed.now - observed.api.updated_at > STALLED_AFTER
        names.append("stalled" if stalled else each.state)
    return GroupCounts(**{name: names.count(name) for name in set(names)})


def shown_replicas(observed: Observed, in_flight: Mapping[Upstream, int]) -> tuple[ReplicaStatus, ...]:
    """The replicas for people, those that shall run first."""
    workload, _ = wanted(observed.api, observed.deployment)
    ordered = sorted(observed.replicas, key=lambda each: (each.workload != workload, each.id))
    return tuple(
        ReplicaStatus(
            id=each.id,
            release_id=each.release_id,
            state=each.state,
            restarts=each.restarts,
            failure=each.failure,
            waiting_for=each.waiting_for,
            pid=each.pid,
            port=each.ports[0] if each.ports else None,
            ports=each.ports,
            admin_port=each.admin_port,
            in_flight=sum(
                in_flight.get(Upstream(host=host, port=port), 0) for host, port in addresses([each])
            ),
            started_at=each.started_at,
        )
        for each in ordered
    )


def min_replicas(spec: object) -> int:
    return spec.autoscaling.min_replicas if isinstance(spec, RealtimeAPI | AsyncAPI) else 1


def _code(counts: GroupCounts, requested: int, observed: Observed) -> StatusCode:
    """While a deployment is in progress it decides itself about failures; until then the API is updating."""
    if not observed.deployment.finished:
        return "status_updating"
    if observed.api.live is None:
        return "status_error"
    rules: Sequence[tuple[bool, StatusCode]] = (
        (counts.ready >= requested, "status_live"),
        (counts.err_image_pull > 0, "status_error_image_pull"),
        (counts.failed + counts.killed > 0, "status_error"),
        (counts.killed_oom > 0, "status_oom"),
        (counts.stalled > 0, "status_stalled"),
        (counts.ready >= observed.min_replicas, "status_live"),
    )
    return next((code for holds, code in rules if holds), "status_updating")


def _message(updated: Sequence[Replica], observed: Observed) -> str | None:
    """Why a replica that shall run does not, what cost one a worker, or else why the last deployment failed."""
    for each in sorted(updated, key=lambda each: each.state == "ready"):
        if each.failure is not None:
            return f"{each.id}: {each.failure}"
    if observed.deployment.state == "failed":
        prefix = (
            "" if observed.api.live is None else "the last deployment failed, what was live before goes on: "
        )
        return f"{prefix}{observed.deployment.error}"
    return None
