"""What the gateway is told of what runs."""

from __future__ import annotations

from typing import Any

import pytest

from cortex_core.release import Release, make_release
from cortex_core.spec.types import Autoscaling, Compute, Handler, Networking, RealtimeAPI, UpdateStrategy
from cortex_operator.backends.protocol import Replica, ReplicaState
from cortex_operator.gateway.protocol import Upstream
from cortex_operator.routes import Served, route
from cortex_operator.state import Live

LIVE = Live(release_id="r", workload_id="iris-a", replicas=2)


def release(**handler: Any) -> Release:
    spec = RealtimeAPI(
        name="iris",
        handler=Handler(type="python", path="handler.py", **handler),
        networking=Networking(endpoint="/iris"),
        compute=Compute(),
        autoscaling=Autoscaling(target_replica_concurrency=1.0, max_replica_concurrency=10),
        update_strategy=UpdateStrategy(),
    )
    return make_release(spec, project_digest="ab", project_url="file:///b", runtime_version="1")


def replica(slot: int, *ports: int, workload: str = "iris-a", state: ReplicaState = "ready") -> Replica:
    return Replica(
        id=f"{workload}-{slot}",
        api="iris",
        workload=workload,
        release_id="r",
        state=state,
        host="127.0.0.1",
        ports=ports,
    )


def at(*ports: int, draining: bool = False) -> list[Upstream]:
    return [Upstream(host="127.0.0.1", port=port, draining=draining) for port in ports]


def served(**handler: Any) -> Served:
    return Served(live=LIVE, release=release(**handler), starting=None)


def test_each_port_is_an_upstream_and_the_limit_is_the_replicas() -> None:
    made = route(served(), [replica(0, 1, 2), replica(1, 3, 4)])

    assert list(made.upstreams) == at(1, 2, 3, 4)
    assert made.max_concurrency == 20


def test_a_replica_that_is_not_ready_counts_only_when_none_is() -> None:
    down = replica(1, 3, 4, state="failed")

    assert route(served(), [replica(0, 1, 2), down]).max_concurrency == 10
    alone = route(served(), [down])
    assert (list(alone.upstreams), alone.max_concurrency) == (at(3, 4), 10)


def test_all_ports_of_what_goes_are_drained() -> None:
    made = route(served(), [replica(0, 1, 2), replica(0, 7, 8, workload="iris-old", state="terminating")])

    assert list(made.upstreams) == [*at(1, 2), *at(7, 8, draining=True)]
    assert made.max_concurrency == 10


@pytest.mark.parametrize(
    ("handler", "protocol", "timeout"),
    [
        ({}, "http", None),
        ({"request_timeout": 1_500_000_000}, "http", 1.5),
        ({"protobuf_path": "iris.proto"}, "grpc", None),
    ],
)
def test_how_replicas_are_spoken_to(handler: dict[str, Any], protocol: str, timeout: float | None) -> None:
    made = route(served(**handler), [])

    assert (made.protocol, made.timeout) == (protocol, timeout)
