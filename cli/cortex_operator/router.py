"""Keeps the gateway's routes equal to what shall and does run."""

from __future__ import annotations

import asyncio

from cortex_operator.backends.protocol import Backend
from cortex_operator.clock import Clock
from cortex_operator.gateway.protocol import Gateway, GatewayFailed, Route
from cortex_operator.routes import Served, of_api, route
from cortex_operator.state import State

DRAIN_POLL = 0.05
"""Seconds between two looks at what is in flight."""


class Router:
    """The only one who changes routes, so that the newest always wins."""

    def __init__(self, *, state: State, backend: Backend, gateway: Gateway, clock: Clock) -> None:
        self._state = state
        self._backend = backend
        self._gateway = gateway
        self._clock = clock
        self._lock = asyncio.Lock()
        self._applied: list[Route] | None = None

    async def apply(self) -> None:
        """Make the gateway serve what is live, on the replicas that are ready now.

        Raises:
            GatewayFailed: it did not take the routes; call again.
        """
        async with self._lock:
            replicas = await self._backend.observe()
            wanted = [route(each, of_api(replicas, each.release.name)) for each in self._served()]
            if wanted != self._applied:
                self._applied = None  # unknown until it answers
                await self._gateway.apply(wanted)
                self._applied = wanted

    async def drained(self, api: str, leaving: set[tuple[str, int]], *, within: float) -> bool:
        """Wait until nothing is in flight at these addresses; False after `within` seconds."""
        deadline = self._clock.monotonic() + within
        while leaving:
            try:
                counts = (await self._gateway.in_flight()).get(api, {})
                if not any(count for up, count in counts.items() if (up.host, up.port) in leaving):
                    break
            except GatewayFailed:
                pass  # it is being restarted; what is in flight is unknown until then
            if self._clock.monotonic() >= deadline:
                return False
            await self._clock.sleep(DRAIN_POLL)
        return True

    def _served(self) -> list[Served]:
        served = []
        for stored in self._state.apis():
            if stored.live is None or stored.deleting:
                continue
            release = self._state.release(stored.name, stored.live.release_id)
            assert release is not None, "the live release is never pruned"
            deployment = self._state.unfinished(stored.name)
            starting = None
            if deployment is not None and deployment.state != "switching":
                starting = deployment.workload_id
            served.append(Served(live=stored.live, release=release, starting=starting))
        return served
