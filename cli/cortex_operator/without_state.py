"""What is left of the operator when its database cannot be used: say so, and end what runs when asked to."""

from __future__ import annotations

import asyncio

from cortex_core.home import Home
from cortex_core.operator_api import Info
from cortex_core.version import __version__
from cortex_operator.backends.protocol import Backend
from cortex_operator.gateway.protocol import Gateway


class OperatorWithoutState:
    """Knows nothing of what shall run, but the backend knows what does.

    Until it is told to shut down it touches nothing: what runs goes on running.
    """

    def __init__(self, *, home: Home, backend: Backend, gateway: Gateway) -> None:
        self._home = home
        self._backend = backend
        self._gateway = gateway

    def info(self, *, pid: int) -> Info:
        return Info(version=__version__, backend=self._backend.name, gateway=self._home.gateway_url, pid=pid)

    async def shut_down(self) -> None:
        """End all replicas and the gateway."""
        await self._backend.open()
        workloads = {each.workload for each in await self._backend.observe()}
        await asyncio.gather(*(self._backend.remove(each) for each in sorted(workloads)))
        await self._gateway.shutdown()
        await self._backend.close()
