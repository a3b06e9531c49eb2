"""What the gateway shall do: pure functions from what shall run and what does run to routes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cortex_core.release import Release
from cortex_core.spec.types import AsyncAPI, RealtimeAPI, is_grpc
from cortex_operator.backends.protocol import Replica
from cortex_operator.gateway.protocol import Route, Upstream
from cortex_operator.state import Live


@dataclass(frozen=True, kw_only=True)
class Served:
    """A live API.

    Attributes:
        live: what serves it.
        release: the live release.
        starting: workload of the deployment in progress, which gets no requests yet; None without one.
    """

    live: Live
    release: Release
    starting: str | None


def route(served: Served, replicas: Iterable[Replica]) -> Route:
    """One API's route.

    Ready replicas get the requests. When none is ready, those that are being started again keep their place:
    they keep their addresses too, so the gateway's connection attempts can simply be repeated. What is on its
    way out keeps what it has in flight.

    Each process of a replica is an upstream of its own: so the gateway gives every request to the one that has
    the fewest, and as many run at a time as there are threads.
    """
    replicas = [each for each in replicas if each.workload != served.starting or _is_kept(served)]
    active = [each for each in replicas if not retiring(each, served.live, served.starting)]
    ready = [each for each in active if each.state == "ready"]
    chosen = ready or [each for each in active if each.state != "terminating"]
    serving = addresses(chosen)
    going = [each for each in replicas if each.state in ("ready", "terminating") and each not in active]
    leaving = addresses(going)
    spec = served.release.spec
    handler = spec.handler if isinstance(spec, RealtimeAPI) else None
    limit = spec.autoscaling.max_replica_concurrency if isinstance(spec, RealtimeAPI | AsyncAPI) else 1024
    return Route(
        api=spec.name,
        endpoint=spec.networking.endpoint,
        upstreams=tuple(
            sorted(
                [Upstream(host=host, port=port) for host, port in serving]
                + [Upstream(host=host, port=port, draining=True) for host, port in leaving - serving]
            )
        ),
        max_concurrency=limit * max(1, len(chosen)),
        protocol="grpc" if is_grpc(spec) else "http",
        timeout=None
        if handler is None or handler.request_timeout is None
        else handler.request_timeout / 10**9,
    )


def retiring(replica: Replica, live: Live | None, starting: str | None) -> bool:
    """Whether a replica shall go: it belongs to no wanted workload, or there are more than wanted."""
    if live is not None and replica.workload == live.workload_id:
        return starting != replica.workload and slot(replica) >= live.replicas
    return replica.workload != starting


def slot(replica: Replica) -> int:
    """The replica's number in its workload, from 0; a workload gives up its highest first."""
    return int(replica.id.rpartition("-")[2])


def addresses(replicas: Iterable[Replica]) -> set[tuple[str, int]]:
    """Where those replicas listen that have an address."""
    return {(each.host, port) for each in replicas if each.host is not None for port in each.ports}


def of_api(replicas: Sequence[Replica], api: str) -> list[Replica]:
    return [each for each in replicas if each.api == api]


def _is_kept(served: Served) -> bool:
    """Whether the deployment in progress only changes what is around the live replicas."""
    return served.starting == served.live.workload_id
