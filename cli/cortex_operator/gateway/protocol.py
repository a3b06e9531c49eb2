"""What stands in front of all APIs must be able to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, order=True)
class Upstream:
    """Where one replica listens.

    Attributes:
        draining: finish what is in flight there, send nothing new.
    """

    host: str
    port: int
    draining: bool = False


@dataclass(frozen=True, kw_only=True)
class Route:
    """One API at the gateway.

    Attributes:
        api: its name; unique.
        endpoint: path, e.g. "/iris"; matches with and without a trailing slash, nothing below it.
        upstreams: its replicas; empty means 503 "no replica is ready".
        max_concurrency: requests in flight beyond which the gateway answers 503 with Retry-After,
            over all replicas together.
    """

    api: str
    endpoint: str
    upstreams: tuple[Upstream, ...]
    max_concurrency: int


class GatewayFailed(Exception):
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
            GatewayFailed: it did not take the configuration before the deadline.
        """
        ...

    async def in_flight(self) -> Mapping[str, Mapping[Upstream, int]]:
        """Requests in flight per API and upstream (the key's `draining` is always False)."""
        ...
