from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.installation import free_ports
from support.replica_double import ReplicaDouble

from cortex_core.home import Home
from cortex_operator.gateway.envoy import EnvoyGateway
from cortex_operator.gateway.protocol import Route, Upstream


class Site:
    """A home with its gateway, driven from a thread of its own, as the operator would.

    Args:
        options: of the gateway.
    """

    def __init__(self, root: Path, **options: Any) -> None:
        self._options = options
        self.home = Home(root=root, gateway_port=free_ports(1)[0])
        self.home.create()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.gateway = EnvoyGateway(self.home, **self._options)

    @property
    def url(self) -> str:
        return self.home.gateway_url

    def run(self, work: Coroutine[Any, Any, Any], timeout: float = 30) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def open(self) -> Site:
        self.run(self.gateway.open())
        return self

    def serve(self, *upstreams: Upstream, max_concurrency: int = 1000, timeout: float | None = None) -> None:
        """Route /iris to these replicas."""
        self.run(self.gateway.apply([iris(*upstreams, max_concurrency=max_concurrency, timeout=timeout)]))

    def replace_operator(self) -> None:
        """Drop the gateway object, as a dead operator does, and make a new one."""
        self.run(self.gateway.close())
        self.gateway = EnvoyGateway(self.home, **self._options)

    def end(self) -> None:
        try:
            self.run(self.gateway.shutdown())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()


def iris(*upstreams: Upstream, max_concurrency: int = 1000, timeout: float | None = None) -> Route:
    return Route(
        api="iris",
        endpoint="/iris",
        upstreams=upstreams,
        max_concurrency=max_concurrency,
        timeout=timeout,
    )


@pytest.fixture
def new_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes homes whose gateway is not open yet; ends them all."""
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(tmp_path / f"home{len(sites)}", **options))
        return sites[-1]

    yield make
    for site in sites:
        site.end()


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    return new_site().open()


@pytest.fixture
def replica() -> Iterator[Callable[[str], ReplicaDouble]]:
    """Starts stand-ins for replicas; ends them all."""
    doubles: list[ReplicaDouble] = []

    def start(version: str = "1") -> ReplicaDouble:
        doubles.append(ReplicaDouble(version).start())
        return doubles[-1]

    yield start
    for double in doubles:
        double.kill()
