"""How one release gets live: preparing → starting → switching → live, or failed.

Every step is idempotent and every transition is on disk before the next step, so `carry_out` may be called
again after a crash at any point and goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from cortex_core.release import Release
from cortex_core.spec.types import models_of
from cortex_operator.backends.protocol import Backend, LogQuery, PreparationFailed, Replica
from cortex_operator.catching_up import behind
from cortex_operator.clock import Bell, Clock, heard
from cortex_operator.gateway.protocol import GatewayFailed
from cortex_operator.log_tail import LINES, as_text
from cortex_operator.model_reports import Ask, NoReport, Report
from cortex_operator.router import Router
from cortex_operator.routes import slot
from cortex_operator.state import State, StoredDeployment
from cortex_operator.workloads import Workloads

NANOSECONDS = 10**9
CAUGHT_UP = 0.05
"""Seconds between two looks at models that catch up."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a deployment may take, in seconds.

    Attributes:
        preparing: fetching the project and building its environment.
        ready: for starting replicas to get ready, or to say that they are further on their way than before; with
            models, `load_timeout` comes on top.
        longest: from starting replicas until all are ready, however much they say.
        catching_up: for replicas that are ready to serve versions of models that are as new as those of the replicas they
            replace.
        drain: for requests in flight at replicas that are replaced.
        look: the longest time between two looks at the backend.
        failures: so many deaths of a replica before it was ever ready end the deployment.
        gateway_attempts: how often the gateway is asked to switch, a second apart.
    """

    preparing: float = 1800.0
    ready: float = 600.0
    longest: float = 4 * 3600.0
    catching_up: float = 10.0
    drain: float = 60.0
    look: float = 1.0
    failures: int = 2
    gateway_attempts: int = 3


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a deployment cannot succeed."""

    error: str
    log_tail: tuple[str, ...] = ()


class Deployments:
    """Carries deployments out.

    Args:
        bell: rings when something that the backend shows has changed.
        ask: asks a replica for its models.
    """

    def __init__(
        self,
        *,
        state: State,
        backend: Backend,
        workloads: Workloads,
        router: Router,
        clock: Clock,
        bell: Bell,
        limits: Limits,
        ask: Ask,
    ) -> None:
        self._state = state
        self._backend = backend
        self._workloads = workloads
        self._router = router
        self._clock = clock
        self._bell = bell
        self._limits = limits
        self._ask = ask

    async def carry_out(self, deployment: StoredDeployment) -> None:
        """Bring a deployment to its end, from wherever it is; it is finished when this returns."""
        failure = None if deployment.state == "switching" else await self._get_ready(deployment)
        if failure is None:
            failure = await self._switch(deployment)
        if failure is None:
            self._state.live(deployment.id)
        else:
            self._state.failed(deployment.id, failure.error, log_tail=failure.log_tail)

    async def _get_ready(self, deployment: StoredDeployment) -> Failure | None:
        """Everything before the switch; done again from the beginning after a crash, when it is quick."""
        failure = await self._prepare(deployment)
        if failure is None:
            self._state.starting(deployment.id)
            failure = await self._start(deployment)
        if failure is None:
            await self._catch_up(deployment)
            self._state.switching(deployment.id)
        return failure

    async def _prepare(self, deployment: StoredDeployment) -> Failure | None:
        self._state.progress(deployment.id, "preparing the project")

        def report(text: str) -> None:
            self._state.progress(deployment.id, text)

        try:
            return await self._within(
                self._limits.preparing,
                self._backend.prepare(self._release(deployment), report),
                "preparing the project",
            )
        except PreparationFailed as failed:
            return Failure(error=failed.message, log_tail=tuple(failed.output[-LINES:]))

    async def _start(self, deployment: StoredDeployment) -> Failure | None:
        await self._workloads.start(deployment)
        if deployment.replicas_requested <= self._workloads.kept(deployment):
            return None
        return await self._ready(deployment)

    async def _ready(self, deployment: StoredDeployment) -> Failure | None:
        """Wait until enough replicas are ready, or until it is clear that they will not be."""
        patience = self._patience(deployment)
        trials, kept = Trials(self._limits.failures), self._workloads.kept(deployment)
        while True:
            ring = self._bell.listen()
            replicas = [r for r in await self._backend.observe() if r.workload == deployment.workload_id]
            ready = sum(each.state == "ready" for each in replicas)
            self._state.progress(
                deployment.id, progress(replicas, ready, deployment.replicas_requested), ready=ready
            )
            if ready >= deployment.replicas_requested:
                return None
            if (hopeless := trials.hopeless([r for r in replicas if slot(r) >= kept])) is not None:
                return await self._failure_of(hopeless)
            left = patience.left(replicas, self._clock.monotonic())
            if left <= 0:
                return await self._too_slow(deployment, replicas, ready, patience.passed)
            await heard(ring, self._clock, min(left, self._limits.look))

    async def _catch_up(self, deployment: StoredDeployment) -> None:
        """Wait until the new replicas serve models as new as the old ones do; not for ever, since both are good."""
        until = self._clock.monotonic() + self._limits.catching_up
        while names := await self._behind(deployment):
            if self._clock.monotonic() >= until:
                what = (
                    f"switched although new replicas serve older versions than before of {', '.join(names)}"
                )
                self._state.event(deployment.api, "warning", what)
                return
            self._state.progress(deployment.id, f"ready, and loading newer versions of {', '.join(names)}")
            await self._clock.sleep(CAUGHT_UP)

    async def _behind(self, deployment: StoredDeployment) -> list[str]:
        """Models of which the new replicas serve an older version than the old ones."""
        stored = self._state.api(deployment.api)
        live = None if stored is None else stored.live
        if live is None or live.workload_id == deployment.workload_id:
            return []
        before = self._state.release(deployment.api, live.release_id)
        models = models_of(self._release(deployment).spec)
        if before is None or models is None or models_of(before.spec) != models:
            return []
        ready = [
            each
            for each in await self._backend.observe()
            if each.state == "ready" and each.admin_port is not None
        ]
        old = await self._reports([each for each in ready if each.workload == live.workload_id])
        new = await self._reports([each for each in ready if each.workload == deployment.workload_id])
        return behind(old, new)

    async def _reports(self, replicas: Sequence[Replica]) -> list[Report]:
        """What they say of their models; nothing if they do not answer, and then they are not waited for."""

        async def said(replica: Replica) -> Report:
            try:
                return await self._ask(replica)
            except NoReport:
                return ()

        return await asyncio.gather(*(said(each) for each in replicas))

    def _patience(self, deployment: StoredDeployment) -> Patience:
        models = models_of(self._release(deployment).spec)
        loading = 0.0 if models is None else models.load_timeout / NANOSECONDS
        return Patience(
            quiet=self._limits.ready + loading,
            longest=max(self._limits.longest, self._limits.ready + loading),
            now=self._clock.monotonic(),
        )

    async def _switch(self, deployment: StoredDeployment) -> Failure | None:
        for attempt in range(1, self._limits.gateway_attempts + 1):
            try:
                await self._router.apply()
            except GatewayFailed as failed:
                if attempt == self._limits.gateway_attempts:
                    return Failure(error=f"the gateway did not switch: {failed}")
                self._state.progress(deployment.id, f"the gateway did not switch, trying again: {failed}")
                await self._clock.sleep(1.0)
            else:
                break
        return None

    async def _failure_of(self, replica: Replica) -> Failure:
        if replica.handler_failed:
            error = f"the handler of {replica.api} cannot be loaded (replica {replica.id})"
        else:
            why = replica.failure or "no reason is known"
            error = f"replica {replica.id} died {replica.restarts} times before it was ready: {why}"
        return Failure(error=error, log_tail=await self._log_tail(replica))

    async def _too_slow(
        self, deployment: StoredDeployment, replicas: Sequence[Replica], ready: int, seconds: float
    ) -> Failure:
        waiting = next((each for each in replicas if each.state != "ready"), None)
        why = (waiting.failure or waiting.waiting_for) if waiting is not None else None
        return Failure(
            error=f"{ready} of {deployment.replicas_requested} replicas were ready after "
            f"{seconds:.0f} seconds" + (f": {why}" if why else ""),
            log_tail=() if waiting is None else await self._log_tail(waiting),
        )

    async def _log_tail(self, replica: Replica) -> tuple[str, ...]:
        query = LogQuery(tail=LINES, replica=replica.id)
        return as_text([line.text async for line in self._backend.logs(replica.api, query)])

    async def _within(self, seconds: float, work: Coroutine[Any, Any, None], what: str) -> Failure | None:
        task = asyncio.ensure_future(work)
        alarm = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait({task, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return None
            return Failure(error=f"{what} took longer than {seconds:g} seconds")
        finally:
            alarm.cancel()
            task.cancel()
            await asyncio.wait({task})

    def _release(self, deployment: StoredDeployment) -> Release:
        release = self._state.release(deployment.api, deployment.release_id)
        assert release is not None, "the release of a deployment in progress is never pruned"
        return release


class Trials:
    """Counts how often replicas died before they were ever ready, as far as this was seen."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._proven: set[str] = set()

    def hopeless(self, replicas: Sequence[Replica]) -> Replica | None:
        """A replica that starting again will not help."""
        for replica in replicas:
            if replica.state == "ready":
                self._proven.add(replica.id)
            if replica.id not in self._proven and (replica.handler_failed or replica.restarts >= self._limit):
                return replica
        return None


class Patience:
    """How long is still to be waited for replicas: anew whenever one says something it did not say before.

    What was said before is no progress: one that fails, tries again and fails says the same things in turn.

    Args:
        quiet: seconds without anything new.
        longest: seconds in all.
    """

    def __init__(self, *, quiet: float, longest: float, now: float) -> None:
        self._quiet = quiet
        self._began = self._heard = now
        self._end = now + longest
        self._said: set[tuple[str, str]] = set()
        self.passed = 0.0

    def left(self, replicas: Sequence[Replica], now: float) -> float:
        """Seconds; `passed` is then how many were waited."""
        said = {(each.id, each.waiting_for) for each in replicas if each.waiting_for is not None}
        if said - self._said:
            self._heard = now
            self._said |= said
        self.passed = now - self._began
        return min(self._heard + self._quiet, self._end) - now


def progress(replicas: Sequence[Replica], ready: int, requested: int) -> str:
    """How far a deployment's replicas are, in a few words."""
    text = f"{ready} of {requested} replicas ready"
    failed = next((each for each in replicas if each.state in ("failed", "killed_oom")), None)
    if failed is None:
        waiting = next((each for each in replicas if each.waiting_for is not None), None)
        return text if waiting is None else f"{text}; {waiting.id}: {waiting.waiting_for}"
    what = "cannot load its handler" if failed.handler_failed else "died and is started again"
    return f"{text}; {failed.id} {what}: {failed.failure}"
