"""Tells the backend what to run: starts what a deployment needs, restores what is live, retires the rest."""

from __future__ import annotations

import asyncio

from cortex_core.release import Release
from cortex_operator.backends.protocol import Backend, Workload
from cortex_operator.router import Router
from cortex_operator.routes import addresses, of_api, retiring
from cortex_operator.state import Live, State, StoredDeployment


class Workloads:
    """What shall run, said to the backend.

    Args:
        drain: seconds that requests in flight get at replicas that go.
    """

    def __init__(self, *, state: State, backend: Backend, router: Router, drain: float) -> None:
        self._state = state
        self._backend = backend
        self._router = router
        self._drain = drain
        self._applying = asyncio.Lock()  # who says how many replicas a workload has

    async def start(self, deployment: StoredDeployment) -> None:
        """Run a deployment's replicas beside what is live; kept replicas stay, however few it wants."""
        release = self._release(deployment.api, deployment.release_id)
        replicas = max(deployment.replicas_requested, self.kept(deployment))
        async with self._applying:
            await self._backend.apply(Workload(id=deployment.workload_id, release=release, replicas=replicas))

    def kept(self, deployment: StoredDeployment) -> int:
        """How many replicas of the deployment's workload are live already; 0 when it is a new one."""
        live = self._live(deployment.api)
        return live.replicas if live is not None and live.workload_id == deployment.workload_id else 0

    async def restore(self, api: str) -> None:
        """Run what is live, also after the machine was started anew.

        Raises:
            PreparationFailed: the project cannot be made ready any more.
        """
        if (live := self._live(api)) is None:
            return
        await self._backend.prepare(self._release(api, live.release_id), lambda _: None)
        await self._settle(api)

    async def retire(self, api: str) -> None:
        """Drain and stop everything of an API that is neither live nor part of a deployment in progress."""
        live, deployment = self._live(api), self._state.unfinished(api)
        starting = deployment.workload_id if deployment is not None else None
        wanted: set[str | None] = {starting, live.workload_id if live is not None else None}
        if deployment is not None and deployment.previous is not None:  # it may still go back to that
            wanted.add(deployment.previous.workload_id)
        replicas = of_api(await self._backend.observe(), api)
        leaving = [each for each in replicas if retiring(each, live, starting)]
        unwanted = ({each.workload for each in leaving} | self._tried(api)) - wanted
        await self._router.apply()
        staying = addresses(each for each in replicas if each not in leaving)
        await self._router.drained(api, addresses(leaving) - staying, within=self._drain)
        await self._remove(unwanted)
        await self._settle(api)
        await self._router.apply()

    async def remove_all(self, api: str) -> None:
        """Take an API that shall be gone from the gateway, drain it and stop all of it."""
        await self._router.apply()
        replicas = of_api(await self._backend.observe(), api)
        await self._router.drained(api, addresses(replicas), within=self._drain)
        live = self._live(api)
        known = {live.workload_id} if live is not None else set()
        await self._remove({each.workload for each in replicas} | self._tried(api) | known)

    async def _settle(self, api: str) -> None:
        """Have as many live replicas as are wanted, unless a deployment is changing just that."""
        async with self._applying:
            live, deployment = self._live(api), self._state.unfinished(api)
            if live is None or (deployment is not None and deployment.workload_id == live.workload_id):
                return
            release = self._release(api, live.release_id)
            await self._backend.apply(Workload(id=live.workload_id, release=release, replicas=live.replicas))

    async def _remove(self, workloads: set[str]) -> None:
        await asyncio.gather(*(self._backend.remove(each) for each in sorted(workloads)))

    def _tried(self, api: str) -> set[str]:
        """The newest deployment's workload, which may be known to the backend without showing a replica."""
        newest = next(iter(self._state.deployments(api)), None)
        return set() if newest is None else {newest.workload_id}

    def _live(self, api: str) -> Live | None:
        stored = self._state.api(api)
        return None if stored is None else stored.live

    def _release(self, api: str, release_id: str) -> Release:
        release = self._state.release(api, release_id)
        assert release is not None, "what is live or in progress is never pruned"
        return release
