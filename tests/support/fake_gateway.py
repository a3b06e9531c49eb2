"""A gateway in memory: keeps what it was told and counts what the test says is in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cortex_core.operator_api import NetworkStats
from cortex_operator.gateway.protocol import GatewayFailed, Route, Upstream
from support.fake_backend import Step, no_step


@dataclass
class FakeGateway:
    """Routes by API.

    Attributes:
        history: every set of routes it ever served, oldest first.
        failures: so many of the next calls of `apply` fail.
        busy: requests in flight, by address.
        step: awaited before and after `apply`; where a test stops an operator.
    """

    history: list[dict[str, Route]] = field(default_factory=list)
    failures: int = 0
    busy: dict[tuple[str, int], int] = field(default_factory=dict)
    step: Step = no_step
    running: bool = False
    broken: str | None = None

    @property
    def routes(self) -> dict[str, Route]:
        return self.history[-1] if self.history else {}

    async def open(self) -> None:
        if self.broken is not None:
            raise GatewayFailed(self.broken)
        self.running = True

    async def close(self) -> None:
        pass

    async def shutdown(self) -> None:
        self.running = False

    async def apply(self, routes: Sequence[Route]) -> None:
        await self.step("before route")
        if self.failures:
            self.failures -= 1
            raise GatewayFailed("it does not answer")
        self.history.append({each.api: each for each in routes})
        await self.step("after route")

    async def in_flight(self) -> Mapping[str, Mapping[Upstream, int]]:
        return {
            api: {
                Upstream(host=each.host, port=each.port): self.busy.get((each.host, each.port), 0)
                for each in route.upstreams
            }
            for api, route in self.routes.items()
        }

    async def stats(self) -> Mapping[str, NetworkStats]:
        return {api: NetworkStats(code_2xx=7, total=7) for api in self.routes}

    def serving(self, api: str) -> set[int]:
        """Ports that get new requests of an API."""
        route = self.routes.get(api)
        return set() if route is None else {each.port for each in route.upstreams if not each.draining}
