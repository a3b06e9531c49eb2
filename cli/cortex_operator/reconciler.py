"""Makes what runs equal to what shall run, one task per API; goes on where an earlier operator stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from cortex_operator.backends.protocol import Backend, PreparationFailed
from cortex_operator.clock import Bell, Clock, heard
from cortex_operator.deployments import Deployments, Limits
from cortex_operator.gateway.protocol import Gateway
from cortex_operator.model_reports import Ask
from cortex_operator.router import Router
from cortex_operator.state import State, StateUnusable
from cortex_operator.workloads import Workloads

RETRY_DELAYS = (0.5, 1.0, 2.0, 5.0, 15.0, 30.0)
"""Seconds before each new attempt at something that failed for a reason nobody foresaw."""

LOOK = 10.0
"""Seconds after which the routes are compared with what runs even though nothing seems to have changed."""

logger = logging.getLogger(__name__)


class Reconciler:
    """Owns every task that changes what runs.

    A deployment runs in the task of its API; a newer one takes over. Retiring what is no longer wanted has
    a task of its own, so that a long drain holds up no deployment. Both may be cut off at any point and begun
    again.
    """

    def __init__(
        self, *, state: State, backend: Backend, gateway: Gateway, clock: Clock, limits: Limits, ask: Ask
    ) -> None:
        self._state = state
        self._backend = backend
        self._gateway = gateway
        self._clock = clock
        self._bell = Bell()
        self._router = Router(state=state, backend=backend, gateway=gateway, clock=clock)
        self._workloads = Workloads(state=state, backend=backend, router=self._router, drain=limits.drain)
        self._deployments = Deployments(
            state=state,
            backend=backend,
            workloads=self._workloads,
            router=self._router,
            clock=clock,
            bell=self._bell,
            limits=limits,
            ask=ask,
        )
        self._restored: set[str] = set()
        self._failures: dict[str, tuple[int, str | None]] = {}  # by replica: deaths so far, the last reason
        self._working: dict[str, asyncio.Task[None]] = {}
        self._retiring: dict[str, asyncio.Task[None]] = {}
        self._to_retire: set[str] = set()
        self._deleting: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._stopped = False

    async def open(self) -> None:
        """Adopt what runs, take up what was interrupted, remove what nobody knows.

        Raises:
            GatewayFailed: there is no gateway; nothing was changed.
        """
        await self._backend.open()
        await self._gateway.open()
        await self._router.apply()
        observed = {each.api for each in await self._backend.observe()}
        for api in sorted({each.name for each in self._state.apis()} | observed):
            self._work(api, self._resume)
        self._watching = _spawn(self._watch())

    async def close(self) -> None:
        """Stop reconciling; what runs goes on running."""
        await self._stop()
        await self._backend.close()
        await self._gateway.close()

    async def shut_down(self) -> None:
        """Stop reconciling and everything that runs; what shall run stays written down."""
        await self._stop()
        workloads = {each.workload for each in await self._backend.observe()}
        await asyncio.gather(*(self._backend.remove(each) for each in sorted(workloads)))
        await self._gateway.shutdown()
        await self._backend.close()

    def deploy(self, api: str) -> None:
        """Carry out the API's newest deployment; what was going on for it is cut off."""
        self._work(api, self._deploy)

    async def delete(self, api: str) -> None:
        """Remove an API that was marked as deleting; returns when nothing of it is left.

        It is also finished when the caller goes away. Whoever asks while it is being done waits for the same.
        """
        deleting = self._deleting.get(api)
        if deleting is None or deleting.done():
            deleting = self._deleting[api] = self._work(api, self._delete)
        await asyncio.wait({deleting})

    def _work(self, api: str, work: Callable[[str], Awaitable[None]]) -> asyncio.Task[None]:
        async def work_unless_stopped() -> None:
            if not self._stopped:  # else the next operator finds it written down
                await work(api)

        self._working[api] = _spawn(_after(self._working.get(api), work_unless_stopped))
        return self._working[api]

    async def _resume(self, api: str) -> None:
        stored = self._state.api(api)
        if stored is not None and stored.deleting:
            await self._delete(api)
        else:
            await self._deploy(api)

    async def _deploy(self, api: str) -> None:
        if api not in self._restored:
            await self._restore(api)

        async def carry_out() -> None:
            if (deployment := self._state.unfinished(api)) is not None:
                await self._deployments.carry_out(deployment)

        self._retire_soon(api)  # leftovers of a deployment that this one took over from
        if not await self._attempt(api, "deploying", carry_out):
            deployment = self._state.unfinished(api)
            if deployment is not None:
                self._state.failed(
                    deployment.id, "deploying failed again and again; the events and operator.log say why"
                )
        self._retire_soon(api)

    async def _restore(self, api: str) -> None:
        async def restore() -> None:
            try:
                await self._workloads.restore(api)
            except PreparationFailed as failed:
                self._state.event(api, "error", f"the live release cannot be started again: {failed.message}")

        if await self._attempt(api, "restoring", restore):
            self._restored.add(api)

    async def _delete(self, api: str) -> None:
        if (retiring := self._retiring.get(api)) is not None:
            retiring.cancel()
            await asyncio.wait({retiring})

        async def delete() -> None:
            await self._workloads.remove_all(api)
            stored = self._state.api(api)
            if stored is not None and not stored.keep_cache:
                await self._backend.forget(api)
            self._state.forget(api)

        await self._attempt(api, "deleting", delete)

    def _retire_soon(self, api: str) -> None:
        self._to_retire.add(api)
        retiring = self._retiring.get(api)
        if retiring is None or retiring.done():
            self._retiring[api] = _spawn(self._retire(api))

    async def _retire(self, api: str) -> None:
        while api in self._to_retire:
            self._to_retire.discard(api)
            await self._attempt(api, "removing old replicas", lambda: self._workloads.retire(api))

    async def _attempt(self, api: str, what: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Do something that is meant to succeed; again and again, but not for ever, when it does not."""
        for delay in (*RETRY_DELAYS, None):
            try:
                await work()
            except Exception as error:
                logger.exception("%s: %s failed", api, what)
                with suppress(StateUnusable):
                    self._state.event(api, "error", f"{what} failed: {error}")
                if delay is not None:
                    await self._clock.sleep(delay)
            else:
                return True
        return False

    async def _watch(self) -> None:
        """Tell everyone who waits that something has changed, and keep the routes up to date."""
        changed = asyncio.Event()
        listening = _spawn(self._listen(changed))
        failures = 0
        try:
            while True:
                pause = RETRY_DELAYS[min(failures, len(RETRY_DELAYS)) - 1] if failures else LOOK
                await heard(changed, self._clock, pause)
                changed.clear()
                self._bell.ring()
                try:
                    await self._note_failures()
                    await self._router.apply()
                    failures = 0
                except Exception:
                    failures += 1
                    logger.exception("the routes could not be applied; they will be again")
        finally:
            listening.cancel()

    async def _note_failures(self) -> None:
        """Write down why replicas died, or what they lost."""
        before = self._failures
        replicas = await self._backend.observe()
        self._failures = {each.id: (each.restarts, each.failure) for each in replicas if each.failure}
        for each in replicas:
            if each.failure and self._failures[each.id] != before.get(each.id):
                self._state.event(each.api, "warning", f"replica {each.id}: {each.failure}")

    async def _listen(self, changed: asyncio.Event) -> None:
        while True:
            try:
                await self._backend.changed()
            except Exception:
                logger.exception("the backend does not say when something changes; it is asked again")
                await self._clock.sleep(1.0)
            changed.set()

    async def _stop(self) -> None:
        self._stopped = True
        watching = [] if self._watching is None else [self._watching]
        tasks = [*watching, *self._working.values(), *self._retiring.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _after(earlier: asyncio.Task[None] | None, work: Callable[[], Awaitable[None]]) -> None:
    """Cut off what was going on and wait for its end, then work."""
    if earlier is not None:
        earlier.cancel()
        try:
            await asyncio.wait({earlier})
        except asyncio.CancelledError:
            await asyncio.wait({earlier})  # whoever comes next relies on nobody else being at work
            raise
    await work()


def _spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a task of the operator ended unexpectedly", exc_info=error)
