"""What stands in front of all APIs must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cortex_core.errors import CortexError
from cortex_core.operator_api import NetworkStats


@dataclass(frozen=True, kw_only=True, order=True)
class Upstream:
    """Where a replica listens, or one of its processes.

    Attributes:
        host: an IP address; names are not resolved.
        port: TCP port.
        draining: finish what is in flight there, send nothing new. It may be stopped once `in_flight`
            says 0 for it, and be left out once it is gone.
    """

    host: str
    port: int
    draining: bool = False


@dataclass(frozen=True, kw_only=True)
class Route:
    """One API at the gateway.

    Attributes:
        api: its name; unique.
        endpoint: path, e.g. "/iris"; matches with and without a trailing slash, nothing below it. Of a gRPC API
            "/<package>.<Service>", and what is below it are the methods.
        upstreams: its replicas; empty means 503 "no replica is ready". One that is restarting on its port
            stays in: what cannot be connected to is tried elsewhere, and again for about 4 s.
        max_concurrency: requests in flight beyond which the gateway answers 503 with Retry-After,
            over all replicas together.
        protocol: what the replicas speak.
        timeout: seconds that a request may take, or a call of a gRPC API with all its messages. None: for HTTP
            `cortex_core.runtime.REQUEST_TIMEOUT`, for gRPC as long as the client wants.
    """

    api: str
    endpoint: str
    upstreams: tuple[Upstream, ...]
    max_concurrency: int
    protocol: Literal["http", "grpc"] = "http"
    timeout: float | None = None


class GatewayFailed(CortexError):
    """The gateway could not be started or did not take a configuration in time."""


class Gateway(Protocol):
    """Routes requests to replicas. The data plane goes on without the operator."""

    async def open(self) -> None:
        """Adopt the running gateway or start one; from now on restart it at once when it dies."""
        ...

    async def close(self) -> None:
        """Stop looking after it; it goes on running."""
        ...

    async def shutdown(self) -> None:
        """Stop it and return when it is gone."""
        ...

    async def apply(self, routes: Sequence[Route]) -> None:
        """Serve exactly these routes; returns when the gateway does.

        No request in flight and no kept-alive connection of an unchanged route notices.

        Raises:
            GatewayFailed: it did not take the configuration before the deadline; what was served before
                still is.
        """
        ...

    async def in_flight(self) -> Mapping[str, Mapping[Upstream, int]]:
        """Requests in flight per API and upstream (the key's `draining` is always False)."""
        ...

    async def stats(self) -> Mapping[str, NetworkStats]:
        """What was answered per API since it was created, as far as this gateway object knows."""
        ...
