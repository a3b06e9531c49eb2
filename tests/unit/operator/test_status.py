"""How an API is doing, as a table."""

from __future__ import annotations

import pytest

from cortex_core.operator_api import GroupCounts
from cortex_operator.backends.protocol import Replica, ReplicaState
from cortex_operator.state import Live, StoredApi, StoredDeployment
from cortex_operator.status import STALLED_AFTER, Observed, shown_replicas, status

UPDATED = 1000.0


def replicas(workload: str, *states: ReplicaState, failure: str | None = None) -> list[Replica]:
    return [
        Replica(
            id=f"{workload}-{slot}",
            api="iris",
            workload=workload,
            release_id="r",
            state=state,
            failure=failure,
        )
        for slot, state in enumerate(states)
    ]


def observed(
    *running: Replica,
    state: str = "live",
    live: int | None = 2,
    requested: int = 2,
    age: float = 1.0,
    error: str | None = None,
) -> Observed:
    """An API whose live workload is "old" and whose newest deployment runs "new" unless it is live."""
    return Observed(
        api=StoredApi(
            name="iris",
            created_at=UPDATED,
            updated_at=UPDATED,
            live=None if live is None else Live(release_id="r", workload_id="old", replicas=live),
            deployment_id="d",
        ),
        deployment=StoredDeployment(
            id="d", api="iris", release_id="r", state=state, sequence=1, replicas_requested=requested,  # type: ignore[arg-type]
            replicas_ready=0, workload_id="new", reason="deploy", error=error,
        ),
        min_replicas=1,
        replicas=running,
        now=UPDATED + age,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "age", "code"),
    [
        (["ready", "ready"], 1, "status_live"),
        (["ready", "ready", "failed"], 1, "status_live"),
        (["ready", "failed"], 1, "status_error"),
        (["ready", "killed_oom"], 1, "status_oom"),
        (["failed", "killed_oom"], 1, "status_error"),
        (["ready", "pending"], 1, "status_live"),
        (["ready", "pending"], STALLED_AFTER + 1, "status_stalled"),
        (["ready", "initializing"], 1, "status_live"),
        (["initializing", "initializing"], 1, "status_updating"),
        (["terminating"], 1, "status_updating"),
        ([], 1, "status_updating"),
    ],
)
def test_precedence(states: list[ReplicaState], age: float, code: str) -> None:
    assert status(observed(*replicas("old", *states), age=age)).status_code == code


def test_a_deployment_in_progress_is_an_update_whatever_runs() -> None:
    running = [*replicas("old", "ready", "ready"), *replicas("new", "failed", failure="exit code 3")]
    shown = status(observed(*running, state="starting"))
    assert (shown.status_code, shown.status) == ("status_updating", "updating")
    assert shown.replica_counts.requested == 2
    assert shown.replica_counts.updated == GroupCounts(failed=1)
    assert shown.replica_counts.stale == GroupCounts(ready=2)
    assert shown.message == "new-0: exit code 3"


def test_an_api_that_never_got_live_is_an_error_that_says_why() -> None:
    shown = status(observed(state="failed", live=None, error="it broke"))
    assert (shown.status_code, shown.status, shown.message) == ("status_error", "error", "it broke")


def test_an_api_whose_last_update_failed_is_live_and_says_so() -> None:
    shown = status(observed(*replicas("old", "ready", "ready"), state="failed", error="it broke"))
    assert shown.status_code == "status_live"
    assert shown.message == "the last deployment failed, what was live before goes on: it broke"


def test_replicas_that_shall_run_are_shown_first() -> None:
    running = [*replicas("a", "terminating"), *replicas("old", "ready", "ready")]
    assert [each.id for each in shown_replicas(observed(*running), {})] == ["old-0", "old-1", "a-0"]
